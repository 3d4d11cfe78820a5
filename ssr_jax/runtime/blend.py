"""Joining tiles on the host, row of tiles by row of tiles."""

from collections.abc import Mapping

import numpy as np

from ssr_jax.image import tiles
from ssr_jax.types import ArrayLike


class Blend:
  """Joins overlapping tiles of several arrays: sum(weight * tile) / sum(weight).

  Tiles come row by row, and rows that no later tile reaches are taken out: it never holds more than a row of tiles.
  """

  def __init__(self, shape: tuple[int, int], scale: int):
    """Starts an empty image of `shape` samples, `scale` per LR pixel."""
    self.shape, self.scale = shape, scale
    self.top = 0  # rows before it have been taken
    self.totals: dict[str, np.ndarray] = {}
    self.weights: np.ndarray | None = None

  def add(self, found: Mapping[str, ArrayLike], origin: tuple[int, int], alone: bool) -> None:
    """Adds tiles [1, th, tw, c].

    Args:
      found: {name: tile}; pixels outside the image are dropped.
      origin: (y, x) of their top left corner, in LR pixels; y not before the rows that were taken.
      alone: whether the image is this one tile.
    """
    if not found:
      return
    H, W = self.shape
    if alone:
      self.totals = {name: np.asarray(tile)[0][:H, :W] for name, tile in found.items()}
      return
    y, x = (self.scale * o for o in origin)
    th, tw = next(iter(found.values())).shape[1:3]
    place = np.s_[y - self.top : min(y + th, H) - self.top, x : min(x + tw, W)]
    weights = tiles.gaussian_weights((th, tw))[: H - y, : W - x, None]
    rows = min(y + th, H) - self.top
    self.weights = _with_rows(self.weights, rows, W, 1)
    self.weights[place] += weights
    for name, tile in found.items():
      self.totals[name] = _with_rows(self.totals.get(name), rows, W, tile.shape[-1])
      self.totals[name][place] += weights * np.asarray(tile)[0][: H - y, : W - x]

  def take(self, end: int) -> dict[str, np.ndarray]:
    """Takes out the rows before LR row `end`, which no later tile may reach: {name: [rows, W, c]}."""
    last = min(self.scale * end, self.shape[0])
    count, self.top = last - self.top, last
    found = {}
    for name, total in self.totals.items():
      found[name], self.totals[name] = total[:count], total[count:].copy()
      if self.weights is not None:
        found[name] /= self.weights[:count]
    if self.weights is not None:
      self.weights = self.weights[count:].copy()
    return found


def _with_rows(array: np.ndarray | None, rows: int, columns: int, channels: int) -> np.ndarray:
  """An array [rows, columns, channels] that begins with the given one; zeros below it."""
  if array is not None and len(array) >= rows:
    return array
  longer = np.zeros((rows, columns, channels), np.float32)
  if array is not None:
    longer[: len(array)] = array
  return longer
