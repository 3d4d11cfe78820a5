"""Blur: the spatially variant operator of Eq. 1, and operators with one kernel per image at full resolution.

Everything that applies a kernel field to an image calls `blur_downsample`. With one kernel per image, `convolve`
filters, and `blur_reduce` also makes the image smaller.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.image import kernels as kernel_lib
from ssr_jax.image.resize import resize
from ssr_jax.types import Array, ArrayLike

_BLOCK_ROWS = 8  # LR rows whose kernels stay in a CPU core's cache: 8 x 128 kernels of 21x21 are 1.8 MB


def blur_downsample(image: ArrayLike, kernels: ArrayLike, scale: int) -> Array:
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

  def whole(phases, kernels):
    return _sum_cells(phases, kernels.reshape(-1, k * k), kernels.shape[1:3], scale)

  def by_rows(phases, kernels):
    """The same in blocks of rows, whose kernels are transposed while they are in the cache."""
    block = next(n for n in range(_BLOCK_ROWS, 0, -1) if h % n == 0)
    count = h // block
    reach = np.arange(count)[:, None] * block + np.arange(block + cells - 1)
    pieces = phases[:, :, reach]  # [s*s, b, count, rows of a block and of its kernels' reach, c, cols]
    pieces = pieces.transpose(1, 2, 0, 3, 4, 5).reshape(b * count, scale * scale, 1, block + cells - 1, c, cols)

    @jax.checkpoint
    def sum_block(_, piece):
      phases, kernels = piece
      return None, _sum_cells(phases, kernels, (block, w), scale)

    _, out = jax.lax.scan(sum_block, None, (pieces, kernels.reshape(b * count, block * w, k * k)))
    return out.reshape(b, h, c, w)

  if kernels.shape[1:3] == (1, 1):
    out = whole(phases, kernels)
  else:
    # The same sums in the same order. Blocks of rows fit a CPU's cache; an accelerator needs the whole image at once.
    out = jax.lax.platform_dependent(phases, kernels, cpu=by_rows, default=whole)
  return out.transpose(0, 1, 3, 2)


def _sum_cells(phases: Array, kernels: ArrayLike, size: tuple[int, int], scale: int) -> Array:
  """Sums phases [s*s, b, rows, c, cols] weighted by kernels [b*kh*kw, k*k] of size (kh, kw): [b, h, c, w]."""
  k = kernel_lib.side(kernels)
  cells = -(-k // scale)
  tail = cells * scale - k
  _, b, rows, c, cols = phases.shape
  h, w = rows - cells + 1, cols - cells + 1
  kh, kw = size
  # Transpose before padding: XLA's CPU backend has a fast loop for a plain transpose, but not for one with padding.
  taps = kernels.T.reshape(k, k, b * kh * kw)
  taps = jnp.pad(taps, ((0, tail), (0, tail), (0, 0))).reshape(cells, scale, cells, scale, b * kh * kw)
  taps = taps.transpose(0, 2, 1, 3, 4).reshape(cells * cells, scale * scale, b, kh, 1, kw)

  # Rematerialised: without it the gradient would store every window, 36 images for k = 21 and s = 4.
  @jax.checkpoint
  def add_cell(out, cell):
    index, weights = cell
    window = jax.lax.dynamic_slice(phases, (0, 0, index // cells, 0, index % cells), (scale * scale, b, h, c, w))
    return out + (window * weights).sum(0), None

  out = jnp.zeros((b, h, c, w), jnp.result_type(phases, kernels))
  out, _ = jax.lax.scan(add_cell, out, (jnp.arange(cells * cells), taps))
  return out


def convolve(planes: ArrayLike, kernels: ArrayLike, size: tuple[Array, Array] | None = None) -> Array:
  """Filters each image with its own kernel at full resolution: correlation, border reflected (not repeating its edge).

  Through the Fourier domain: one kernel per image is a grouped convolution otherwise, which XLA's CPU backend runs
  thirty times slower.

  Args:
    planes: [b, c, H, W], any range.
    kernels: [b, k*k], k odd. Not normalised here.
    size: heights and widths, each [b] integer, of images that fill only the top left of their canvas; None where they
      fill it.

  Returns:
    [b, c, H, W]. Samples below and to the right of `size` have no meaning.
  """
  b, _, H, W = planes.shape
  k = kernel_lib.side(kernels)
  radius = k // 2
  if size is None:  # the same by slices, whose gradient is no scatter
    padded = jnp.pad(planes, ((0, 0), (0, 0), (radius, radius), (radius, radius)), 'reflect')
  else:
    pad = lambda image, h, w: image[:, _reflected(H, radius, h)][:, :, _reflected(W, radius, w)]
    padded = jax.vmap(pad)(planes, *size)
  fast = tuple(_fast_length(n + 2 * radius) for n in (H, W))
  spectrum = jnp.fft.rfft2(padded, fast) * jnp.conj(jnp.fft.rfft2(kernels.reshape(b, 1, k, k), fast))
  return jnp.fft.irfft2(spectrum, fast)[:, :, :H, :W]


REDUCTIONS = ('bicubic', 'stride')


def blur_reduce(image: ArrayLike, kernels: ArrayLike | None, scale: int, down: str = 'bicubic') -> Array:
  """Blur with one kernel per image at full resolution (`convolve`), then a reduction by s.

  Linear in each argument and differentiable in both.

  Args:
    image: [b, H, W, c], any range; H and W multiples of the scale.
    kernels: [b, k*k], centred on the middle tap; None for no blur.
    scale: s.
    down: 'bicubic', antialiased, as MATLAB's and Pillow's; or 'stride', every s-th pixel from the first one.

  Returns:
    [b, H/s, W/s, c].

  Raises:
    ValueError: another `down`, or sizes that are no multiples of the scale.
  """
  _, H, W, _ = image.shape
  if down not in REDUCTIONS:
    raise ValueError(f'down is {down!r}; known: {", ".join(REDUCTIONS)}')
  if H % scale or W % scale:
    raise ValueError(f'image {H}x{W} is not a multiple of the scale {scale}')
  blurred = image if kernels is None else convolve(image.transpose(0, 3, 1, 2), kernels).transpose(0, 2, 3, 1)
  return resize(blurred, (H // scale, W // scale)) if down == 'bicubic' else jnp.asarray(blurred[:, ::scale, ::scale])


def gathered_kernels(kernels: ArrayLike, scale: int, down: str = 'bicubic') -> np.ndarray:
  """Kernels of `blur_reduce`, as `blur_downsample` takes them: blur and reduction in one, away from the border.

  Args:
    kernels: [..., k*k], centred on the middle tap.
    scale: s.
    down: as of `blur_reduce`.

  Returns:
    [..., K*K] with K odd, k for 'stride' and k + 4 s + 2 at most for 'bicubic', of which some taps are negative.

  Raises:
    ValueError: another `down`.
  """
  kernels = np.asarray(kernels)
  if down not in REDUCTIONS:
    raise ValueError(f'down is {down!r}; known: {", ".join(REDUCTIONS)}')
  if down == 'stride' or scale == 1:
    return kernels
  k = kernel_lib.side(kernels)
  cells = 8  # LR samples, so that the middle one sees no border
  units = np.eye(cells * scale, dtype=np.float32).reshape(cells * scale, 1, cells * scale)
  weights = np.asarray(resize(units, (cells, 1)))[cells // 2, 0]  # of the HR samples in LR sample cells/2
  first = scale * (cells // 2)  # the HR sample that its kernel is gathered around
  (used,) = np.nonzero(weights)
  radius = max(first - used[0], used[-1] - first) + k // 2
  axis = np.zeros((2 * radius + 1, k), np.float32)
  for tap in range(k):
    axis[radius + used - first + tap - k // 2, tap] = weights[used]
  square = kernels.reshape(*kernels.shape[:-1], k, k)
  wide = np.einsum('iy,...yx,jx->...ij', axis, square, axis, optimize=True)
  return wide.reshape(*kernels.shape[:-1], -1)


def _reflected(canvas: int, radius: int, n: ArrayLike) -> Array:
  """Indices of samples -radius to canvas + radius - 1 of an axis whose first n samples are reflected at both ends."""
  period = jnp.maximum(2 * (n - 1), 1)
  position = (jnp.arange(canvas + 2 * radius) - radius) % period
  return jnp.minimum(position, period - position) * (n > 1)


def _fast_length(n: int) -> int:
  """The smallest length from n on without a prime factor above 5, which FFTs are fast for."""
  while True:
    rest = n
    for prime in (2, 3, 5):
      while rest % prime == 0:
        rest //= prime
    if rest == 1:
      return n
    n += 1
