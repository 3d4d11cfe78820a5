"""How noisy a photo is, from the photo alone."""

from typing import Any

import numpy as np
from scipy import ndimage

_STRIP = 512  # rows looked at once, even
_AROUND = 5  # blocks, side of the neighbourhood that decides how flat a block lies
_FLAT = 0.25  # share of the blocks that count, the flattest ones
_MAD = 0.6744897501960817  # median of |x| for a standard normal x
_LEVELS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}


def noise_level(image: Any) -> np.ndarray:
  """Standard deviation of the noise in each channel: the median of diagonal Haar details / 0.6745.

  The estimator of Donoho and Johnstone (1994) on 2x2 blocks, each pixel in one. Texture has diagonal details too, so
  only the flattest quarter of the blocks counts. The horizontal and vertical details around a block decide that: for
  white noise they are independent of the diagonal ones, so that the choice does not bias the estimate. Blocks with a
  pixel at either end of the range nearby do not count: noise is clipped there.

  It measures white noise. Of noise that neighbours share, as demosaicking, denoising and JPEG leave it, it sees only
  the part at the finest scale, and of a photo of texture without a flat place some of the texture.

  Args:
    image: [h, w, c], uint8, uint16, or float in [0, 1]; an array, or what has shape and dtype and gives arrays for
      slices of its rows.

  Returns:
    [c] float32, of 1; 0 for a channel without blocks that count.
  """
  height, width, channels = image.shape
  if min(height, width) < 2:
    return np.zeros(channels, np.float32)
  strips = [_details(image[top : min(top + _STRIP, height)]) for top in range(0, height - 1, _STRIP)]
  found, step = [], 0.5 / _LEVELS[np.dtype(image.dtype)] if np.dtype(image.dtype) in _LEVELS else 0
  for channel in range(channels):
    diagonal, roughness = (np.concatenate([strip[i][channel] for strip in strips]) for i in (0, 1))
    count = min(len(diagonal), max(int(_FLAT * len(diagonal)), _AROUND**2))
    flattest = np.argpartition(roughness, count - 1)[:count] if count else []
    found.append(_median(np.abs(diagonal[flattest]), step) / _MAD if count else 0)
  return np.array(found, np.float32)


def _details(rows: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Diagonal details and roughness around them, of the blocks that count, for each channel."""
  rows = np.asarray(rows)
  rows = rows[: len(rows) // 2 * 2, : rows.shape[1] // 2 * 2]
  x = rows.astype(np.float32) / _LEVELS.get(rows.dtype, 1)
  a, b, c, d = x[::2, ::2], x[::2, 1::2], x[1::2, ::2], x[1::2, 1::2]
  diagonal = (a - b - c + d) / 2
  energy = (a - b + c - d) ** 2 + (a + b - c - d) ** 2
  roughness = ndimage.uniform_filter(energy, _AROUND, mode='nearest', axes=(0, 1))
  corners = np.stack([a, b, c, d])
  clipped = (corners.min(0) <= 0) | (corners.max(0) >= 1)
  inside = np.logical_not(ndimage.maximum_filter(clipped, _AROUND, axes=(0, 1)))
  channels = range(x.shape[-1])
  return [diagonal[..., i][inside[..., i]] for i in channels], [roughness[..., i][inside[..., i]] for i in channels]


def _median(values: np.ndarray, step: float) -> float:
  """The median; of multiples of a step, 0 for none, interpolated as if each was spread evenly over a step around it."""
  middle = float(np.median(values))
  if not step:
    return middle
  low, high = max(middle - step / 2, 0), middle + step / 2
  below, here = (float(np.mean(where)) for where in (values < low, (values >= low) & (values < high)))
  return low + (high - low) * (0.5 - below) / here if here else middle
