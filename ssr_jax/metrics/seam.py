"""Seams between tiles: steps of brightness along tile borders that an image does not have elsewhere."""

from collections.abc import Sequence

import numpy as np

from ssr_jax.image import tiles
from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike

_PERIOD = 8  # of JPEG's blocks and of a latent grid; controls lie at the same phase as the border
_NOISE = 1.0  # gray levels; what is as smooth as this counts fully
_LARGEST = 4.0  # gray levels; larger steps are edges of the photo, and one of them would outweigh all other lines


class Seam(Metric):
  """Mean excess of steps along tile borders, in gray levels; see `seam`."""

  name = 'seam'
  label = 'seam (gray levels)'
  higher_is_better = False
  needs = ('image', 'borders')
  digits = 3

  def __call__(self, inputs: Inputs) -> float:
    """Steps of 'image' along 'borders'."""
    return seam(inputs['image'], inputs['borders'])


def borders(size: tuple[int, int], tile: int, overlap: int = 0) -> tuple[list[int], list[int]]:
  """Where tiles as of `image.tiles.starts` begin or end inside an image.

  Args:
    size: (H, W) of the image.
    tile: side of a tile in its pixels.
    overlap: pixels that neighbours share. Blending in the overlap has its ends where a tile begins or ends.

  Returns:
    (rows, columns), for `seam`.

  Raises:
    ValueError: an overlap that is negative or not below the tile's side.
  """
  found = []
  for length in size:
    begins = tiles.starts(length, tile, overlap)
    found.append(sorted({*begins, *(begin + tile for begin in begins)} - {0, *range(length, length + tile + 1)}))
  return found[0], found[1]


def seam(image: ArrayLike, borders: tuple[Sequence[int], Sequence[int]]) -> float:
  """How much larger the steps of brightness along tile borders are than those beside them.

  The step across a line between columns c - 1 and c, along the side of one tile, is the weighted mean over its rows of
  d(c) - (d(c - 1) + d(c + 1)) / 2, d(c) = y(c) - y(c - 1): a linear slope has none. The weight is 1 / (1 + a^2), a the
  root mean square of d(c - 2), d(c - 1), d(c + 1), d(c + 2) in gray levels: a seam is seen where the image is smooth,
  and the step itself does not enter. The step's magnitude is compared with the mean magnitude at lines c + 8 k along
  the same rows, at most half a tile away, k not 0: multiples of 8, so that JPEG's blocks and the squares of a latent
  grid are on both sides of the comparison. Magnitudes above 4 gray levels count as 4. Rows likewise. The result is the
  mean over all sides of all tiles.

  Where borders are lines like any others, its expectation is 0, and single images scatter around it on both sides:
  average over images. Steps of one gray level give about 0.7, of two about 1.7; above 4 the value no longer grows.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    borders: (rows, columns) at which tiles meet: of each tile but the first, its first row or column; see `borders`.

  Returns:
    The excess in gray levels (of 255), luma; negative where borders are smoother than their neighbourhood; NaN where
    there is no border, or none is at least 16 pixels from the next.

  Raises:
    ValueError: another shape, or a border outside of the image.
  """
  y = pixels.gray_255(image)
  excess = []
  for plane, across, along, what in ((y.T, *borders, 'row'), (y, *reversed(borders), 'column')):
    inside = [c for c in across if 0 < c < plane.shape[1]]
    if len(inside) < len(across):
      raise ValueError(f'a border at {what} {min(set(across) - set(inside))} lies outside of the image')
    excess += _excess(plane, sorted(inside), [0, *sorted(along), plane.shape[0]])
  return float(np.mean(excess)) if excess else float('nan')


def _excess(y: np.ndarray, across: Sequence[int], along: Sequence[int]) -> list[float]:
  """Step across each border between columns, along each interval of rows, minus the mean of its controls."""
  if not across or y.shape[1] < 6:
    return []
  d = np.diff(y, axis=1)  # d[:, c - 1] is the step between columns c - 1 and c
  step = d[:, 2:-2] - (d[:, 1:-3] + d[:, 3:-1]) / 2  # of the lines c = 3, ..., W - 3
  weight = 1 / (_NOISE**2 + (d[:, :-4] ** 2 + d[:, 1:-3] ** 2 + d[:, 3:-1] ** 2 + d[:, 4:] ** 2) / 4)
  starts = along[:-1]
  steps = np.abs(np.add.reduceat(weight * step, starts) / np.add.reduceat(weight, starts))  # [intervals, lines]
  steps = np.minimum(steps, _LARGEST)
  found = []
  ends = [0, *across, y.shape[1]]
  for before, c, after in zip(ends[:-2], across, ends[2:], strict=True):
    low = max(c - (c - before) // 2, before + _PERIOD // 2, 3)
    high = min(c + (after - c) // 2, after - _PERIOD // 2, y.shape[1] - 3)
    controls = [line for line in range(c % _PERIOD, y.shape[1], _PERIOD) if low <= line <= high and line != c]
    if controls and 3 <= c <= y.shape[1] - 3:
      found += list(steps[:, c - 3] - steps[:, np.array(controls) - 3].mean(axis=1))
  return found
