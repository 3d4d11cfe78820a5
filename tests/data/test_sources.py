"""Sources: what each kind reads, in which order, and one clear line for whatever is wrong with it."""

import io
import pathlib
import pickle

import numpy as np
from PIL import Image
import pytest

from ssr_jax.data import sources
from ssr_jax.data.sources import array_record, files
from ssr_jax.types import SSRError


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / 'sub').mkdir()
  for i in range(6):
    pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / ('sub' if i % 2 else '.') / f'{i}.png')
  (tmp_path / 'notes.txt').write_text('not an image')
  (tmp_path / '._0.png').write_bytes(b'a resource fork, as Macs leave them')
  return tmp_path


def _png(array) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, 'PNG')
  return buffer.getvalue()


def _write(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def _noise(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# ---- folder ----------------------------------------------------------------------------------------------------------


def test_reads_recursively_in_order_and_keeps_to_its_memory(folder):
  files = sources.from_spec(f'folder:{folder}').paths
  assert sorted(f.name for f in files) == [f'{i}.png' for i in range(6)] and files == sorted(files)
  source = sources.Cached(sources.from_spec(f'folder:{folder}'), limit=2 * 40 * 50 * 3)
  for _ in range(2):
    for i, file in enumerate(files):
      np.testing.assert_array_equal(source[i]['hr'], np.asarray(Image.open(file)))
      assert source.name(i) == str(file)
  assert len(source._records) == 2 and source._held == source.limit
  assert source[5]['hr'] is source[5]['hr']  # kept, not decoded again
  copy = pickle.loads(pickle.dumps(source))
  assert not copy._records and copy.limit == source.limit  # a worker's cache starts empty
  np.testing.assert_array_equal(copy[3]['hr'], source[3]['hr'])


@pytest.mark.parametrize(
  'suffix', ['png', 'jpg', 'webp', 'bmp', 'tif', 'ppm', 'tga', 'jp2', 'gif', 'qoi', 'sgi', 'pcx']
)
def test_any_format_that_pillow_decodes(tmp_path, suffix):
  gradient = np.stack(np.broadcast_arrays(*np.mgrid[:32, :48], 99), -1).astype(np.uint8)
  Image.fromarray(gradient).save(tmp_path / f'x.{suffix}')
  source = sources.from_spec(f'folder:{tmp_path}')
  assert source[0]['hr'].dtype == np.uint8
  assert np.abs(source[0]['hr'].astype(int) - gradient).mean() < 6  # GIF has 256 colours, JPEG is JPEG


def test_orientation_gray_and_depth_of_bits():
  image = Image.fromarray(_noise((20, 30, 3)))
  exif = image.getexif()
  exif[0x0112] = 6  # shown turned by 90 degrees clockwise
  buffer = io.BytesIO()
  image.save(buffer, 'PNG', exif=exif)
  np.testing.assert_array_equal(sources.decode_image(buffer.getvalue(), 'x'), np.rot90(np.asarray(image), -1))
  gray = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
  decoded = sources.decode_image(_png(gray), 'x')
  assert decoded.shape == (32, 32, 3)
  np.testing.assert_array_equal(decoded[..., 1], np.rint(gray / 65535 * 255))
  with pytest.raises(sources.BadRecord, match='^x: .*frames'):
    buffer = io.BytesIO()
    image.save(buffer, 'GIF', save_all=True, append_images=[image.rotate(90)])
    sources.decode_image(buffer.getvalue(), 'x')


def test_every_way_of_damage_names_the_file(folder):
  buffer = io.BytesIO()
  Image.fromarray(_noise((200, 200, 3))).save(buffer, 'JPEG')
  good = buffer.getvalue()
  png = _png(_noise((64, 64, 3)))
  for k, data in enumerate([b'', b'no image', good[: len(good) // 2], png[:-500], png[:60] + b'\0' * 400 + png[460:]]):
    path = folder / f'bad{k}.jpg'
    path.write_bytes(data)
    source = sources.Folder([path])
    with pytest.raises(sources.BadRecord, match=f'bad{k}.jpg: '):
      source[0]
  with pytest.raises(sources.BadRecord, match='gone.jpg: cannot be read'):
    sources.Folder([folder / 'gone.jpg'])[0]


@pytest.mark.parametrize(
  'spec,message',
  [
    ('dir:x', "must read 'folder:DIR'"),
    ('folder:/does/not/exist', 'not a folder'),
    ('', 'empty'),
    (' ; ', 'empty'),
    ('folder:', 'must read'),
    ('paired:/tmp', 'HR_DIR,LR_DIR'),
    ('array_record:/does/not/exist*', 'ssr data pack'),
    ('set:nosuch', 'known'),
  ],
)
def test_wrong_sources_are_one_line(spec, message):
  with pytest.raises(SSRError, match=message) as caught:
    sources.from_spec(spec)
  assert '\n' not in str(caught.value)


# ---- joining and splitting -------------------------------------------------------------------------------------------


def test_joined_records_come_in_order_and_split_is_fixed_and_disjoint(folder):
  a, b = f'folder:{folder}', f'folder:{folder / "sub"}'
  whole = sources.from_spec(f'{a};{b}')
  names = [whole.name(i) for i in range(len(whole))]
  assert names == [str(p) for spec in (a, b) for p in sources.from_spec(spec).paths] and whole.groups() is None
  train, held = sources.split(whole, 4)
  assert [held.name(i) for i in range(len(held))] == names[3::4]
  assert [train.name(i) for i in range(len(train))] == [n for k, n in enumerate(names) if k % 4 != 3]
  np.testing.assert_array_equal(held[1]['hr'], np.asarray(Image.open(names[7])))
  everything, nothing = sources.split(whole, 0)
  assert len(everything) == 9 and not len(nothing)


def test_weights_are_kept_through_a_split(folder):
  weighted = sources.from_spec(f'0.7*folder:{folder};.3 * folder:{folder / "sub"}')
  assert [w for w, _ in weighted.groups()] == [0.7, 0.3]
  train, held = sources.split(weighted, 3)
  for part in (train, held):
    (_, first), (_, second) = part.groups()
    assert sorted([*first, *second]) == list(range(len(part)))
    assert all(weighted.parts[0].paths.count(pathlib.Path(part.name(i))) for i in first)
    assert len(first) == len(part) * 6 // 9
  for spec in (f'0.7*folder:{folder};folder:{folder}', f'0*folder:{folder};1*folder:{folder}'):
    with pytest.raises(SSRError, match='every part a weight'):
      sources.from_spec(spec)


def test_parts_give_what_all_of_them_hold_or_what_is_asked_for(folder, tmp_path_factory):
  place = tmp_path_factory.mktemp('pairs')
  _write(place / 'hr' / 'a.png', _noise((40, 40, 3)))
  _write(place / 'lr' / 'a.png', _noise((10, 10, 3)))
  pair = f'paired:{place / "hr"},{place / "lr"}'
  assert sources.from_spec(pair).keys == ('hr', 'lr')
  both = sources.from_spec(f'folder:{folder};{pair}')
  assert both.keys == ('hr',) and set(both[6]) == {'hr'}
  assert set(sources.from_spec(pair, ('hr',), optional=('depth',))[0]) == {'hr'}
  with pytest.raises(SSRError, match="'lr' is needed"):
    sources.from_spec(f'{pair};folder:{folder}', ('hr', 'lr'))


# ---- paired ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'high,low',
  [
    ('{}.png', '{}.png'),
    ('sub/{}.png', 'sub/{}.bmp'),
    ('{}.png', '{}x4.png'),
    ('{}_x1.png', '{}_x4.png'),
    ('img_{}_SRF_4_HR.png', 'img_{}_SRF_4_LR.png'),
    ('same/{}_HR.png', 'same/{}_LR4.png'),
  ],
)
def test_pairs_match_by_name(tmp_path, high, low):
  same = high.startswith('same')
  hr, lr = (tmp_path, tmp_path) if same else (tmp_path / 'HR', tmp_path / 'LR')
  for k in range(3):
    _write(hr / high.format(f'{k:04d}'), np.full((24, 32, 3), 10 * k, np.uint8))
    _write(lr / low.format(f'{k:04d}'), np.full((6, 8, 3), 10 * k + 1, np.uint8))
  source = sources.from_spec(f'paired:{hr},{lr}')
  assert len(source) == 3
  for record in source:
    assert record['hr'].shape == (24, 32, 3) and record['lr'].shape == (6, 8, 3)
    assert (record['lr'][0, 0] == record['hr'][0, 0] + 1).all()


def test_names_that_end_like_a_role_match_exactly_first(tmp_path):
  for name in ('box1', 'box2'):
    _write(tmp_path / 'HR' / f'{name}.png', _noise((8, 8, 3)))
    _write(tmp_path / 'LR' / f'{name}.png', _noise((4, 4, 3)))
  assert len(sources.from_spec(f'paired:{tmp_path / "HR"},{tmp_path / "LR"}')) == 2


def test_pairs_that_do_not_fit_are_named(tmp_path):
  hr, lr = tmp_path / 'HR', tmp_path / 'LR'
  for k in range(3):
    _write(hr / f'{k}.png', _noise((24, 32, 3)))
    _write(lr / f'{k}.png', _noise((6, 8, 3)))
  spec = f'paired:{hr},{lr}'
  _write(hr / 'alone.png', _noise((24, 32, 3)))
  with pytest.raises(SSRError, match=r'alone.png: has no partner .*\(1 of 4'):
    sources.from_spec(spec)
  (hr / 'alone.png').rename(lr / 'alone.png')
  with pytest.raises(SSRError, match='LR/alone.png: has no partner'):
    sources.from_spec(spec)
  (lr / 'alone.png').unlink()
  _write(lr / '1.png', _noise((6, 9, 3)))
  source = sources.from_spec(spec)  # one bad pair does not keep the others from being used
  with pytest.raises(sources.BadRecord, match='1.png: 9x6, but its HR image of 32x24 is not a whole multiple of that'):
    source[1]
  assert source[0]['lr'].shape == (6, 8, 3)
  _write(lr / '1.png', _noise((6, 8, 3)))
  _write(hr / '1.png', _noise((27, 33, 3)))  # the rest, which makes no whole LR pixel, is cut off
  rest = sources.from_spec(spec)[1]
  assert rest['hr'].shape == (24, 32, 3) and rest['lr'].shape == (6, 8, 3)
  _write(hr / '1.png', _noise((24, 32, 3)))
  _write(lr / '1.png', _noise((12, 16, 3)))
  with pytest.raises(SSRError, match='one scale'):
    sources.from_spec(spec)
  (lr / '1.png').write_bytes(b'damaged')
  source = sources.from_spec(spec)
  with pytest.raises(sources.BadRecord, match='LR/1.png: cannot be read'):
    source[1]


# ---- depth -----------------------------------------------------------------------------------------------------------


def _pfm(array, order='<'):
  h, w = array.shape
  return f'Pf\n{w} {h}\n{"-1.0" if order == "<" else "1.0"}\n'.encode() + array[::-1].astype(order + 'f4').tobytes()


def _npy(array):
  buffer = io.BytesIO()
  np.save(buffer, array)
  return buffer.getvalue()


@pytest.mark.parametrize(
  'store',
  [
    lambda d: _png(np.rint(d * 1000).astype(np.uint16)),
    _pfm,
    lambda d: _pfm(d, '>'),
    _npy,
    lambda d: _npy(d[None, ..., None].astype(np.float64)),
  ],
)
def test_depth_becomes_relative_inverse_depth(store):
  depth = 1 + np.arange(20 * 30).reshape(20, 30) / 60.0  # 1 to 11 metres
  got = sources.decode_depth(store(depth), 'depth', 'x')
  inverse = 1 / depth
  low, high = np.percentile(inverse, (0.1, 99.9))
  np.testing.assert_allclose(got, np.clip((inverse - low) / (high - low), 0, 1), atol=2e-3)
  assert got.dtype == np.float32 and got[0, 0] == 1 and got[-1, -1] == 0  # 1 is nearest
  same = sources.decode_depth(store(depth), 'inverse', 'x')
  assert same[0, 0] == 0 and same[-1, -1] == 1


def test_unknown_depth_takes_the_nearest_known_value_and_the_sky_is_far():
  depth = np.tile(np.linspace(1, 4, 40), (40, 1))
  holes = depth.copy()
  holes[10:14, 5:9], holes[20, 20], holes[21, 20] = 0, np.nan, -1
  whole, got = (sources.decode_depth(_npy(d), 'depth', 'x') for d in (depth, holes))
  assert np.abs(whole - got).max() < 0.15 and np.array_equal(whole[:10], got[:10])
  depth[:8] = np.inf
  assert (sources.decode_depth(_npy(depth), 'depth', 'x')[:8] == 0).all()


@pytest.mark.parametrize(
  'data,message',
  [
    (lambda: _npy(np.zeros((4, 4))), '100% of the depth is unknown'),
    (lambda: _npy(np.ones((4, 4))), 'same everywhere'),
    (lambda: _npy(np.ones((4, 4, 3))), r'\[H, W\]'),
    (lambda: _png(_noise((4, 4, 3))), 'RGB image'),
    (lambda: b'PF\n2 2\n-1.0\n' + bytes(48), 'gray PFM'),
    (lambda: _pfm(np.ones((9, 9)))[:-8], 'cannot be read'),
    (lambda: b'rubbish', 'cannot be read'),
    (lambda: _npy(np.array([{}])), 'cannot be read'),
  ],
)
def test_bad_depth_is_named(data, message):
  with pytest.raises(sources.BadRecord, match='^x: .*' + message):
    sources.decode_depth(data(), 'depth', 'x')


def test_a_depth_whose_inverse_overflows_is_unknown():
  values = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
  expected = sources.decode_depth(_npy(np.where(values == 7, 0, values)), 'depth', 'a')
  values[values == 7] = 1e-40
  np.testing.assert_array_equal(sources.decode_depth(_npy(values), 'depth', 'a'), expected)


@pytest.mark.parametrize('layout', ['two folders', 'beside', 'within'])
def test_photo_and_depth_pairs(tmp_path, layout):
  photo, depth = {
    'two folders': ('P/{}.jpg', 'D/{}.npy'),
    'beside': ('{}.png', '{}_depth.npy'),
    'within': ('rgb/{}.jpg', 'depth/{}.npy'),
  }[layout]
  for k in range(2):
    _write(tmp_path / photo.format(k), _noise((24, 32, 3), k))
    path = tmp_path / depth.format(k)
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.linspace(1, 5, 24 * 32).reshape(24, 32)[:: 1 + k, :: 1 + k])  # the second at half the size
  place = f'{tmp_path / "P"},{tmp_path / "D"}' if layout == 'two folders' else tmp_path
  source = sources.from_spec(f'rgbd:{place}')
  assert len(source) == 2 and source.keys == ('hr', 'depth')
  for record in source:
    assert record['hr'].shape == (24, 32, 3) and record['depth'].shape == (24, 32)
    assert record['depth'][0, 0] > 0.95 > 0.05 > record['depth'][-1, -1]
  inverse = sources.from_spec(f'rgbd-inverse:{place}')
  assert inverse[0]['depth'][0, 0] < 0.05
  np.save(tmp_path / depth.format(0), np.linspace(1, 2, 24 * 24).reshape(24, 24))
  with pytest.raises(sources.BadRecord, match='24x24 has another aspect ratio'):
    source[0]


# ---- ArrayRecord -----------------------------------------------------------------------------------------------------


def test_shards_of_bare_images_and_of_examples(tmp_path):
  from array_record.python import array_record_module

  images = [_noise((12, 10 + k, 3), k) for k in range(5)]
  for name, encode in (
    ('bare', _png),
    ('named', lambda a: array_record.make_example({'image': _png(a), 'name': b'photo'})),
  ):
    for shard in range(2):
      writer = array_record_module.ArrayRecordWriter(str(tmp_path / f'{name}.array_record-{shard}'), 'group_size:1')
      for image in images[3 * shard : 3 * shard + 3]:
        writer.write(encode(image))
      writer.close()
    source = pickle.loads(pickle.dumps(sources.from_spec(f'array_record:{tmp_path}/{name}*')))
    assert len(source) == 5
    for image, record in zip(images, source, strict=True):
      np.testing.assert_array_equal(record['hr'], image)
  assert source.name(4) == f'{tmp_path}/named*[4] photo'
  assert len(sources.from_spec(f'array_record:{tmp_path}')) == 10  # a folder is all its shards
  (tmp_path / 'bad.array_record').write_bytes(b'no shard')
  with pytest.raises(SSRError, match='pack them again'):
    sources.from_spec(f'array_record:{tmp_path}/bad*')


def test_a_set_that_is_not_prepared_says_the_command(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(SSRError) as caught:
    sources.from_spec('tfds:div2k/bicubic_x4')
  assert f'tfds build div2k/bicubic_x4 --file_format=array_record --data_dir={tmp_path}' in str(caught.value)
  assert f'ssr data pack folder:DIR {tmp_path} --tfds' in str(caught.value)


def test_images_of_tools_are_found_by_name_and_usual_endings(tmp_path):
  names = ['0801.png', '0802x4_out.jpg', '0803_HR.png', 'Canon_10_x1.png', 'Canon_11_x1_SR.png', 'other.png']
  for name in names:
    Image.new('RGB', (4, 4)).save(tmp_path / name)
  originals = [
    'hr/0801.png',
    'hr/0802.png',
    'hr/0803_HR.png',
    'hr/Canon_10_x1.png',
    'hr/Canon_11_x1.png',
    'hr/0804.png',
  ]
  found = files.partners(originals, tmp_path)
  assert [path and path.name for path in found] == [*names[:5], None]
  Image.new('RGB', (4, 4)).save(tmp_path / '0801_out.png')  # the exact name counts, not the ending
  assert files.partners(['0801.png'], tmp_path) == [tmp_path / '0801.png']
  Image.new('RGB', (4, 4)).save(tmp_path / '0802_sr.png')
  with pytest.raises(SSRError, match='0802_sr.png and .*0802x4_out.jpg: both could be of 0802.png; remove or rename'):
    files.partners(originals, tmp_path)
  for folder in ('Canon', 'Nikon'):  # the same names in subfolders
    (tmp_path / 'sub' / folder).mkdir(parents=True)
    Image.new('RGB', (4, 4)).save(tmp_path / 'sub' / folder / '001.png')
  assert files.partners(['hr/Nikon/001_HR.png', 'hr/Canon/001_HR.png'], tmp_path / 'sub') == [
    tmp_path / 'sub' / folder / '001.png' for folder in ('Nikon', 'Canon')
  ]
  (tmp_path / 'empty').mkdir()
  with pytest.raises(SSRError, match='no image below this folder'):
    files.partners(['a.png'], tmp_path / 'empty')
