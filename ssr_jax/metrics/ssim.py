"""Structural similarity on luma (Wang et al. 2004)."""

import numpy as np
from scipy import ndimage

from ssr_jax.metrics.psnr import luma_pair
from ssr_jax.types import ArrayLike

_RADIUS = 5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(image: ArrayLike, reference: ArrayLike, crop: int = 0, textbook: bool = False) -> float:
  """Mean SSIM on MATLAB's Y: 11x11 Gaussian window, sigma 1.5, valid region, population covariance, no downsampling.

  The numbers published in this field come from an implementation (pyiqa's) that rounds Y to integers and replaces a
  negative contrast-structure term by zero, which counts where an image invents texture that the reference contradicts:
  up to 0.006. The default does both, so that our numbers stand beside published ones.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    reference: RGB of the same size.
    crop: pixels left out on every side first.
    textbook: do neither: Wang et al.'s definition, and scikit-image's.

  Returns:
    At most 1, which only equal images reach.

  Raises:
    ValueError: sizes differ, or less than 11 pixels are left.
  """
  x, y = luma_pair(image, reference, crop)
  if min(x.shape) <= 2 * _RADIUS:
    raise ValueError(f'SSIM needs at least 11x11 pixels; got {x.shape[0]}x{x.shape[1]}')
  if not textbook:
    x, y = np.round(x), np.round(y)
  mean_x, mean_y = _window(x), _window(y)
  var_x = _window(x * x) - mean_x**2
  var_y = _window(y * y) - mean_y**2
  covariance = _window(x * y) - mean_x * mean_y
  luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
  structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
  if not textbook:
    structure = np.maximum(structure, 0)
  return float(np.mean(luminance * structure))


def _window(x: np.ndarray) -> np.ndarray:
  """Local Gaussian mean where the window lies wholly inside: [H, W] -> [H - 10, W - 10]."""
  taps = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * 1.5**2))
  taps /= taps.sum()
  for axis in (0, 1):
    x = ndimage.correlate1d(x, taps, axis=axis)
  return x[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
