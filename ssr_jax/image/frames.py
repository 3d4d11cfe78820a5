"""Animated images: their frames as pictures, and files made of frames."""

from collections.abc import Sequence
import dataclasses
import io as iolib
import os
import pathlib

import numpy as np
from PIL import Image

from ssr_jax.image import io, metadata, opening
from ssr_jax.image.files import write_bytes
from ssr_jax.types import SSRError

WRITABLE = {'.png': 'PNG', '.webp': 'WEBP'}
"""Formats that frames are written in, with 8 bits, transparency and as many colours as there are; GIF has 256."""
_DURATION = 100  # milliseconds, where a file does not say it


@dataclasses.dataclass(frozen=True)
class Frames:
  """The content of an animated file.

  Attributes:
    pictures: each frame as a whole, also where the file stores only what changed; 8 bits.
    durations: of each, in milliseconds.
    loop: how often it plays; 0 for ever.
  """

  pictures: tuple[io.Picture, ...]
  durations: tuple[float, ...]
  loop: int


def read(path: str | os.PathLike, max_pixels: int | None = None, most: int | None = None) -> Frames | None:
  """Reads an animated file; None where it is a still image.

  Args:
    path: a file of one of `opening.FORMATS`.
    max_pixels: of a frame, as of `io.read`.
    most: pixels of all frames together; None is no limit.

  Raises:
    SSRError: as of `io.read`, or more pixels than `most`.
  """
  name = str(path)
  with opening.opened(path, name, max_pixels) as image:
    if not io.animated(image):
      return None
    count = getattr(image, 'n_frames', 1)
    total = count * image.width * image.height
    if most is not None and total > most:
      raise SSRError(f'{name}: {count} frames of {image.width}x{image.height} pixels are too many at once; split it up')
    loop = image.info.get('loop', 1)
    pictures, durations = [], []
    for i in range(count):
      image.seek(i)
      image.load()
      durations.append(float(image.info.get('duration') or _DURATION))
      pictures.append(_eight_bits(io.convert(image.copy(), name, max_pixels)))
  return Frames(tuple(pictures), tuple(durations), int(loop))


def _eight_bits(picture: io.Picture) -> io.Picture:
  """The picture with the bits that `write` writes."""
  if picture.bits == 8:
    return picture
  bytes_of = lambda plane: None if plane is None else np.rint(255 * plane).astype(np.uint8)
  notes = [*picture.notes, f'{picture.bits} bits were read as 8']
  return dataclasses.replace(picture, rgb=bytes_of(picture.rgb), alpha=bytes_of(picture.alpha), bits=8, notes=notes)


def check(path: str | os.PathLike, height: int, width: int) -> None:
  """SSRError where a result of several frames cannot have this name or size."""
  io.check_format(path, height, width)
  if pathlib.Path(path).suffix.lower() not in WRITABLE:
    raise SSRError(f'{path}: frames are written as {" or ".join(WRITABLE)}; name one, or choose it by --format')


def write(
  path: str | os.PathLike, images: Sequence[np.ndarray], like: Frames, about: io.Picture, quality: int, replace: bool
) -> list[str]:
  """Writes an animated file.

  Args:
    path: with a suffix of `WRITABLE`.
    images: the frames, uint8 [h, w, 3 or 4].
    like: whose durations and loop it has.
    about: what else it holds: profile, EXIF, XMP, what made it.
    quality: of WebP, 1 to 100.
    replace: as of `write_bytes`.

  Returns:
    what could not be kept, one line each.

  Raises:
    SSRError: it cannot be written.
  """
  height, width = images[0].shape[:2]
  check(path, height, width)
  form = WRITABLE[pathlib.Path(path).suffix.lower()]
  first, *others = map(Image.fromarray, images)
  notes, exif = [], None
  try:
    exif = metadata.exif_of_size(about.exif, width, height, about.made_by)
  except Exception:  # of many types, where the block is damaged
    notes.append('its EXIF block is damaged and was dropped')
  options = {'icc_profile': about.icc, 'exif': exif}
  options |= {'xmp': about.xmp, 'quality': quality} if form == 'WEBP' else {}
  buffer = iolib.BytesIO()
  try:
    first.save(
      buffer,
      form,
      save_all=True,
      append_images=others,
      duration=[round(duration) for duration in like.durations],
      loop=like.loop,
      **{name: value for name, value in options.items() if value is not None},
    )
  except Exception as error:  # an encoder's, of whatever type
    raise SSRError(f'{path}: cannot be encoded as {form} ({opening.first_line(error)}); write a .png') from error
  write_bytes(path, buffer.getvalue(), replace=replace)
  return notes
