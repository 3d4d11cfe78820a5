"""Damaged files through the reader: each is an image or one line that names it, and nothing is printed."""

import concurrent.futures
import io as iolib
import os
import pathlib
import struct
import types
import warnings

import numpy as np
from PIL import EpsImagePlugin, Image
import pytest

from ssr_jax.data import sources
from ssr_jax.image import deep, io, opening
from ssr_jax.types import SSRError

_PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


def _encoded(form, pixels=_PIXELS, **options):
  buffer = iolib.BytesIO()
  Image.fromarray(pixels).save(buffer, form, **options)
  return buffer.getvalue()


def _exif():
  exif = Image.Exif()
  exif[0x010F], exif[0x0112], exif[0x011A] = 'Maker', 6, 72.0
  exif.get_ifd(0x8769).update({0x9003: '2020:01:02 03:04:05', 0xA002: 24, 0x829A: 0.01})
  exif.get_ifd(0x8825).update({1: 'N', 2: (1.0, 2.0, 3.0)})
  return exif


def _whole_files():
  """A file of every format that is read, of several kinds where a format has them."""
  files = {form: _encoded(form) for form in opening.FORMATS if form != 'AVIF' or form in opening._formats()}
  gray16 = _PIXELS[..., 0].astype(np.uint16) * 257
  files |= {
    'PNG16': _encoded('PNG', gray16),
    'PNGalpha': _encoded('PNG', np.dstack([_PIXELS, _PIXELS[..., 0]])),
    'TIFF16': _encoded('TIFF', gray16),
    'TIFFlzw': _encoded('TIFF', compression='tiff_lzw'),
    'TIFFjpeg': _encoded('TIFF', compression='jpeg'),
    'JPEGexif': _encoded('JPEG', exif=_exif()),
    'WEBPexif': _encoded('WEBP', exif=_exif()),
  }
  return files


def _damaged(count, seed):
  """(name, bytes): truncated, with flipped bits anywhere, in the header, or in the EXIF block, with other suffixes."""
  rng = np.random.default_rng(seed)
  suffixes = [suffix for known in opening.FORMATS.values() for suffix in known]
  for form, whole in _whole_files().items():
    for k in range(count):
      data = bytearray(whole)
      kind = ('cut', 'flip', 'header', 'exif')[k % 4]
      at = data.find(b'Exif\0\0') if form == 'JPEGexif' else data.find(b'EXIF')
      if kind == 'cut':
        del data[int(rng.integers(1, len(data))) :]
      else:
        low, high = {'flip': (0, len(data)), 'header': (0, 64), 'exif': (max(at, 0), max(at, 0) + 200)}[kind]
        for place in rng.integers(low, min(high, len(data)), rng.integers(1, 9)):
          data[place] ^= 1 << int(rng.integers(8))
      yield f'{form}-{kind}-{k}{rng.choice(suffixes)}', bytes(data)


def test_whole_files_of_every_format_are_read(tmp_path):
  for name, data in _whole_files().items():
    (tmp_path / name).write_bytes(data)  # no suffix: it is the content that counts
    picture = io.read(tmp_path / name)
    assert picture.rgb.shape == ((24, 20, 3) if 'exif' in name else (20, 24, 3)), name


def test_every_damaged_file_is_an_image_or_one_line_with_its_name(tmp_path, capfd):
  outcomes = {'image': 0, 'error': 0}
  with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    for name, data in _damaged(16, seed=1):
      path = tmp_path / name
      path.write_bytes(data)
      try:
        picture = io.read(path, max_pixels=10**6)
      except SSRError as error:
        assert name in str(error) and '\n' not in str(error)
        outcomes['error'] += 1
      else:
        assert picture.rgb.ndim == 3 and picture.rgb.shape[2] == 3
        outcomes['image'] += 1
        for form in ('.png', '.jpg'):
          io.write(tmp_path / f'again{form}', picture)  # what was read can be written
      path.unlink()
  assert not warned and capfd.readouterr() == ('', '')
  assert min(outcomes.values()) > 50, outcomes


def test_threads_leave_the_warning_filters_as_they_were(tmp_path):
  files = [data for _, data in _damaged(4, seed=2)]
  before = list(warnings.filters)

  def read(data):
    try:
      sources.decode_image(data, 'x')
    except sources.BadRecord as error:
      assert str(error).startswith('x: ')

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(read, files))
  assert warnings.filters == before


_DDS = (
  b'DDS ' + struct.pack('<7I', 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44) + struct.pack('<8I', 32, 4, 0, 0, 0, 0, 0, 0)
)
_FOREIGN = {
  'PostScript': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n',
  'DDS': _DDS + bytes(64),
  'BLP': b'BLP2' + bytes(1200),
  'ICO': _encoded('ICO'),
  'text': b'text',
}


@pytest.mark.parametrize('kind', _FOREIGN)
def test_other_formats_are_not_tried(tmp_path, monkeypatch, kind):
  monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *_, **__: pytest.fail('Ghostscript must not run'))
  (tmp_path / 'a.png').write_bytes(_FOREIGN[kind])
  with pytest.raises(SSRError, match='a.png: cannot be read, not an image of a known format'):
    io.read(tmp_path / 'a.png')
  with pytest.raises(sources.BadRecord, match='a.png: cannot be read, not an image of a known format'):
    sources.from_spec(f'folder:{tmp_path}')[0]


def test_an_error_of_any_type_names_the_file(tmp_path, monkeypatch):
  (tmp_path / 'a.png').write_bytes(_encoded('PNG'))
  for error in (struct.error('x'), RuntimeError('x'), NotImplementedError('x'), ZeroDivisionError(), MemoryError()):

    def fail(*_, error=error, **__):
      raise error

    monkeypatch.setattr('PIL.ImageFile.ImageFile.load_prepare', fail)  # which Pillow's `load` calls
    with pytest.raises(SSRError, match='a.png: .*(as an image|memory)'):
      io.read(tmp_path / 'a.png')
    with pytest.raises(sources.BadRecord, match='a.png: '):
      sources.from_spec(f'folder:{tmp_path}')[0]


def test_a_mistake_of_ours_is_not_called_damage(tmp_path, monkeypatch):
  """Neither where our code raises, nor where NumPy does that our code calls; a lack of memory is one line anyway."""
  (tmp_path / 'a.png').write_bytes(_encoded('PNG'))

  def ours(image):
    return {}[image.mode]

  def numpys(image):
    return np.linalg.inv(np.asarray(image)[..., 0])

  for helper, kind in ((ours, KeyError), (numpys, np.linalg.LinAlgError)):
    code = types.FunctionType(helper.__code__, vars(io))  # as if it stood there
    monkeypatch.setattr(deep, 'is_deep', code)
    for read in (
      io.read,
      lambda path: io.decode(path.read_bytes(), 'a'),
      lambda path: io.convert(Image.open(path), 'a'),
    ):
      with pytest.raises(kind):
        read(tmp_path / 'a.png')
  monkeypatch.setattr(deep, 'is_deep', lambda image: np.zeros(10**15))
  with pytest.raises(SSRError, match='a.png: the image needs more memory than there is'):
    io.read(tmp_path / 'a.png')


def test_damaged_exif_costs_the_exif_only(tmp_path):
  data = bytearray(_encoded('JPEG', exif=_exif()))
  at = data.find(b'Exif\0\0') + 6
  data[at : at + 8] = b'\xff' * 8
  (tmp_path / 'a.jpg').write_bytes(bytes(data))
  picture = io.read(tmp_path / 'a.jpg')
  assert picture.rgb.shape == (20, 24, 3) and picture.exif is None
  assert picture.notes and all('EXIF block is damaged' in note for note in picture.notes)


def test_pipes_and_devices_are_refused_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / 'a.png')
  for path, words in (
    (tmp_path / 'a.png', 'pipe or a device'),
    ('/dev/zero', 'pipe or a device'),
    (tmp_path, 'folder'),
  ):
    with pytest.raises(SSRError, match=words):
      io.read(path)
    assert io.size(path) is None
  with pytest.raises(SSRError, match='pipe or a device'):
    opening.read_bytes(tmp_path / 'a.png')


def test_an_empty_file_is_said_once(tmp_path):
  (tmp_path / 'a.png').write_bytes(b'')
  with pytest.raises(SSRError) as caught:
    io.read(tmp_path / 'a.png')
  assert str(caught.value) == f'{tmp_path}/a.png: the file is empty; get it again'


def test_sixteen_bits_are_kept_and_where_they_become_eight_it_is_told(tmp_path):
  """A TIFF by hand, three samples of 16 bits; PPM has its own header."""
  deep = np.random.default_rng(0).integers(0, 65536, (4, 6, 3)).astype('<u2')
  tags = [(256, 3, 1, 6), (257, 3, 1, 4), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 300)]
  tags += [(277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, deep.nbytes)]
  body = b'II*\0' + struct.pack('<IH', 8, len(tags)) + b''.join(struct.pack('<HHII', *tag) for tag in tags) + bytes(4)
  body = body.ljust(200, b'\0') + struct.pack('<3H', 16, 16, 16)
  (tmp_path / 'a.tif').write_bytes(body.ljust(300, b'\0') + deep.tobytes())
  (tmp_path / 'a.ppm').write_bytes(b'P6 6 4 65535\n' + deep.astype('>u2').tobytes())
  picture = io.read(tmp_path / 'a.tif')
  np.testing.assert_allclose(picture.rgb, deep / 65535, atol=1e-7)
  assert picture.notes == []
  picture = io.read(tmp_path / 'a.ppm')
  assert picture.notes == ['16-bit colour was read as 8-bit']
  assert np.abs(picture.rgb.astype(int) - deep / 257).max() <= 1


def test_transparency_of_sixteen_bit_gray_is_kept(tmp_path):
  pixels = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
  Image.fromarray(pixels).save(tmp_path / 'a.png', transparency=int(pixels[2, 3]))
  picture = io.read(tmp_path / 'a.png')
  expected = np.ones((8, 8), np.float32)
  expected[2, 3] = 0
  np.testing.assert_array_equal(picture.alpha, expected)
  assert picture.bits == 16
  assert io.write(tmp_path / 'b.png', picture) == []
  again = io.read(tmp_path / 'b.png')
  assert again.bits == 16
  np.testing.assert_array_equal(again.alpha, expected)
  np.testing.assert_allclose(again.rgb, picture.rgb, atol=1e-7)


# -- Writing -----------------------------------------------------------------------------------------------------------


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(os, 'fsync', lambda descriptor: calls.append(('fsync', os.fstat(descriptor).st_size)))
  replace = os.replace
  monkeypatch.setattr(os, 'replace', lambda old, new: (calls.append(('replace', 3)), replace(old, new)))
  io.write_bytes(tmp_path / 'a', b'abc')
  assert calls == [('fsync', 3), ('replace', 3)]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
  (tmp_path / 'a').write_bytes(b'old')
  for link in (os.link, lambda *_: (_ for _ in ()).throw(PermissionError(1, 'no links on this file system'))):
    monkeypatch.setattr(os, 'link', link)
    with pytest.raises(SSRError, match='a: exists'):
      io.write_bytes(tmp_path / 'a', b'new', replace=False)
    io.write_bytes(tmp_path / 'b', b'new', replace=False)
    assert (tmp_path / 'a').read_bytes() == b'old' and (tmp_path / 'b').read_bytes() == b'new'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b']
    (tmp_path / 'b').unlink()


def test_files_get_the_rights_that_others_give_them(tmp_path):
  before = os.umask(0o027)
  try:
    io.write_bytes(tmp_path / 'a', b'x')
  finally:
    os.umask(before)
  assert (tmp_path / 'a').stat().st_mode & 0o777 == 0o640


def test_nothing_else_opens_images():
  package = pathlib.Path(opening.__file__).parents[1]
  found = [path.name for path in package.rglob('*.py') if 'Image.open(' in path.read_text()]
  assert found == ['opening.py']
