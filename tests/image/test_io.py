"""Image files: what goes in comes out, and every bad file is one line."""

import io as iolib
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms
import pytest
import tifffile

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


# -- More than 8 bits --------------------------------------------------------------------------------------------------


def _samples(bits, channels, shape=(70, 37)):
  draw = np.random.default_rng(bits + channels)
  if bits == 32:
    return draw.random((*shape, channels), np.float32)
  return draw.integers(0, 2**bits, (*shape, channels)).astype(f'u{bits // 8}')


def _picture(bits, channels):
  values = _samples(bits, channels)
  floats = values if bits != 16 else values.astype(np.float32) / 65535
  rgb = floats[..., :3] if channels > 2 else np.repeat(floats[..., :1], 3, -1)
  return values, io.Picture(rgb, floats[..., -1] if channels in (2, 4) else None, gray=channels < 3, bits=bits)


def _png(path):
  """Samples [h, w, c] of a PNG file of 16 bits, by the specification."""
  content, place, rows = path.read_bytes(), 8, b''
  width, height, _, kind = struct.unpack('>IIBB', content[16:26])
  while place < len(content):
    (length,) = struct.unpack('>I', content[place : place + 4])
    if content[place + 4 : place + 8] == b'IDAT':
      rows += content[place + 8 : place + 8 + length]
    place += 12 + length
  pixel = 2 * {0: 1, 2: 3, 4: 2, 6: 4}[kind]
  rows = np.frombuffer(zlib.decompress(rows), np.uint8).reshape(height, 1 + pixel * width)
  found = np.zeros((height + 1, pixel * (width + 1)), int)
  for y in range(height):
    for x in range(pixel, pixel * (width + 1)):
      left, up, corner = found[y + 1, x - pixel], found[y, x], found[y, x - pixel]
      near = min((abs(up - corner), 0, left), (abs(left - corner), 1, up), (abs(left + up - 2 * corner), 2, corner))[2]
      guess = (0, left, up, (left + up) // 2, near)[rows[y, 0]]  # the five filters
      found[y + 1, x] = (int(rows[y, 1 + x - pixel]) + guess) % 256
  return np.ascontiguousarray(found[1:, pixel:].astype(np.uint8)).view('>u2').reshape(height, width, pixel // 2)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('bits', [8, 16, 32])
def test_tiff_holds_every_sample_for_others_and_for_us(tmp_path, bits, channels):
  values, picture = _picture(bits, channels)
  assert io.write(tmp_path / 'a.tif', picture) == []
  with tifffile.TiffFile(tmp_path / 'a.tif') as file:
    np.testing.assert_allclose(file.asarray().reshape(values.shape), values, rtol=2e-7 if bits == 32 else 0)
    assert file.pages[0].tags['PhotometricInterpretation'].value == (1 if channels < 3 else 2)
  again = io.read(tmp_path / 'a.tif')
  assert (again.bits, again.gray, io.size(tmp_path / 'a.tif')) == (bits, channels < 3, (70, 37))
  np.testing.assert_allclose(again.rgb, picture.rgb, atol=1e-6 if bits > 8 else 0)
  if channels in (2, 4):
    np.testing.assert_allclose(again.alpha, picture.alpha, atol=1e-6 if bits > 8 else 0)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_png_holds_sixteen_bits_for_others_and_for_us(tmp_path, channels):
  values, picture = _picture(16, channels)
  assert io.write(tmp_path / 'a.png', picture) == []
  np.testing.assert_array_equal(_png(tmp_path / 'a.png'), values)
  again = io.read(tmp_path / 'a.png')
  assert (again.bits, again.gray) == (16, channels < 3)
  np.testing.assert_allclose(again.rgb, picture.rgb, atol=1e-6)
  if channels in (2, 4):
    np.testing.assert_allclose(again.alpha, picture.alpha, atol=1e-6)


@pytest.mark.parametrize('compression', [None, 'zlib', 'lzw', 'jpeg'])
@pytest.mark.parametrize('predictor', [False, True])
def test_tiff_files_of_others_are_read(tmp_path, compression, predictor):
  """tifffile writes what it can without its codecs; Pillow the compressions of 8-bit images."""
  if compression in (None, 'zlib') and not predictor:
    for bits, channels in ((16, 3), (16, 4), (32, 3), (32, 1)):
      values = _samples(bits, channels)
      options = {'photometric': 'rgb'} if channels > 2 else {}
      options |= {'extrasamples': ['unassalpha']} if channels == 4 else {}
      tifffile.imwrite(tmp_path / 'a.tif', values.squeeze(), compression=compression, **options)
      picture = io.read(tmp_path / 'a.tif')
      scale = 65535 if bits == 16 else 1
      wanted = np.broadcast_to(values[..., :3] / scale, (70, 37, 3))
      np.testing.assert_allclose(picture.rgb, wanted, atol=1e-6)
      assert picture.bits == bits
  elif compression == 'lzw':
    pixels = _pixels()
    Image.fromarray(pixels).save(tmp_path / 'a.tif', compression='tiff_lzw', tiffinfo={317: 2 if predictor else 1})
    np.testing.assert_array_equal(io.read(tmp_path / 'a.tif').rgb, pixels)


def test_sixteen_bit_colour_of_png_by_the_specification(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype('>u2')
  rows = b''.join(b'\0' + row.tobytes() for row in pixels)

  def chunk(kind, content):
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

  header = struct.pack('>IIBBBBB', 7, 5, 16, 2, 0, 0, 0)
  data = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
  data += chunk(b'IDAT', zlib.compress(rows)) + chunk(
    b'eXIf', b'II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06' + bytes(7)
  )
  (tmp_path / 'a.png').write_bytes(data + chunk(b'IEND', b''))
  picture = io.read(tmp_path / 'a.png')
  assert (picture.bits, picture.notes, picture.rgb.shape) == (16, [], (7, 5, 3))  # orientation 6, behind the pixels
  np.testing.assert_allclose(picture.rgb, np.rot90(pixels.astype(int), -1) / 65535, atol=1e-7)


def test_a_deep_image_with_a_damaged_exif_block_is_read_without_it(tmp_path):
  io.write(tmp_path / 'a.png', _picture(16, 3)[1])
  data = (tmp_path / 'a.png').read_bytes()
  for block in (b'II*\0\xff\xff\xff\xff', b'\xff' * 8):
    content = b'eXIf' + block
    chunk = struct.pack('>I', len(block)) + content + struct.pack('>I', zlib.crc32(content))
    (tmp_path / 'b.png').write_bytes(data[:33] + chunk + data[33:])
    found = io.read(tmp_path / 'b.png')
    assert found.exif is None and all('EXIF block is damaged' in note for note in found.notes)
    np.testing.assert_array_equal(found.rgb, io.read(tmp_path / 'a.png').rgb)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_deep_images_are_made_upright_like_others(tmp_path, orientation):
  values = _samples(16, 3, (16, 24))
  tifffile.imwrite(tmp_path / 'a.tif', values, photometric='rgb', extratags=[(274, 3, 1, orientation, True)])
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray((values >> 8).astype(np.uint8)).save(tmp_path / 'b.png', exif=exif)
  deep, plain = io.read(tmp_path / 'a.tif'), io.read(tmp_path / 'b.png')
  np.testing.assert_array_equal((deep.rgb * 65535).astype(int) >> 8, plain.rgb)
  left = Image.Exif()
  left.load(deep.exif)
  assert dict(left).keys() == {270, 305}  # tifffile's own
  assert io.size(tmp_path / 'a.tif', upright=True) == plain.rgb.shape[:2]


def test_floats_of_another_range_are_refused_and_a_little_is_clipped(tmp_path):
  values = _samples(32, 3)
  for change, words in (
    (lambda v: 255 * v, 'scale them to 0 to 1'),
    (lambda v: v - 0.9, 'scale them to 0 to 1'),
    (lambda v: np.where(v > 0.9, np.nan, v), 'not finite'),
  ):
    tifffile.imwrite(tmp_path / 'a.tif', change(values).astype(np.float32), photometric='rgb')
    with pytest.raises(SSRError, match=words) as caught:
      io.read(tmp_path / 'a.tif')
    assert str(tmp_path / 'a.tif') in str(caught.value)
  tifffile.imwrite(tmp_path / 'a.tif', 1.2 * values - 0.1, photometric='rgb')
  picture = io.read(tmp_path / 'a.tif')
  assert (
    picture.notes == ['values outside of 0 to 1 were clipped'] and picture.rgb.min() == 0 and picture.rgb.max() == 1
  )


def test_what_a_format_cannot_hold_is_said(tmp_path):
  _, picture = _picture(32, 3)
  for suffix, words in (('.png', '16 bits'), ('.jpg', '8 bits'), ('.webp', '8 bits'), ('.avif', '8 bits')):
    assert words in io.write(tmp_path / f'a{suffix}', picture)[0]
  assert io.read(tmp_path / 'a.png').bits == 16


def test_damaged_deep_files_are_one_line(tmp_path):
  for suffix in ('.png', '.tif'):
    for channels in (2, 3):
      path = tmp_path / f'a{suffix}'
      io.write(path, _picture(16, channels)[1])
      path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
      with pytest.raises(SSRError, match='damaged or truncated|not an image') as caught:
        io.read(path)
      assert str(path) in str(caught.value) and '\n' not in str(caught.value)


XMP = (
  b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
  b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="x"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('suffix', sorted(io.WRITABLE))
def test_everything_beside_the_pixels_is_kept(tmp_path, suffix, bits):
  exif = Image.Exif()
  exif[0x010F] = 'Maker'
  exif.get_ifd(0x8769).update({0xA002: 9, 0xA003: 9, 0x9003: '2020:01:02 03:04:05'})
  exif.get_ifd(0x8825).update({1: 'N', 2: (48.0, 8.0, 0.5)})
  _, picture = _picture(bits, 3)
  picture.icc, picture.exif, picture.xmp, picture.dpi = SRGB, exif.tobytes(), XMP, (300.0, 150.0)
  picture.made_by = 'ssr_jax, some settings'
  for path in (tmp_path / f'a{suffix}', tmp_path / f'b{suffix}'):  # the second is made of what the first one is read as
    io.write(path, picture)
    with Image.open(path) as found:
      tags = found.getexif()
      assert (tags[0x010F], tags[0x000B]) == ('Maker', 'ssr_jax, some settings')
      details = tags.get_ifd(0x8769)
      assert (details[0xA002], details[0xA003], details[0x9003]) == (37, 70, '2020:01:02 03:04:05')
      assert tags.get_ifd(0x8825)[2] == (48.0, 8.0, 0.5)
      assert found.info['icc_profile'] == SRGB
      if suffix not in ('.webp', '.avif'):  # they state no resolution
        np.testing.assert_allclose([float(x) for x in found.info['dpi']], (300, 150), rtol=1e-3)
    picture = io.read(path)
    assert b'dc:format="x"' in picture.xmp and picture.exif and b'ssr_jax' in picture.exif


def test_a_file_without_metadata_gets_none(tmp_path):
  for suffix in io.WRITABLE:
    for bits in (8, 16):
      io.write(tmp_path / f'a{suffix}', _picture(bits, 3)[1])
      found = io.read(tmp_path / f'a{suffix}')
      assert (found.icc, found.exif, found.xmp, found.dpi) == (None,) * 4, suffix


def test_what_describes_a_tiff_file_stays_out_of_other_files(tmp_path):
  Image.fromarray(_pixels()).save(tmp_path / 'a.tif', tiffinfo={315: 'Artist'}, dpi=(72, 72))
  picture = io.read(tmp_path / 'a.tif')
  io.write(tmp_path / 'b.jpg', picture)
  with Image.open(tmp_path / 'b.jpg') as again:
    assert dict(again.getexif()) == {315: 'Artist'} and again.info['dpi'] == (72, 72)


def test_a_sideways_image_has_its_resolution_turned(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(_pixels()).save(tmp_path / 'a.png', exif=exif, dpi=(300, 150))
  np.testing.assert_allclose(io.read(tmp_path / 'a.png').dpi, (150, 300), rtol=1e-3)


# ----------------------------------------------------------------------------------------------------------------------


def test_cmyk_becomes_srgb(tmp_path):
  Image.fromarray(_pixels()).convert('CMYK').save(tmp_path / 'a.jpg')
  picture = io.read(tmp_path / 'a.jpg')
  assert picture.rgb.shape == (12, 17, 3) and 'sRGB' in picture.notes[0]


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
