"""The pixels that metrics compare: RGB, luma of YCbCr or gray, float64 on the 255 scale."""

import numpy as np

from ssr_jax.image import colour
from ssr_jax.types import ArrayLike

SPACES = {'y': 'Y', 'rgb': 'RGB'}
"""What PSNR and SSIM can be measured on: {name: what column headings call it}."""


def rgb_255(image: ArrayLike, crop: int = 0) -> np.ndarray:
  """The image on the 255 scale, unrounded.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    crop: pixels left out on every side. Papers on kernel estimation use crop = scale.

  Returns:
    float64 [H - 2 crop, W - 2 crop, 3].

  Raises:
    ValueError: another shape, or a crop that leaves nothing.
  """
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f'expected one RGB image [H, W, 3]; got shape {image.shape}')
  H, W, _ = image.shape
  if crop < 0 or 2 * crop >= min(H, W):
    raise ValueError(f'a crop of {crop} leaves nothing of an image of {H}x{W}')
  return image[crop : H - crop, crop : W - crop].astype(np.float64) * (1 if image.dtype == np.uint8 else 255)


def luma_255(image: ArrayLike, crop: int = 0) -> np.ndarray:
  """Y of MATLAB's YCbCr, 16 to 235, unrounded: [H - 2 crop, W - 2 crop]; for arguments and errors see `rgb_255`."""
  return np.asarray(colour.luma(rgb_255(image, crop) / 255)) * 255


def gray_255(image: ArrayLike, crop: int = 0) -> np.ndarray:
  """Full-range luma, 0 to 255, MATLAB's rgb2gray: [H - 2 crop, W - 2 crop]; for arguments and errors see `rgb_255`."""
  return rgb_255(image, crop) @ np.array([0.299, 0.587, 0.114])


def planes(image: ArrayLike, crop: int, space: str) -> np.ndarray:
  """The planes that PSNR and SSIM are measured on: [1, H, W] for the space 'y', [3, H, W] for 'rgb'.

  Raises:
    ValueError: another space; see also `rgb_255`.
  """
  if space not in SPACES:
    raise ValueError(f'unknown space {space!r}; known: {", ".join(SPACES)}')
  return luma_255(image, crop)[None] if space == 'y' else np.moveaxis(rgb_255(image, crop), -1, 0)


def check_pair(image: ArrayLike, reference: ArrayLike) -> None:
  """Checks that two images have the same size.

  Raises:
    ValueError: they do not.
  """
  if np.shape(image) != np.shape(reference):
    raise ValueError(f'image {np.shape(image)} and reference {np.shape(reference)} differ in size')
