"""Haar wavelet-based perceptual similarity index (Reisenhofer, Bosse, Kutyniok & Wiegand 2018), for colour images."""

import numpy as np
from scipy import ndimage, special

from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.metrics.gmsd import half_size
from ssr_jax.types import ArrayLike

_C, _ALPHA = 30, 4.2  # the paper's, for values of 0 to 255
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class HaarPSI(Metric):
  """HaarPSI; see `haarpsi`."""

  name = 'haarpsi'
  label = 'HaarPSI'
  higher_is_better = True
  needs = ('image', 'reference')
  digits = 4

  def __call__(self, inputs: Inputs) -> float:
    """HaarPSI of 'image' against 'reference', without 'crop' pixels on every side."""
    return haarpsi(inputs['image'], inputs['reference'], inputs.get('crop') or 0)


def haarpsi(image: ArrayLike, reference: ArrayLike, crop: int = 0) -> float:
  """The similarity of Haar coefficients of Y and of local means of I and Q, as in the authors' release.

  Both images are averaged over 2x2 pixels first. For each direction of Y, the similarity is the mean of those at the
  two finest scales, and its weight is the larger coefficient at the third; for colour, the similarity is the mean of
  I's and Q's, and its weight the mean of the two. Beyond the border are zeros.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    reference: RGB of the same size.
    crop: pixels left out on every side.

  Returns:
    A value in [0, 1]; 1 for equal images. It does not tell the two images apart.

  Raises:
    ValueError: the sizes differ, or the crop leaves nothing.
  """
  pixels.check_pair(image, reference)
  a, b = (half_size(pixels.rgb_255(x, crop) @ _YIQ.T) for x in (image, reference))
  similarities, weights = [], []
  for axis in (0, 1):
    fine = [_similarity(*(_haar(x[..., 0], scale, axis) for x in (a, b))) for scale in (1, 2)]
    similarities.append((fine[0] + fine[1]) / 2)
    weights.append(np.maximum(*(_haar(x[..., 0], 3, axis) for x in (a, b))))
  colour = [_similarity(*(np.abs(_box(x[..., plane])) for x in (a, b))) for plane in (1, 2)]
  similarities.append((colour[0] + colour[1]) / 2)
  weights.append((weights[0] + weights[1]) / 2)
  total = np.sum(weights)
  if total == 0:  # both images are black, apart from colour
    weights, total = [np.ones_like(weights[0])] * 3, 3 * weights[0].size
  mean = np.sum(special.expit(_ALPHA * np.array(similarities)) * weights) / total
  return float((special.logit(mean) / _ALPHA) ** 2)


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """The similarity of magnitudes, at most 1."""
  return (2 * a * b + _C) / (a**2 + b**2 + _C)


def _haar(x: np.ndarray, scale: int, axis: int) -> np.ndarray:
  """Magnitudes of the Haar coefficients of [H, W] across `axis`, at each pixel; the filter has 2^scale pixels a side.

  The window of a pixel starts 2^(scale - 1) - 1 pixels before it, as MATLAB's conv2(..., 'same') has it.
  """
  side = 2**scale
  step = np.repeat([-1.0, 1.0], side // 2)
  across = ndimage.convolve1d(x, step, axis, mode='constant')
  return np.abs(ndimage.convolve1d(across, np.ones(side), 1 - axis, mode='constant')) / side


def _box(x: np.ndarray) -> np.ndarray:
  """Means over the 2x2 pixels that start at each pixel: [H, W] -> [H, W]."""
  for axis in (0, 1):
    x = ndimage.convolve1d(x, np.full(2, 0.5), axis, mode='constant')
  return x
