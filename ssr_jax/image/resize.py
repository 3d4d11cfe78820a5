"""Resizing with half-pixel centres: Pillow's antialiased bicubic and bilinear, and area averages.

`resize` knows both sizes when it is traced. `resampling_weights` and `resample` take sizes that are drawn on the
device: images then lie in the top left corner of a canvas of fixed size.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from ssr_jax.types import AnyArray, Array, ArrayLike, Float, Num

Method = Literal['bicubic', 'bilinear', 'area', 'nearest']

RESAMPLING = ('area', 'bilinear', 'bicubic')
"""Methods of `resampling_weights`, which takes their index."""


def resize(image: ArrayLike, size: tuple[int, int], method: Method | str = 'bicubic', eight_bit: bool = False) -> Array:
  """Resizes images to `size`.

  Bicubic is Keys' kernel with a = -0.5, widened when shrinking: Pillow's BICUBIC on float images. It overshoots: values
  can leave [0, 1]. On 8-bit images Pillow clamps and rounds after each of its two passes, across columns first;
  `eight_bit` does the same, and then the two agree within 1/255.

  Args:
    image: [..., H, W, c], any range.
    size: (H', W').
    method: 'bicubic' or 'bilinear' (antialiased when shrinking), 'nearest', or 'area' (mean over whole cells).
    eight_bit: clamp to [0, 1] and round to multiples of 1/255 after each pass.

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
    return jnp.asarray(cells.mean((-4, -2)))
  filters = {'bicubic': 'cubic', 'bilinear': 'linear', 'nearest': 'nearest'}
  if method not in filters:
    raise ValueError(f'unknown resize method {method!r}; known: {", ".join([*filters, "area"])}')
  if (new_h, new_w) == (H, W):
    return jnp.asarray(image)

  def to(image, h, w):
    out = jax.image.resize(image, (*batch, h, w, c), filters[method], precision=jax.lax.Precision.HIGHEST).astype(
      image.dtype
    )
    # Half up, as Pillow rounds.
    return jnp.floor(jnp.clip(out, 0, 1) * 255 + 0.5) / 255 if eight_bit else out

  return to(to(image, H, new_w), new_h, new_w) if eight_bit else to(image, new_h, new_w)


def upscale(
  image: Num[ArrayLike, '*b h w c'], scale: int, method: Method | str = 'bicubic'
) -> Num[Array, '*b {scale}*h {scale}*w c']:
  """`resize` by a whole factor: [..., h, w, c] -> [..., s*h, s*w, c]."""
  *_, h, w, _ = image.shape
  return resize(image, (scale * h, scale * w), method)


def resampling_weights(method: Array, source: Array, target: Array, columns: int, rows: int) -> Array:
  """One axis of a resize between sizes that are known only on the device, as a matrix.

  The filters are those of the published degradation chains, that is of PyTorch's `interpolate` between two sizes:
  nothing is widened when shrinking, so that 'bilinear' and 'bicubic' alias; bicubic is Keys' with a = -0.75; 'area' is
  the mean over the whole samples that an output sample touches. Borders are replicated.

  Args:
    method: index into `RESAMPLING`, scalar.
    source: samples of the input, scalar integer, 1 to `columns`.
    target: samples of the output, scalar integer, 1 to `rows`.
    columns: length of the input's canvas.
    rows: length of the output's canvas.

  Returns:
    [rows, columns]; the first `target` rows sum to one, the others are zero. Columns from `source` on are zero.
  """
  i, j = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]
  # The centre of sample i in the input, (i + 1/2) source / target - 1/2, as a fraction of whole numbers: with floats a
  # position that falls exactly on a sample could be rounded to just before it.
  numerator, denominator = (2 * i + 1) * source - target, 2 * target
  floor = numerator // denominator
  t = (numerator - floor * denominator).astype(jnp.float32) / denominator

  def taps(weights, first):
    return sum(
      jnp.where(j == jnp.clip(floor + first + n, 0, source - 1), weight, 0.0) for n, weight in enumerate(weights)
    )

  a = -0.75
  near = lambda d: ((a + 2) * d - (a + 3)) * d * d + 1  # distances up to 1
  far = lambda d: ((a * d - 5 * a) * d + 8 * a) * d - 4 * a  # 1 to 2
  start, end = i * source // target, -((-(i + 1) * source) // target)
  area = ((j >= start) & (j < end)) / jnp.maximum(end - start, 1).astype(jnp.float32)
  weights = jnp.stack([area, taps([1 - t, t], 0), taps([far(1 + t), near(t), near(1 - t), far(2 - t)], -1)])[method]
  return jnp.where(i < target, weights, 0.0)


def window_weights(source: Array, target: Array, start: Array, columns: int, rows: int) -> Array:
  """One axis of an antialiased bilinear resize between sizes that are known only on the device, for a window of it.

  The filter is that of `resize` with 'bilinear': a triangle, widened when shrinking.

  Args:
    source: samples of the input, scalar integer, 1 to `columns`; what the canvas has beyond them does not matter.
    target: samples of the whole output, scalar integer.
    start: first output sample of the window, scalar integer.
    columns: length of the input's canvas.
    rows: output samples of the window; those past the end of the output repeat the last one.

  Returns:
    float32 [rows, columns], rows that sum to one.
  """
  i = jnp.minimum(start + jnp.arange(rows), target - 1)[:, None].astype(jnp.float32)
  j = jnp.arange(columns)[None, :]
  ratio = source.astype(jnp.float32) / target
  distance = jnp.abs(j + 0.5 - (i + 0.5) * ratio) / jnp.maximum(ratio, 1.0)
  weights = jnp.where(j < source, jnp.maximum(1 - distance, 0.0), 0.0)
  return weights / weights.sum(1, keepdims=True)


def resampling_variance(method: Array, source: Array, target: Array, columns: int, rows: int) -> Array:
  """How much a resize of `resampling_weights` blurs along its axis: the mean second moment of its rows' weights.

  Args:
    method: index into `RESAMPLING`, scalar.
    source: samples of the input, scalar integer.
    target: samples of the output, scalar integer.
    columns: length of the input's canvas.
    rows: length of the output's canvas.

  Returns:
    a scalar, in input samples squared, about the centre of each output sample. Slightly negative for 'bicubic', which
    sharpens.
  """
  weights = resampling_weights(method, source, target, columns, rows)
  i, j = jnp.arange(rows)[:, None], jnp.arange(columns)[None, :]
  distance = j - ((2 * i + 1) * source - target) / (2 * target)
  return (weights * distance**2).sum() / target


def resample(
  planes: Float[ArrayLike, 'b c h w'], rows: Float[ArrayLike, 'b H h'], columns: Float[ArrayLike, 'b W w']
) -> Float[Array, 'b c H W']:
  """Applies `resampling_weights` to both axes: [b, c, H, W], rows [b, H', H], columns [b, W', W] -> [b, c, H', W']."""
  planes = jnp.einsum('brh,bchw->bcrw', rows, planes, precision='highest')
  return jnp.einsum('bcrw,bsw->bcrs', planes, columns, precision='highest')


def space_to_depth(image: AnyArray, block: int) -> AnyArray:
  """[..., H, W, c] -> [..., H/b, W/b, c*b*b], channel-major as torch's pixel_unshuffle."""
  *batch, H, W, c = image.shape
  if H % block or W % block:
    raise ValueError(f'{H}x{W} is not a multiple of {block}')
  n = len(batch)
  x = image.reshape(*batch, H // block, block, W // block, block, c)
  x = x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
  return x.reshape(*batch, H // block, W // block, c * block * block)


def depth_to_space(features: AnyArray, block: int) -> AnyArray:
  """[..., h, w, c*b*b] -> [..., h*b, w*b, c], channel-major as torch's pixel_shuffle."""
  *batch, h, w, channels = features.shape
  if channels % (block * block):
    raise ValueError(f'{channels} channels are not a multiple of {block * block}')
  n, c = len(batch), channels // (block * block)
  x = features.reshape(*batch, h, w, c, block, block)
  x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
  return x.reshape(*batch, h * block, w * block, c)
