"""LPIPS, the learned perceptual distance (Zhang et al. 2018), on VGG-16 or AlexNet."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ssr_jax.nn.layers import Dtype, wide
from ssr_jax.types import Array, Float

# Mean and deviation of ImageNet's pixels on a scale of -1 to 1, by which the original scales its inputs.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

# Stages of (position in torchvision's `features`, channels, kernel side, stride, padding). The features that are
# compared are those after the last ReLU of each stage.
_STAGES = {
  'vgg': (
    ((0, 64, 3, 1, 1), (2, 64, 3, 1, 1)),
    ((5, 128, 3, 1, 1), (7, 128, 3, 1, 1)),
    ((10, 256, 3, 1, 1), (12, 256, 3, 1, 1), (14, 256, 3, 1, 1)),
    ((17, 512, 3, 1, 1), (19, 512, 3, 1, 1), (21, 512, 3, 1, 1)),
    ((24, 512, 3, 1, 1), (26, 512, 3, 1, 1), (28, 512, 3, 1, 1)),
  ),
  'alex': (
    ((0, 64, 11, 4, 2),),
    ((3, 192, 5, 1, 2),),
    ((6, 384, 3, 1, 1),),
    ((8, 256, 3, 1, 1),),
    ((10, 256, 3, 1, 1),),
  ),
}
# (side, stride) of the max pooling, and the stages before which it stands.
_POOLS = {'vgg': (2, 2, (1, 2, 3, 4)), 'alex': (3, 2, (1, 2))}

SMALLEST = {'vgg': 16, 'alex': 31}
"""{backbone: smallest side of an image in pixels, at which one feature is left of the last stage}."""


class LPIPS(nn.Module):
  """Distance between two images in the features of a classifier, Eq. 1 of Zhang et al. 2018, version 0.1.

  At each pixel of each stage the channels are scaled to unit length; the squared differences are weighted by the
  channel's head, averaged over pixels and summed over stages. Dropout, which the heads were trained with, is left out.

  Attributes:
    backbone: 'vgg' (VGG-16) or 'alex' (AlexNet).
    dtype: what the convolutions compute in; distances in at least float32.
  """

  backbone: str = 'vgg'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, image: Array, reference: Array) -> Float[Array, ' b']:
    """Distances of the images of two batches.

    Args:
      image: [b, H, W, 3] in [0, 1]; differentiable, also where no channel of a feature is active.
      reference: [b, H, W, 3] in [0, 1].

    Returns:
      [b], 0 for equal images.

    Raises:
      ValueError: an unknown backbone, shapes that differ, or sides below `SMALLEST`.
    """
    if self.backbone not in _STAGES:
      raise ValueError(f'unknown backbone {self.backbone!r}; known: {", ".join(_STAGES)}')
    if image.shape != reference.shape or image.ndim != 4 or image.shape[-1] != 3:
      raise ValueError(f'LPIPS compares [b, H, W, 3] with the same; got {image.shape} and {reference.shape}')
    smallest = SMALLEST[self.backbone]
    if min(image.shape[1:3]) < smallest:
      raise ValueError(
        f'LPIPS ({self.backbone}) needs {smallest}x{smallest} pixels; got {image.shape[1]}x{image.shape[2]}'
      )
    side, stride, pooled = _POOLS[self.backbone]
    sums = wide(self.dtype)
    x = 2 * jnp.concatenate([image, reference]).astype(sums) - 1
    x = ((x - jnp.array(_SHIFT)) / jnp.array(_SCALE)).astype(self.dtype)
    total = jnp.zeros(len(image), sums)
    for stage, convolutions in enumerate(_STAGES[self.backbone]):
      if stage in pooled:
        x = nn.max_pool(x, (side, side), (stride, stride), 'VALID')  # torch's, which drops an incomplete window
      for position, channels, size, step, padding in convolutions:
        x = nn.Conv(channels, (size, size), step, padding, dtype=self.dtype, name=f'conv_{position}')(x)
        x = nn.relu(x)
      ours, theirs = jnp.split(unit_length(x.astype(sums)), 2)
      # [b, h, w, 1], without a bias.
      distance = nn.Dense(1, use_bias=False, name=f'head_{stage}')((ours - theirs) ** 2)
      total += distance.mean((1, 2, 3))
    return total


def unit_length(features: Float[Array, '*shape c']) -> Float[Array, '*shape c']:
  """Features [..., c] scaled to length 1; zeros stay zeros, and so does the gradient there.

  The slope of the square root at zero is infinite, so the length is computed of something else where all channels are
  zero, as they often are behind a ReLU.
  """
  squares = jnp.sum(features**2, -1, keepdims=True)
  active = squares > 0
  length = jnp.sqrt(jnp.where(active, squares, 1.0))
  return jnp.where(active, features / (length + 1e-10), 0.0)


def lpips_loss(
  variables: dict, image: Float[Array, 'b H W 3'], reference: Float[Array, 'b H W 3'], module: LPIPS
) -> Float[Array, '']:
  """Mean LPIPS of a batch, a scalar; the weights get no gradient. For shapes and ranges see `LPIPS`."""
  distance: Any = module.apply(jax.lax.stop_gradient(variables), image, reference)
  return jnp.mean(distance)
