"""Unsharp masking, as the Real-ESRGAN chain prepares its target."""

import functools

import jax.numpy as jnp
import numpy as np

from ssr_jax.types import Array, ArrayLike, Float


def unsharp_mask(
  image: Float[ArrayLike, 'b H W c'], weight: float = 0.5, radius: int = 50, threshold: float = 10
) -> Float[Array, 'b H W c']:
  """Adds `weight` times the difference from a wide Gaussian blur where it exceeds `threshold` levels.

  The Gaussian has radius + 1 taps where the radius is even and OpenCV's standard deviation for that many,
  0.3 ((taps - 1) / 2 - 1) + 0.8: 8 pixels for 51 taps. The mask of these places is blurred too, so that sharpening
  fades in. Border reflected.

  Args:
    image: [b, H, W, c] in [0, 1].
    weight: factor of the added difference.
    radius: number of the Gaussian's taps, made odd.
    threshold: smallest difference from the blurred image that is sharpened, of 255.

  Returns:
    [b, H, W, c] in [0, 1].
  """
  _, H, W, _ = image.shape
  taps = radius + 1 - radius % 2
  rows, columns = _gaussian_matrix(H, taps), _gaussian_matrix(W, taps)

  def blur(x):  # [b, c, H, W], so that both products run along whole rows
    x = jnp.einsum('rh,bchw->bcrw', rows, x, precision='highest')
    return jnp.einsum('bcrw,sw->bcrs', x, columns, precision='highest')

  image = jnp.asarray(image).transpose(0, 3, 1, 2)
  detail = image - blur(image)
  mask = blur((jnp.abs(detail) * 255 > threshold).astype(image.dtype))
  sharp = image + mask * (jnp.clip(image + weight * detail, 0, 1) - image)
  return sharp.transpose(0, 2, 3, 1)


@functools.cache
def _gaussian_matrix(n: int, taps: int) -> np.ndarray:
  """[n, n]: one axis of a Gaussian blur with reflected border."""
  offsets = np.arange(taps) - taps // 2
  weights = np.exp(-0.5 * (offsets / (0.3 * ((taps - 1) / 2 - 1) + 0.8)) ** 2)
  period = max(2 * (n - 1), 1)
  position = (np.arange(n)[:, None] + offsets) % period
  index = np.minimum(position, period - position) * (n > 1)
  matrix = np.zeros((n, n))
  np.add.at(matrix, (np.arange(n)[:, None], index), weights / weights.sum())
  return matrix.astype(np.float32)
