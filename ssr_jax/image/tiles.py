"""Overlapping tiles: which windows cover an image, and with which weights they are blended.

A tile is known by its origin, the top left corner (y, x) of its window in pixels.
"""

import numpy as np


def starts(size: int, tile: int, overlap: int, multiple: int = 1) -> tuple[int, ...]:
  """Where the tiles of one axis start: every tile - overlap from 0 on, the last one flush with the end.

  An axis no longer than a tile has one tile, at 0. Pad an axis that is shorter: its tile reaches past the end.

  Args:
    size: length of the axis.
    tile: length of a tile.
    overlap: least number of samples that neighbours share; below `tile` where there is more than one tile.
    multiple: every start is a multiple of it. The last tile then reaches past the end by less than that.

  Raises:
    ValueError: an overlap that is negative or not below the tile's length.
  """
  if size <= tile:
    return (0,)
  if not 0 <= overlap < tile:
    raise ValueError(f'overlap must lie in [0, tile) = [0, {tile}); got {overlap}')
  stride = max((tile - overlap) // multiple, 1) * multiple
  last = -(-(size - tile) // multiple) * multiple
  return (*range(0, last, stride), last)


def origins(
  size: tuple[int, int], tile: int | tuple[int, int], overlap: int | tuple[int, int], multiple: int = 1
) -> list[tuple[int, int]]:
  """Top left corners (y, x) of the tiles that cover an image, row by row.

  Args:
    size: (H, W).
    tile: (th, tw), or one number for both.
    overlap: least number of samples that neighbours share, (y, x) or one number for both.
    multiple: y and x are multiples of it, as in `starts`.
  """
  (th, tw), (oy, ox) = (value if isinstance(value, tuple) else (value, value) for value in (tile, overlap))
  return [(y, x) for y in starts(size[0], th, oy, multiple) for x in starts(size[1], tw, ox, multiple)]


def gaussian_weights(tile: int | tuple[int, int], deviation: float = 0.1) -> np.ndarray:
  """Weights of a tile's samples in a blend: a Gaussian around the tile's middle, (L - 1) / 2 on both axes.

  Args:
    tile: (th, tw), or one number for both.
    deviation: standard deviation as a share of each side. Below 0.06 the corners underflow in float32.

  Returns:
    float32 [th, tw], positive, 1 at the peak of an odd tile.

  Raises:
    ValueError: a deviation so small that a corner has no weight.
  """
  axes = []
  for length in tile if isinstance(tile, tuple) else (tile, tile):
    offset = (np.arange(length) - (length - 1) / 2) / length
    axes.append(np.exp(-0.5 * (offset / deviation) ** 2))
  weights = np.outer(*axes).astype(np.float32)
  if weights.min() < 1e-30:
    raise ValueError(f'deviation {deviation} leaves the corners of a tile without weight')
  return weights
