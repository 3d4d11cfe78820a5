"""The patch discriminator of the VAE-GAN and the adversarial losses."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.types import Array, Float


class Discriminator(nn.Module):
  """PatchGAN: one score per overlapping patch of the image; more real is higher.

  Strided 4x4 convolutions with LeakyReLU 0.2. There is no normalisation: batch statistics would couple the images of a
  batch, and a discriminator this small trains without it. The receptive field of the default is 46 pixels.

  Attributes:
    channels: widths of the strided convolutions; each halves the resolution.
    dtype: dtype of the computation; parameters stay float32.
  """

  channels: Sequence[int] = (32, 64, 128)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, 'b H W c']) -> Float[Array, 'b rows columns 1']:
    """Scores an image [b, H, W, c] in [0, 1] -> float32 [b, ~H/2**n, ~W/2**n, 1], n = len(channels).

    c is 3, or 6 for an image and another one that it is judged beside.
    """
    x = (2 * image - 1).astype(self.dtype)
    for i, channels in enumerate(self.channels):
      x = nn.Conv(channels, (4, 4), 2, padding=1, dtype=self.dtype, name=f'conv_{i}')(x)
      x = nn.leaky_relu(x, 0.2)
    return nn.Conv(1, (4, 4), padding=((1, 2), (1, 2)), dtype=self.dtype, name='conv_out')(x).astype(jnp.float32)


def hinge_loss(real: Float[Array, '...'], fake: Float[Array, '...']) -> Float[Array, '']:
  """The discriminator's hinge loss on scores of any shape: mean of max(0, 1 - real) and max(0, 1 + fake), halved."""
  return 0.5 * (jnp.mean(nn.relu(1 - real)) + jnp.mean(nn.relu(1 + fake)))


def generator_loss(fake: Float[Array, '...']) -> Float[Array, '']:
  """The generator's non-saturating loss, -log sigmoid(fake), the mean over scores of any shape."""
  return jnp.mean(nn.softplus(-fake))
