"""Gradient magnitude similarity deviation (Xue, Zhang, Mou & Bovik 2014)."""

import numpy as np
from scipy import ndimage

from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike

_T = 170  # the paper's constant for gray levels of 0 to 255


class GMSD(Metric):
  """GMSD; see `gmsd`."""

  name = 'gmsd'
  label = 'GMSD'
  higher_is_better = False
  needs = ('image', 'reference')
  digits = 4

  def __call__(self, inputs: Inputs) -> float:
    """GMSD of 'image' against 'reference', without 'crop' pixels on every side."""
    return gmsd(inputs['image'], inputs['reference'], inputs.get('crop') or 0)


def gmsd(image: ArrayLike, reference: ArrayLike, crop: int = 0) -> float:
  """The standard deviation of the similarity of gradient magnitudes, as in the authors' release.

  Both images are averaged over 2x2 pixels without overlap; an odd side is padded with zeros, as are the borders for
  Prewitt's filters. The similarity of gradient magnitudes a and b is (2 a b + T) / (a^2 + b^2 + T), T = 170.
  Luma is full-range (MATLAB's rgb2gray), as in the release and in pyiqa, unlike that of PSNR.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    reference: RGB of the same size.
    crop: pixels left out on every side.

  Returns:
    A value from 0, for equal images, to below 0.6; lower is better. It does not tell the two images apart.

  Raises:
    ValueError: the sizes differ, the crop leaves nothing, or a side has fewer than 3 pixels after the crop.
  """
  pixels.check_pair(image, reference)
  a, b = (_gradient(half_size(pixels.gray_255(x, crop))) for x in (image, reference))
  if min(a.shape) < 2:
    raise ValueError(f'GMSD needs at least 3x3 pixels; got {np.shape(image)[0]}x{np.shape(image)[1]}, crop {crop}')
  return float(np.std((2 * a * b + _T) / (a**2 + b**2 + _T), ddof=1))


def half_size(x: np.ndarray) -> np.ndarray:
  """Means of 2x2 pixels: [H, W, ...] -> [ceil(H / 2), ceil(W / 2), ...]; an odd side is padded with zeros."""
  x = np.pad(x, [(0, n % 2) for n in x.shape[:2]] + [(0, 0)] * (x.ndim - 2))
  return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def _gradient(x: np.ndarray) -> np.ndarray:
  """Gradient magnitude by Prewitt's filters, [H, W], zeros beyond the border."""
  mean, difference = np.full(3, 1 / 3), np.array([1.0, 0.0, -1.0])
  filtered = [
    ndimage.correlate1d(ndimage.correlate1d(x, mean, 1 - axis, mode='constant'), difference, axis, mode='constant')
    for axis in (0, 1)
  ]
  return np.hypot(*filtered)
