"""Peak signal-to-noise ratio, on luma or RGB."""

import numpy as np

from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike

_OFFSET = 1e-8  # what pyiqa adds to the mean squared error of images in [0, 1]


class PSNR(Metric):
  """PSNR in dB, on Y unless 'space' says otherwise; see `psnr`."""

  name = 'psnr'
  label = 'PSNR-Y (dB)'
  higher_is_better = True
  needs = ('image', 'reference')

  def __call__(self, inputs: Inputs) -> float:
    """PSNR of 'image' against 'reference' in 'space', without 'crop' pixels on every side."""
    return psnr(inputs['image'], inputs['reference'], inputs.get('crop') or 0, inputs.get('space') or 'y')

  def heading(self, space: str = 'y') -> str:
    """See `Metric.heading`."""
    return f'PSNR-{pixels.SPACES[space]} (dB)'


def psnr(image: ArrayLike, reference: ArrayLike, crop: int = 0, space: str = 'y', textbook: bool = False) -> float:
  """PSNR in dB, peak 255, on MATLAB's Y (16 to 235) or on all values of RGB.

  The numbers published in this field come from pyiqa, which adds 1e-8 to the mean squared error of images in [0, 1].
  That lowers 30 dB by 0.00004, 40 dB by 0.0004 and 50 dB by 0.004. The default does the same, so that our numbers can
  be compared with published ones.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    reference: RGB of the same size.
    crop: pixels left out on every side.
    space: 'y' or 'rgb'.
    textbook: add nothing.

  Returns:
    The value in dB; infinite for equal images.

  Raises:
    ValueError: the sizes differ, or the crop leaves nothing.
  """
  pixels.check_pair(image, reference)
  mse = float(np.mean((pixels.planes(image, crop, space) - pixels.planes(reference, crop, space)) ** 2))
  return decibels(mse if textbook or mse == 0 else mse + _OFFSET * 255**2, peak=255.0)


def decibels(mse: float, peak: float) -> float:
  """10 log10(peak^2 / mse); infinite for an error of 0."""
  return float('inf') if mse == 0 else float(10 * np.log10(peak**2 / mse))
