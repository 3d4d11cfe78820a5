"""Building blocks that the autoencoder, the UNet and the LR encoder share."""

from collections.abc import Callable
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.nn.attention import attention
from ssr_jax.nn.layers import wide
from ssr_jax.types import Array, Float, Num


def group_norm(groups: int, eps: float, dtype: Any, name: str) -> nn.GroupNorm:
  """GroupNorm with the variance E[(x - E[x])^2], as PyTorch computes it, not E[x^2] - E[x]^2."""
  return nn.GroupNorm(groups, epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


def timestep_embedding(t: Num[Array, ' b'], width: int) -> Float[Array, 'b {width}']:
  """Sinusoids of the time step: [cos(t w_i), sin(t w_i)], w_i = 10000**(-i / (width/2)).

  Args:
    t: [b], time steps (0 to 999, fractions allowed).
    width: even.

  Returns:
    [b, width], in float32, or in float64 if t is.
  """
  half, dtype = width // 2, wide(t.dtype)
  frequencies = jnp.exp(-math.log(10_000) / half * jnp.arange(half, dtype=dtype))
  angles = t.astype(dtype)[:, None] * frequencies
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
  """Sinusoids of the time step and two dense layers."""

  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, t: Num[Array, ' b']) -> Float[Array, 'b 4*{self.width}']:
    """Embeds t [b] as [b, 4 * width]."""
    x = timestep_embedding(t, self.width).astype(self.dtype)
    x = nn.Dense(4 * self.width, dtype=self.dtype, name='dense_1')(x)
    return nn.Dense(4 * self.width, dtype=self.dtype, name='dense_2')(nn.silu(x))


class ResBlock(nn.Module):
  """x + fusion(conv(SiLU(GN(conv(SiLU(GN(x))) + dense(SiLU(embedding)))))), with a 1x1 shortcut where widths differ.

  The time embedding and the fusion are optional.

  Attributes:
    channels: output width.
    groups: groups of both GroupNorms.
    eps: their epsilon: 1e-5 in Stable Diffusion's UNet, 1e-6 in its autoencoder.
    fusion: makes a named module `(features, conditions, train) -> features` for the residual branch; None for none.
    dtype: dtype of the computation.
  """

  channels: int
  groups: int = 32
  eps: float = 1e-5
  fusion: Callable[[], nn.Module] | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    embedding: Float[Array, 'b e'] | None = None,
    conditions: Any = (),
    *,
    train: bool = False,
  ) -> Float[Array, 'b h w {self.channels}']:
    """Maps x [b, h, w, c], with the embedding [b, e] and what the fusion is conditioned on, to [b, h, w, channels]."""
    y = nn.silu(group_norm(self.groups, self.eps, self.dtype, 'norm1')(x))
    y = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name='conv1')(y)
    if embedding is not None:
      y += nn.Dense(self.channels, dtype=self.dtype, name='time')(nn.silu(embedding))[:, None, None]
    y = nn.silu(group_norm(self.groups, self.eps, self.dtype, 'norm2')(y))
    y = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name='conv2')(y)
    if self.fusion is not None and conditions:
      y = self.fusion()(y, conditions, train=train)
    if x.shape[-1] != self.channels:
      # A 1x1 convolution, written as Dense: the same arithmetic, twice as fast on a CPU.
      x = nn.Dense(self.channels, dtype=self.dtype, name='shortcut')(x)
    return x + y


class UpConv(nn.Module):
  """3x3 convolution after nearest x2 upsampling, in 4/9 of the arithmetic.

  After nearest upsampling the nine taps of an output pixel fall on four different input pixels, so each of the four
  output phases is a 2x2 convolution of the small image whose taps are sums of the 3x3 taps. Parameters and result (up
  to rounding) are those of the 3x3 convolution.
  """

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b 2*h 2*w {self.channels}']:
    """Maps [b, h, w, c] to [b, 2h, 2w, channels]."""
    b, h, w, c = x.shape
    kernel = self.param('kernel', nn.initializers.lecun_normal(), (3, 3, c, self.channels))
    bias = self.param('bias', nn.initializers.zeros, (self.channels,))

    # Rows of _PHASES[p]: which of the three taps fall on each of the two input pixels of phase p.
    kernel = jnp.einsum('pyi,qxj,ijco->yxcpqo', _PHASES, _PHASES, kernel)
    kernel = kernel.reshape(2, 2, c, 4 * self.channels).astype(self.dtype)
    x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ('NHWC', 'HWIO', 'NHWC'))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), 'VALID', dimension_numbers=numbers)
    y = y.reshape(b, h + 1, w + 1, 2, 2, self.channels)
    # Phase 0 reads input pixels i-1 and i, phase 1 pixels i and i+1.
    rows = [jnp.stack([y[:, p : p + h, q : q + w, p, q] for q in (0, 1)], axis=3) for p in (0, 1)]
    y = jnp.stack(rows, axis=2)  # [b, h, 2, w, 2, channels]
    return y.reshape(b, 2 * h, 2 * w, self.channels) + bias.astype(self.dtype)


_PHASES = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


class Transformer(nn.Module):
  """Transformer blocks over the pixels of a map, as in Stable Diffusion.

  Projection in and out are 1x1 convolutions in SD 1.x and linear layers in 2.x: the same arithmetic here.

  Attributes:
    heads: number of heads; divides c.
    groups: groups of the GroupNorm in front.
    blocks: self-attention, cross-attention (only with a context), GEGLU, this many times.
    dtype: dtype of the computation.
    window: side of the squares of pixels within which self-attention stays; 0 is the whole map. See `to_windows`.
  """

  heads: int
  groups: int = 32
  blocks: int = 1
  dtype: Any = jnp.float32
  window: int = 0

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'b h w c'],
    context: Float[Array, 'b n e'] | None = None,
    *,
    attend: Callable[[int, str, Array], Array] | None = None,
  ) -> Float[Array, 'b h w c']:
    """Maps x [b, h, w, c], with context [b, n, e] or None, to [b, h, w, c].

    `attend` maps (block, 'self' or 'cross', y [b, h*w, c]) to what is added to y before that attention of that block;
    it is also called with 'cross' where there is no context.
    """
    b, h, w, c = x.shape
    y = group_norm(self.groups, 1e-6, self.dtype, 'norm')(x).reshape(b, h * w, c)
    y = nn.Dense(c, dtype=self.dtype, name='proj_in')(y)
    for i in range(self.blocks):
      norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype, use_fast_variance=False)
      if attend is not None:
        y += attend(i, 'self', y)
      z = to_windows(norm(name=f'block_{i}_norm1')(y), (h, w), self.window)
      y += from_windows(Attention(self.heads, self.dtype, name=f'block_{i}_self')(z, z), (h, w), self.window)
      if attend is not None:
        y += attend(i, 'cross', y)
      if context is not None:
        z = norm(name=f'block_{i}_norm2')(y)
        y += Attention(self.heads, self.dtype, name=f'block_{i}_cross')(z, context.astype(self.dtype))
      z = norm(name=f'block_{i}_norm3')(y)
      z, gate = jnp.split(nn.Dense(8 * c, dtype=self.dtype, name=f'block_{i}_geglu')(z), 2, axis=-1)
      z *= nn.gelu(gate, approximate=False)
      y += nn.Dense(c, dtype=self.dtype, name=f'block_{i}_out')(z)
    return x + nn.Dense(c, dtype=self.dtype, name='proj_out')(y).reshape(b, h, w, c)


class Attention(nn.Module):
  """Multi-head attention; of the four layers only the output's has a bias.

  Attributes:
    heads: number of heads; divides c.
    dtype: dtype of the computation.
    out_init: initialises the output's kernel.
  """

  heads: int
  dtype: Any = jnp.float32
  out_init: Callable[..., Array] = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: Float[Array, 'b n c'], source: Float[Array, 'b m e']) -> Float[Array, 'b n c']:
    """Queries from x [b, n, c], keys and values from source [b, m, e] -> [b, n, c]."""
    b, n, c = x.shape
    if c % self.heads:
      raise ValueError(f'{c} channels do not divide into {self.heads} heads')
    q, k, v = (
      nn.Dense(c, use_bias=False, dtype=self.dtype, name=name)(y).reshape(b, -1, self.heads, c // self.heads)
      for name, y in (('to_q', x), ('to_k', source), ('to_v', source))
    )
    out = attention(q, k, v).reshape(b, n, c)
    return nn.Dense(c, dtype=self.dtype, kernel_init=self.out_init, name='to_out')(out)


def to_windows(
  tokens: Float[Array, 'b pixels c'], size: tuple[int, int], side: int
) -> Float[Array, 'windows inside c']:
  """Cuts a map into squares: pixels [b, h*w, c] -> [b * windows, pixels of one, c].

  Args:
    tokens: the pixels, row by row.
    size: (h, w).
    side: of a square; along an axis with fewer pixels it is that axis. 0 leaves the map whole.

  Raises:
    ValueError: the squares do not fill the map.
  """
  rows, columns = _window(size, side)
  b, n, c = tokens.shape
  if (rows, columns) == tuple(size):
    return tokens
  x = tokens.reshape(b, size[0] // rows, rows, size[1] // columns, columns, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b * (n // (rows * columns)), rows * columns, c)


def from_windows(
  windows: Float[Array, 'windows inside c'], size: tuple[int, int], side: int
) -> Float[Array, 'b pixels c']:
  """The inverse of `to_windows`."""
  rows, columns = _window(size, side)
  if (rows, columns) == tuple(size):
    return windows
  high, wide = size[0] // rows, size[1] // columns
  x = windows.reshape(-1, high, wide, rows, columns, windows.shape[-1])
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, size[0] * size[1], windows.shape[-1])


def _window(size: tuple[int, int], side: int) -> tuple[int, int]:
  rows, columns = (min(side, length) if side else length for length in size)
  if size[0] % rows or size[1] % columns:
    raise ValueError(f'windows of {side} do not fill a map of {size[0]} x {size[1]}')
  return rows, columns


def resize_map(x: Float[Array, 'b h w c'], size: tuple[int, int]) -> Float[Array, 'b {size[0]} {size[1]} c']:
  """[b, h, w, c] -> [b, *size, c]: bilinear, antialiased; x itself if it has that size."""
  if x.shape[1:3] == tuple(size):
    return x
  return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), 'bilinear')
