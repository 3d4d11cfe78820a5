"""Image files: what goes in comes out, and every bad file is one line."""

import io as iolib
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms
import pytest

from ssr_jax.image import io
from ssr_jax.types import SSRError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def _pixels(shape=(12, 17, 3), seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize('suffix', ['.png', '.webp', '.bmp', '.tif', '.ppm'])
def test_pixels_are_read_as_they_are(tmp_path, suffix):
  pixels = _pixels()
  Image.fromarray(pixels).save(tmp_path / f'a{suffix}', **({'lossless': True} if suffix == '.webp' else {}))
  picture = io.read(tmp_path / f'a{suffix}')
  np.testing.assert_array_equal(picture.rgb, pixels)
  assert picture.alpha is None and not picture.gray and not picture.notes


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_is_applied_once(tmp_path, orientation):
  pixels = np.zeros((16, 24, 3), np.uint8)
  pixels[:8, :8] = 255  # a bright corner tells where the top left went
  exif = Image.Exif()
  exif[0x0112], exif[0x010F] = orientation, 'Maker'
  Image.fromarray(pixels).save(tmp_path / 'a.jpg', exif=exif, quality=95)
  picture = io.read(tmp_path / 'a.jpg')
  assert picture.rgb.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))
  bright = np.argwhere(picture.rgb[..., 0] > 200).mean(0) > np.array(picture.rgb.shape[:2]) / 2
  down, right = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
  assert tuple(bright) == (bool(down), bool(right))
  io.write(tmp_path / 'b.jpg', picture)
  with Image.open(tmp_path / 'b.jpg') as again:
    assert again.getexif().get(0x010F) == 'Maker' and 0x0112 not in again.getexif()


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp'])
def test_profile_and_exif_are_kept(tmp_path, suffix):
  exif = Image.Exif()
  exif[0x010F] = 'Maker'
  exif.get_ifd(0x8769).update({0xA002: 17, 0xA003: 12, 0x9003: '2020:01:02 03:04:05'})
  Image.fromarray(_pixels()).save(tmp_path / 'a.png', icc_profile=SRGB, exif=exif)
  picture = io.read(tmp_path / 'a.png')
  picture.rgb = np.repeat(np.repeat(picture.rgb, 4, 0), 4, 1)
  io.write(tmp_path / f'b{suffix}', picture)
  with Image.open(tmp_path / f'b{suffix}') as again:
    assert again.info['icc_profile'] == SRGB
    details = again.getexif().get_ifd(0x8769)
    assert (details[0xA002], details[0xA003]) == (68, 48) and details[0x9003] == '2020:01:02 03:04:05'


def test_alpha_is_kept_where_the_format_can(tmp_path):
  pixels = _pixels((12, 17, 4))
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  picture = io.read(tmp_path / 'a.png')
  np.testing.assert_array_equal(picture.alpha, pixels[..., 3])
  for suffix in ('.png', '.webp'):
    assert not io.write(tmp_path / f'b{suffix}', picture)
    np.testing.assert_array_equal(io.read(tmp_path / f'b{suffix}').alpha, pixels[..., 3])
  assert 'transparency' in io.write(tmp_path / 'b.jpg', picture)[0]
  up = io.upscale_alpha(picture.alpha, 4)
  want = Image.fromarray(pixels[..., 3]).resize((68, 48), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(up, np.asarray(want))


def test_palette_with_transparency_and_opaque_alpha(tmp_path):
  palette = Image.fromarray(_pixels()).quantize(8)
  palette.save(tmp_path / 'a.png', transparency=0)
  assert (io.read(tmp_path / 'a.png').alpha == 0).any()
  opaque = np.dstack([_pixels(), np.full((12, 17), 255, np.uint8)])
  Image.fromarray(opaque).save(tmp_path / 'b.png')
  assert io.read(tmp_path / 'b.png').alpha is None


def test_gray_stays_gray(tmp_path):
  pixels = _pixels((12, 17))
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  picture = io.read(tmp_path / 'a.png')
  assert picture.gray and picture.rgb.shape == (12, 17, 3)
  for suffix in ('.png', '.jpg'):
    io.write(tmp_path / f'b{suffix}', picture)
    with Image.open(tmp_path / f'b{suffix}') as again:
      assert again.mode == 'L'
  with Image.open(tmp_path / 'b.png') as again:
    np.testing.assert_array_equal(np.asarray(again), pixels)


def test_sixteen_bit_gray_stays_sixteen_bit(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 65536, (12, 17)).astype(np.uint16)
  Image.fromarray(pixels).save(tmp_path / 'a.png')
  picture = io.read(tmp_path / 'a.png')
  assert picture.deep and picture.rgb.dtype == np.float32
  io.write(tmp_path / 'b.png', picture)
  with Image.open(tmp_path / 'b.png') as again:
    assert again.mode.startswith('I')
    assert np.abs(np.asarray(again).astype(int) - pixels).max() <= 1
  assert '16 bits' in io.write(tmp_path / 'b.jpg', picture)[0]


def test_cmyk_becomes_srgb(tmp_path):
  Image.fromarray(_pixels()).convert('CMYK').save(tmp_path / 'a.jpg')
  picture = io.read(tmp_path / 'a.jpg')
  assert picture.rgb.shape == (12, 17, 3) and 'sRGB' in picture.notes[0]


def test_sixteen_bit_colour_is_read_with_a_note(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype('>u2')
  rows = b''.join(b'\0' + row.tobytes() for row in pixels)

  def chunk(kind, content):
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

  header = struct.pack('>IIBBBBB', 7, 5, 16, 2, 0, 0, 0)
  (tmp_path / 'a.png').write_bytes(
    b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
  )
  picture = io.read(tmp_path / 'a.png')
  assert picture.notes == ['16-bit colour was read as 8-bit']
  assert np.abs(picture.rgb.astype(int) - pixels.astype(int) / 257).max() <= 1


def _truncated(form):
  buffer = iolib.BytesIO()
  Image.fromarray(_pixels((64, 64, 3))).save(buffer, form)
  return buffer.getvalue()[: len(buffer.getvalue()) // 2]


def _animated():
  buffer = iolib.BytesIO()
  frames = [Image.fromarray(_pixels(seed=i)) for i in range(3)]
  frames[0].save(buffer, 'GIF', save_all=True, append_images=frames[1:])
  return buffer.getvalue()


@pytest.mark.parametrize(
  'name, content, words',
  [
    ('a.png', b'', 'empty'),
    ('a.png', b'not a picture', 'not an image'),
    ('a.png', _truncated('PNG'), 'damaged or truncated'),
    ('a.jpg', _truncated('JPEG'), 'damaged or truncated'),
    ('a.webp', _truncated('WEBP'), '.'),
    ('a.gif', _animated(), '3 frames'),
    ('missing.png', None, 'cannot be read'),
  ],
)
def test_bad_files_are_one_line_that_names_them(tmp_path, name, content, words):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(SSRError, match=words) as caught:
    io.read(tmp_path / name)
  assert name in str(caught.value) and '\n' not in str(caught.value)


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
  Image.new('L', (3000, 2000)).save(tmp_path / 'a.png')
  with pytest.raises(SSRError, match='3000x2000 pixels, more than 1000'):
    io.read(tmp_path / 'a.png', max_pixels=1000)
  assert io.size(tmp_path / 'a.png') == (2000, 3000)
  assert io.size(tmp_path / 'b.png') is None


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
  picture = io.Picture(_pixels())
  with pytest.raises(SSRError, match="cannot write '.gif'"):
    io.write(tmp_path / 'a.gif', picture)
  with pytest.raises(SSRError, match='cannot be written'):
    io.write(tmp_path / 'nowhere' / 'a.png', picture)
  with pytest.raises(SSRError, match='too large for WEBP'):
    io.write(tmp_path / 'a.webp', io.Picture(np.zeros((1, 17000, 3), np.uint8)))
  (tmp_path / 'a.png').write_bytes(b'old')

  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(io.os, 'replace', fail)
  with pytest.raises(SSRError, match='No space left'):
    io.write(tmp_path / 'a.png', picture)
  assert [p.name for p in tmp_path.iterdir()] == ['a.png'] and (tmp_path / 'a.png').read_bytes() == b'old'
