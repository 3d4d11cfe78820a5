"""Colour spaces: YCbCr as the metrics of this field know it, MATLAB's `rgb2ycbcr` (BT.601, luma 16-235); and sRGB.

The YCbCr functions take JAX or NumPy arrays and keep the dtype of floating input, so that a metric can run in float64.
They are sums of scalar products rather than a matrix product, which an accelerator would round to fewer bits.
"""

import numpy as np

from ssr_jax.types import Array, ArrayLike

# Rows Y, Cb, Cr; columns R, G, B; on the 255 scale for RGB in [0, 1].
_FORWARD = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
_OFFSET = (16.0, 128.0, 128.0)
_INVERSE = np.linalg.inv(_FORWARD / 255)


def luma(image: ArrayLike) -> ArrayLike:
  """Y of MATLAB's YCbCr: [..., H, W, 3] RGB in [0, 1] -> [..., H, W] in [16, 235] / 255, not rounded."""
  _check(image)
  return _combine(image, _FORWARD[0] / 255, _OFFSET[0] / 255)


def rgb_to_ycbcr(image: ArrayLike) -> ArrayLike:
  """MATLAB's `rgb2ycbcr`: [..., H, W, 3] RGB in [0, 1] -> YCbCr, Y in [16, 235] / 255, chroma in [16, 240] / 255."""
  _check(image)
  return _stack([_combine(image, row / 255, offset / 255) for row, offset in zip(_FORWARD, _OFFSET, strict=True)])


def ycbcr_to_rgb(image: ArrayLike) -> ArrayLike:
  """The inverse of `rgb_to_ycbcr`: [..., H, W, 3] -> RGB; not clipped, so colours outside the cube leave [0, 1]."""
  _check(image)
  # The offset is taken off first: folded into one constant it would cost float32 two digits.
  channels = [image[..., i] - _OFFSET[i] / 255 for i in range(3)]
  return _stack([sum(float(w) * x for w, x in zip(row, channels, strict=True)) for row in _INVERSE])


def srgb_to_linear(image: Array) -> Array:
  """Linear light in [0, 1] of sRGB values in [0, 1] (IEC 61966-2-1), any shape; a JAX array."""
  import jax.numpy as jnp

  return jnp.where(image <= 0.04045, image / 12.92, ((jnp.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(image: Array) -> Array:
  """The inverse of `srgb_to_linear`."""
  import jax.numpy as jnp

  return jnp.where(image <= 0.0031308, 12.92 * image, 1.055 * jnp.maximum(image, 0.0031308) ** (1 / 2.4) - 0.055)


def _combine(image: ArrayLike, weights: np.ndarray, offset: float) -> ArrayLike:
  r, g, b = (float(w) for w in weights)
  return r * image[..., 0] + g * image[..., 1] + b * image[..., 2] + offset


def _stack(channels: list[ArrayLike]) -> ArrayLike:
  if isinstance(channels[0], np.ndarray):
    return np.stack(channels, axis=-1)
  import jax.numpy as jnp

  return jnp.stack(channels, axis=-1)


def _check(image: ArrayLike) -> None:
  if image.ndim < 3 or image.shape[-1] != 3:
    raise ValueError(f'expected RGB [..., H, W, 3]; got shape {tuple(image.shape)}')
  if not np.issubdtype(image.dtype, np.floating) and str(image.dtype) != 'bfloat16':
    raise ValueError(f'expected floating RGB in [0, 1]; got {image.dtype}: divide by 255 first')
