"""Peak signal-to-noise ratio on luma."""

import numpy as np

from ssr_jax.image import colour
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike


class PSNR(Metric):
  """PSNR on Y in dB; see `psnr`."""

  name = 'psnr'
  label = 'PSNR-Y (dB)'
  higher_is_better = True
  needs = ('image', 'reference')

  def __call__(self, inputs: Inputs) -> float:
    """PSNR of 'image' against 'reference', without 'crop' pixels on every side."""
    return psnr(inputs['image'], inputs['reference'], inputs.get('crop') or 0)


def luma_255(image: ArrayLike, crop: int = 0) -> np.ndarray:
  """Y of MATLAB's YCbCr, 16 to 235, float64 and unrounded.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    crop: pixels left out on every side. Papers on kernel estimation use crop = scale.

  Returns:
    [H - 2 crop, W - 2 crop].

  Raises:
    ValueError: another shape, or a crop that leaves nothing.
  """
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f'expected one RGB image [H, W, 3]; got shape {image.shape}')
  image = image.astype(np.float64) / (255 if image.dtype == np.uint8 else 1)
  if crop < 0 or 2 * crop >= min(image.shape[:2]):
    raise ValueError(f'a crop of {crop} leaves nothing of an image of {image.shape[0]}x{image.shape[1]}')
  H, W, _ = image.shape
  return np.asarray(colour.luma(image[crop : H - crop, crop : W - crop])) * 255


def luma_pair(image: ArrayLike, reference: ArrayLike, crop: int) -> tuple[np.ndarray, np.ndarray]:
  """`luma_255` of two images of the same size.

  Raises:
    ValueError: the sizes differ, or the crop leaves nothing.
  """
  if np.shape(image) != np.shape(reference):
    raise ValueError(f'image {np.shape(image)} and reference {np.shape(reference)} differ in size')
  return luma_255(image, crop), luma_255(reference, crop)


def psnr(image: ArrayLike, reference: ArrayLike, crop: int = 0) -> float:
  """PSNR in dB on MATLAB's Y, peak 255.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    reference: RGB of the same size.
    crop: pixels left out on every side.

  Returns:
    The value in dB; infinite for equal images.

  Raises:
    ValueError: the sizes differ, or the crop leaves nothing.
  """
  x, y = luma_pair(image, reference, crop)
  return decibels(float(np.mean((x - y) ** 2)), peak=255.0)


def decibels(mse: float, peak: float) -> float:
  """10 log10(peak^2 / mse); infinite for an error of 0."""
  return float('inf') if mse == 0 else float(10 * np.log10(peak**2 / mse))
