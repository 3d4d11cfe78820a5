"""Relative inverse depth of a photo by a compact network, and the loss that trains it.

Every depth net has the same call, `apply(variables, image [b, H, W, 3]) -> [b, H, W, 1]` in [0, 1] per image, 1
nearest, and resizes to its own working resolution inside.
"""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ssr_jax.nn.remat import remat
from ssr_jax.types import Array, Float

_QUANTILES = (0.02, 0.98)


def normalise_depth(raw: Float[Array, 'b H W 1']) -> Float[Array, 'b H W 1']:
  """Maps each image's inverse depth to [0, 1]: its 2nd percentile to 0, its 98th to 1, clipped.

  Percentiles and not extremes, so that a few outliers do not compress the range of the rest. An image of constant depth
  gives 0.

  Args:
    raw: [b, H, W, 1], any range, larger is nearer.

  Returns:
    [b, H, W, 1] in [0, 1].
  """
  low, high = jnp.quantile(raw, jnp.asarray(_QUANTILES, raw.dtype), axis=(1, 2, 3), keepdims=True)
  return jnp.clip((raw - low) / jnp.maximum(high - low, 1e-6), 0, 1)


_MAX_TOKENS = 4096  # of the attention, whose scores are tokens squared


class CompactDepth(nn.Module):
  """A small encoder-decoder for relative inverse depth, meant for a CPU.

  The image is resized to one working resolution, without keeping its aspect ratio. Space-to-depth and a Dense replace
  strided convolutions, and a bilinear resize replaces transposed ones: both are slow to train on a CPU. The lowest
  level, 1/32, attends over the whole image. Two coordinate channels give the net each pixel's position.

  Attributes:
    resolution: working height and width, multiples of 2**len(widths).
    widths: channels at 1/2, 1/4, ... of the working resolution; multiples of `group`.
    blocks: residual blocks of the encoder at each level after the first.
    group: channels per group of GroupNorm.
    heads: heads of the attention at the lowest level.
    dtype: dtype of the computation; the result is float32.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
  """

  resolution: tuple[int, int] = (192, 192)
  widths: Sequence[int] = (24, 48, 80, 112, 160)
  blocks: Sequence[int] = (1, 1, 1, 1)
  group: int = 8
  heads: int = 4
  dtype: Any = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(self, image: Array, *, raw: bool = False) -> Float[Array, 'b H W 1']:
    """Relative inverse depth of each image.

    Args:
      image: [b, H, W, 3] in [0, 1], any H and W.
      raw: return the unbounded output instead of the normalised one, for the loss, which is scale- and shift-invariant
        itself.

    Returns:
      [b, H, W, 1] float32; in [0, 1] unless `raw`.

    Raises:
      ValueError: an image that is not [b, H, W, 3], or attributes that do not fit together.
    """
    if image.ndim != 4 or image.shape[-1] != 3:
      raise ValueError(f'image must be [b, H, W, 3]; got {image.shape}')
    b, H, W, _ = image.shape
    height, width = self.resolution
    step = 2 ** len(self.widths)
    if height % step or width % step:
      raise ValueError(f'resolution {height}x{width} is not a multiple of {step}, which {len(self.widths)} levels need')
    if len(self.blocks) != len(self.widths) - 1:
      raise ValueError(f'blocks has {len(self.blocks)} entries; {len(self.widths)} widths need one less')

    if height * width > _MAX_TOKENS * step**2:
      raise ValueError(
        f'resolution {height}x{width} in {len(self.widths)} levels leaves more than {_MAX_TOKENS} tokens'
      )

    x = jax.image.resize(image, (b, height, width, 3), 'linear', antialias=True)
    rows, columns = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing='ij')
    place = jnp.broadcast_to(jnp.stack([rows, columns], -1), (b, height, width, 2))
    x = jnp.concatenate([4 * (x - 0.5), place], axis=-1).astype(self.dtype)

    x = self._conv(_space_to_depth(x), self.widths[0], 'stem')
    skips = []
    for level, (channels, count) in enumerate(zip(self.widths[1:], self.blocks, strict=True), start=1):
      skips.append(x)
      x = _space_to_depth(self._norm(x, f'down_{level}_norm'))
      x = nn.Dense(channels, dtype=self.dtype, name=f'down_{level}')(x)
      for i in range(count):
        x = remat(self, self.remat, '_residual')(x, name=f'encoder_{level}_{i}')
    x = remat(self, self.remat, '_attend')(x)
    for level in reversed(range(len(skips))):
      skip = skips[level]
      x = nn.Dense(skip.shape[-1], dtype=self.dtype, name=f'up_{level}')(x)
      x = skip + jax.image.resize(x, skip.shape, 'linear')
      x = remat(self, self.remat, '_residual')(x, name=f'decoder_{level}')
    x = nn.relu(self._norm(x, 'head_norm'))
    x = nn.Conv(1, (3, 3), dtype=self.dtype, name='head')(x).astype(jnp.float32)

    if not raw:
      x = normalise_depth(x)  # before the resize: fewer pixels to sort, and a convex combination stays in [0, 1]
    x = jax.image.resize(x, (b, H, W, 1), 'linear', antialias=True)
    return x if raw else jnp.clip(x, 0, 1)

  def _norm(self, x: Array, name: str) -> Array:
    return nn.GroupNorm(
      num_groups=None, group_size=self.group, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=name
    )(x)

  def _conv(self, x: Array, channels: int, name: str) -> Array:
    return nn.Conv(channels, (3, 3), dtype=self.dtype, name=name)(x)

  def _residual(self, x: Float[Array, 'b h w c'], name: str) -> Float[Array, 'b h w c']:
    """Returns x + conv(ReLU(norm(conv(ReLU(norm(x))))))."""
    y = self._conv(nn.relu(self._norm(x, f'{name}_norm_0')), x.shape[-1], f'{name}_conv_0')
    return x + self._conv(nn.relu(self._norm(y, f'{name}_norm_1')), x.shape[-1], f'{name}_conv_1')

  def _attend(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """Returns x + self-attention over all pixels of the lowest level."""
    b, h, w, c = x.shape
    tokens = self._norm(x, 'context_norm').reshape(b, h * w, c)
    qkv = nn.Dense(3 * c, dtype=self.dtype, name='context_qkv')(tokens).reshape(b, h * w, 3, self.heads, -1)
    q, k, v = (qkv[:, :, i] for i in range(3))  # [b, h*w, heads, c/heads]
    weights = jax.nn.softmax(jnp.einsum('bqnd,bknd->bnqk', q, k) * q.shape[-1] ** -0.5)
    out = jnp.einsum('bnqk,bknd->bqnd', weights, v).reshape(b, h, w, c)
    return x + nn.Dense(c, dtype=self.dtype, name='context_out')(out)


def _space_to_depth(x: Float[Array, 'b h w c']) -> Float[Array, 'b h//2 w//2 4*c']:
  """[b, h, w, c] -> [b, h/2, w/2, 4c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // 2, w // 2, 4 * c)


def standardise(inverse_depth: Float[Array, 'b H W 1']) -> Float[Array, 'b H W 1']:
  """Removes each image's shift and scale: (d - mean) / mean|d - mean|, MiDaS Eqs. 5 and 6 with means for medians.

  A median needs a sort of every image at every step, which costs more than the net itself on a CPU. Constant depth
  gives 0.

  Args:
    inverse_depth: [b, H, W, 1], any range.

  Returns:
    The same shape, mean 0 and mean absolute value 1 per image.
  """
  centred = inverse_depth - jnp.mean(inverse_depth, axis=(1, 2, 3), keepdims=True)
  return centred / jnp.maximum(jnp.mean(jnp.abs(centred), axis=(1, 2, 3), keepdims=True), 1e-6)


def gradient_matching(difference: Float[Array, 'b H W 1'], scales: int = 4) -> Float[Array, '']:
  """Multi-scale gradient loss, MiDaS Eq. 11: sum over scales of mean |dx R| + mean |dy R|, R the difference.

  Scale k takes every 2**k-th pixel. Scales with fewer than 2x2 pixels are left out.

  Args:
    difference: R [b, H, W, 1], prediction minus target, both standardised.
    scales: number of scales.

  Returns:
    Scalar.
  """
  total = jnp.zeros((), difference.dtype)
  for k in range(scales):
    r = difference[:, :: 2**k, :: 2**k]
    if min(r.shape[1:3]) < 2:
      break
    total += jnp.mean(jnp.abs(jnp.diff(r, axis=2))) + jnp.mean(jnp.abs(jnp.diff(r, axis=1)))
  return total


def depth_loss(prediction: Array, target: Array, *, gradient_weight: float = 0.5, scales: int = 4) -> Float[Array, '']:
  """Scale- and shift-invariant loss on inverse depth: mean |R| + weight * gradient_matching(R), R of standardised maps.

  Zero for any target = a * prediction + c with a > 0, not with a < 0, which swaps near and far.

  Args:
    prediction: [b, H, W, 1], the net's raw output.
    target: [b, H, W, 1], inverse depth in any unit.
    gradient_weight: weight of the gradient term; MiDaS uses 0.5.
    scales: scales of the gradient term.

  Returns:
    Scalar, the mean over the batch.

  Raises:
    ValueError: shapes that differ.
  """
  if prediction.shape != target.shape or prediction.ndim != 4:
    raise ValueError(f'prediction and target must share one shape [b, H, W, 1]; got {prediction.shape}, {target.shape}')
  difference = standardise(prediction) - standardise(target)
  return jnp.mean(jnp.abs(difference)) + gradient_weight * gradient_matching(difference, scales)
