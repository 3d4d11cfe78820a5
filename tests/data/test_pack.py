"""Packing: the same bytes however often it is interrupted, nothing lost, sets that tfds reads without TensorFlow."""

import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

from ssr_jax.data import check, loader, pack, records, sources
from ssr_jax.types import SSRError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _noise(height, width, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photos(tmp_path):
  """JPEG, PNG and WebP in sub-folders, a cut JPEG among them."""
  place = tmp_path / 'photos'
  for i in range(9):
    path = place / f'part{i % 2}' / f'{i}.{("jpg", "png", "webp")[i % 3]}'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_noise(30, 40 + i, i)).save(path)
  return place


def _cut(place):
  buffer = io.BytesIO()
  Image.fromarray(_noise(64, 64)).save(buffer, 'JPEG')
  (place / 'part0' / 'cut.jpg').write_bytes(buffer.getvalue()[:-900])


def _hashes(place):
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in place.iterdir()}


def test_bytes_names_and_manifest(photos, tmp_path):
  seen = []
  tell = lambda n, of: seen.append((n, of))
  done = pack.pack(f'folder:{photos}', tmp_path / 'out', shard_records=4, workers=2, progress=tell)
  assert (done.records, done.shards, done.kept, done.recoded, done.left_out) == (9, 3, 0, 0, ())
  assert seen == [(n, 9) for n in range(10)]  # from what was there already, none
  original, packed = sources.from_spec(f'folder:{photos}'), sources.from_spec(done.spec)
  assert len(packed) == 9
  for i in range(9):
    assert packed.encoded(i)['hr'] == original.encoded(i)['hr']  # not encoded again
    np.testing.assert_array_equal(packed[i]['hr'], original[i]['hr'])
    assert packed.name(i).endswith(str(pathlib.Path(original.name(i)).relative_to(photos)))
  manifest = json.loads((tmp_path / 'out' / 'images.manifest.json').read_text())
  hashes = _hashes(tmp_path / 'out')
  assert [s['records'] for s in manifest['shards']] == [4, 4, 1] and manifest['records'] == 9
  assert len(hashes) == 4 and all(hashes[s['file']] == s['sha256'] for s in manifest['shards'])


def test_a_second_run_keeps_what_is_whole_and_mends_what_is_not(photos, tmp_path):
  _cut(photos)
  out = tmp_path / 'out'
  first = pack.pack(f'folder:{photos}', out, shard_records=4)
  assert first.records == 9 and len(first.left_out) == 1 and 'cut.jpg: cannot be read' in first.left_out[0]
  hashes = _hashes(out)
  shards = sorted(p for p in out.iterdir() if 'array_record' in p.name)
  before = [p.stat().st_mtime_ns for p in shards]
  again = pack.pack(f'folder:{photos}', out, shard_records=4)
  assert again.kept == 3 and again.left_out == first.left_out and _hashes(out) == hashes
  assert [p.stat().st_mtime_ns for p in shards] == before

  shards[0].unlink()
  damaged = bytearray(shards[1].read_bytes())
  damaged[1000] ^= 1
  shards[1].write_bytes(damaged)
  mended = pack.pack(f'folder:{photos}', out, shard_records=4)
  assert mended.kept == 1 and mended.left_out == first.left_out and _hashes(out) == hashes


@pytest.mark.slow
def test_killed_and_started_again_gives_the_shards_of_one_go(tmp_path):
  """kill -9 in the middle, twice; nothing half-written is left, and the whole is the same bytes."""
  photos = tmp_path / 'photos'
  photos.mkdir()
  for i in range(40):
    Image.fromarray(_noise(48, 48, i)).save(photos / f'{i:05d}.png')
  for i in range(40, 6000):
    os.link(photos / f'{i % 40:05d}.png', photos / f'{i:05d}.png')
  out, count = tmp_path / 'out', 60
  command = [
    sys.executable,
    '-m',
    'ssr_jax.cli',
    'data',
    'pack',
    f'folder:{photos}',
    str(out),
    '--shard-records',
    '100',
    '--workers',
    '1',
    '--quiet',
  ]
  manifest = out / 'images.manifest.json'
  for goal in (3, 12):
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(list(out.glob('images.array_record-*'))) < goal and process.poll() is None and time.monotonic() < end:
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not manifest.exists()  # it was in the middle
  kept = len(list(out.glob('images.array_record-*')))
  assert 12 <= kept < count
  done = pack.pack(f'folder:{photos}', out, shard_records=100)
  assert done.records == 6000 and kept - 1 <= done.kept <= kept  # the last may lack its note: then it is written again
  whole = pack.pack(f'folder:{photos}', tmp_path / 'whole', shard_records=100)
  assert whole.kept == 0 and _hashes(out) == _hashes(tmp_path / 'whole')


_FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from ssr_jax import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_shard_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
  (tmp_path / 'photos').mkdir()
  Image.fromarray(_noise(200, 300)).save(tmp_path / 'photos' / 'a.png')
  done = subprocess.run(
    [sys.executable, '-c', _FULL_DISK, 'data', 'pack', f'folder:{tmp_path}/photos', str(tmp_path / 'out')],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
  assert 'images.array_record-00000-of-00001: cannot be written' in done.stderr
  assert not list((tmp_path / 'out').iterdir())


def test_a_directory_of_something_else_is_left_alone(photos, tmp_path):
  out = tmp_path / 'out'
  pack.pack(f'folder:{photos}', out, shard_records=4)
  hashes = _hashes(out)
  with pytest.raises(SSRError, match='of another source or other options'):
    pack.pack(f'folder:{photos / "part0"}', out, shard_records=4)
  with pytest.raises(SSRError, match='of another source or other options'):
    pack.pack(f'folder:{photos}', out, shard_records=5)
  assert _hashes(out) == hashes
  os.utime(photos / 'part0' / '0.jpg', (1, 1))  # touched since: perhaps not the same picture
  with pytest.raises(SSRError, match='of another source or other options'):
    pack.pack(f'folder:{photos}', out, shard_records=4)


def test_wrong_wishes_are_one_line(photos, tmp_path):
  for spec, options, message in (
    (f'0.5*folder:{photos};0.5*folder:{photos}', {}, 'weights mean nothing'),
    (f'folder:{photos}', {'shard_records': 0}, 'must be 1 or more'),
    (f'folder:{photos}', {'tfds_name': 'My Set'}, 'a-z'),
  ):
    with pytest.raises(SSRError, match=message):
      pack.pack(spec, tmp_path / 'out', **options)
  assert not (tmp_path / 'out').exists()
  (tmp_path / 'file').write_text('')
  with pytest.raises(SSRError, match='file: cannot be written'):
    pack.pack(f'folder:{photos}', tmp_path / 'file')
  for path in photos.rglob('*.*'):
    path.write_bytes(b'no image')
  with pytest.raises(SSRError, match='no record can be read'):
    pack.pack(f'folder:{photos}', tmp_path / 'none')


def test_pairs_and_depth_survive(tmp_path):
  for k in range(3):
    for side, name in ((24, 'hr'), (6, 'lr')):
      path = tmp_path / name / f'{k}.png'
      path.parent.mkdir(exist_ok=True)
      Image.fromarray(_noise(side, side, k)).save(path)
    (tmp_path / 'depth').mkdir(exist_ok=True)
    np.save(tmp_path / 'depth' / f'{k}.npy', np.linspace(1 + k, 9, 24 * 24).reshape(24, 24))
  for spec in (
    f'paired:{tmp_path}/hr,{tmp_path}/lr',
    f'rgbd:{tmp_path}/hr,{tmp_path}/depth',
    f'rgbd-inverse:{tmp_path}/hr,{tmp_path}/depth',
  ):
    source = sources.from_spec(spec)
    packed = sources.from_spec(pack.pack(spec, tmp_path / spec.partition(':')[0]).spec)
    assert packed.keys == source.keys
    for a, b in zip(source, packed, strict=True):
      assert a.keys() == b.keys()
      for key in a:
        np.testing.assert_array_equal(a[key], b[key])


_ROUND_TRIP = """
import os, sys
import numpy as np
from ssr_jax.data import loader, pack, records, sources
photos, root = sys.argv[1:]
done = [pack.pack(f'folder:{photos}/part{k}', root, tfds_name='mine', split=split, shard_records=2)
        for k, split in enumerate(('train', 'validation'))]
assert [d.spec for d in done] == ['tfds:mine:train', 'tfds:mine:validation'], done
original = sources.from_spec(f'folder:{photos}/part0')
ours = sources.from_spec('tfds:mine')
import tensorflow_datasets as tfds
theirs = tfds.data_source('mine', split='train', data_dir=root)
assert len(ours) == len(theirs) == len(original) == 5
for a, b, c in zip(original, ours, theirs):
  np.testing.assert_array_equal(a['hr'], b['hr'])
  np.testing.assert_array_equal(a['hr'], c['hr'])
assert len(sources.from_spec('tfds:mine:validation')) == 4
assert len(sources.from_spec('tfds:mine:train[:40%]')) == 2
try:
  sources.from_spec('tfds:mine:test')
except ValueError as error:
  assert "no split 'test'; there are train, validation" in str(error), error
batches = loader.batches(loader.dataset(ours, records.photo_record(16), 2, 0))
assert next(batches)['hr'].shape == (2, 16, 16, 3)
assert 'tensorflow' not in sys.modules
print('recoded', done[0].recoded, done[1].recoded)
"""


def test_a_folder_becomes_a_tfds_set_without_tensorflow(photos, tmp_path):
  """In a process of its own, so that nothing else can have imported TensorFlow; read by tfds itself too."""
  turned = Image.fromarray(_noise(30, 40, 8))
  exif = turned.getexif()
  exif[0x0112] = 6
  turned.save(photos / 'part0' / '6.jpg', exif=exif)  # tfds knows nothing of orientation
  done = subprocess.run(
    [sys.executable, '-c', _ROUND_TRIP, str(photos), str(tmp_path / 'tfds')],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=os.environ | {'TFDS_DATA_DIR': str(tmp_path / 'tfds')},
  )
  assert done.returncode == 0, done.stderr
  assert 'recoded 3 1' in done.stdout  # the WebPs (2 and 8; 5) and the turned JPEG became PNG


def test_a_set_prepared_in_another_format_says_so(photos, tmp_path, monkeypatch):
  pack.pack(f'folder:{photos}', tmp_path, tfds_name='mine')
  info = tmp_path / 'mine' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(SSRError, match='only TensorFlow reads; run .*convert_format'):
    sources.from_spec('tfds:mine')


# ---- check -----------------------------------------------------------------------------------------------------------


def test_check_finds_what_is_cut_small_or_double(photos):
  _cut(photos)
  Image.fromarray(_noise(8, 90)).save(photos / 'part1' / 'small.png')
  Image.open(photos / 'part1' / '1.png').save(photos / 'part1' / 'twin.bmp')  # other bytes, the same pixels
  source = sources.from_spec(f'folder:{photos}')
  found = check.check(source, min_side=20, workers=2)
  assert found.records == 12 and found.sizes.shape == (11, 2) and found.sizes.min() == 8
  lines = sorted(pathlib.Path(line).name if ':' not in line else line.split('photos/')[1] for line in found.problems)
  assert len(lines) == 3
  assert lines[0].startswith('part0/cut.jpg: cannot be read as an image')
  assert lines[1] == 'part1/small.png: 90x8, a side is shorter than 20'
  assert lines[2].startswith('part1/twin.bmp: the same pixels as ') and found.problems[-1].endswith('part1/1.png')
  clean = sources.Folder([p for p in source.paths if p.stem not in ('cut', 'small', 'twin')])
  assert check.check(clean, min_side=20).problems == ()


def test_what_check_finds_the_loader_skips(photos):
  _cut(photos)
  source = sources.from_spec(f'folder:{photos}')
  iterator = loader.batches(loader.dataset(source, records.photo_record(16), 5, 0, max_bad_records=1))
  for _ in range(4):
    assert next(iterator)['hr'].shape == (5, 16, 16, 3)
  assert list(iterator.bad_records) == list(check.check(source).problems)
