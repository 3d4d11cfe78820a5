"""Encoders of the three modalities that AMF fuses, and the heads of Eq. 5's constraints."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
from flax import struct
import jax.numpy as jnp

from ssr_jax.nn.blocks import ResBlock, TimeEmbedding, Transformer, group_norm, resize_map
from ssr_jax.nn.remat import remat
from ssr_jax.types import Array, Float, Num


@struct.dataclass
class Conditions:
  """Conditions of a diffusion step, at any resolution: the encoders resize them to the latent's.

  Attributes:
    kernel_code: [b, h, w, 15], PCA code of the kernel at each LR pixel.
    depth: [b, h, w, 1], relative inverse depth in [0, 1].
    lr: [b, h, w, 3], the LR image in [0, 1].
    lr_latent: [b, hl, wl, c], latent of the bicubically upscaled LR image.
  """

  kernel_code: Array
  depth: Array
  lr: Array
  lr_latent: Array


class MapEncoder(nn.Module):
  """Small encoder of a kernel-code or depth map: convolutions down a pyramid, one feature map per UNet resolution.

  Attributes:
    channels: widths, one per resolution, highest first.
    features: channels of every output map.
    dtype: dtype of the computation.
  """

  channels: Sequence[int] = (64, 64, 128, 128)
  features: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w c'], size: tuple[int, int]
  ) -> tuple[Float[Array, 'b _ _ {self.features}'], ...]:
    """Resizes a map [b, h, w, c] to the latent's size and encodes it: f^l [b, size/2**l, features] per level l."""
    x = resize_map(x, size).astype(self.dtype)
    maps = []
    for i, channels in enumerate(self.channels):
      stride = 1 if i == 0 else 2
      x = nn.silu(nn.Conv(channels, (3, 3), stride, padding=1, dtype=self.dtype, name=f'conv_{i}_0')(x))
      x = nn.silu(nn.Conv(channels, (3, 3), dtype=self.dtype, name=f'conv_{i}_1')(x))
      maps.append(nn.Dense(self.features, dtype=self.dtype, name=f'out_{i}')(x))
    return tuple(maps)


class LREncoder(nn.Module):
  """Encoder of the LR image: the first half of a UNet with time embedding, one feature map per UNet resolution.

  Input Block: the downward path of a UNet. Middle Block: residual block, transformer, residual block. Feature Translate
  Block: GroupNorm, SiLU and a convolution per resolution, from the last map of that resolution to f_3.

  Attributes:
    channels: widths, one per resolution, highest first.
    features: channels of every output map.
    blocks: residual blocks per resolution.
    attention: whether the Middle Block has its transformer.
    head_dim: width of its heads.
    groups: groups of every GroupNorm.
    dtype: dtype of the computation.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
  """

  channels: Sequence[int] = (256, 256, 512, 512)
  features: int = 256
  blocks: int = 2
  attention: bool = True
  head_dim: int = 64
  groups: int = 32
  dtype: Any = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(
    self, lr: Float[Array, 'b h w 3'], lr_latent: Float[Array, 'b hl wl c'], t: Num[Array, ' b']
  ) -> tuple[Float[Array, 'b _ _ {self.features}'], ...]:
    """Encodes an image as f_3^l [b, hl/2**l, wl/2**l, features] for each level l.

    Args:
      lr: [b, h, w, 3] in [0, 1].
      lr_latent: [b, hl, wl, c].
      t: [b], time steps.
    """
    embedding = TimeEmbedding(self.channels[0], self.dtype, name='time')(t)
    _, hl, wl, _ = lr_latent.shape
    pixels = 2 * resize_map(lr, (hl, wl)) - 1
    x = jnp.concatenate([lr_latent, pixels], axis=-1).astype(self.dtype)
    x = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name='conv_in')(x)

    def res(x, channels, name):
      return remat(ResBlock(channels, self.groups, dtype=self.dtype, name=name), self.remat)(x, embedding)

    maps = []
    for i, channels in enumerate(self.channels):
      if i:
        x = nn.Conv(channels, (3, 3), 2, padding=1, dtype=self.dtype, name=f'down_{i}_conv')(x)
      for j in range(self.blocks):
        x = res(x, channels, f'down_{i}_res_{j}')
      maps.append(x)
    coarsest = self.channels[-1]
    x = res(x, coarsest, 'mid_res_0')
    if self.attention:
      block = Transformer(max(coarsest // self.head_dim, 1), self.groups, dtype=self.dtype, name='mid_attn')
      x = remat(block, self.remat)(x)
    maps[-1] = res(x, coarsest, 'mid_res_1')

    translated = []
    for i, x in enumerate(maps):
      x = nn.silu(group_norm(self.groups, 1e-5, self.dtype, f'translate_{i}_norm')(x))
      translated.append(nn.Conv(self.features, (3, 3), dtype=self.dtype, name=f'translate_{i}')(x))
    return tuple(translated)


class Heads(nn.Module):
  """Light heads for C_i of Eq. 5: each map of f_i predicts its modality at the map's resolution.

  The paper does not define C_i. Here each modality's features must reconstruct the modality (kernel code, depth, clean
  latent), so that they stay informative. Only training uses these parameters.

  Attributes:
    outputs: channels of each modality.
    hidden: width of the hidden layer.
    dtype: dtype of the computation.
  """

  outputs: Sequence[int]
  hidden: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, features: Sequence[Sequence[Float[Array, 'b _ _ _']]]
  ) -> tuple[tuple[Float[Array, 'b _ _ _'], ...], ...]:
    """Features f_i^l [b, h/2**l, w/2**l, c_i] -> for each i and l, float32 [b, h/2**l, w/2**l, outputs[i]]."""
    reconstructions = []
    for i, (maps, channels) in enumerate(zip(features, self.outputs, strict=True), start=1):
      row = []
      for level, f in enumerate(maps):
        x = nn.silu(nn.Dense(self.hidden, dtype=self.dtype, name=f'hidden_{i}_{level}')(f))
        row.append(nn.Dense(channels, dtype=self.dtype, name=f'out_{i}_{level}')(x).astype(jnp.float32))
      reconstructions.append(tuple(row))
    return tuple(reconstructions)
