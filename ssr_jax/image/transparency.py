"""Transparency of an enlarged image."""

from typing import Any

import numpy as np


class Gray:
  """A plane as a gray image, for a model: rows [n, w, 3] of rows [n, w]."""

  def __init__(self, plane: Any):
    """Wraps what has `shape` [h, w] and `dtype`, and gives arrays for slices of its rows."""
    self._plane, self.shape, self.dtype = plane, (*plane.shape, 3), plane.dtype

  def __getitem__(self, rows: slice) -> np.ndarray:
    """Rows first:last."""
    return np.repeat(self._plane[rows][..., None], 3, -1)


def limited(rows: np.ndarray, first: int, size: tuple[int, int], plane: Any) -> np.ndarray:
  """Keeps a model's transparency within the least and the largest value of the 3x3 pixels around each.

  A model overshoots at edges; what is opaque or transparent must stay so.

  Args:
    rows: [n, W] of the enlarged transparency, from row `first` on.
    first: row of the result.
    size: (H, W) of the result.
    plane: the transparency that was enlarged, [h, w] of the same dtype; an array or what gives arrays for slices.

  Returns:
    [n, W].
  """
  if not len(rows):
    return rows
  (h, w), (H, W) = plane.shape, size
  y = (2 * np.arange(first, first + len(rows)) + 1) * h // (2 * H)
  x = (2 * np.arange(W) + 1) * w // (2 * W)
  top, bottom = max(y[0] - 1, 0), min(y[-1] + 2, h)
  near = np.pad(plane[top:bottom], ((int(y[0] == 0), int(y[-1] == h - 1)), (1, 1)), mode='edge')
  across = [near[:, i : i + w] for i in range(3)]
  least, most = np.minimum.reduce(across), np.maximum.reduce(across)
  y = y - y[0]
  least = np.minimum.reduce([least[y + i] for i in range(3)])[:, x]
  most = np.maximum.reduce([most[y + i] for i in range(3)])[:, x]
  return np.clip(rows, least, most)
