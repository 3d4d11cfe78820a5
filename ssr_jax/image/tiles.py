"""Overlapping tiles: which windows cover an image, cutting them out, blending them back.

All of it is pure and of fixed shape: a window is known by its origin, its top left corner (y, x) in Python
integers; tiles are stacked on a new first axis.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.types import Array, ArrayLike


def starts(size: int, tile: int, overlap: int, multiple: int = 1) -> tuple[int, ...]:
  """Where the tiles of one axis start: every tile - overlap from 0 on, the last one flush with the end.

  An axis no longer than a tile has one tile, at 0; where it is shorter the tile reaches past its end: pad it.

  Args:
    size: length of the axis.
    tile: length of a tile.
    overlap: samples that neighbours share at least; below `tile` where there is more than one tile.
    multiple: every start is a multiple of it. The last tile then reaches past the end by less than that.

  Raises:
    ValueError: an overlap that leaves no way forward.
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
    overlap: samples that neighbours share at least, (y, x) or one number for both.
    multiple: y and x are multiples of it, as in `starts`.
  """
  (th, tw), (oy, ox) = (value if isinstance(value, tuple) else (value, value) for value in (tile, overlap))
  return [(y, x) for y in starts(size[0], th, oy, multiple) for x in starts(size[1], tw, ox, multiple)]


def gaussian_weights(tile: int | tuple[int, int], deviation: float = 0.1) -> np.ndarray:
  """Weights of a tile's samples in a blend: a Gaussian around the tile's middle, (L - 1) / 2 on both axes.

  Args:
    tile: (th, tw), or one number for both.
    deviation: standard deviation as a share of each side. Below 0.06 the corners vanish in float32.

  Returns:
    float32 [th, tw], positive, 1 at the peak of an odd tile.

  Raises:
    ValueError: a deviation at which a corner weighs nothing.
  """
  axes = []
  for length in tile if isinstance(tile, tuple) else (tile, tile):
    offset = (np.arange(length) - (length - 1) / 2) / length
    axes.append(np.exp(-0.5 * (offset / deviation) ** 2))
  weights = np.outer(*axes).astype(np.float32)
  if weights.min() < 1e-30:
    raise ValueError(f'deviation {deviation} leaves the corners of a tile without weight')
  return weights


def extract(image: Array, origins: Sequence[tuple[int, int]], tile: int | tuple[int, int]) -> Array:
  """Cuts tiles out: [b, H, W, c] -> [n, b, th, tw, c], one for each (y, x) of `origins`."""
  th, tw = tile if isinstance(tile, tuple) else (tile, tile)
  b, _, _, c = image.shape
  cut = lambda yx: jax.lax.dynamic_slice(image, (0, yx[0], yx[1], 0), (b, th, tw, c))
  return jax.vmap(cut)(jnp.asarray(origins, jnp.int32))


def blend(tiles: Array, origins: Sequence[tuple[int, int]], size: tuple[int, int], weights: ArrayLike) -> Array:
  """Puts tiles back together: sum(tile * w) / sum(w) at every sample.

  Tiles that agree where they overlap come back unchanged. The order of the tiles matters to rounding only.

  Args:
    tiles: [n, b, th, tw, c].
    origins: n windows' (y, x), which together cover the image.
    size: (H, W) of the image.
    weights: [th, tw], positive.

  Returns:
    [b, H, W, c], of the tiles' dtype; summed in float32.

  Raises:
    ValueError: a number of windows or a size of weights that does not go with the tiles, or a gap between windows.
  """
  n, b, th, tw, c = tiles.shape
  if len(origins) != n or np.shape(weights) != (th, tw):
    raise ValueError(f'{n} tiles of {th}x{tw} do not go with {len(origins)} windows, weights {np.shape(weights)}')
  covered = np.zeros(size, bool)
  for y, x in origins:
    if not (0 <= y <= size[0] - th and 0 <= x <= size[1] - tw):
      raise ValueError(f'window {th}x{tw} at ({y}, {x}) leaves the image of {size[0]}x{size[1]}')
    covered[y : y + th, x : x + tw] = True
  if not covered.all():
    raise ValueError(f'windows leave {np.count_nonzero(~covered)} samples of {size[0]}x{size[1]} uncovered')

  w = jnp.asarray(weights, jnp.float32)[None, :, :, None]

  def add(total, tile_and_origin):
    tile, (y, x) = tile_and_origin
    # The weights ride along as one more channel.
    piece = jnp.concatenate([tile.astype(jnp.float32) * w, jnp.broadcast_to(w, (b, th, tw, 1))], axis=-1)
    there = jax.lax.dynamic_slice(total, (0, y, x, 0), piece.shape)
    return jax.lax.dynamic_update_slice(total, there + piece, (0, y, x, 0)), None

  total, _ = jax.lax.scan(add, jnp.zeros((b, *size, c + 1), jnp.float32), (tiles, jnp.asarray(origins, jnp.int32)))
  return (total[..., :-1] / total[..., -1:]).astype(tiles.dtype)
