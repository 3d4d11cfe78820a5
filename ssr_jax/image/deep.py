"""Samples of more than 8 bits, which Pillow reads with 8 bits and does not write in colour; and TIFF files.

PNG and TIFF are decoded by libvips, and PNG is written by it, except for its EXIF block, of which libvips keeps only
the tags that it knows. TIFF is written here, with Pillow's class of TIFF directories: libvips drops EXIF from it, and
Pillow writes either EXIF or XMP.
"""

import contextlib
import functools
import io
import os
import struct
import zlib

import numpy as np
from PIL import Image, TiffImagePlugin

from ssr_jax.image.metadata import DIRECTORIES, About, plausible_dpi
from ssr_jax.types import SSRError

_AFTER_HEADER = 33  # of a PNG file: 8 bytes of signature, 25 of the first chunk
_LARGEST = 1.5  # floating-point values above it are taken for another range than 0 to 1


def is_tiff(data: bytes) -> bool:
  """Whether a file that begins with these four bytes is a TIFF file; Pillow does not know all layouts of samples."""
  return data[:4] in (b'II*\0', b'MM\0*')


def read_tiff(source: str | os.PathLike | bytes) -> bytes | None:
  """The content of a TIFF file; None for any other. Pillow does not know all layouts of samples, such as float RGB."""
  if not isinstance(source, bytes):
    with open(source, 'rb') as file:
      source = file.read(4)
      source += file.read() if is_tiff(source) else b''
  return source if is_tiff(source) else None


def is_deep(image: Image.Image) -> bool:
  """Whether the file has more than 8 bits per sample, as far as its header says; before the image is decoded."""
  if image.format == 'TIFF':
    bits = getattr(image, 'tag_v2', {}).get(258)
    return isinstance(bits, tuple) and any(isinstance(n, int) and n > 8 for n in bits)  # damaged ones are anything
  if image.format == 'PPM':
    return any(isinstance(tile.args, tuple) and max(tile.args[-1:]) > 255 for tile in getattr(image, 'tile', ()))
  return any(';16' in str(tile.args) for tile in getattr(image, 'tile', ()))


def size(data: bytes) -> tuple[int, int]:
  """(height, width) of a TIFF file, from its header."""
  found = _load(data)
  return found.height, found.width


def decode(data: bytes, name: str) -> tuple[np.ndarray, bool]:
  """The samples of a PNG or TIFF file, as they are stored: without its orientation.

  Args:
    data: the file.
    name: for error messages.

  Returns:
    [h, w, c], c from 1 to 4, uint16, or float32 clipped to [0, 1]; and whether no value had to be clipped.

  Raises:
    SSRError: more than 4 channels, whole numbers of more than 16 bits, floating-point values that are not finite or of
      another range than 0 to 1.
    pyvips.Error: the file is damaged.
  """
  found = _load(data)
  if found.get_n_pages() > 1:
    raise SSRError(f'{name}: has {found.get_n_pages()} pages; save one page as a still image')
  if found.interpretation in ('cmyk', 'lab', 'labs', 'labq', 'xyz', 'lch'):
    found = found.colourspace('rgb16')
  if found.bands > 4:
    raise SSRError(f'{name}: {found.bands} channels; save it as RGB or gray, with or without transparency')
  values = found.numpy()
  values = values[..., None] if values.ndim == 2 else values
  if values.dtype == np.uint8:
    return values.astype(np.uint16) * 257, True
  if values.dtype == np.uint16:
    return values, True
  if not np.issubdtype(values.dtype, np.floating):
    raise SSRError(f'{name}: {values.dtype} samples; save it with 8 or 16 bits, or as floats')
  if not np.isfinite(values).all():
    raise SSRError(f'{name}: has values that are not finite; replace them')
  low, high = float(values.min()), float(values.max())
  if low < 1 - _LARGEST or high > _LARGEST:
    raise SSRError(f'{name}: floating-point values from {low:.4g} to {high:.4g}; scale them to 0 to 1')
  return np.clip(values.astype(np.float32), 0, 1), low >= 0 and high <= 1


def about(data: bytes) -> tuple[About, Image.Exif]:
  """What a TIFF file holds besides pixels; of EXIF all tags of the file's first directory."""
  tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
  file = io.BytesIO(data)
  file.seek(tags.next)
  tags.load(file)
  exif = Image.Exif()
  exif.load_from_fp(io.BytesIO(data))
  icc, xmp = (tags.get(tag) for tag in (34675, 700))
  dpi = None
  with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):  # absent or damaged tags
    inches = {2: 1, 3: 2.54}[tags.get(296, 2)]
    dpi = plausible_dpi(float(tags[282]) * inches, float(tags[283]) * inches)
  return About(_block(icc), xmp=_block(xmp), dpi=dpi), exif


def _block(value: object) -> bytes | None:
  """The bytes of a tag, which Pillow sometimes wraps in a tuple; None for anything else."""
  if isinstance(value, tuple) and len(value) == 1:
    value = value[0]
  return value if isinstance(value, bytes) and value.strip(b'\0 ') else None


def _load(data: bytes):
  """The file as libvips sees it; pixels are decoded when they are used."""
  vips = _libvips()
  load = vips.Image.tiffload_buffer if is_tiff(data) else vips.Image.pngload_buffer
  return load(data, fail_on='error')


@functools.cache
def _libvips():
  os.environ.setdefault('VIPS_WARNING', '1')  # libvips then prints no warnings, which would name no file
  import pyvips

  return pyvips


def encode(values: np.ndarray, form: str, about: About) -> bytes:
  """A file of samples [h, w, 1 to 4]: PNG of uint16, or TIFF of uint8, uint16 or float32."""
  return _png(values, about) if form == 'PNG' else _tiff(values, about)


def _png(values: np.ndarray, about: About) -> bytes:
  vips = _libvips()
  image = vips.Image.new_from_array(values, interpretation='rgb16' if values.shape[-1] > 2 else 'grey16')
  if about.dpi:
    image = image.copy(xres=about.dpi[0] / 25.4, yres=about.dpi[1] / 25.4)  # a millimetre
  for field, block in (('icc-profile-data', about.icc), ('xmp-data', about.xmp)):
    if block:
      image.set_type(vips.GValue.blob_type, field, block)  # pyright: ignore[reportArgumentType]  # declared narrower
  data = image.pngsave_buffer(bitdepth=16, keep=vips.enums.ForeignKeep.ICC | vips.enums.ForeignKeep.XMP)
  return _with_chunks(data, about)


def _with_chunks(data: bytes, about: About) -> bytes:
  """A PNG file of libvips' with the EXIF block, and without the resolution that it states if it was given none."""
  parts, place = [data[:_AFTER_HEADER]], _AFTER_HEADER
  if about.exif:
    content = b'eXIf' + about.exif.removeprefix(b'Exif\0\0')
    parts.append(struct.pack('>I', len(content) - 4) + content + struct.pack('>I', zlib.crc32(content)))
  while place < len(data):
    end = place + 12 + int.from_bytes(data[place : place + 4], 'big')
    if about.dpi or data[place + 4 : place + 8] != b'pHYs':
      parts.append(data[place:end])
    place = end
  return b''.join(parts)


def _tiff(values: np.ndarray, about: About, rows: int = 64) -> bytes:
  """Strips of `rows` rows, compressed by deflate after differences along the row, which float samples do without."""
  height, width, channels = values.shape
  colours = 3 if channels > 2 else 1
  whole = values.dtype != np.float32
  tags = TiffImagePlugin.ImageFileDirectory_v2()
  if about.exif:
    exif = Image.Exif()
    exif.load(about.exif)
    for tag, value in exif.items():
      tags[tag] = exif.get_ifd(tag) if tag in DIRECTORIES else value
  tags[256], tags[257] = width, height
  tags[258] = (8 * values.itemsize,) * channels
  tags[259] = 8  # deflate
  tags[262] = 2 if colours == 3 else 1
  tags[277], tags[278], tags[284] = channels, rows, 1
  tags[317] = 2 if whole else 1
  tags[339] = (1 if whole else 3,) * channels
  if channels > colours:
    tags[338] = 2  # unassociated alpha
  if about.dpi:
    tags[282], tags[283], tags[296] = *about.dpi, 2
  for tag, block in ((34675, about.icc), (700, about.xmp)):
    if block:
      tags.tagtype[tag] = 7
      tags[tag] = block
  strips = []
  for top in range(0, height, rows):
    strip = values[top : top + rows]
    if whole:
      strip = np.concatenate([strip[:, :1], strip[:, 1:] - strip[:, :-1]], 1)  # modulo the type's range
    strips.append(zlib.compress(np.ascontiguousarray(strip, strip.dtype.newbyteorder('<')).tobytes(), 6))
  starts = np.cumsum([0, *map(len, strips[:-1])])
  tags[273], tags[279] = tuple(int(start) for start in starts), tuple(map(len, strips))  # from the directory's end
  buffer = io.BytesIO()
  tags.save(buffer)
  for strip in strips:
    buffer.write(strip)
  return buffer.getvalue()
