"""The spatially variant blur operator of Eq. 1, the one place where a kernel field meets an image."""

import jax
import jax.numpy as jnp

from ssr_jax.image import kernels as kernel_lib
from ssr_jax.types import Array


def blur_downsample(image: Array, kernels: Array, scale: int) -> Array:
  """Spatially variant blur and subsampling, `(I (*) K) downsampled by s` of Eq. 1, without noise.

  LR sample (i, j) is the sum over taps of K[i, j, tap] * I[s*i + dy, s*j + dx], with the border replicated: gather form
  (correlation). Only the samples that survive subsampling are computed. Taps are visited one s x s cell at a time, so
  no array larger than the image or the kernels exists. Linear in each argument and differentiable in both; the
  gradient with respect to the image is the adjoint.

  Args:
    image: [b, H, W, c], any range.
    kernels: [b, h, w, k*k], one kernel per LR pixel, k odd; or [b, 1, 1, k*k], one per image. Not normalised here.
    scale: s, with H = s*h and W = s*w.

  Returns:
    [b, h, w, c].

  Raises:
    ValueError: sizes that do not fit together.
  """
  b, H, W, c = image.shape
  k = kernel_lib.side(kernels)
  if H % scale or W % scale:
    raise ValueError(f'image {H}x{W} is not a multiple of the scale {scale}')
  h, w = H // scale, W // scale
  if kernels.shape[0] != b or kernels.shape[1:3] not in ((h, w), (1, 1)):
    raise ValueError(f'kernels {kernels.shape} do not fit image {image.shape} at scale {scale}')

  # Pad so that the first tap of LR pixel (0, 0) is the first padded pixel, and a kernel spans whole cells.
  radius, cells = k // 2, -(-k // scale)
  tail = cells * scale - k
  padded = jnp.pad(image, ((0, 0), (radius, radius + tail), (radius, radius + tail), (0, 0)), mode='edge')
  # Phase p of cell (y, x) is the same HR pixel for every LR pixel, so a tap is a shifted slice of one phase.
  rows, cols = h + cells - 1, w + cells - 1
  phases = padded[:, : rows * scale, : cols * scale].reshape(b, rows, scale, cols, scale, c)
  phases = phases.transpose(2, 4, 0, 1, 5, 3).reshape(scale * scale, b, rows, c, cols)

  kh, kw = kernels.shape[1:3]
  taps = jnp.pad(kernels.reshape(b, kh, kw, k, k), ((0, 0), (0, 0), (0, 0), (0, tail), (0, tail)))
  taps = taps.reshape(b, kh, kw, cells, scale, cells, scale).transpose(3, 5, 4, 6, 0, 1, 2)
  taps = taps.reshape(cells * cells, scale * scale, b, kh, 1, kw)

  # Rematerialised: without it the gradient would store every window, 36 images for k = 21 and s = 4.
  @jax.checkpoint
  def add_cell(out, cell):
    index, weights = cell
    window = jax.lax.dynamic_slice(
        phases, (0, 0, index // cells, 0, index % cells), (scale * scale, b, h, c, w)
    )
    return out + (window * weights).sum(0), None

  out = jnp.zeros((b, h, c, w), jnp.result_type(image, kernels))
  out, _ = jax.lax.scan(add_cell, out, (jnp.arange(cells * cells), taps))
  return out.transpose(0, 1, 3, 2)


def blur_downsample_adjoint(lr: Array, kernels: Array, scale: int) -> Array:
  """Adjoint of `blur_downsample` in its image: scatters each LR sample with its kernel.

  Args:
    lr: [b, h, w, c].
    kernels: [b, h, w, k*k] or [b, 1, 1, k*k].
    scale: s.

  Returns:
    [b, s*h, s*w, c], with <A x, y> = <x, A^T y>.
  """
  b, h, w, c = lr.shape
  template = jax.ShapeDtypeStruct((b, scale * h, scale * w, c), lr.dtype)
  (image,) = jax.linear_transpose(lambda x: blur_downsample(x, kernels, scale), template)(lr)
  return image
