"""Small layers that several networks share, in the formulations that are fast on every backend."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.image.resize import depth_to_space
from ssr_jax.types import Array, Float

Dtype = Any


def wide(dtype: Dtype) -> Dtype:
  """`dtype`, at least float32: for sums over many values, softmax and images."""
  return jnp.promote_types(dtype, jnp.float32)


def conv3x3(features: int, dtype: Dtype = jnp.float32, name: str | None = None, **kwargs) -> nn.Conv:
  """3x3 convolution with zero padding 1, torch's Conv2d(padding=1)."""
  return nn.Conv(features, (3, 3), padding=1, dtype=dtype, name=name, **kwargs)


class Downsample2x2(nn.Module):
  """2x2 convolution of stride 2, as one matrix product over the four pixels of a cell.

  Attributes:
    features: output channels.
    dtype: dtype of the computation.
  """

  features: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h//2 w//2 {self.features}']:
    """[b, h, w, c] with even h, w -> [b, h/2, w/2, features]; input features of the product are ordered (y, x, c)."""
    b, h, w, c = x.shape
    if h % 2 or w % 2:
      raise ValueError(f'Downsample2x2 needs even sizes; got {h}x{w}')
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)
    return nn.Dense(self.features, dtype=self.dtype, name='conv')(x)


class Upsample2x2(nn.Module):
  """2x2 transposed convolution of stride 2, as one matrix product and a depth-to-space.

  Attributes:
    features: output channels.
    dtype: dtype of the computation.
  """

  features: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b 2*h 2*w {self.features}']:
    """[b, h, w, c] -> [b, 2h, 2w, features]; one bias per output channel, as torch's ConvTranspose2d(2, stride 2)."""
    x = nn.Dense(4 * self.features, use_bias=False, dtype=self.dtype, name='conv')(x)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return depth_to_space(x, 2) + bias.astype(x.dtype)


class SFT(nn.Module):
  """Spatial feature transform: `features * sigmoid(mul) + add`, both from (features, condition).

  Attributes:
    hidden: channels between the two convolutions of each branch.
    dtype: dtype of the computation.
  """

  hidden: int = 32
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, features: Float[Array, 'b h w c'], condition: Float[Array, 'b h w d']) -> Float[Array, 'b h w c']:
    """Features [b, h, w, c], condition [b, h, w, d] -> [b, h, w, c]."""
    x = jnp.concatenate([features, condition.astype(features.dtype)], -1)

    def branch(name):
      y = nn.leaky_relu(conv3x3(self.hidden, self.dtype, name=f'{name}_1')(x), 0.2)
      return conv3x3(features.shape[-1], self.dtype, name=f'{name}_2')(y)

    return features * nn.sigmoid(branch('mul')) + branch('add')
