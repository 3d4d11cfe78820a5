"""Encodes images from bands of rows, so that no format but WebP and AVIF needs the whole image in memory.

PNG and TIFF are written here: Pillow writes no 16-bit colour and wants the whole image, and libvips keeps only the EXIF
tags that it knows. JPEG is encoded by libvips from a raw file beside the result; its metadata are written here, too.
"""

import io
import struct
from typing import Any
import zlib

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from ssr_jax.image import deep, files
from ssr_jax.image.metadata import DIRECTORIES, About
from ssr_jax.types import SSRError

LOSSY = ('JPEG', 'WEBP', 'AVIF')
_ROWS = 64  # rows that are filtered and compressed at once, and of a TIFF file's strip
_FULL_COLOUR = 90  # quality from which on colour is not subsampled
_LONGEST_SEGMENT = 65533  # bytes of a JPEG segment
_SMALL_TIFF = 2**32 - 2**20  # bytes of samples; above them offsets may not fit into 32 bits


class Png:
  """PNG of 8 or 16 bits: each row has the filter, of three, whose differences are the smallest."""

  def __init__(self, file: files.NewFile, shape: tuple[int, int, int], dtype: np.dtype, about: About):
    """Writes everything in front of the pixels; `shape` is [h, w, 1 to 4] of uint8 or uint16."""
    self._file, self._step = file, shape[2] * dtype.itemsize
    self._above = np.zeros((1, self._step * (shape[1] + 1)), np.uint8)
    self._compress = zlib.compressobj(6)
    file.write(b'\x89PNG\r\n\x1a\n')
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[shape[2]]
    self._chunk(b'IHDR', struct.pack('>IIBBBBB', shape[1], shape[0], 8 * dtype.itemsize, kind, 0, 0, 0))
    if about.icc:
      self._chunk(b'iCCP', b'icc\0\0' + zlib.compress(about.icc))
    if about.dpi:
      self._chunk(b'pHYs', struct.pack('>IIB', *(round(value / 0.0254) for value in about.dpi), 1))
    if about.exif:
      self._chunk(b'eXIf', about.exif.removeprefix(b'Exif\0\0'))
    if about.xmp:
      self._chunk(b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + about.xmp)

  def write(self, values: np.ndarray) -> None:
    """Adds rows."""
    for top in range(0, len(values), _ROWS):
      rows = values[top : top + _ROWS]
      rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder('>')).reshape(len(rows), -1).view(np.uint8)
      self._chunk(b'IDAT', self._compress.compress(self._filtered(rows).tobytes()))

  def finish(self) -> None:
    """Writes the end."""
    self._chunk(b'IDAT', self._compress.flush())
    self._chunk(b'IEND', b'')

  def _filtered(self, rows: np.ndarray) -> np.ndarray:
    """[n, 1 + bytes] of rows [n, bytes]: the filter's number, then the differences, modulo 256."""
    padded = np.concatenate([np.zeros((len(rows), self._step), np.uint8), rows], 1)
    above = np.concatenate([self._above, padded[:-1]])
    self._above = padded[-1:]
    left, up, corner = padded[:, : -self._step], above[:, self._step :], above[:, : -self._step]
    a, b, c = (x.astype(np.int16) for x in (left, up, corner))
    near = [np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)]
    paeth = np.where((near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], up, corner))
    tried = np.stack([rows - left, rows - up, rows - paeth])
    size = np.abs(tried.view(np.int8).astype(np.int16)).sum(-1, dtype=np.int64)  # [3, n]
    best = size.argmin(0)
    chosen = np.take_along_axis(tried, best[None, :, None], 0)[0]
    return np.concatenate([np.array([1, 2, 4], np.uint8)[best][:, None], chosen], 1)

  def _chunk(self, kind: bytes, content: bytes) -> None:
    if content or kind != b'IDAT':
      content = kind + content
      self._file.write(struct.pack('>I', len(content) - 4) + content + struct.pack('>I', zlib.crc32(content)))


class Tiff:
  """TIFF of uint8, uint16 or float32, in strips, deflated after differences along the row, which floats do without.

  The directory is in front of the strips and is written last. From 4 GB of samples on it is a BigTIFF file.
  """

  def __init__(self, file: files.NewFile, shape: tuple[int, int, int], dtype: np.dtype, about: About):
    """Leaves room for the directory; `shape` is [h, w, 1 to 4]."""
    height, width, channels = shape
    self._file, self._whole, self._count = file, dtype != np.float32, -(-height // _ROWS)
    self._rest: np.ndarray | None = None
    self._sizes: list[int] = []
    colours = 3 if channels > 2 else 1
    big = height * width * channels * dtype.itemsize > _SMALL_TIFF
    head = struct.pack('<2sHHHQ', b'II', 43, 8, 0, 16) if big else struct.pack('<2sHL', b'II', 42, 8)
    self._tags = tags = TiffImagePlugin.ImageFileDirectory_v2(head)
    if about.exif:
      exif = Image.Exif()
      exif.load(about.exif)
      for tag, value in exif.items():
        tags[tag] = exif.get_ifd(tag) if tag in DIRECTORIES else value
    tags[256], tags[257] = width, height
    tags[258] = (8 * dtype.itemsize,) * channels
    tags[259] = 8  # deflate
    tags[262] = 2 if colours == 3 else 1
    tags[277], tags[278], tags[284] = channels, _ROWS, 1
    tags[317] = 2 if self._whole else 1
    tags[339] = (1 if self._whole else 3,) * channels
    if channels > colours:
      tags[338] = 2  # unassociated alpha
    if about.dpi:
      tags[282], tags[283], tags[296] = *about.dpi, 2
    for tag, block in ((34675, about.icc), (700, about.xmp)):
      if block:
        tags.tagtype[tag] = 7
        tags[tag] = block
    tags.tagtype |= {273: 16 if big else 4, 279: 16 if big else 4}  # their size must not depend on their values
    tags[273] = tags[279] = (0,) * self._count
    self._head = head
    self._start = file.tell()
    file.write(bytes(len(self._directory())))

  def write(self, values: np.ndarray) -> None:
    """Adds rows."""
    values = values if self._rest is None else np.concatenate([self._rest, values])
    whole = len(values) // _ROWS * _ROWS
    for top in range(0, whole, _ROWS):
      self._strip(values[top : top + _ROWS])
    self._rest = values[whole:].copy()

  def finish(self) -> None:
    """Writes the last strip and the directory."""
    if self._rest is not None and len(self._rest):
      self._strip(self._rest)
    starts = np.cumsum([0, *self._sizes[:-1]])  # from the directory's end on; Pillow adds that
    self._tags[273], self._tags[279] = tuple(int(start) for start in starts), tuple(self._sizes)
    self._file.seek(self._start)
    self._file.write(self._directory())

  def _strip(self, strip: np.ndarray) -> None:
    if self._whole:
      strip = np.concatenate([strip[:, :1], strip[:, 1:] - strip[:, :-1]], 1)  # modulo the type's range
    data = zlib.compress(np.ascontiguousarray(strip, strip.dtype.newbyteorder('<')).tobytes(), 6)
    self._sizes.append(len(data))
    self._file.write(data)

  def _directory(self) -> bytes:
    return self._head + self._tags.tobytes(len(self._head))


class Jpeg:
  """JPEG by libvips, from a raw file of all samples beside the result."""

  def __init__(self, file: files.NewFile, shape: tuple[int, int, int], about: About, quality: int):
    """Opens the raw file; `shape` is [h, w, 1 or 3]."""
    self._file, self._shape, self._about, self._quality = file, shape, about, quality
    self._raw = files.unfinished(file.path)
    self._samples: files.NewFile | None = None
    try:
      self._samples = files.NewFile(self._raw)
    except SSRError:
      self.close()
      raise

  def write(self, values: np.ndarray) -> None:
    """Adds rows."""
    assert self._samples is not None, 'finished'
    self._samples.write(np.ascontiguousarray(values))

  def finish(self) -> None:
    """Encodes the raw file."""
    vips = deep.libvips()
    assert self._samples is not None, 'finished'
    self._samples.__exit__(None)
    self._samples = None
    self._front, failed = bytearray(), []

    def write(data: Any) -> int:
      try:
        self._pass_on(bytes(data))
      except BaseException as error:  # libvips would print it and go on; KeyboardInterrupt, too
        failed.append(error)
        return -1
      return len(data)

    target = vips.TargetCustom()
    target.on_write(write)
    height, width, channels = self._shape
    image = vips.Image.rawload(str(self._raw), width, height, channels)
    image = image.copy(interpretation='srgb' if channels == 3 else 'b-w')
    subsampling = 'off' if self._quality >= _FULL_COLOUR else 'on'
    try:
      image.jpegsave_target(target, Q=self._quality, subsample_mode=subsampling, keep=vips.enums.ForeignKeep.NONE)
    except vips.Error as error:
      raise (failed or [error])[0] from error

  def close(self) -> None:
    """Removes the raw file."""
    if self._samples is not None:
      self._samples.__exit__(SSRError)
    files.forget(self._raw)

  def _pass_on(self, data: bytes) -> None:
    """Writes what libvips made; our segments come first, instead of one that states a resolution, if there is one."""
    if self._front is None:
      self._file.write(data)
      return
    self._front += data
    if len(self._front) < 6:
      return
    end = 4 + int.from_bytes(self._front[4:6], 'big') if self._front[3] == 0xE0 else 2
    if len(self._front) >= end:
      segments = [(0xE0, b'JFIF\0\1\1' + struct.pack('>BHHBB', *_density(self._about), 0, 0))]
      segments += [(0xE1, block) for block in _jpeg_blocks(self._about)]
      segments += [(0xE2, block) for block in _jpeg_profile(self._about.icc or b'')]
      self._file.write(b'\xff\xd8')
      for kind, block in segments:
        self._file.write(struct.pack('>BBH', 0xFF, kind, len(block) + 2) + block)
      rest, self._front = bytes(self._front[end:]), None
      self._file.write(rest)


def _density(about: About) -> tuple[int, int, int]:
  """JFIF's unit, 1 for an inch, and the two resolutions."""
  x, y = (min(round(value), 65535) for value in about.dpi or (1, 1))
  return (1 if about.dpi else 0), x, y


def _jpeg_blocks(about: About) -> list[bytes]:
  exif = about.exif if about.exif is None or about.exif.startswith(b'Exif\0\0') else b'Exif\0\0' + about.exif
  blocks = [exif, about.xmp and b'http://ns.adobe.com/xap/1.0/\0' + about.xmp]
  if any(block and len(block) > _LONGEST_SEGMENT for block in blocks):
    raise SSRError('its EXIF or XMP block is too long for JPEG; use --no-metadata or write a .png')
  return [block for block in blocks if block]


def _jpeg_profile(icc: bytes) -> list[bytes]:
  size = _LONGEST_SEGMENT - 14
  parts = [icc[i : i + size] for i in range(0, len(icc), size)]
  return [b'ICC_PROFILE\0' + bytes([i, len(parts)]) + part for i, part in enumerate(parts, 1)]


class Whole:
  """Formats that are encoded by Pillow, from the whole image."""

  def __init__(self, file: files.NewFile, form: str, about: About, quality: int):
    """Collects rows for a file of the format `form`."""
    self._file, self._form, self._about, self._quality = file, form, about, quality
    self._bands: list[np.ndarray] = []

  def write(self, values: np.ndarray) -> None:
    """Adds rows."""
    self._bands.append(values)

  def finish(self) -> None:
    """Encodes the image."""
    values = self._bands[0] if len(self._bands) == 1 else np.concatenate(self._bands)
    self._bands.clear()
    self._file.write(_pillow(values, self._form, self._about, self._quality))


Encoder = Png | Tiff | Jpeg | Whole
"""`write` adds rows [n, w, c] from the top to the bottom; `finish`, after all of them, writes what is left."""


def encoder(
  file: files.NewFile,
  form: str,
  shape: tuple[int, int, int],
  dtype: np.dtype,
  about: About,
  quality: int,
  banded: bool,
) -> Encoder:
  """What writes an image of samples [h, w, 1 to 4] of a dtype as Pillow's format `form`; `banded` as its bands come."""
  if form == 'TIFF':
    return Tiff(file, shape, dtype, about)
  if form == 'PNG' and (banded or dtype != np.uint8):
    return Png(file, shape, dtype, about)
  if form == 'JPEG' and banded:
    return Jpeg(file, shape, about, quality)
  return Whole(file, form, about, quality)


def _pillow(values: np.ndarray, form: str, about: About, quality: int) -> bytes:
  """A file of uint8 samples [h, w, 1 to 4]."""
  image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
  if form in ('WEBP', 'AVIF') and image.mode in ('L', 'LA'):  # they have no gray
    image = image.convert('RGB' if image.mode == 'L' else 'RGBA')
  options = {}
  if about.icc:
    options['icc_profile'] = about.icc
  if about.exif:
    options['exif'] = about.exif
  if about.dpi and form in ('PNG', 'JPEG'):
    options['dpi'] = about.dpi
  if about.xmp and form == 'PNG':
    options['pnginfo'] = PngImagePlugin.PngInfo()
    options['pnginfo'].add_itxt('XML:com.adobe.xmp', about.xmp.decode('utf-8', 'replace'))
  elif about.xmp:
    options['xmp'] = about.xmp
  if form in LOSSY:
    options['quality'] = quality
  if form == 'JPEG' and quality >= _FULL_COLOUR:
    options['subsampling'] = 0
  if form == 'AVIF' and quality >= _FULL_COLOUR:
    options['subsampling'] = '4:4:4'
  buffer = io.BytesIO()
  image.save(buffer, form, **options)
  return buffer.getvalue()
