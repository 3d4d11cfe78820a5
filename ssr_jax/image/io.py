"""Reads and writes image files with what they hold besides pixels.

Orientation is applied. ICC profile, EXIF, XMP, resolution, alpha and gray are kept, and 16 bits and floats stay what
they are in the formats that hold them; `deep` has what Pillow cannot do with these. A damaged EXIF block counts as
none. A file is written under another name and then renamed, so that nobody sees half of it.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import secrets

import numpy as np
from PIL import Image, PngImagePlugin

from ssr_jax.image import deep, metadata, opening
from ssr_jax.types import SSRError

READABLE = ('.png', '.jpg', '.jpeg', '.jfif', '.webp', '.avif', '.bmp', '.tif', '.tiff')
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
_LOSSY = ('JPEG', 'WEBP', 'AVIF')
_WIDTH, _HEIGHT = 256, 257  # TIFF's tags
_BITS_HELD = {'PNG': 16, 'TIFF': 32}  # of a sample; the others hold 8
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # any weights would do for an image that is gray up to rounding


@dataclasses.dataclass
class Picture:
  """An image file's content.

  Attributes:
    rgb: [h, w, 3], uint8; float32 in [0, 1] where `bits` is above 8.
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

  rgb: np.ndarray
  alpha: np.ndarray | None = None
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
    with opening.opened(path) as image:
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


def read(path: str | os.PathLike, max_pixels: int | None = None) -> Picture:
  """Reads an image file.

  Args:
    path: a file of one of `opening.FORMATS`, whatever its suffix.
    max_pixels: larger images are refused before they are decoded.

  Raises:
    SSRError: no file, not an image, damaged, animated, too large, or pixels of a kind that is not handled.
  """
  return _read(path, str(path), max_pixels)


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
  path = pathlib.Path(path)
  height, width = picture.rgb.shape[:2]
  form = check_format(path, height, width)
  notes: list[str] = []
  values = _samples(picture, form, notes)
  about = metadata.About(picture.icc, xmp=picture.xmp, dpi=picture.dpi)
  if form == 'WEBP' and picture.gray:
    about.icc = None  # a gray profile is wrong for WebP, which has no gray
  try:
    about.exif = metadata.exif_of_size(picture.exif, width, height, picture.made_by)
  except Exception:  # of many types, where the block is damaged
    notes.append('its EXIF block is damaged and was dropped')
  try:
    if values.dtype != np.uint8 or form == 'TIFF':
      data = deep.encode(values, form, about)
    else:
      data = _encoded(_image(values, form), form, about, quality)
  except Exception as error:
    reason = opening.first_line(error)
    raise SSRError(f'{path}: cannot be encoded as {form} ({reason}); write a .png') from error
  write_bytes(path, data, replace)
  return notes


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


def write_bytes(path: str | os.PathLike, data: bytes, replace: bool = True) -> None:
  """Writes a file under another name in the same folder, flushes it to the disk, then renames it.

  Args:
    path: the folder must exist.
    data: the content.
    replace: False refuses to replace a file, also one that another program writes meanwhile.

  Raises:
    SSRError: it cannot be written, or exists.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'.ssr-{secrets.token_hex(8)}.tmp')
  _unfinished.add(temporary)
  try:
    with open(temporary, 'xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())  # else a crash of the machine could leave the new name with half of the content
    if replace:
      os.replace(temporary, path)
    else:
      _rename_to_new(temporary, path)
  except FileExistsError as error:
    raise SSRError(f'{path}: exists; use --overwrite or choose another name') from error
  except OSError as error:
    raise SSRError(f'{path}: cannot be written ({error.strerror}); choose another place') from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink(missing_ok=True)
    _unfinished.discard(temporary)


def remove_unfinished() -> None:
  """Removes the files that `write_bytes` is about to rename, for a process that ends at once."""
  for path in tuple(_unfinished):
    with contextlib.suppress(OSError):
      path.unlink(missing_ok=True)


_unfinished: set[pathlib.Path] = set()


def _rename_to_new(old: pathlib.Path, new: pathlib.Path) -> None:
  """Renames a file; FileExistsError where the new name is taken."""
  try:
    os.link(old, new)  # unlike rename, it fails where the name is taken
  except FileExistsError:
    raise
  except OSError:  # a file system without hard links
    if os.path.lexists(new):
      raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
    os.replace(old, new)


def resize_alpha(alpha: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Alpha [h, w], uint8 or float32 in [0, 1], -> [*size], bicubic."""
  larger = np.asarray(Image.fromarray(alpha).resize((size[1], size[0]), Image.Resampling.BICUBIC))
  return larger if alpha.dtype == np.uint8 else np.clip(larger, 0, 1)


def _read(source: str | os.PathLike | bytes, name: str, max_pixels: int | None) -> Picture:
  try:
    with opening.opened(source, name) as image:
      return _picture(image, name, max_pixels)
  except opening.UnknownFormat:
    data = deep.read_tiff(source)
    if data is None:
      raise
  with opening.guarded(name):
    height, width = deep.size(data)
    _check_pixels(name, height, width, max_pixels)
    about, exif = deep.about(data)
    return _of_samples(data, name, about, lambda: exif)


def _check_pixels(name: str, height: int, width: int, max_pixels: int | None) -> None:
  if max_pixels and width * height > max_pixels:
    raise SSRError(f'{name}: {width}x{height} pixels, more than {max_pixels}; scale it down or cut it up')


def _picture(image: Image.Image, name: str, max_pixels: int | None) -> Picture:
  """Decodes an image of Pillow's, upright."""
  _check_pixels(name, image.height, image.width, max_pixels)
  # A phone's MPO file is a photo with a preview behind it, not an animation.
  if getattr(image, 'is_animated', False) and image.format != 'MPO':
    frames = getattr(image, 'n_frames', 'several')
    raise SSRError(f'{name}: has {frames} frames; save one frame as a still image')
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


def _samples(picture: Picture, form: str, notes: list[str]) -> np.ndarray:
  """What a file of this format gets of a picture: [h, w, 1 to 4], uint8, uint16 or float32."""
  rgb, alpha = picture.rgb, picture.alpha
  held = _BITS_HELD.get(form, 8)
  if picture.bits > held:
    better = '.tif' if picture.bits > 16 else '.png or .tif'
    notes.append(f'{form} holds {held} bits; {picture.bits} bits need {better}')
  if alpha is not None and form == 'JPEG':
    notes.append('JPEG holds no transparency; it was dropped (use .png or .webp)')
    alpha = None
  planes = [rgb if alpha is None else np.dstack([_floats(rgb), _floats(alpha)])]
  if picture.gray:
    planes = [_floats(rgb) @ _GRAY, *([] if alpha is None else [_floats(alpha)])]
  values = np.dstack(planes)
  bits = min(picture.bits, held)
  if values.dtype == np.uint8:
    return values
  if bits == 32:
    return np.clip(values, 0, 1)
  top, dtype = (65535, np.uint16) if bits == 16 else (255, np.uint8)
  return np.rint(np.clip(values, 0, 1) * top).astype(dtype)


def _floats(image: np.ndarray) -> np.ndarray:
  return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image


def _image(values: np.ndarray, form: str) -> Image.Image:
  """An image of Pillow's of uint8 samples [h, w, 1 to 4]."""
  image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
  if form in ('WEBP', 'AVIF') and image.mode in ('L', 'LA'):  # they have no gray
    image = image.convert('RGB' if image.mode == 'L' else 'RGBA')
  return image


def _encoded(image: Image.Image, form: str, about: metadata.About, quality: int) -> bytes:
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
  if form in _LOSSY:
    options['quality'] = quality
  if form == 'JPEG' and quality >= 90:
    options['subsampling'] = 0
  if form == 'AVIF' and quality >= 90:
    options['subsampling'] = '4:4:4'
  buffer = io.BytesIO()
  image.save(buffer, form, **options)
  return buffer.getvalue()
