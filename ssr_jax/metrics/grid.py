"""The latent grid: dots and squares of four pixels that a decoder leaves, which no photo has."""

import numpy as np

from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike

PERIOD = 4
"""Pixels of a cell: the factor of super-resolution, and of the compact autoencoder's latents."""


class Grid(Metric):
  """How much roughness follows a grid of four pixels, in percent; see `grid`."""

  name = 'grid'
  label = 'grid (%)'
  higher_is_better = False
  needs = ('image',)
  digits = 2

  def __call__(self, inputs: Inputs) -> float:
    """The grid of 'image'."""
    return grid(inputs['image'])


def grid(image: ArrayLike) -> float:
  """How much the roughness of an image varies with the place in a cell of 4x4 pixels, in percent of its mean.

  a = log(1 + |L|), L the Laplacian of luma in gray levels. The mean of a at each of the 16 places of a cell is taken
  four times: over the cells that are even or odd in each direction. From each of the four, the mean over places that
  are even or odd alike is subtracted, so that what repeats every two pixels, as a camera's colour filters do, is no
  grid. V is the mean product of one of the four with another at the same place, times 4/3 for what was subtracted: the
  variance over places of what all four share. Chance adds nothing to it on average. The result is
  100 sqrt(V) / mean(a), or -100 sqrt(-V) / mean(a).

  Dots or squares that stand at every fourth pixel raise it whatever their sign and wherever in the image they are. So
  does enlargement by bicubic interpolation, whose pixels between those of the LR image are smoother, and so does JPEG:
  of the cosines of its blocks some repeat every four pixels. Compare with the original's value, or with that of another
  image of the same photo.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].

  Returns:
    Percent. Images without a grid scatter around 0 on both sides; photos that were JPEG files have 1 to 6. 0 for a flat
    image.

  Raises:
    ValueError: another shape, or a side has fewer than 32 pixels.
  """
  y = pixels.gray_255(image)
  if min(y.shape) < 32:
    raise ValueError(f'an image of {y.shape[0]}x{y.shape[1]} is too small; the grid needs 32x32 pixels')
  inner = y[1:-1, 1:-1]
  a = np.log1p(np.abs(4 * inner - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]))
  h, w = (side // (2 * PERIOD) for side in a.shape)
  pairs = a[: 2 * PERIOD * h, : 2 * PERIOD * w].reshape(
    h, 2, 2, 2, w, 2, 2, 2
  )  # cell, even or odd, place / 2, place % 2
  means = pairs.mean((0, 4)).transpose(0, 3, 1, 4, 2, 5).reshape(4, 2, 2, 2, 2)  # kind of cell, place / 2, place % 2
  means = means - means.mean((1, 2), keepdims=True)
  shared = (np.sum(means.sum(0) ** 2) - np.sum(means**2)) / 12 / PERIOD**2 * 4 / 3
  return float(100 * np.sign(shared) * np.sqrt(abs(shared)) / a.mean()) if a.any() else 0.0
