"""Damages image files of many formats, also under other names, and reads them in all the ways that the program does.

Each file is read by `image.io` and written again as PNG, JPEG and WebP, decoded as a training photo and as a depth map,
and every tenth goes through `ssr data check`. Outcomes: 'read', an image; 'refused', one line that names the file; the
others are `attacks.BROKEN`.
"""

import contextlib
import functools
import io as iolib
import pathlib
import struct
import tempfile
from typing import Any

import numpy as np
from PIL import Image, features

from ssr_jax import cli
from ssr_jax.data import sources
from ssr_jax.image import encoders, files, io, metadata, opening
from ssr_jax.types import SSRError
from tools import attacks

BAD = attacks.BROKEN
_SECONDS, _GIGABYTES = 30.0, 2.0
_PIXELS = 2**20  # larger ones are refused by `io.read`, and not written again

_DDS = struct.pack('<4s7I44x8I', b'DDS ', 124, 0x1007, 4, 4, 0, 0, 0, 32, 4, 0, 0, 0, 0, 0, 0)
_FOREIGN = {
  'PS': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n',
  'DDS': _DDS + bytes(64),
  'BLP': b'BLP2' + bytes(1200),
  'NPY': b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (4, 4), }".ljust(80) + bytes(64),
  'PFM': b'Pf\n4 4\n-1.0\n' + bytes(64),
}


def run(count: int, rng: np.random.Generator) -> dict[str, int]:
  """Reads `count` damaged files; {outcome: how often}."""
  return attacks.count(attempt, damaged(count, rng), ('read', 'refused'), _SECONDS, _GIGABYTES)


def damaged(count: int, rng: np.random.Generator):
  """Yields (name of a file, its bytes, whether to check it by the command line)."""
  whole = whole_files(rng)
  kinds = sorted(whole)
  suffixes = [suffix for known in opening.FORMATS.values() for suffix in known] + ['.dds', '.eps', '.txt', '']
  for number in range(count):
    kind = kinds[number % len(kinds)]
    data = bytearray(whole[kind])
    for _ in range(int(rng.integers(1, 4))):
      _damage(data, whole[kinds[rng.integers(len(kinds))]], rng)
    name = f'{kind}-{number}{suffixes[rng.integers(len(suffixes))]}'
    yield name, bytes(data) or b'x', number % 10 == 0


def whole_files(rng: np.random.Generator) -> dict[str, bytes]:
  """A file of every format that is read and of some that are not, several kinds of those that have them."""
  pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
  gray16 = pixels[..., 0].astype(np.uint16) * 257
  made = {form: (form, pixels, {}) for form in opening.FORMATS if form != 'AVIF' or features.check('avif')}
  made |= {
    'PNG16': ('PNG', gray16, {}),
    'PNGalpha': ('PNG', np.dstack([pixels, pixels[..., 0]]), {}),
    'JPEGexif': ('JPEG', pixels, {'exif': _exif()}),
    'JPEGprogressive': ('JPEG', pixels[..., 0], {'progressive': True, 'icc_profile': bytes(200)}),
    'WEBPexif': ('WEBP', pixels, {'exif': _exif(), 'lossless': True}),
    'PNGexif': ('PNG', pixels, {'exif': _exif()}),
    'TIFF16': ('TIFF', gray16, {}),
    'TIFFlzw': ('TIFF', pixels, {'compression': 'tiff_lzw'}),
    'TIFFjpeg': ('TIFF', pixels, {'compression': 'jpeg'}),
    'TIFFfloat': ('TIFF', pixels[..., 0].astype(np.float32), {}),
    'ICO': ('ICO', pixels, {}),
  }
  if 'AVIF' in made:
    made['AVIFexif'] = ('AVIF', pixels, {'exif': _exif()})
  files = dict(_FOREIGN)
  for kind, (form, array, options) in made.items():
    buffer = iolib.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    files[kind] = buffer.getvalue()
  for kind, mode in (('PNGpalette', 'P'), ('PNGbits', '1'), ('JPEGcmyk', 'CMYK'), ('TIFFlab', 'LAB')):
    buffer = iolib.BytesIO()
    image = Image.fromarray(pixels)
    image = Image.new('LAB', image.size, (50, 9, 9)) if mode == 'LAB' else image.convert(mode)
    image.save(buffer, kind.rstrip('abcdefghijklmnopqrstuvwxyz'), **({'transparency': 3} if mode == 'P' else {}))
    files[kind] = buffer.getvalue()
  about = metadata.About(icc=bytes(200), exif=_exif().tobytes(), xmp=b'<x/>', dpi=(300, 300))
  colour16 = rng.integers(0, 65536, (20, 24, 4)).astype(np.uint16)
  colour = colour16[..., :3]
  files['PNG16colour'] = _encoded(encoders.Png, colour, about)
  files['PNG16alpha'] = _encoded(encoders.Png, colour16, metadata.About())
  files['TIFF16colour'] = _encoded(encoders.Tiff, colour, about)
  files['TIFFfloatcolour'] = _encoded(encoders.Tiff, colour.astype(np.float32) / 65535, about)
  return files


def _encoded(encoder: Any, values: np.ndarray, about: metadata.About) -> bytes:
  """The bytes of a file of one of our encoders."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'file'
    with files.NewFile(path) as file:
      writing = encoder(file, values.shape, values.dtype, about)
      writing.write(values)
      writing.finish()
    return path.read_bytes()


def attempt(name: str, data: bytes, by_command: bool) -> tuple[str, str]:
  """Reads a file in every way; what comes of it, and what was said."""
  path = pathlib.Path(_folder().name) / 'in' / name
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(data)
  refusals = []
  try:
    outcome = 'read'
    try:
      _write_again(io.read(path, max_pixels=_PIXELS), path)
    except SSRError as error:
      outcome, _ = 'refused', refusals.append(str(error))
    io.size(path, upright=True)
    for decode in (sources.decode_image, lambda data, name: sources.decode_depth(data, 'depth', name)):
      try:
        decode(data, name)
      except sources.BadRecord as error:
        refusals.append(str(error))
    for refusal in refusals:
      if name not in refusal or not refusal.isprintable():
        return 'unnamed', refusal
    if by_command:
      said = iolib.StringIO()
      with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main(['data', 'check', f'folder:{path.parent}'])
      if code not in (0, 1, 2) or 'internal error' in said.getvalue():
        return 'internal error', said.getvalue()
  finally:
    path.unlink()
  return outcome, ' '.join(refusals)


def _write_again(picture: io.Picture, path: pathlib.Path) -> None:
  height, width, channels = picture.rgb.shape
  assert channels == 3 and np.isfinite(picture.rgb).all()
  for suffix in ('.png', '.jpg', '.webp'):
    target = path.parent.parent / f'again{suffix}'
    try:
      io.write(target, picture)
    except SSRError as error:  # a side that the format cannot hold
      assert str(target) in str(error) and 'is too large for' in str(error), error
    else:
      assert io.size(target) == (height, width)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
  return tempfile.TemporaryDirectory()


def _exif() -> Image.Exif:
  exif = Image.Exif()
  exif[0x010F], exif[0x0112], exif[0x011A] = 'Maker', 6, 72.0
  exif.get_ifd(0x8769).update({0x9003: '2020:01:02 03:04:05', 0xA002: 24, 0x829A: 0.01})
  exif.get_ifd(0x8825).update({1: 'N', 2: (1.0, 2.0, 3.0)})
  return exif


def _damage(data: bytearray, other: bytes, rng: np.random.Generator) -> None:
  """Changes a file in one of nine ways; `other` is a file of any kind."""
  size = max(len(data), 1)
  at = int(rng.integers(size))
  exif = max(data.find(b'Exif\0\0'), data.find(b'EXIF'), data.find(b'eXIf'), 0)
  match int(rng.integers(9)):
    case 0:
      del data[at:]
    case 1 | 2 | 3:  # bits anywhere, of the header, of the EXIF block
      low, high = ((0, size), (0, 64), (exif, exif + 200))[int(rng.integers(3))]
      for place in rng.integers(low, max(min(high, size), low + 1), int(rng.integers(1, 9))):
        if place < len(data):
          data[place] ^= 1 << int(rng.integers(8))
    case 4:  # a number that is too large, too small or negative
      value = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 65536)[int(rng.integers(7))]
      at = int(rng.integers(min(size, 128)))
      data[at : at + 4] = struct.pack('<I' if rng.integers(2) else '>I', value)
    case 5:  # a piece twice
      data[at:at] = data[at : at + int(rng.integers(1, 64))]
    case 6:  # a piece is missing
      del data[at : at + int(rng.integers(1, 64))]
    case 7:  # goes on as another file
      data[at:] = other[int(rng.integers(len(other))) :]
    case 8:
      data[at : at + 16] = rng.bytes(16)
