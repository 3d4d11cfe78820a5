"""Reads and writes image files with what they hold besides pixels.

Orientation is applied. ICC profile, EXIF, XMP, resolution, alpha and gray are kept, and 16 bits and floats stay what
they are in the formats that hold them; `deep` has what Pillow cannot do with these. A damaged EXIF block counts as
none. A file is written under another name and then renamed, so that nobody sees half of it.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import os
import pathlib
import sys
from typing import Any

import numpy as np
from PIL import Image

from ssr_jax.image import deep, encoders, metadata, opening
from ssr_jax.image.files import NewFile, remove_unfinished, write_bytes
from ssr_jax.types import SSRError

READABLE = ('.png', '.jpg', '.jpeg', '.jfif', '.webp', '.avif', '.bmp', '.tif', '.tiff', '.heic', '.heif', '.jxl')
"""Suffixes that count as images inside a folder; a file named by itself is recognised by its content."""
WRITABLE = {
  '.png': 'PNG',
  '.jpg': 'JPEG',
  '.jpeg': 'JPEG',
  '.jfif': 'JPEG',
  '.webp': 'WEBP',
  '.avif': 'AVIF',
  '.tif': 'TIFF',
  '.tiff': 'TIFF',
}
_LONGEST = {'JPEG': 65500, 'WEBP': 16383, 'AVIF': 65536}
_WIDTH, _HEIGHT = 256, 257  # TIFF's tags
_BITS_HELD = {'PNG': 16, 'TIFF': 32}  # of a sample; the others hold 8
__all__ = ['READABLE', 'WRITABLE', 'NewFile', 'Picture', 'Writer', 'animated', 'check_format', 'convert', 'decode']
__all__ += ['read', 'remove_unfinished', 'size', 'write', 'write_bytes']
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # any weights would do for an image that is gray up to rounding


@dataclasses.dataclass
class Picture:
  """An image file's content.

  Attributes:
    rgb: [h, w, 3], uint8; float32 in [0, 1] where `bits` is above 8. An array, or what gives arrays for slices of rows.
    alpha: [h, w] like `rgb`, or None.
    gray: whether the file was gray; rgb then holds it three times.
    bits: of a sample of the file: 8; 16; or 32, floating-point numbers.
    icc: ICC profile, or None.
    exif: EXIF block without its orientation, or None.
    xmp: XMP packet, or None.
    dpi: (x, y) in pixels per inch, or None.
    made_by: what made the picture, for EXIF's ProcessingSoftware; None writes nothing.
    notes: what could not be kept of the file, one line each.
  """

  rgb: Any
  alpha: Any = None
  gray: bool = False
  bits: int = 8
  icc: bytes | None = None
  exif: bytes | None = None
  xmp: bytes | None = None
  dpi: tuple[float, float] | None = None
  made_by: str | None = None
  notes: list[str] = dataclasses.field(default_factory=list)


def size(path: str | os.PathLike, upright: bool = False) -> tuple[int, int] | None:
  """(height, width) from a file's header; None where it cannot be read.

  Args:
    path: the file.
    upright: applies the orientation, for which a PNG may have to be decoded.
  """
  try:
    with opening.opened(path, max_pixels=sys.maxsize) as image:  # nothing is decoded
      found = image.height, image.width
      if image.format == 'TIFF':  # Pillow swaps them itself
        found = image.tag_v2[_HEIGHT], image.tag_v2[_WIDTH]  # pyright: ignore[reportAttributeAccessIssue]
      turned = upright and image.getexif().get(metadata.ORIENTATION, 1) in metadata.SIDEWAYS
  except opening.UnknownFormat:
    data = deep.read_tiff(path)
    if data is None:
      return None
    try:
      with opening.guarded(str(path)):
        found = deep.size(data)
        turned = upright and deep.about(data)[1].get(metadata.ORIENTATION, 1) in metadata.SIDEWAYS
    except SSRError:
      return None
  except SSRError:
    return None
  return (found[1], found[0]) if turned else found


def read(path: str | os.PathLike, max_pixels: int | None = None, banded: int | None = None) -> Picture:
  """Reads an image file.

  Args:
    path: a file of one of `opening.FORMATS`, whatever its suffix.
    max_pixels: larger images are refused before they are decoded; default `opening.MAX_PIXELS`.
    banded: images of more pixels than this are not decoded yet: `rgb` and `alpha` decode the rows that they are asked
      for. This works for upright PNG, JPEG and TIFF files, gray or RGB, of 8 or 16 bits; others are decoded.

  Raises:
    SSRError: no file, not an image, damaged, animated, too large, or pixels of a kind that is not handled.
  """
  return _read(path, str(path), max_pixels, banded)


def decode(data: bytes, name: str, max_pixels: int | None = None) -> Picture:
  """The same as `read` for the bytes of a file; `name` is used in error messages."""
  return _read(data, name, max_pixels)


def convert(image: Image.Image, name: str, max_pixels: int | None = None) -> Picture:
  """The same as `read` for an image that Pillow has opened or made; `name` is used in error messages."""
  with opening.guarded(name):
    return _picture(image, name, max_pixels)


def write(path: str | os.PathLike, picture: Picture, quality: int = 95, replace: bool = True) -> list[str]:
  """Writes a picture in the format of the suffix, one of `WRITABLE`; no half-written file is left behind.

  Args:
    path: the folder must exist.
    picture: its `notes` are ignored.
    quality: of JPEG, WebP and AVIF, 1 to 100.
    replace: as of `write_bytes`.

  Returns:
    what the format cannot hold, one line each.

  Raises:
    SSRError: an unknown suffix, a size that the format cannot hold, or a file that cannot be written.
  """
  with Writer(path, picture, picture.rgb.shape[:2], quality, replace, banded=False) as writer:
    writer.write(picture.rgb, picture.alpha)
  return writer.notes


class Writer:
  """Writes a picture from bands of its rows; a context: the file is there once it is left without an error.

  Attributes:
    notes: what the format cannot hold, one line each.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    picture: Picture,
    size: tuple[int, int],
    quality: int = 95,
    replace: bool = True,
    banded: bool = True,
  ):
    """Begins the file.

    Args:
      path: as of `write`; so are the errors.
      picture: what the file is to hold; of its pixels only what they are, not their values.
      size: (height, width) of what is written.
      quality: as of `write`.
      replace: as of `write`.
      banded: False where the one band is the whole image; PNG and JPEG of 8 bits are then encoded by Pillow.
    """
    self._path, (height, width) = pathlib.Path(path), size
    self._form, self._picture, self.notes = check_format(path, height, width), picture, []
    form, alpha = self._form, picture.alpha is not None
    held = _BITS_HELD.get(form, 8)
    if picture.bits > held:
      better = '.tif' if picture.bits > 16 else '.png or .tif'
      self.notes.append(f'{form} holds {held} bits; {picture.bits} bits need {better}')
    if alpha and form == 'JPEG':
      self.notes.append('JPEG holds no transparency; it was dropped (use .png or .webp)')
      alpha = False
    self._bits, self._alpha = min(picture.bits, held), alpha
    about = metadata.About(picture.icc, xmp=picture.xmp, dpi=picture.dpi)
    if form == 'WEBP' and picture.gray:
      about.icc = None  # a gray profile is wrong for WebP, which has no gray
    try:
      about.exif = metadata.exif_of_size(picture.exif, width, height, picture.made_by)
    except Exception:  # of many types, where the block is damaged
      self.notes.append('its EXIF block is damaged and was dropped')
    self._shape = (height, width, (1 if picture.gray else 3) + alpha)
    self._about, self._quality, self._banded = about, quality, banded
    self._file, self._encoder = NewFile(path, replace), None

  def __enter__(self) -> 'Writer':
    return self

  def write(self, rgb: np.ndarray, alpha: np.ndarray | None = None) -> None:
    """Adds the next rows, [n, w, 3] and [n, w], each uint8 or float32 in [0, 1]."""
    try:
      values = _samples(rgb, alpha if self._alpha else None, self._picture.gray, self._bits)
      if self._encoder is None:
        options = (self._shape, values.dtype, self._about, self._quality, self._banded)
        self._encoder = encoders.encoder(self._file, self._form, *options)
      self._encoder.write(values)
    except Exception as error:
      raise self._refused(error) from error

  def __exit__(self, kind: type | None, error: BaseException | None, *rest: Any) -> None:
    try:
      if kind is None and self._encoder is not None:
        self._encoder.finish()
    except BaseException as failed:
      self._file.__exit__(type(failed), failed, None)
      if isinstance(failed, Exception):
        raise self._refused(failed) from failed
      raise
    finally:
      if isinstance(self._encoder, encoders.Jpeg):
        self._encoder.close()
    self._file.__exit__(kind, error, *rest)

  def _refused(self, error: Exception) -> SSRError:
    if isinstance(error, SSRError) and str(self._path) in str(error):
      return error
    reason = opening.first_line(error)
    return SSRError(f'{self._path}: cannot be encoded as {self._form} ({reason}); write a .png')


def check_format(path: str | os.PathLike, height: int, width: int) -> str:
  """Pillow's name of the format of a path's suffix.

  Raises:
    SSRError: a suffix that is not written, or a size that the format cannot hold.
  """
  path = pathlib.Path(path)
  form = WRITABLE.get(path.suffix.lower())
  if form is None:
    raise SSRError(f"{path}: cannot write '{path.suffix}'; use {', '.join(WRITABLE)}")
  if max(height, width) > _LONGEST.get(form, height + width):
    raise SSRError(f'{path}: {width}x{height} is too large for {form} (side up to {_LONGEST[form]}); write a .png')
  return form


def animated(image: Image.Image) -> bool:
  """Whether an image that Pillow has opened has several frames.

  A phone's MPO or HEIC file is a photo with a preview or other shots behind it, not an animation.
  """
  return bool(getattr(image, 'is_animated', False)) and image.format not in ('MPO', 'HEIF')


def _read(source: str | os.PathLike | bytes, name: str, max_pixels: int | None, banded: int | None = None) -> Picture:
  try:
    with opening.opened(source, name, max_pixels) as image:
      few = banded is None or isinstance(source, bytes) or image.width * image.height <= banded
      return (None if few else _banded(image, source, name)) or _picture(image, name, max_pixels)
  except opening.UnknownFormat:
    data = deep.read_tiff(source)
    if data is None:
      raise
  with opening.guarded(name):
    height, width = deep.size(data)
    opening.check_pixels(name, height, width, max_pixels)
    about, exif = deep.about(data)
    return _of_samples(data, name, about, lambda: exif)


def _banded(image: Image.Image, path: Any, name: str) -> Picture | None:
  """The picture of a file that is read band by band; None where it has to be decoded."""
  deep_gray, notes = image.mode.startswith('I;16'), []
  if image.format not in ('PNG', 'JPEG', 'TIFF') or 'transparency' in image.info:
    return None
  if image.mode not in ('L', 'LA', 'RGB', 'RGBA') and not deep_gray:
    return None
  if getattr(image, 'n_frames', 1) > 1 or metadata.orientation(image.getexif, notes) != 1 or notes:
    return None
  found = deep.bands(path, name, (image.height, image.width))
  if found is None:
    return None
  about, exif = metadata.of_image(image), None
  with contextlib.suppress(Exception):  # a damaged block
    exif = metadata.exif_block(image)
  rgb, alpha, gray = found
  return Picture(rgb, alpha, gray, 8 if rgb.dtype == np.uint8 else 16, about.icc, exif, about.xmp, about.dpi)


def _picture(image: Image.Image, name: str, max_pixels: int | None) -> Picture:
  """Decodes an image of Pillow's, upright."""
  opening.check_pixels(name, image.height, image.width, max_pixels)
  if animated(image):
    frames = getattr(image, 'n_frames', 'several')
    raise SSRError(f'{name}: has {frames} frames; save one as a still image, or use `ssr upscale --frames`')
  notes = []
  if image.mode == 'F' or (image.mode in ('RGB', 'RGBA', 'LA', 'CMYK') and deep.is_deep(image)):
    file = getattr(image, 'fp', None)
    if image.format in ('PNG', 'TIFF') and file is not None:
      file.seek(0)
      data = file.read()
      if image.format == 'TIFF':
        about, exif = deep.about(data)
        return _of_samples(data, name, about, lambda: exif)
      file.seek(0)
      image.load()  # Pillow reads what lies behind the pixels
      return _of_samples(data, name, metadata.of_image(image), image.getexif)
    if image.mode != 'F':
      notes.append('16-bit colour was read as 8-bit')
  image.load()
  exif, orientation = None, metadata.orientation(image.getexif, notes)
  try:
    exif = metadata.exif_block(image)
  except Exception:
    notes.append('its EXIF block is damaged and was dropped')
  about = metadata.of_image(image)
  if orientation in metadata.TURNS:
    image = image.transpose(metadata.TURNS[orientation])
  picture = _decode(name, image, exif)
  picture.notes[:0] = notes
  picture.xmp, picture.dpi = about.xmp, about.upright_dpi(orientation)
  return picture


def _of_samples(data: bytes, name: str, about: metadata.About, exif: Callable[[], Image.Exif]) -> Picture:
  """Decodes a PNG or TIFF file of more than 8 bits a sample, upright."""
  notes: list[str] = []
  values, whole = deep.decode(data, name)
  bits = 16 if values.dtype == np.uint16 else 32
  values = values.astype(np.float32) / 65535 if bits == 16 else values
  orientation = metadata.orientation(exif, notes)
  if orientation in metadata.TURNS:
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(values, -1, 0)]
    values = np.stack([np.asarray(plane.transpose(metadata.TURNS[orientation])) for plane in planes], -1)
  channels = values.shape[-1]
  gray, alpha = channels < 3, values[..., -1] if channels in (2, 4) else None
  if alpha is not None and (alpha == 1).all():
    alpha = None
  rgb = np.repeat(values[..., :1], 3, -1) if gray else values[..., :3].copy()
  if not whole:
    notes.append('values outside of 0 to 1 were clipped')
  block = None
  try:
    block = metadata.without_structure(exif())
  except Exception:  # of many types, where the block is damaged
    notes.append('its EXIF block is damaged and was dropped')
  return Picture(rgb, alpha, gray, bits, about.icc, block, about.xmp, about.upright_dpi(orientation), notes=notes)


def _decode(name: str, image: Image.Image, exif: bytes | None) -> Picture:
  icc = image.info.get('icc_profile')
  if image.mode == 'I' or image.mode.startswith('I;16'):
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
      raise SSRError(f'{name}: 32-bit image; save it with 8 or 16 bits')
    gray = values.astype(np.float32) / 65535
    clear = image.info.get('transparency')  # the value of transparent pixels; Pillow's conversions ignore it
    alpha = np.where(values == clear, 0, 1).astype(np.float32) if isinstance(clear, int) else None
    return Picture(np.repeat(gray[..., None], 3, -1), alpha, gray=True, bits=16, icc=icc, exif=exif)
  if image.mode == 'F':
    raise SSRError(f'{name}: floating-point image that is not a TIFF file; save it as one, or with 8 or 16 bits')
  notes = []
  if image.mode in ('CMYK', 'LAB', 'YCbCr', 'HSV'):
    image, icc = metadata.to_srgb(image, icc), None
    notes.append('colours were converted to sRGB')
  gray = image.mode in ('1', 'L', 'LA', 'La')
  if image.mode not in ('LA', 'La', 'PA', 'RGBA', 'RGBa') and 'transparency' not in image.info:
    return Picture(np.array(image.convert('RGB')), None, gray, icc=icc, exif=exif, notes=notes)
  rgba = np.asarray(image.convert('RGBA'))
  alpha = rgba[..., 3].copy() if (rgba[..., 3] < 255).any() else None
  return Picture(rgba[..., :3].copy(), alpha, gray, icc=icc, exif=exif, notes=notes)


def _samples(rgb: np.ndarray, alpha: np.ndarray | None, gray: bool, bits: int) -> np.ndarray:
  """What a file of so many bits gets: [h, w, 1 to 4], uint8, uint16 or float32."""
  planes = [rgb if alpha is None else np.dstack([_floats(rgb), _floats(alpha)])]
  if gray:
    planes = [_floats(rgb) @ _GRAY, *([] if alpha is None else [_floats(alpha)])]
  values = np.dstack(planes)
  if values.dtype == np.uint8:
    return values
  if bits == 32:
    return np.clip(values, 0, 1)
  top, dtype = (65535, np.uint16) if bits == 16 else (255, np.uint8)
  return np.rint(np.clip(values, 0, 1) * top).astype(dtype)


def _floats(image: np.ndarray) -> np.ndarray:
  return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
