"""What image files hold besides pixels: ICC profile, EXIF, XMP, resolution, orientation."""

from collections.abc import Callable
import contextlib
import dataclasses
import io

from PIL import Image, ImageCms

ORIENTATION, MADE_BY = 0x0112, 0x000B  # EXIF tags; the latter is ProcessingSoftware
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""
TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
"""What makes an image of an orientation upright."""
_DETAILS, _GPS, _WIDTH, _HEIGHT, _XMP = 0x8769, 0x8825, 0xA002, 0xA003, 0x02BC
DIRECTORIES = (_DETAILS, _GPS)
"""EXIF tags that hold tags."""
# How a TIFF file stores its pixels, its resolution, its XMP packet and its ICC profile.
_STRUCTURE = {ORIENTATION, *range(254, 267), 273, *range(277, 286), 296, 297, 317, *range(320, 326), 338, 339, 347}
_STRUCTURE |= {*range(529, 533), _XMP, 34377, 34675}


@dataclasses.dataclass
class About:
  """What a file holds besides pixels.

  Attributes:
    icc: ICC profile, or None.
    exif: EXIF block, or None.
    xmp: XMP packet, or None.
    dpi: (x, y) in pixels per inch, or None.
  """

  icc: bytes | None = None
  exif: bytes | None = None
  xmp: bytes | None = None
  dpi: tuple[float, float] | None = None

  def upright_dpi(self, orientation: int) -> tuple[float, float] | None:
    """The resolution of the image after it was made upright."""
    return (self.dpi[1], self.dpi[0]) if self.dpi and orientation in SIDEWAYS else self.dpi


def of_image(image: Image.Image) -> About:
  """ICC profile, XMP and resolution of an image that Pillow has opened."""
  try:
    dpi = plausible_dpi(*(float(value) for value in image.info['dpi']))
  except (KeyError, TypeError, ValueError, ZeroDivisionError):
    dpi = None
  return About(image.info.get('icc_profile'), xmp=_xmp(image), dpi=dpi)


def plausible_dpi(x: float, y: float) -> tuple[float, float] | None:
  """(x, y), or None where they cannot be meant: 0 and 1 stand for an unknown resolution."""
  return (x, y) if all(1 < value <= 1e5 for value in (x, y)) else None


def orientation(exif: Callable[[], Image.Exif], notes: list[str]) -> int:
  """The orientation, 1 where the EXIF block is damaged: the photo is readable anyway, and Pillow raises many types."""
  try:
    return exif().get(ORIENTATION, 1)
  except Exception:
    notes.append('its EXIF block is damaged: the orientation is not known')
    return 1


def exif_block(image: Image.Image) -> bytes | None:
  """The EXIF block without orientation; None where there is none. Raises errors of many types where it is damaged."""
  exif = image.getexif()
  if image.format == 'TIFF':
    return without_structure(exif)
  if image.info.get('exif'):  # read anew: Pillow takes a block that it has once failed to read for an empty one
    exif = Image.Exif()
    exif.load(image.info['exif'])
  orientation = exif.pop(ORIENTATION, None)
  try:
    return exif.tobytes() if len(exif) else None
  finally:  # the image may be the caller's
    if orientation is not None:
      exif[ORIENTATION] = orientation


def without_structure(exif: Image.Exif) -> bytes | None:
  """The EXIF block of a TIFF file's first directory, without what describes the file; None where nothing is left."""
  kept = Image.Exif()
  for tag, value in exif.items():
    if tag not in _STRUCTURE:
      kept[tag] = exif.get_ifd(tag) if tag in DIRECTORIES else value
  return kept.tobytes() if len(kept) else None


def exif_of_size(block: bytes | None, width: int, height: int, made_by: str | None) -> bytes | None:
  """An EXIF block with a picture's new size, where it states one, and with what made the picture, if given.

  Raises:
    Exception: of many types, where the block is damaged.
  """
  exif = Image.Exif()
  if block:
    exif.load(block)
    details = exif.get_ifd(_DETAILS) if _DETAILS in exif else {}  # it would make an empty one
    for tag, value in ((_WIDTH, width), (_HEIGHT, height)):
      if tag in details:
        details[tag] = value
  if made_by:
    exif[MADE_BY] = made_by
  return exif.tobytes() if len(exif) else None


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
  """An image of another colour space in sRGB; CMYK by its ICC profile, if that can be used."""
  if icc and image.mode == 'CMYK':
    with contextlib.suppress(ImageCms.PyCMSError, OSError):
      profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
      # It returns None only where it changes the image in place.
      return ImageCms.profileToProfile(image, profile, ImageCms.createProfile('sRGB'), outputMode='RGB') or image
  if image.mode == 'LAB':
    transform = ImageCms.buildTransform(ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB'), 'LAB', 'RGB')
    return ImageCms.applyTransform(image, transform) or image
  return image.convert('RGB')


def _xmp(image: Image.Image) -> bytes | None:
  """The XMP packet, which Pillow stores under one of several keys."""
  found = image.info.get('xmp') or image.info.get('XML:com.adobe.xmp')
  if not found and image.format == 'TIFF':
    found = getattr(image, 'tag_v2', {}).get(_XMP)
  found = found.encode() if isinstance(found, str) else found
  return found if isinstance(found, bytes) and found.strip(b'\0 ') else None
