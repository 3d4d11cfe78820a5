"""Decoding of the image and depth files that records consist of; `BadRecord` for a file that cannot be used."""

from collections.abc import Sequence
import contextlib
import io
import re

import numpy as np
from PIL import Image

from ssr_jax.image import io as image_io
from ssr_jax.image import opening
from ssr_jax.types import SSRError

_MAX_UNKNOWN = 0.5  # largest share of a depth map's pixels that may be unknown
_MAX_ASPECT_ERROR = 0.02  # largest relative difference between the aspect ratios of a photo and its depth map


class BadRecord(SSRError):
  """One record that cannot be used; the message starts with the record's name. The loader skips a few of these."""


def decode_image(data: bytes, name: str) -> np.ndarray:
  """Decodes an image file to RGB, uint8 [H, W, 3].

  The EXIF orientation is applied, unless the EXIF block is damaged; alpha is dropped, 16 bits are rounded to 8.

  Args:
    data: the bytes of the file.
    name: of the file, for error messages.

  Raises:
    BadRecord: the file is not an image, is damaged, has several frames, or has floating-point pixels.
  """
  try:
    rgb = image_io.decode(data, name).rgb
  except SSRError as error:
    raise BadRecord(str(error)) from error
  return rgb if rgb.dtype == np.uint8 else np.rint(255 * rgb).astype(np.uint8)


def decode_depth(data: bytes, kind: str, name: str) -> np.ndarray:
  """Decodes a depth map to relative inverse depth, float32 [H, W] in [0, 1]: 1 is the nearest pixel, 0 the farthest.

  In a map of kind 'depth', values are distances along the optical axis in any unit; 0, negative and NaN mean unknown,
  infinity means infinitely far. In a map of kind 'inverse', values are inverse depth or disparity in any unit; 0 means
  infinitely far; negative, NaN and infinity mean unknown. An unknown pixel takes the value of the nearest known one.
  0 and 1 are the 0.1 and the 99.9 percentile of the known pixels, because sensors produce a few outliers.

  Args:
    data: the bytes of a gray PNG (8 or 16 bits), a PFM, or an .npy array with two dimensions.
    kind: 'depth' or 'inverse'.
    name: of the file, for error messages.

  Raises:
    BadRecord: the file is not a depth map, more than half of it is unknown, or it has a single value.
  """
  values = _depth_values(data, name).astype(np.float32)
  if kind == 'depth':
    known = values >= np.finfo(np.float32).tiny  # false for NaN; the inverse of a smaller number may overflow
    inverse = np.where(known, 1 / np.where(known, values, 1), 0)
  else:
    known = np.isfinite(values) & (values >= 0)
    inverse = np.where(known, values, 0)
  if known.mean() < 1 - _MAX_UNKNOWN:
    raise BadRecord(f'{name}: {1 - known.mean():.0%} of the depth is unknown, more than {_MAX_UNKNOWN:.0%}')
  low, high = np.percentile(inverse[known], (0.1, 99.9))
  if not high > low:
    raise BadRecord(f'{name}: the depth is the same everywhere')
  if not known.all():
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    inverse = inverse[tuple(np.asarray(nearest))]
  return np.clip((inverse - low) / (high - low), 0, 1).astype(np.float32)


def _depth_values(data: bytes, name: str) -> np.ndarray:
  """The numbers as they are stored, [H, W]."""
  values: np.ndarray
  try:
    if data.startswith(b'\x93NUMPY'):
      with _numpy_errors(name):
        values = np.squeeze(np.load(io.BytesIO(data), allow_pickle=False))
    elif data.startswith((b'Pf', b'PF')):
      with _numpy_errors(name):
        values = _decode_pfm(data)
    else:
      with opening.opened(data, name) as image:
        if image.mode != 'L' and not image.mode.startswith('I'):
          raise BadRecord(f'{name}: {image.mode} image; a depth map is gray, with 8 or 16 bits')
        values = np.asarray(image)
  except SSRError as error:
    raise BadRecord(str(error)) from error
  if values.ndim != 2 or values.dtype.kind not in 'uif' or not values.size:
    raise BadRecord(f'{name}: array {values.dtype} {list(values.shape)}; a depth map is numeric, [H, W]')
  return values


@contextlib.contextmanager
def _numpy_errors(name: str):
  """A context that errors of NumPy's decoders leave as a `BadRecord`."""
  try:
    yield
  except Exception as error:  # of many types on damaged bytes
    raise BadRecord(
      f'{name}: cannot be read as a depth map ({opening.first_line(error)}); get the file again'
    ) from error


def _decode_pfm(data: bytes) -> np.ndarray:
  """Decodes a gray portable float map to [H, W]; its rows are stored from the bottom up."""
  header = re.match(rb'Pf\s+(\d+)\s+(\d+)\s+(-?[\d.eE+-]+)\s', data)
  if not header:
    raise ValueError('no header of a gray PFM')
  width, height, scale = int(header[1]), int(header[2]), float(header[3])
  values = np.frombuffer(data, '<f4' if scale < 0 else '>f4', width * height, header.end())
  return values.reshape(height, width)[::-1]


def fit_depth(depth: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
  """Resizes a depth map [h, w] to the size (H, W) of its photo, bilinearly.

  Raises:
    BadRecord: the aspect ratios differ by more than 2 %.
  """
  if depth.shape == size:
    return depth
  h, w = depth.shape
  H, W = size
  if abs(h / w * W / H - 1) > _MAX_ASPECT_ERROR:
    raise BadRecord(f'{name}: {w}x{h} has another aspect ratio than its photo of {W}x{H}')
  return np.asarray(Image.fromarray(depth).resize((W, H), Image.Resampling.BILINEAR)).clip(0, 1)


def pair_scale(hr: Sequence[int], lr: Sequence[int], name: str) -> int:
  """The integer scale between an HR size (H, W) and an LR size (h, w).

  HR may have up to scale - 1 rows and columns more than scale times LR; `Source.decode` crops these.

  Args:
    hr: height and width of the HR image.
    lr: height and width of the LR image.
    name: of the LR image, for error messages.

  Raises:
    BadRecord: there is no such scale.
  """
  scale = hr[0] // max(lr[0], 1)
  if scale < 1 or any(not 0 <= high - low * scale < scale for high, low in zip(hr, lr, strict=True)):
    raise BadRecord(f'{name}: {lr[1]}x{lr[0]}, but its HR image of {hr[1]}x{hr[0]} is not a whole multiple of that')
  return scale
