"""DPT: a vision transformer with convolutional reassembly for depth (arXiv 2103.13413).

MiDaS uses it on a ViT (v3.0) and on BEiT (v3.1), Depth Anything on DINOv2.

`SIZES` has the sizes of the published models; their weights come from the public checkpoints (`ssr weights import`).
"""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from ssr_jax.image.resize import depth_to_space, resize
from ssr_jax.nn.attention import attention
from ssr_jax.nn.depth.compact import normalise_depth
from ssr_jax.nn.remat import remat
from ssr_jax.types import Array, Float

_IMAGENET = dict(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
_DINOV2 = dict(
  resolution=(518, 518),
  patch=14,
  positions=37,
  position_method='bicubic',
  layer_scale=True,
  readout=False,
  tap_norm=True,
  eps=1e-6,
  **_IMAGENET,
)
SIZES: dict[str, dict[str, Any]] = {
  'dpt-large': {},
  'dpt-beit-large-512': dict(resolution=(512, 512), positions=32, position_method='relative', layer_scale=True),
  'depth-anything-v2-small': dict(
    _DINOV2, width=384, layers=12, heads=6, hidden=1536, taps=(2, 5, 8, 11), neck=(48, 96, 192, 384), fusion=64
  ),
  'depth-anything-v2-base': dict(
    _DINOV2, width=768, layers=12, heads=12, hidden=3072, taps=(2, 5, 8, 11), neck=(96, 192, 384, 768), fusion=128
  ),
  'depth-anything-v2-large': dict(
    _DINOV2, width=1024, layers=24, heads=16, hidden=4096, taps=(4, 11, 17, 23), neck=(256, 512, 1024, 1024), fusion=256
  ),
}
"""Attributes of DPT for each published model."""


class DPT(nn.Module):
  """Relative inverse depth by a ViT or BEiT and DPT's decoder. The defaults are MiDaS's DPT-Large.

  Features of four layers are resized to 4, 2, 1 and 1/2 times the grid of patches and fused from coarse to fine.

  Attributes:
    resolution: working height and width; multiples of `patch`, and without `tap_norm` of 2 * patch.
    patch: side of a patch.
    width: channels of a token.
    layers: transformer layers.
    heads: heads of each.
    hidden: width of each MLP.
    taps: the four layers, counted from 0, whose output is used.
    positions: side of the grid that the positions were trained on; they are interpolated for another grid.
    position_method: embeddings that are added to the tokens, interpolated 'bilinear' (MiDaS's ViT) or 'bicubic'
      (DINOv2; PyTorch's kernel with a = -0.75); or 'relative', a bias on each layer's attention scores by head and by
      the offset of two tokens, interpolated bilinearly (BEiT, whose keys have no bias either).
    layer_scale: a learned factor per channel on both residual branches (DINOv2, BEiT).
    readout: mix the class token into every token of a tap (MiDaS); else it is dropped.
    tap_norm: the final LayerNorm on every tap (DINOv2); MiDaS's is not used.
    eps: of every LayerNorm.
    neck: channels of the four reassembled maps.
    fusion: channels of the decoder.
    head: channels before the last convolution.
    mean, deviation: of the image's channels, in [0, 1].
    dtype: dtype of the computation; parameters, normalisation statistics and the result are float32.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
  """

  resolution: tuple[int, int] = (384, 384)
  patch: int = 16
  width: int = 1024
  layers: int = 24
  heads: int = 16
  hidden: int = 4096
  taps: Sequence[int] = (5, 11, 17, 23)
  positions: int = 24
  position_method: str = 'bilinear'
  layer_scale: bool = False
  readout: bool = True
  tap_norm: bool = False
  eps: float = 1e-12
  neck: Sequence[int] = (256, 512, 1024, 1024)
  fusion: int = 256
  head: int = 32
  mean: Sequence[float] = (0.5, 0.5, 0.5)
  deviation: Sequence[float] = (0.5, 0.5, 0.5)
  dtype: Any = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(self, image: Array, *, raw: bool = False) -> Float[Array, 'b H W 1']:
    """Relative inverse depth of each image.

    Args:
      image: [b, H, W, 3] in [0, 1], any H and W; resized to `resolution` bicubically, as in the models' training.
      raw: return the net's unbounded inverse depth (0 or more) instead of the normalised one.

    Returns:
      [b, H, W, 1] float32; in [0, 1] per image unless `raw`.

    Raises:
      ValueError: an image that is not [b, H, W, 3], or attributes that do not fit together.
    """
    if image.ndim != 4 or image.shape[-1] != 3:
      raise ValueError(f'image must be [b, H, W, 3]; got {image.shape}')
    unit = self.patch if self.tap_norm else 2 * self.patch  # MiDaS doubles at each fusion: its grid must be even
    if any(side % unit for side in self.resolution):
      raise ValueError(f'resolution {tuple(self.resolution)} must be multiples of {unit}')
    if len(self.taps) != 4 or len(self.neck) != 4 or not all(0 <= tap < self.layers for tap in self.taps):
      raise ValueError(f'taps and neck need four entries, taps below {self.layers}; got {self.taps}, {self.neck}')
    if self.width % self.heads:
      raise ValueError(f'{self.width} channels do not divide into {self.heads} heads')
    _b, H, W, _ = image.shape
    x = (resize(image, self.resolution, 'bicubic') - jnp.asarray(self.mean)) / jnp.asarray(self.deviation)
    x = self._decode(self._backbone(x.astype(self.dtype))).astype(jnp.float32)
    if not raw:
      x = normalise_depth(x)  # before the resize, as in CompactDepth
    x = resize(x, (H, W), 'bilinear')
    return x if raw else jnp.clip(x, 0, 1)

  def _backbone(self, x: Float[Array, 'b height width 3']) -> list[Float[Array, 'b tokens {self.width}']]:
    """Normalised image [b, height, width, 3] -> tokens [b, 1 + h*w, width] of the four taps, the class token first."""
    b, (h, w) = len(x), self._grid
    x = nn.Conv(self.width, (self.patch,) * 2, self.patch, padding='VALID', dtype=self.dtype, name='patches')(x)
    zeros = nn.initializers.zeros
    token = self.param('cls_token', zeros, (1, 1, self.width))
    x = x.reshape(b, h * w, self.width)
    relative = self.position_method == 'relative'
    if not relative:
      places = self.param('position_embeddings', zeros, (1, 1 + self.positions**2, self.width))
      grid = interpolate(
        places[:, 1:].reshape(1, self.positions, self.positions, self.width), (h, w), self.position_method
      )
      x += grid.reshape(1, h * w, self.width).astype(self.dtype)
      token += places[:, :1]
    x = jnp.concatenate([jnp.broadcast_to(token.astype(self.dtype), (b, 1, self.width)), x], axis=1)
    norm = _norm(self.eps, self.dtype, 'norm_out') if self.tap_norm else lambda x: x
    taps = []
    for i in range(self.layers):
      layer = _Layer(
        self.heads,
        self.hidden,
        self.layer_scale,
        self.eps,
        self.dtype,
        self.positions if relative else 0,
        (h, w),
        name=f'layer_{i}',
      )
      x = remat(layer, self.remat)(x)
      if i in self.taps:
        taps.append(norm(x))
    return taps

  def _decode(self, taps: Sequence[Float[Array, 'b tokens {self.width}']]) -> Float[Array, 'b height width 1']:
    """Tokens of the four taps -> [b, height, width, 1], 0 or more."""
    h, w = self._grid
    conv = lambda channels, name, **kw: nn.Conv(channels, (3, 3), padding=1, dtype=self.dtype, name=name, **kw)
    maps = []
    for i, (tokens, channels) in enumerate(zip(taps, self.neck, strict=True)):
      x = tokens[:, 1:]
      if self.readout:
        x = jnp.concatenate([x, jnp.broadcast_to(tokens[:, :1], x.shape)], axis=-1)
        x = nn.gelu(nn.Dense(self.width, dtype=self.dtype, name=f'readout_{i}')(x), approximate=False)
      x = nn.Dense(channels, dtype=self.dtype, name=f'reassemble_{i}')(x).reshape(-1, h, w, channels)
      if i < 2:
        x = _Enlarge(4 // 2**i, self.dtype, name=f'resize_{i}')(x)
      elif i == 3:
        x = conv(channels, 'resize_3', strides=2)(x)
      maps.append(conv(self.fusion, f'neck_{i}', use_bias=False)(x))

    # Fusions are numbered from the coarsest map to the finest.
    x = None
    for i, skip in enumerate(reversed(maps)):
      size = maps[-2 - i].shape[1:3] if i < 3 else tuple(2 * side for side in skip.shape[1:3])
      x = _Fusion(self.dtype, name=f'fusion_{i}')(x, skip, size)
    x = interpolate(conv(self.fusion // 2, 'head_1')(x), self.resolution, 'corners')
    x = nn.relu(conv(self.head, 'head_2')(x))
    return nn.relu(nn.Dense(1, dtype=self.dtype, name='head_3')(x))

  @property
  def _grid(self) -> tuple[int, int]:
    return self.resolution[0] // self.patch, self.resolution[1] // self.patch


class _Layer(nn.Module):
  """x + attention(LN(x)), then x + MLP(LN(x)), [b, n, c]; with `scale`, learned factors on both branches.

  With `positions` above 0, attention scores get a bias by the tokens' relative position, trained on a grid of that side
  and interpolated to `grid`.
  """

  heads: int
  hidden: int
  scale: bool
  eps: float
  dtype: Any
  positions: int
  grid: tuple[int, int]

  @nn.compact
  def __call__(self, x: Float[Array, 'b n c']) -> Float[Array, 'b n c']:
    b, n, c = x.shape
    dense = lambda channels, name: nn.Dense(channels, dtype=self.dtype, name=name)

    def scaled(y, name):
      return y * self.param(name, nn.initializers.ones, (c,)).astype(y.dtype) if self.scale else y

    y = _norm(self.eps, self.dtype, 'norm1')(x)
    bias = None
    if self.positions:
      table = self.param('position_bias', nn.initializers.zeros, ((2 * self.positions - 1) ** 2 + 3, self.heads))
      bias = relative_bias(table, self.positions, self.grid)
    q, k, v = (
      nn.Dense(c, use_bias=not (self.positions and name == 'to_k'), dtype=self.dtype, name=name)(y).reshape(
        b, n, self.heads, -1
      )
      for name in ('to_q', 'to_k', 'to_v')
    )
    x += scaled(dense(c, 'to_out')(attention(q, k, v, bias=bias).reshape(b, n, c)), 'scale1')
    y = dense(self.hidden, 'fc1')(_norm(self.eps, self.dtype, 'norm2')(x))
    return x + scaled(dense(c, 'fc2')(nn.gelu(y, approximate=False)), 'scale2')


class _Fusion(nn.Module):
  """Adds the skip to the coarser features, refines, enlarges to `size`, projects: all [b, h, w, c]."""

  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w c'] | None, skip: Float[Array, 'b h w c'], size: tuple[int, int]
  ) -> Float[Array, 'b {size[0]} {size[1]} c']:
    c = skip.shape[-1]
    x = skip if x is None else x + _Residual(self.dtype, name='residual_1')(skip)
    x = interpolate(_Residual(self.dtype, name='residual_2')(x), size, 'corners')
    return nn.Dense(c, dtype=self.dtype, name='projection')(x)


class _Residual(nn.Module):
  """x + conv(ReLU(conv(ReLU(x))))."""

  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    y = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name='conv_1')(nn.relu(x))
    return x + nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, name='conv_2')(nn.relu(y))


class _Enlarge(nn.Module):
  """Transposed convolution whose stride is its size: [b, h, w, c] -> [b, s*h, s*w, c], as one matrix product."""

  factor: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b {self.factor}*h {self.factor}*w c']:
    c = x.shape[-1]
    y = nn.Dense(c * self.factor**2, use_bias=False, dtype=self.dtype, name='conv')(x)
    bias = self.param('bias', nn.initializers.zeros, (c,))
    return depth_to_space(y, self.factor) + bias.astype(y.dtype)


def relative_bias(
  table: Float[Array, 'offsets heads'], positions: int, grid: tuple[int, int]
) -> Float[Array, 'heads tokens tokens']:
  """BEiT's bias on attention's scores (arXiv 2106.08254), for a class token and a grid of tokens after it.

  Args:
    table: [(2*p - 1)**2 + 3, heads], p = `positions`: a row for each offset (query's row - key's row, query's column -
      key's column) of a p x p grid, row-major from (1 - p, 1 - p); then from the class token to a token, from a token
      to the class token, and from the class token to itself.
    positions: p.
    grid: (h, w) of the tokens; if it is not (p, p), the rows of offsets are interpolated bilinearly to (2*h - 1,
      2*w - 1), as in MiDaS v3.1 (arXiv 2307.14460).

  Returns:
    [heads, 1 + h*w, 1 + h*w] float32, queries before keys.
  """
  (h, w), heads, side = grid, table.shape[1], 2 * positions - 1
  offsets = table[:-3].reshape(1, side, side, heads)
  offsets = interpolate(offsets, (2 * h - 1, 2 * w - 1), 'bilinear')[0].transpose(2, 0, 1)
  bias = _differences(_differences(offsets).transpose(0, 2, 3, 1))  # [heads, w, w, h, h], queries before keys
  bias = bias.transpose(0, 3, 1, 4, 2).reshape(heads, h * w, h * w)
  to_token, to_class, itself = table[-3:, :, None, None]
  row = jnp.concatenate([itself, jnp.broadcast_to(to_token, (heads, 1, h * w))], axis=2)
  column = jnp.broadcast_to(to_class, (heads, h * w, 1))
  return jnp.concatenate([row, jnp.concatenate([column, bias], axis=2)], axis=1)


def _differences(x: Float[Array, '*shape differences']) -> Float[Array, '*shape n n']:
  """Toeplitz matrix: [..., 2n - 1], a value per difference from 1 - n on -> [..., n, n], entry (i, j) for i - j.

  Each row is the one above shifted by one, so the matrix is a reshape of a repeated vector. A gather of single entries
  is slow on a TPU, and its gradient is slow everywhere.
  """
  n = (x.shape[-1] + 1) // 2
  zero = jnp.zeros((*x.shape[:-1], 1), x.dtype)
  cycle = jnp.concatenate([x[..., n - 1 :: -1], zero, x[..., : n - 1 : -1]], axis=-1)  # at j - i, modulo 2n
  many = jnp.broadcast_to(cycle[..., None, :], (*x.shape[:-1], n, 2 * n)).reshape(*x.shape[:-1], 2 * n * n)
  return many[..., : n * (2 * n - 1)].reshape(*x.shape[:-1], n, 2 * n - 1)[..., :n]


def _norm(eps: float, dtype: Any, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


def interpolate(
  x: Float[Array, 'b h w c'], size: tuple[int, int], method: str
) -> Float[Array, 'b {size[0]} {size[1]} c']:
  """PyTorch's interpolation without antialiasing, as two matrix products: [b, h, w, c] -> [b, *size, c].

  Args:
    x: [b, h, w, c].
    size: of the result.
    method: 'bilinear' or 'bicubic' (Keys' kernel with a = -0.75) with half-pixel centres, or 'corners', bilinear with
      the corners' centres kept in place (align_corners).
  """
  if x.shape[1:3] == tuple(size):
    return x
  rows, columns = (jnp.asarray(_weights(n, m, method), x.dtype) for n, m in zip(x.shape[1:3], size, strict=True))
  return jnp.einsum('ph,qw,bhwc->bpqc', rows, columns, x)


def _weights(n: int, m: int, method: str) -> np.ndarray:
  """[m, n]: weight of each of n samples in each of m; the border sample is repeated outside."""
  if method == 'corners':
    centres = np.arange(m) * ((n - 1) / max(m - 1, 1))
  else:
    centres = (np.arange(m) + 0.5) * (n / m) - 0.5
    if method == 'bilinear':
      centres = np.clip(centres, 0, n - 1)
  first = np.floor(centres).astype(int)
  weights = np.zeros((m, n), np.float32)
  for tap in range(-1, 3) if method == 'bicubic' else range(2):
    d = np.abs(centres - (first + tap))
    if method == 'bicubic':
      near = ((1.25 * d - 2.25) * d) * d + 1
      far = ((-0.75 * d + 3.75) * d - 6) * d + 3
      value = np.where(d <= 1, near, np.where(d < 2, far, 0))
    else:
      value = np.maximum(1 - d, 0)
    np.add.at(weights, (np.arange(m), np.clip(first + tap, 0, n - 1)), value)
  return weights
