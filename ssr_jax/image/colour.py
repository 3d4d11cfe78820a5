"""Colour: the luma that the metrics of this field measure, and the curve of sRGB."""

import numpy as np

from ssr_jax.types import AnyArray, Array, ArrayLike

_LUMA = (65.481, 128.553, 24.966)  # of R, G and B in [0, 1], on the 255 scale


def luma(image: AnyArray) -> AnyArray:
  """Y of MATLAB's `rgb2ycbcr`: [..., H, W, 3] RGB in [0, 1] -> [..., H, W] in [16, 235] / 255, not rounded.

  ITU-R BT.601. Takes JAX or NumPy arrays and keeps the dtype of floating input, so that a metric can run in float64. It
  is a sum of scalar products rather than a matrix product, which an accelerator would round to fewer bits.

  Raises:
    ValueError: an image without three channels, or of whole numbers.
  """
  _check(image)
  r, g, b = (weight / 255 for weight in _LUMA)
  return r * image[..., 0] + g * image[..., 1] + b * image[..., 2] + 16 / 255


def srgb_to_linear(image: ArrayLike) -> Array:
  """Linear light in [0, 1] of sRGB values in [0, 1] (IEC 61966-2-1), any shape; a JAX array."""
  import jax.numpy as jnp

  return jnp.where(image <= 0.04045, image / 12.92, ((jnp.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(image: ArrayLike) -> Array:
  """The inverse of `srgb_to_linear`."""
  import jax.numpy as jnp

  return jnp.where(image <= 0.0031308, 12.92 * image, 1.055 * jnp.maximum(image, 0.0031308) ** (1 / 2.4) - 0.055)


def _check(image: ArrayLike) -> None:
  if image.ndim < 3 or image.shape[-1] != 3:
    raise ValueError(f'expected RGB [..., H, W, 3]; got shape {tuple(image.shape)}')
  if not np.issubdtype(image.dtype, np.floating) and str(image.dtype) != 'bfloat16':
    raise ValueError(f'expected floating RGB in [0, 1]; got {image.dtype}: divide by 255 first')
