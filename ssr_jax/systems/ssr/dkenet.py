"""DKENet: spatially variant kernels from an LR image and its depth (SSR, section 3.2).

The network follows MANet (arXiv 2108.05302).
"""

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.nn.layers import SFT, Downsample2x2, Dtype, Upsample2x2, conv3x3
from ssr_jax.nn.remat import remat
from ssr_jax.types import Array, Float


class MAConv(nn.Module):
  """Mutual affine convolution (MANet, Eqs. 4 and 5) with two channel groups.

  The channels are split in two halves; each is scaled and shifted by values computed from the other and has its own 3x3
  convolution. Then the halves are concatenated.

  Attributes:
    reduction: the affine branch's hidden layer has this fraction of its input's channels.
    dtype: dtype of the computation.
  """

  reduction: int = 2
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """[b, h, w, c], c even -> [b, h, w, c]."""
    half = x.shape[-1] // 2
    if 2 * half != x.shape[-1]:
      raise ValueError(f'MAConv needs an even number of channels; got {x.shape[-1]}')
    groups = x[..., :half], x[..., half:]
    out = []
    for i, (own, other) in enumerate((groups, groups[::-1])):
      y = nn.relu(nn.Dense(half // self.reduction, dtype=self.dtype, name=f'affine_{i}_1')(other))
      scale, shift = jnp.split(nn.Dense(2 * half, dtype=self.dtype, name=f'affine_{i}_2')(y), 2, -1)
      out.append(conv3x3(half, self.dtype, name=f'conv_{i}')(own * nn.sigmoid(scale) + shift))
    return jnp.concatenate(out, -1)


class DABlock(nn.Module):
  """Depth-aware block: SFT by depth features, then MAConv, ReLU, MAConv around a residual.

  Without a condition it is MANet's MABlock.

  Attributes:
    dtype: dtype of the computation.
  """

  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w c'], condition: Float[Array, 'b h w d'] | None = None
  ) -> Float[Array, 'b h w c']:
    """Maps x [b, h, w, c], with condition [b, h, w, d] or None, to [b, h, w, c]."""
    if condition is not None:
      x = SFT(dtype=self.dtype, name='sft')(x, condition)
    y = nn.relu(MAConv(dtype=self.dtype, name='conv_1')(x))
    return x + MAConv(dtype=self.dtype, name='conv_2')(y)


class DKENet(nn.Module):
  """Kernel estimate `(LR, depth) -> K`.

  The image branch: conv, DABlock, down, DABlock, up, DABlock, conv, softmax over the taps, with MANet's two skips. The
  depth branch runs the same extractor on the depth; its features at each resolution condition the image branch's SFTs.
  Kernels stay at LR resolution: the nearest upscale of the paper's last layer is not needed.

  Attributes:
    features: nf of the image branch (128 in MANet and the paper).
    depth_features: nf of the depth branch; 0 for none, which makes this MANet.
    taps: k*k.
    dtype: dtype of the computation; the softmax is float32.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
  """

  features: int = 128
  depth_features: int = 64
  taps: int = 441
  dtype: Dtype = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(self, lr: Float[Array, 'b h w 3'], depth: Array | None = None) -> Float[Array, 'b h w {self.taps}']:
    """Estimates kernels.

    Args:
      lr: [b, h, w, 3] in [0, 1].
      depth: relative inverse depth at LR size, [b, h, w, 1] in [0, 1]; may be None without a depth branch.

    Returns:
      [b, h, w, k*k], each kernel non-negative and summing to one, float32.
    """
    b, h, w, _ = lr.shape
    pad = ((0, 0), (0, -h % 8), (0, -w % 8), (0, 0))  # MANet pads to multiples of 8.
    conditions = (None, None, None)
    if self.depth_features:
      if depth is None or depth.shape != (b, h, w, 1):
        raise ValueError(f'depth must be {(b, h, w, 1)}; got {None if depth is None else depth.shape}')
      conditions = self._extract(jnp.pad(depth, pad, mode='edge'), self.depth_features, 'depth', conditions)
    x = self._extract(jnp.pad(lr, pad, mode='edge'), self.features, 'image', conditions)[-1]
    logits = conv3x3(self.taps, self.dtype, name='head')(x)[:, :h, :w]
    return nn.softmax(logits.astype(jnp.float32), -1)

  def _extract(self, x, nf, name, conditions):
    """Features at full, half and full resolution; the last with the skip from the first convolution."""
    block = lambda i, *arrays: remat(DABlock(self.dtype, name=f'{name}_block_{i}'), self.remat)(*arrays)
    first = conv3x3(nf, self.dtype, name=f'{name}_in')(x)
    fine = block(1, first, conditions[0])
    down = Downsample2x2(2 * nf, self.dtype, name=f'{name}_down')(fine)
    coarse = block(2, down, conditions[1])
    up = Upsample2x2(nf, self.dtype, name=f'{name}_up')(coarse + down)
    last = block(3, up, conditions[2])
    return fine, coarse, last + first
