"""Samples of more than 8 bits, which Pillow reads with 8 bits, TIFF files, and files that are read band by band.

They are decoded by libvips.
"""

import contextlib
import functools
import io
import os

import numpy as np
from PIL import Image, TiffImagePlugin

from ssr_jax.image import opening
from ssr_jax.image.metadata import DIRECTORIES, About, plausible_dpi
from ssr_jax.types import SSRError

_LARGEST = 1.5  # floating-point values above it are taken for another range than 0 to 1


def is_tiff(data: bytes) -> bool:
  """Whether a file that begins with these four bytes is a TIFF file; Pillow does not know all layouts of samples."""
  return data[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')


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
  big = data[2] == 43
  tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if big else 8])
  file = io.BytesIO(data)
  file.seek(tags.next)
  tags.load(file)
  exif = Image.Exif()
  if big:  # Pillow's class of EXIF blocks does not know their directories
    for tag in tags:
      if tag not in DIRECTORIES:
        exif[tag] = tags[tag]
  else:
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
  vips = libvips()
  load = vips.Image.tiffload_buffer if is_tiff(data) else vips.Image.pngload_buffer
  return load(data, fail_on='error')


@functools.cache
def libvips():
  """The module pyvips, which is imported when it is needed."""
  os.environ.setdefault('VIPS_WARNING', '1')  # libvips then prints no warnings, which would name no file
  import pyvips

  return pyvips


class Bands:
  """Samples of a PNG, JPEG or TIFF file, decoded as they are asked for, from the top to the bottom and again.

  Rows are best asked for in order; slices may overlap. Going back decodes the file again.

  Attributes:
    shape: [h, w, c].
    dtype: uint8 or uint16; float32 stands for any other.
    kind: libvips's name of the colour space.
  """

  def __init__(self, path: str | os.PathLike, name: str):
    """Opens the file.

    Args:
      path: of the file.
      name: for error messages.

    Raises:
      pyvips.Error: libvips cannot read it.
    """
    self._path, self._name = os.fspath(path), name
    image = self._open()
    self.shape, self.kind, self.dtype = (image.height, image.width, image.bands), image.interpretation, self._held.dtype

  def __getitem__(self, rows: slice) -> np.ndarray:
    """[n, w, c] of rows first:last; SSRError where the file is damaged there."""
    first, last, _ = rows.indices(self.shape[0])
    with opening.guarded(self._name):
      if first < self._top:
        self._open()
      parts = [self._held[first - self._top :]]
      done = self._top + len(self._held)
      while done < last:
        count = min(last - done, _AT_ONCE)
        data = self._region.fetch(0, done, self.shape[1], count)
        part = np.frombuffer(data, self._held.dtype).reshape(count, *self.shape[1:])
        parts.append(part[max(first - done, 0) :])
        done += count
      self._held = parts[0] if len(parts) == 1 else np.concatenate(parts)
      self._top = done - len(self._held)
    return self._held[: last - first]

  def again(self) -> 'Bands':
    """The same file, read independently of this one."""
    return Bands(self._path, self._name)

  def _open(self):
    vips = libvips()
    image = vips.Image.new_from_file(self._path, access='sequential', fail_on='error')
    dtype = {'uchar': np.uint8, 'ushort': np.uint16}.get(str(image.format), np.float32)
    self._region, self._top = vips.Region.new(image), 0
    self._held = np.empty((0, image.width, image.bands), dtype)  # rows from `_top` on
    return image


_AT_ONCE = 64  # rows that are decoded in one call
_READABLE = {'b-w', 'srgb', 'grey16', 'rgb16'}


class Channels:
  """Some channels of `Bands`, as floats in [0, 1] where it has more than 8 bits, and a single one without an axis."""

  def __init__(self, bands: Bands, channels: list[int] | int):
    """The channels with these numbers; a single number has no axis."""
    self._bands, self._channels = bands, channels
    self.shape = bands.shape[:2] if isinstance(channels, int) else (*bands.shape[:2], len(channels))
    self.dtype = np.dtype(np.uint8 if bands.dtype == np.uint8 else np.float32)

  def again(self) -> 'Channels':
    """The same, read independently of this one."""
    return Channels(self._bands.again(), self._channels)

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Rows first:last."""
    found = self._bands[rows][..., self._channels]
    return found if self.dtype == np.uint8 else found.astype(np.float32) / 65535


def bands(path: str | os.PathLike, name: str, size: tuple[int, int]) -> tuple[Channels, Channels | None, bool] | None:
  """Colour, transparency and whether it is gray, of a file that can be read in bands; None for any other.

  Args:
    path: a PNG, JPEG or TIFF file.
    name: for error messages.
    size: (height, width) that Pillow says it has.
  """
  vips = libvips()
  try:
    found = Bands(path, name)
  except vips.Error:
    return None  # the error of reading it whole says what is wrong
  gray, channels = found.shape[2] < 3, found.shape[2]
  if found.shape[:2] != size or channels > 4 or found.dtype == np.float32 or found.kind not in _READABLE:
    return None
  colour = Channels(found, [0, 0, 0] if gray else [0, 1, 2])
  if channels in (1, 3):
    return colour, None, gray
  alpha = Channels(Bands(path, name), channels - 1)
  top = 255 if found.dtype == np.uint8 else 1
  opaque = all((alpha[y : y + _AT_ONCE] == top).all() for y in range(0, size[0], _AT_ONCE))
  return colour, None if opaque else alpha, gray
