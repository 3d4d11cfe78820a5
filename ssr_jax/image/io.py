"""Reads and writes image files with what they hold besides pixels.

Orientation is applied. ICC profile, EXIF, alpha and gray are kept, and 16-bit gray stays 16-bit. A damaged EXIF block
counts as none. A file is written under another name and then renamed, so that nobody sees half of it.
"""

import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import secrets

import numpy as np
from PIL import Image, ImageCms

from ssr_jax.image import opening
from ssr_jax.types import SSRError

READABLE = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
"""Suffixes that count as images inside a folder; a file named by itself is recognised by its content."""
WRITABLE = {'.png': 'PNG', '.jpg': 'JPEG', '.jpeg': 'JPEG', '.webp': 'WEBP'}
_LONGEST = {'JPEG': 65500, 'WEBP': 16383}
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # any weights would do for an image that is gray up to rounding
_ORIENTATION, _EXIF_IFD, _WIDTH, _HEIGHT, _BITS = 0x0112, 0x8769, 0xA002, 0xA003, 0x0102  # tags
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}  # what makes an image of an EXIF orientation upright
_SIDEWAYS = (5, 6, 7, 8)


@dataclasses.dataclass
class Picture:
  """An image file's content.

  Attributes:
    rgb: [h, w, 3], uint8, or float32 in [0, 1] where the file has 16 bits.
    alpha: [h, w] uint8, or None.
    gray: whether the file was gray; rgb then holds it three times.
    deep: whether the file was gray with 16 bits.
    icc: ICC profile, or None.
    exif: EXIF block without its orientation, or None.
    notes: what could not be kept of the file, one line each.
  """

  rgb: np.ndarray
  alpha: np.ndarray | None = None
  gray: bool = False
  deep: bool = False
  icc: bytes | None = None
  exif: bytes | None = None
  notes: list[str] = dataclasses.field(default_factory=list)


def size(path: str | os.PathLike, upright: bool = False) -> tuple[int, int] | None:
  """(height, width) from a file's header; None where it cannot be read.

  Args:
    path: the file.
    upright: applies the orientation, for which a PNG may have to be decoded.
  """
  try:
    with opening.opened(path) as image:
      turned = upright and image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
      return (image.width, image.height) if turned else (image.height, image.width)
  except SSRError:
    return None


def read(path: str | os.PathLike, max_pixels: int | None = None) -> Picture:
  """Reads an image file.

  Args:
    path: a file of one of `opening.FORMATS`, whatever its suffix.
    max_pixels: larger images are refused before they are decoded.

  Raises:
    SSRError: no file, not an image, damaged, animated, too large, or pixels of a kind that is not handled.
  """
  with opening.opened(path) as image:
    return _picture(image, str(path), max_pixels)


def decode(data: bytes, name: str, max_pixels: int | None = None) -> Picture:
  """The same as `read` for the bytes of a file; `name` is used in error messages."""
  with opening.opened(data, name) as image:
    return _picture(image, name, max_pixels)


def convert(image: Image.Image, name: str, max_pixels: int | None = None) -> Picture:
  """The same as `read` for an image that Pillow has opened or made; `name` is used in error messages."""
  with opening.guarded(name):
    return _picture(image, name, max_pixels)


def write(path: str | os.PathLike, picture: Picture, quality: int = 95, replace: bool = True) -> list[str]:
  """Writes a picture in the format of the suffix (.png, .jpg, .webp); no half-written file is left behind.

  Args:
    path: the folder must exist.
    picture: its `notes` are ignored.
    quality: of JPEG and WebP, 1 to 100.
    replace: as of `write_bytes`.

  Returns:
    what the format cannot hold, one line each.

  Raises:
    SSRError: an unknown suffix, a size that the format cannot hold, or a file that cannot be written.
  """
  path = pathlib.Path(path)
  height, width = picture.rgb.shape[:2]
  form = check_format(path, height, width)
  notes = []
  image = _encode(picture, form, notes)
  options = {}
  if picture.icc and not (picture.gray and form == 'WEBP'):  # a gray profile is wrong for WebP, which has no gray
    options['icc_profile'] = picture.icc
  if picture.exif:
    try:
      options['exif'] = _exif_of_size(picture.exif, width, height)
    except Exception:  # of many types, where the block is damaged
      notes.append('its EXIF block is damaged and was dropped')
  if form != 'PNG':
    options['quality'] = quality
  if form == 'JPEG' and quality >= 90:
    options['subsampling'] = 0
  buffer = io.BytesIO()
  try:
    image.save(buffer, form, **options)
  except Exception as error:
    reason = opening.first_line(error)
    raise SSRError(f'{path}: cannot be encoded as {form} ({reason}); write a .png') from error
  write_bytes(path, buffer.getvalue(), replace)
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


def upscale_alpha(alpha: np.ndarray, scale: int) -> np.ndarray:
  """Alpha [h, w] uint8 -> [s*h, s*w], bicubic."""
  height, width = alpha.shape
  return np.asarray(Image.fromarray(alpha).resize((scale * width, scale * height), Image.Resampling.BICUBIC))


def _picture(image: Image.Image, name: str, max_pixels: int | None) -> Picture:
  """Decodes an image of Pillow's, upright."""
  if max_pixels and image.width * image.height > max_pixels:
    raise SSRError(f'{name}: {image.width}x{image.height} pixels, more than {max_pixels}; scale it down or cut it up')
  # A phone's MPO file is a photo with a preview behind it, not an animation.
  if getattr(image, 'is_animated', False) and image.format != 'MPO':
    frames = getattr(image, 'n_frames', 'several')
    raise SSRError(f'{name}: has {frames} frames; save one frame as a still image')
  notes = []
  if image.mode in ('RGB', 'RGBA', 'LA') and _is_deep(image):
    notes.append('16-bit colour was read as 8-bit')
  image.load()
  exif, turn = None, None
  try:  # the photo is readable even if its EXIF block is damaged; Pillow raises many types here
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
  except Exception:
    notes.append('its EXIF block is damaged: the orientation is not known')
  try:
    exif = _exif(image)
  except Exception:
    notes.append('its EXIF block is damaged and was dropped')
  if turn is not None:
    image = image.transpose(turn)
  picture = _decode(name, image, exif)
  picture.notes[:0] = notes
  return picture


def _decode(name: str, image: Image.Image, exif: bytes | None) -> Picture:
  icc = image.info.get('icc_profile')
  if image.mode == 'I' or image.mode.startswith('I;16'):
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
      raise SSRError(f'{name}: 32-bit image; save it with 8 or 16 bits')
    gray = values.astype(np.float32) / 65535
    clear = image.info.get('transparency')  # the value of transparent pixels; Pillow's conversions ignore it
    alpha = np.where(values == clear, 0, 255).astype(np.uint8) if isinstance(clear, int) else None
    return Picture(np.repeat(gray[..., None], 3, -1), alpha, gray=True, deep=True, icc=icc, exif=exif)
  if image.mode == 'F':
    raise SSRError(f'{name}: floating-point image; save it with 8 or 16 bits')
  notes = []
  if image.mode in ('CMYK', 'LAB', 'YCbCr', 'HSV'):
    image, icc = _to_srgb(image, icc), None
    notes.append('colours were converted to sRGB')
  gray = image.mode in ('1', 'L', 'LA', 'La')
  if image.mode not in ('LA', 'La', 'PA', 'RGBA', 'RGBa') and 'transparency' not in image.info:
    return Picture(np.array(image.convert('RGB')), None, gray, icc=icc, exif=exif, notes=notes)
  rgba = np.asarray(image.convert('RGBA'))
  alpha = rgba[..., 3].copy() if (rgba[..., 3] < 255).any() else None
  return Picture(rgba[..., :3].copy(), alpha, gray, icc=icc, exif=exif, notes=notes)


def _encode(picture: Picture, form: str, notes: list[str]) -> Image.Image:
  rgb, alpha = picture.rgb, picture.alpha
  if rgb.dtype != np.uint8:
    if picture.gray and picture.deep and form == 'PNG' and alpha is None:
      return Image.fromarray(np.rint(np.clip(rgb, 0, 1) @ _GRAY * 65535).astype(np.uint16))
    if picture.deep and form == 'PNG':
      notes.append('gray with transparency was written with 8 bits')
    elif picture.deep:
      notes.append(f'{form} holds 8 bits; 16 bits need .png')
    rgb = np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
  if alpha is not None and form == 'JPEG':
    notes.append('JPEG holds no transparency; it was dropped (use .png or .webp)')
    alpha = None
  image = Image.fromarray(rgb)
  if picture.gray:
    image = Image.fromarray(np.rint(rgb.astype(np.float32) @ _GRAY).astype(np.uint8))
  if alpha is not None:
    image.putalpha(Image.fromarray(alpha))
  if form == 'WEBP' and image.mode in ('L', 'LA'):  # WebP has no gray
    image = image.convert('RGB' if image.mode == 'L' else 'RGBA')
  return image


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
  if icc and image.mode == 'CMYK':
    with contextlib.suppress(ImageCms.PyCMSError, OSError):
      profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
      # It returns None only where it changes the image in place.
      return ImageCms.profileToProfile(image, profile, ImageCms.createProfile('sRGB'), outputMode='RGB') or image
  if image.mode == 'LAB':
    transform = ImageCms.buildTransform(ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB'), 'LAB', 'RGB')
    return ImageCms.applyTransform(image, transform) or image
  return image.convert('RGB')


def _exif(image: Image.Image) -> bytes | None:
  """The EXIF block without orientation; None where there is none."""
  exif = image.getexif()
  if image.info.get('exif'):  # read anew: Pillow takes a block that it has once failed to read for an empty one
    exif = Image.Exif()
    exif.load(image.info['exif'])
  orientation = exif.pop(_ORIENTATION, None)
  try:
    return exif.tobytes() if len(exif) else None
  finally:  # the image may be the caller's
    if orientation is not None:
      exif[_ORIENTATION] = orientation


def _exif_of_size(block: bytes, width: int, height: int) -> bytes:
  """The EXIF block with the picture's new size, where it states one."""
  exif = Image.Exif()
  exif.load(block)
  details = exif.get_ifd(_EXIF_IFD)
  for tag, value in ((_WIDTH, width), (_HEIGHT, height)):
    if tag in details:
      details[tag] = value
  return exif.tobytes()


def _is_deep(image: Image.Image) -> bool:
  """Whether the file has more than 8 bits per sample, as far as its header says; before the image is decoded."""
  if image.format == 'TIFF':
    bits = getattr(image, 'tag_v2', {}).get(_BITS)
    return isinstance(bits, tuple) and any(isinstance(n, int) and n > 8 for n in bits)  # damaged ones are anything
  if image.format == 'PPM':
    return any(isinstance(tile.args, tuple) and max(tile.args[-1:]) > 255 for tile in getattr(image, 'tile', ()))
  return any(';16' in str(tile.args) for tile in getattr(image, 'tile', ()))
