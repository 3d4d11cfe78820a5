"""Structural similarity, on luma or RGB (Wang et al. 2004)."""

import numpy as np
from scipy import ndimage

from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike

_RADIUS = 5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class SSIM(Metric):
  """SSIM, on Y unless 'space' says otherwise; see `ssim`."""

  name = 'ssim'
  label = 'SSIM-Y'
  higher_is_better = True
  needs = ('image', 'reference')
  digits = 4

  def __call__(self, inputs: Inputs) -> float:
    """SSIM of 'image' against 'reference' in 'space', without 'crop' pixels on every side."""
    return ssim(inputs['image'], inputs['reference'], inputs.get('crop') or 0, inputs.get('space') or 'y')

  def heading(self, space: str = 'y') -> str:
    """See `Metric.heading`."""
    return f'SSIM-{pixels.SPACES[space]}'


def ssim(image: ArrayLike, reference: ArrayLike, crop: int = 0, space: str = 'y', textbook: bool = False) -> float:
  """Mean SSIM: 11x11 Gaussian window, sigma 1.5, valid region, population covariance, no downsampling.

  It is measured on MATLAB's Y (16 to 235), or on R, G and B, each by itself, and averaged.

  The numbers published in this field come from pyiqa, which rounds Y to integers and replaces a negative
  contrast-structure term by zero. The latter changes the mean by up to 0.006 where an image has texture that the
  reference contradicts. The default does both, so that our numbers can be compared with published ones.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    reference: RGB of the same size.
    crop: pixels left out on every side.
    space: 'y' or 'rgb'.
    textbook: neither round nor clip, as Wang et al. define SSIM and scikit-image computes it.

  Returns:
    A value of at most 1; 1 for equal images.

  Raises:
    ValueError: the sizes differ, or a side has fewer than 11 pixels after the crop.
  """
  pixels.check_pair(image, reference)
  x, y = pixels.planes(image, crop, space), pixels.planes(reference, crop, space)
  if min(x.shape[1:]) <= 2 * _RADIUS:
    raise ValueError(f'SSIM needs at least 11x11 pixels; got {x.shape[1]}x{x.shape[2]}')
  if not textbook:
    x, y = np.round(x), np.round(y)
  return float(np.mean([_ssim(a, b, textbook) for a, b in zip(x, y, strict=True)]))


def _ssim(x: np.ndarray, y: np.ndarray, textbook: bool) -> float:
  """Mean SSIM of two planes [H, W]."""
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
  """Local Gaussian mean at the pixels whose window fits in the image: [H, W] -> [H - 10, W - 10]."""
  taps = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * 1.5**2))
  taps /= taps.sum()
  for axis in (0, 1):
    x = ndimage.correlate1d(x, taps, axis=axis)
  return x[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
