"""Reads and writes image files with what they hold besides pixels.

Orientation is applied. ICC profile, EXIF, alpha and gray are kept, and 16-bit gray stays 16-bit. A file is written
under another name and then renamed, so that nobody sees half of it.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import tempfile
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ssr_jax.types import SSRError

READABLE = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
"""Suffixes that count as images inside a folder; a file named by itself is recognised by its content."""
WRITABLE = {'.png': 'PNG', '.jpg': 'JPEG', '.jpeg': 'JPEG', '.webp': 'WEBP'}
_LONGEST = {'JPEG': 65500, 'WEBP': 16383}
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # any weights would do for an image that is gray up to rounding
_ORIENTATION, _EXIF_IFD, _WIDTH, _HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003


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


def size(path: str | os.PathLike) -> tuple[int, int] | None:
  """(height, width) from a file's header, orientation not applied; None where it cannot be read."""
  try:
    with _pillow(pathlib.Path(path)) as image:
      return image.height, image.width
  except SSRError:
    return None


def read(path: str | os.PathLike, max_pixels: int | None = None) -> Picture:
  """Reads an image file.

  Args:
    path: a file of any format that Pillow reads.
    max_pixels: larger images are refused before they are decoded.

  Raises:
    SSRError: no file, not an image, damaged, animated, too large, or pixels of a kind that is not handled.
  """
  path = pathlib.Path(path)
  with _pillow(path) as image:
    if max_pixels and image.width * image.height > max_pixels:
      raise SSRError(f'{path}: {image.width}x{image.height} pixels, more than {max_pixels}; scale it down or cut it up')
    # A phone's MPO file is a photo with a preview behind it, not an animation.
    frames = getattr(image, 'n_frames', 1)
    if frames > 1 and image.format != 'MPO':
      raise SSRError(f'{path}: has {frames} frames; save one frame as a still image')
    notes = []
    if image.format == 'PNG' and image.mode in ('RGB', 'RGBA', 'LA') and _png_depth(path) == 16:
      notes.append('16-bit colour was read as 8-bit')
    try:
      image.load()
      image = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError) as error:
      raise SSRError(f'{path}: damaged or truncated image ({_first_line(error)}); get the file again') from error
    picture = _decode(path, image)
    picture.notes[:0] = notes
    return picture


def write(path: str | os.PathLike, picture: Picture, quality: int = 95) -> list[str]:
  """Writes a picture in the format of the suffix (.png, .jpg, .webp); no half-written file is left behind.

  Args:
    path: the folder must exist.
    picture: its `notes` are ignored.
    quality: of JPEG and WebP, 1 to 100.

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
  if picture.icc and not (
    picture.gray and form == 'WEBP'
  ):  # WebP is stored in colour, for which a gray profile is wrong
    options['icc_profile'] = picture.icc
  if picture.exif:
    options['exif'] = _exif_of_size(picture.exif, width, height)
  if form != 'PNG':
    options['quality'] = quality
  if form == 'JPEG' and quality >= 90:
    options['subsampling'] = 0
  buffer = io.BytesIO()
  try:
    image.save(buffer, form, **options)
  except (OSError, ValueError, OverflowError) as error:
    raise SSRError(f'{path}: cannot be encoded as {form} ({_first_line(error)}); write a .png') from error
  write_bytes(path, buffer.getvalue())
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


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file under another name in the same folder, then renames it.

  Raises:
    SSRError: it cannot be written.
  """
  path = pathlib.Path(path)
  temporary = None
  try:
    descriptor, temporary = tempfile.mkstemp(prefix='.ssr-', suffix='.tmp', dir=path.parent)
    with os.fdopen(descriptor, 'wb') as file:
      file.write(data)
    os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
    os.replace(temporary, path)
  except BaseException as error:
    if temporary is not None:
      with contextlib.suppress(OSError):
        os.unlink(temporary)
    if isinstance(error, OSError):
      raise SSRError(f'{path}: cannot be written ({error.strerror}); choose another place') from error
    raise


def upscale_alpha(alpha: np.ndarray, scale: int) -> np.ndarray:
  """Alpha [h, w] uint8 -> [s*h, s*w], bicubic."""
  height, width = alpha.shape
  return np.asarray(Image.fromarray(alpha).resize((scale * width, scale * height), Image.Resampling.BICUBIC))


@contextlib.contextmanager
def _pillow(path: pathlib.Path):
  """Opens a file without decoding it; every failure is an SSRError."""
  try:
    if path.is_file() and path.stat().st_size == 0:
      raise SSRError(f'{path}: the file is empty; get it again')
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Pillow warns of large images; `max_pixels` decides here
      image = Image.open(path)
  except UnidentifiedImageError as error:
    raise SSRError(f'{path}: not an image that can be read; give a PNG, JPEG or WebP file') from error
  except Image.DecompressionBombError as error:
    raise SSRError(f'{path}: the image is too large; scale it down or cut it up') from error
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror or _first_line(error)}); check the path') from error
  except (ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError) as error:
    raise SSRError(f'{path}: damaged image ({_first_line(error)}); get the file again') from error
  with image:
    yield image


def _decode(path: pathlib.Path, image: Image.Image) -> Picture:
  icc = image.info.get('icc_profile')
  exif = _exif(image)
  notes = []
  if image.mode == 'I' or image.mode.startswith('I;16'):
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
      raise SSRError(f'{path}: 32-bit image; save it with 8 or 16 bits')
    gray = values.astype(np.float32) / 65535
    return Picture(np.repeat(gray[..., None], 3, -1), gray=True, deep=True, icc=icc, exif=exif)
  if image.mode == 'F':
    raise SSRError(f'{path}: floating-point image; save it with 8 or 16 bits')
  if image.mode in ('CMYK', 'LAB', 'YCbCr', 'HSV'):
    image, icc = _to_srgb(image, icc), None
    notes.append('colours were converted to sRGB')
  gray = image.mode in ('1', 'L', 'LA', 'La')
  has_alpha = image.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa') or 'transparency' in image.info
  rgba = np.asarray(image.convert('RGBA'))
  alpha = rgba[..., 3].copy() if has_alpha and (rgba[..., 3] < 255).any() else None
  return Picture(rgba[..., :3].copy(), alpha, gray, icc=icc, exif=exif, notes=notes)


def _encode(picture: Picture, form: str, notes: list[str]) -> Image.Image:
  rgb, alpha = picture.rgb, picture.alpha
  if rgb.dtype != np.uint8:
    if picture.gray and picture.deep and form == 'PNG' and alpha is None:
      return Image.fromarray(np.rint(np.clip(rgb, 0, 1) @ _GRAY * 65535).astype(np.uint16))
    if picture.deep:
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
  """The EXIF block without orientation; None where there is none or it is damaged."""
  try:
    exif = image.getexif()
    exif.pop(_ORIENTATION, None)
    return exif.tobytes() if len(exif) else None
  except Exception:  # the photo is readable even if its EXIF block is damaged; Pillow raises many kinds of errors here
    return None


def _exif_of_size(block: bytes, width: int, height: int) -> bytes:
  """The EXIF block with the picture's new size, where it states one."""
  exif = Image.Exif()
  exif.load(block)
  details = exif.get_ifd(_EXIF_IFD)
  for tag, value in ((_WIDTH, width), (_HEIGHT, height)):
    if tag in details:
      details[tag] = value
  return exif.tobytes()


def _png_depth(path: pathlib.Path) -> int:
  """Bits per sample from a PNG's header chunk."""
  with open(path, 'rb') as file:
    return file.read(25)[24]


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
