"""Joining tiles on the host."""

from collections.abc import Mapping

import numpy as np

from ssr_jax.image import tiles
from ssr_jax.types import ArrayLike


class Blend:
  """Joins overlapping tiles of several arrays: sum(weight * tile) / sum(weight)."""

  def __init__(self, shape: tuple[int, int], scale: int):
    """Starts an empty image of `shape` samples, `scale` per LR pixel."""
    self.shape, self.scale = shape, scale
    self.totals: dict[str, np.ndarray] = {}
    self.weights: np.ndarray | None = None

  def add(self, found: Mapping[str, ArrayLike], origin: tuple[int, int], alone: bool) -> None:
    """Adds tiles [1, th, tw, c].

    Args:
      found: {name: tile}; pixels outside the image are dropped.
      origin: (y, x) of their top left corner, in LR pixels.
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
    place = np.s_[y : min(y + th, H), x : min(x + tw, W)]
    weights = tiles.gaussian_weights((th, tw))[: H - y, : W - x, None]
    if self.weights is None:
      self.weights = np.zeros((H, W, 1), np.float32)
    self.weights[place] += weights
    for name, tile in found.items():
      if name not in self.totals:
        self.totals[name] = np.zeros((H, W, tile.shape[-1]), np.float32)
      self.totals[name][place] += weights * np.asarray(tile)[0][: H - y, : W - x]

  def results(self) -> dict[str, np.ndarray]:
    """Returns {name: [*shape, c]}; call it once, it divides in place."""
    if self.weights is not None:
      for total in self.totals.values():
        total /= self.weights
    return self.totals
