"""The toy's network."""

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.nn.layers import Dtype, conv3x3
from ssr_jax.types import Array


class Residual(nn.Module):
  """What bicubic enlargement lacks, by two convolutions on its detail; nothing at initialisation.

  Attributes:
    features: channels between them.
    dtype: dtype of the first one.
    remat: what the backward pass computes again; nothing here is worth it.
  """

  features: int = 8
  dtype: Dtype = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(self, image: Array) -> Array:
    """Enlarged image [b, H, W, 3] in [0, 1] -> residual [b, H, W, 3]."""
    around = jnp.pad(image, ((0, 0), (4, 4), (4, 4), (0, 0)), 'edge')
    detail = image - nn.avg_pool(around, (9, 9))
    x = nn.relu(conv3x3(self.features, self.dtype, name='conv_in')(detail))
    return conv3x3(3, jnp.float32, name='conv_out', kernel_init=nn.initializers.zeros)(x)
