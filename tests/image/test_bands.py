"""Files that are read and written band by band: the same pixels and metadata as at once, and nothing half-written."""

import io as iolib
import itertools

import numpy as np
from PIL import Image
import pytest
from skimage import data
import tifffile

from ssr_jax.image import deep, io
from ssr_jax.types import SSRError


def _save(path, channels, bits, **options):
  """A photo of 150x90 pixels as a file."""
  photo = data.astronaut()[100:250, 150:240]
  rgba = np.dstack([photo, photo[::-1, :, 0]])
  values = {1: rgba[..., 1], 2: rgba[..., [1, 3]], 3: photo, 4: rgba}[channels]
  if bits == 16:
    low = np.random.default_rng(0).integers(0, 256, values.shape)
    values = (256 * values.astype(int) + low).astype(np.uint16)
    if path.suffix == '.png':
      floats = (values / np.float32(65535)).reshape(150, 90, channels)
      rgb = floats[..., :3] if channels > 2 else np.repeat(floats[..., :1], 3, -1)
      alpha = floats[..., -1] if channels in (2, 4) else None
      io.write(path, io.Picture(rgb, alpha, gray=channels < 3, bits=16))
    else:
      extra = {'photometric': 'rgb' if channels > 2 else 'minisblack', 'planarconfig': 'contig'}
      extra |= {'extrasamples': ['unassalpha']} if channels in (2, 4) else {}
      tifffile.imwrite(path, values, rowsperstrip=7, **extra)
  else:
    Image.fromarray(values).save(path, **options)
  return path


CASES = [('.png', c, bits) for c in (1, 2, 3, 4) for bits in (8, 16)]
CASES += [('.tif', c, bits) for c in (1, 3, 4) for bits in (8, 16)] + [('.jpg', 1, 8), ('.jpg', 3, 8)]


@pytest.mark.parametrize('suffix, channels, bits', CASES)
def test_rows_are_those_of_the_whole_file(tmp_path, suffix, channels, bits):
  """In order, overlapping, going back, past the end; colour and transparency are independent of each other."""
  path = _save(tmp_path / f'a{suffix}', channels, bits)
  whole, rows = io.read(path), io.read(path, banded=1000)
  assert isinstance(rows.rgb, deep.Channels) and isinstance(whole.rgb, np.ndarray)
  assert rows.rgb.shape == whole.rgb.shape and rows.rgb.dtype == whole.rgb.dtype
  assert (rows.gray, rows.bits, rows.alpha is None) == (whole.gray, whole.bits, whole.alpha is None)
  for first, last in ((0, 10), (5, 80), (80, 81), (0, 150), (30, 70), (31, 33), (140, 400)):
    np.testing.assert_array_equal(rows.rgb[first:last], whole.rgb[first:last])
    if whole.alpha is not None:
      np.testing.assert_array_equal(rows.alpha[first // 2 : last], whole.alpha[first // 2 : last])
  other = rows.rgb.again()
  np.testing.assert_array_equal(other[100:120], whole.rgb[100:120])
  np.testing.assert_array_equal(rows.rgb[141:150], whole.rgb[141:150])


def test_what_cannot_be_read_by_rows_is_read_whole(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  photo = Image.fromarray(data.astronaut()[:60, :50])
  photo.save(tmp_path / 'turned.jpg', exif=exif)
  photo.convert('P').save(tmp_path / 'palette.png')
  photo.convert('CMYK').save(tmp_path / 'cmyk.tif')
  photo.save(tmp_path / 'a.webp', lossless=True)
  tifffile.imwrite(tmp_path / 'float.tif', np.random.default_rng(0).random((60, 50, 3), np.float32), photometric='rgb')
  for name in ('turned.jpg', 'palette.png', 'cmyk.tif', 'a.webp', 'float.tif'):
    found, whole = io.read(tmp_path / name, banded=10), io.read(tmp_path / name)
    np.testing.assert_array_equal(found.rgb, whole.rgb)


def test_opaque_transparency_is_none(tmp_path):
  Image.fromarray(np.dstack([data.astronaut()[:60, :50], np.full((60, 50), 255, np.uint8)])).save(tmp_path / 'a.png')
  assert io.read(tmp_path / 'a.png', banded=10).alpha is None


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif'])
def test_damage_further_down_is_one_line(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 300, 3), np.uint8)).save(path)
  content = path.read_bytes()
  path.write_bytes(content[: 2 * len(content) // 3] + (content[-200:] if suffix == '.tif' else b''))
  with pytest.raises(SSRError) as caught:
    rows = io.read(path, banded=10).rgb
    for first in range(0, 600, 50):
      rows[first : first + 50]
  assert str(path) in str(caught.value) and '\n' not in str(caught.value)


XMP = (
  b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
)


def _whole_and_banded(tmp_path, suffix, picture, quality=95, bands=(0, 1, 40, 104, 150)):
  notes = io.write(tmp_path / f'whole{suffix}', picture, quality)
  with io.Writer(tmp_path / f'bands{suffix}', picture, picture.rgb.shape[:2], quality) as writer:
    for first, last in itertools.pairwise(bands):
      writer.write(picture.rgb[first:last], None if picture.alpha is None else picture.alpha[first:last])
    assert not (tmp_path / f'bands{suffix}').exists()
  assert writer.notes == notes
  assert not list(tmp_path.glob('.ssr*'))
  return tmp_path / f'whole{suffix}', tmp_path / f'bands{suffix}'


@pytest.mark.parametrize(
  'channels, bits', [(1, 8), (2, 8), (3, 8), (4, 8), (1, 16), (2, 16), (3, 16), (4, 16), (3, 32)]
)
@pytest.mark.parametrize('suffix', sorted(io.WRITABLE))
def test_bands_make_the_file_of_the_whole(tmp_path, suffix, channels, bits):
  """Pixels as another library decodes them, and what lies beside them."""
  if bits == 32:
    floats = np.random.default_rng(0).random((150, 90, 3), np.float32)
    picture = io.Picture(floats, bits=32)
  else:
    picture = io.read(_save(tmp_path / 'in.png', channels, bits))
  exif = Image.Exif()
  exif[0x010F] = 'Maker'
  picture.exif, picture.xmp, picture.dpi = exif.tobytes(), XMP, (300.0, 150.0)
  picture.icc = bytes(70_000)  # more than one segment of a JPEG file holds
  picture.icc = picture.icc if suffix in ('.jpg', '.png', '.tif') else None
  whole, bands = (io.read(path) for path in _whole_and_banded(tmp_path, suffix, picture))
  if suffix in ('.jpg', '.jpeg', '.jfif'):
    difference = np.abs(whole.rgb.astype(int) - bands.rgb)
    assert difference.max() <= 3 and difference.mean() < 0.1, difference.max()
  else:
    np.testing.assert_array_equal(bands.rgb, whole.rgb)
  for name in ('gray', 'bits', 'icc', 'exif', 'xmp', 'dpi'):
    assert getattr(bands, name) == getattr(whole, name), name
  assert (bands.alpha is None) == (whole.alpha is None)
  if whole.alpha is not None:
    np.testing.assert_array_equal(bands.alpha, whole.alpha)
  if suffix in ('.tif', '.tiff'):  # Pillow does not know all of these
    np.testing.assert_array_equal(*(tifffile.imread(tmp_path / f'{name}{suffix}') for name in ('bands', 'whole')))
    return
  with Image.open(tmp_path / f'bands{suffix}') as image, Image.open(tmp_path / f'whole{suffix}') as other:
    assert image.mode == other.mode and image.size == (90, 150)
    image.load()


@pytest.mark.parametrize('quality, sampling', [(95, 0), (80, 2)])
def test_jpeg_by_bands_has_the_quality_and_the_colour_that_were_asked_for(tmp_path, quality, sampling):
  """The quantisation tables of libjpeg, and 4:4:4 from quality 90 on, as Pillow's."""
  from PIL import JpegImagePlugin

  picture = io.read(_save(tmp_path / 'in.png', 3, 8))
  for path in _whole_and_banded(tmp_path, '.jpg', picture, quality):
    with Image.open(path) as image:
      tables = image.quantization
      assert JpegImagePlugin.get_sampling(image) == sampling, path
      if path.stem == 'whole':
        wanted = tables
  assert tables == wanted


def test_a_bigtiff_is_read_by_others(tmp_path, monkeypatch):
  from ssr_jax.image import encoders

  monkeypatch.setattr(encoders, '_SMALL_TIFF', 1000)
  picture = io.read(_save(tmp_path / 'in.png', 3, 16))
  picture.dpi = (72.0, 72.0)
  _, path = _whole_and_banded(tmp_path, '.tif', picture)
  with tifffile.TiffFile(path) as file:
    assert file.is_bigtiff
    np.testing.assert_array_equal(file.asarray(), np.rint(picture.rgb * 65535).astype(np.uint16))
  np.testing.assert_array_equal(io.read(path).rgb, picture.rgb)


def test_png_filters_make_files_small(tmp_path):
  """A photo, doubled and smooth, takes no more than a tenth more than what Pillow makes of it."""
  photo = np.asarray(Image.fromarray(data.astronaut()).resize((1024, 1024), Image.Resampling.BICUBIC))
  picture, buffer = io.Picture(photo), iolib.BytesIO()
  with io.Writer(tmp_path / 'a.png', picture, photo.shape[:2]) as writer:
    writer.write(photo[:500])
    writer.write(photo[500:])
  Image.fromarray(photo).save(buffer, 'PNG')
  assert (tmp_path / 'a.png').stat().st_size < 1.1 * len(buffer.getvalue())
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'a.png')), photo)


def test_png_filters_know_the_row_above_a_band(tmp_path):
  """Single bright pixels, for which the difference to the row above is the smallest, if that row is taken for black."""
  image = np.where(np.random.default_rng(0).random((200, 90, 3)) < 0.1, 200, 0).astype(np.uint8)
  image[1:] = np.where(np.arange(199)[:, None, None] % 2, image[1:], image[:-1])
  with io.Writer(tmp_path / 'a.png', io.Picture(image), (200, 90)) as writer:
    for first in range(0, 200, 50):
      writer.write(image[first : first + 50])
  with Image.open(tmp_path / 'a.png') as found:
    np.testing.assert_array_equal(np.asarray(found), image)


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.webp'])
def test_an_error_between_bands_leaves_nothing(tmp_path, suffix):
  picture = io.Picture(np.zeros((40, 30, 3), np.uint8))
  for error in (RuntimeError, KeyboardInterrupt):
    with pytest.raises(error), io.Writer(tmp_path / f'a{suffix}', picture, (40, 30)) as writer:
      writer.write(picture.rgb[:20])
      raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif', '.webp'])
def test_a_stop_while_the_end_is_written_leaves_nothing(tmp_path, monkeypatch, suffix):
  """Also where libvips calls back, which swallows Python's exceptions."""
  from ssr_jax.image import files

  picture = io.Picture(np.zeros((40, 30, 3), np.uint8))
  with pytest.raises(KeyboardInterrupt), io.Writer(tmp_path / f'a{suffix}', picture, (40, 30)) as writer:
    writer.write(picture.rgb)

    def stop(*_):
      raise KeyboardInterrupt

    monkeypatch.setattr(files.NewFile, 'write', stop)
  assert not list(tmp_path.iterdir())


def test_a_full_disk_between_bands_is_one_line(tmp_path, monkeypatch):
  from ssr_jax.image import files

  picture = io.Picture(np.zeros((40, 30, 3), np.uint8))
  for suffix in ('.png', '.jpg', '.tif'):

    def full(self, data):
      raise self._refused(OSError(28, 'No space left on device'))

    with (
      pytest.raises(SSRError, match='No space left') as caught,
      io.Writer(tmp_path / f'a{suffix}', picture, (40, 30)) as writer,
    ):
      monkeypatch.setattr(files.NewFile, 'write', full)
      writer.write(picture.rgb)
      writer._encoder.finish()
    monkeypatch.undo()
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.iterdir()), suffix


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path):
  picture = io.Picture(np.zeros((40, 30, 3), np.uint8))
  (tmp_path / 'a.png').write_bytes(b'mine')
  with (
    pytest.raises(SSRError, match='exists'),
    io.Writer(tmp_path / 'a.png', picture, (40, 30), replace=False) as writer,
  ):
    writer.write(picture.rgb)
  assert (tmp_path / 'a.png').read_bytes() == b'mine' and len(list(tmp_path.iterdir())) == 1
