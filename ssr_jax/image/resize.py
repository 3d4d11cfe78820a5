"""Resizing with half-pixel centres: Pillow's antialiased bicubic and bilinear, and area averages."""

from typing import Literal

import jax
import jax.numpy as jnp

from ssr_jax.types import Array

Method = Literal['bicubic', 'bilinear', 'area', 'nearest']


def resize(image: Array, size: tuple[int, int], method: Method = 'bicubic') -> Array:
  """Resizes images to `size`.

  Bicubic is Keys' kernel with a = -0.5, widened when shrinking: Pillow's BICUBIC (Pillow rounds to 8 bit between its two
  passes, which stays within 1/255). Bicubic overshoots: values can leave [0, 1].

  Args:
    image: [..., H, W, c], any range.
    size: (H', W').
    method: 'bicubic' or 'bilinear' (antialiased when shrinking), 'nearest', or 'area' (mean over whole cells).

  Returns:
    [..., H', W', c].

  Raises:
    ValueError: an unknown method, or 'area' with a size that does not divide the image's.
  """
  *batch, H, W, c = image.shape
  new_h, new_w = size
  if method == 'area':
    if H % new_h or W % new_w:
      raise ValueError(f'area resize needs whole cells; got {H}x{W} -> {new_h}x{new_w}')
    cells = image.reshape(*batch, new_h, H // new_h, new_w, W // new_w, c)
    return cells.mean((-4, -2))
  filters = {'bicubic': 'cubic', 'bilinear': 'linear', 'nearest': 'nearest'}
  if method not in filters:
    raise ValueError(f"unknown resize method {method!r}; known: {', '.join([*filters, 'area'])}")
  if (H, W) == (new_h, new_w):
    return image
  return jax.image.resize(image, (*batch, new_h, new_w, c), filters[method], precision='highest').astype(image.dtype)


def upscale(image: Array, scale: int, method: Method = 'bicubic') -> Array:
  """`resize` by a whole factor: [..., h, w, c] -> [..., s*h, s*w, c]."""
  *_, h, w, _ = image.shape
  return resize(image, (scale * h, scale * w), method)


def space_to_depth(image: Array, block: int) -> Array:
  """[..., H, W, c] -> [..., H/b, W/b, c*b*b], channel-major as torch's pixel_unshuffle."""
  *batch, H, W, c = image.shape
  if H % block or W % block:
    raise ValueError(f'{H}x{W} is not a multiple of {block}')
  n = len(batch)
  x = image.reshape(*batch, H // block, block, W // block, block, c)
  x = x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
  return x.reshape(*batch, H // block, W // block, c * block * block)


def depth_to_space(features: Array, block: int) -> Array:
  """[..., h, w, c*b*b] -> [..., h*b, w*b, c], channel-major as torch's pixel_shuffle."""
  *batch, h, w, channels = features.shape
  if channels % (block * block):
    raise ValueError(f'{channels} channels are not a multiple of {block * block}')
  n, c = len(batch), channels // (block * block)
  x = features.reshape(*batch, h, w, c, block, block)
  x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
  return x.reshape(*batch, h * block, w * block, c)
