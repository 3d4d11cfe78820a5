"""What happens to an image between its tiles and its file, in bands of rows: none of it holds the whole image.

A band is {output: [rows, columns, c]}; bands come from the top to the bottom and leave nothing out. Outputs at LR size
have rows of their own and are passed on as they come.
"""

import collections
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
import dataclasses
import math

import numpy as np
from PIL import Image

from ssr_jax.image import tiles
from ssr_jax.types import Float

Band = dict[str, np.ndarray]

OVERLAP = 32
"""Least overlap of neighbouring tiles, in LR pixels."""


def bucket(size: int) -> int:
  """Padded LR side of an image side: the next multiple of 32 up to 128, of 64 above."""
  step = 32 if size <= 128 else 64
  return max(1, -(-size // step)) * step


@dataclasses.dataclass(frozen=True)
class Layout:
  """The tiles of an image.

  Attributes:
    size: (h, w) of the image.
    shape: of each tile.
    origins: (y, x) of each tile's top left corner, row by row.
  """

  size: tuple[int, int]
  shape: tuple[int, int]
  origins: list[tuple[int, int]]

  @property
  def tiles(self) -> int:
    """Their number."""
    return len(self.origins)

  @property
  def rows(self) -> list[tuple[int, list[int], int]]:
    """(y, the x of its tiles, the LR row that the next row of tiles begins at) of each row of tiles."""
    starts = sorted({y for y, _ in self.origins})
    ends = [*starts[1:], self.size[0]]
    return [(y, [x for top, x in self.origins if top == y], end) for y, end in zip(starts, ends, strict=True)]

  @classmethod
  def of(cls, h: int, w: int, tile: int, multiple: int, padding: int | None = None) -> 'Layout':
    """The tiles of an image of h x w pixels; `multiple` and `padding` as of `System.alignment` and `System.padding`."""
    padded = bucket if padding is None else lambda side: -(-side // padding) * padding
    shape = min(padded(h), tile), min(padded(w), tile)
    return cls((h, w), shape, tiles.origins((h, w), shape, OVERLAP, multiple))


def pad(image: Float[np.ndarray, 'h w c'], shape: tuple[int, int]) -> Float[np.ndarray, '{shape[0]} {shape[1]} c']:
  """Pads [h, w, c] to `shape` at the bottom and right by reflection, which continues texture."""
  h, w, _ = image.shape
  grow = ((0, shape[0] - h), (0, shape[1] - w), (0, 0))
  return np.pad(image, grow, mode='reflect') if any(high for _, high in grow) else image


def resized(
  image: Float[np.ndarray, 'h w c'],
  shape: tuple[int, int],
  method: str = 'bilinear',
  rows: tuple[float, float] | None = None,
) -> Float[np.ndarray, '{shape[0]} {shape[1]} c']:
  """Resizes [h, w, c] float32, antialiased, like `image.resize`; on the host, where a new size needs no compilation.

  Args:
    image: any range.
    shape: of the result.
    method: 'bilinear' or 'bicubic'.
    rows: (first, last) of the input that the result covers, fractions allowed; the filter sees those beside them.
  """
  how = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}[method]
  box = None if rows is None else (0, rows[0], image.shape[1], rows[1])
  planes = (Image.fromarray(np.ascontiguousarray(image[..., c], np.float32)) for c in range(image.shape[-1]))
  return np.stack([np.asarray(plane.resize((shape[1], shape[0]), how, box)) for plane in planes], -1)


class View:
  """A whole image seen small, from its bands: the bilinear, antialiased resize of `resized`."""

  def __init__(self, size: tuple[int, int], view: tuple[int, int]):
    """An image of `size`, seen at the size `view`; nothing of it is known yet."""
    self._size, self._view, self._top = size, view, 0
    self._columns = _triangles(size[1], view[1], 0, size[1])
    self._sum: np.ndarray | float = 0.0

  def add(self, band: Float[np.ndarray, 'n W c']) -> None:
    """Adds the next rows [n, W, c]."""
    rows = _triangles(self._size[0], self._view[0], self._top, self._top + len(band))
    touched = np.flatnonzero(rows.any(1))
    seen = np.zeros((self._view[0], band.shape[1], band.shape[2]), np.float32)
    if len(touched):
      few = np.s_[touched[0] : touched[-1] + 1]
      seen[few] = np.tensordot(rows[few], band, 1)
    self._sum = self._sum + np.einsum('sw,rwc->rsc', self._columns, seen, optimize=True)
    self._top += len(band)

  def result(self) -> Float[np.ndarray, 'rows columns c']:
    """[*view, c] float32, once all rows have been added."""
    assert self._top == self._size[0], 'rows are missing'
    return np.asarray(self._sum, np.float32)


def _triangles(source: int, target: int, first: int, last: int) -> np.ndarray:
  """Weights [target, last - first] of the input samples from `first` on in a bilinear, antialiased resize."""
  ratio = source / target
  at = np.arange(source) + 0.5
  weights = np.zeros((target, last - first), np.float32)
  for i in range(target):
    low, high = (round((i + 0.5) * ratio + sign * (max(ratio, 1) + 1)) for sign in (-1, 1))
    low, high = max(low, 0), min(high, source)
    near = np.maximum(1 - np.abs(at[low:high] - (i + 0.5) * ratio) / max(ratio, 1), 0)
    near /= near.sum()
    a, b = max(low, first), min(high, last)
    if a < b:
      weights[i, a - first : b - first] = near[a - low : b - low]
  return weights


def finished(
  bands: Iterable[Band], finish: Callable[[Band], Band], reach: int | None, height: int, at_lr: Collection[str]
) -> Iterator[Band]:
  """Applies a system's `finish` band by band.

  Args:
    bands: of the outputs at the result's size, beside those at LR size.
    finish: what an image's whole outputs become, at the same size.
    reach: rows above and below a row that it looks at; None where it needs the whole image.
    height: of the whole outputs.
    at_lr: names of the outputs at LR size.
  """
  held, top, done = {}, 0, 0  # rows from `top` on are held, those before `done` were passed on
  for band in bands:
    beside, band = _split(band, at_lr)
    held = {name: np.concatenate([held[name], x]) if held else x for name, x in band.items()}
    have = top + (len(next(iter(held.values()))) if held else 0)
    last = height if have == height else have - (height if reach is None else reach)
    found = {}
    if last > done:
      found = {name: x[done - top : last - top] for name, x in finish(held).items()}
      done = last
      first = max(done - (reach or 0), top)
      held, top = {name: x[first - top :].copy() for name, x in held.items()}, first
    if found or beside:
      yield {**found, **beside}


def sized(
  bands: Iterable[Band], size: tuple[int, int], target: tuple[int, int], methods: Mapping[str, str]
) -> Iterator[Band]:
  """Resizes bands to another size than the model's.

  Args:
    bands: of an image of `size`.
    size: (height, width) that they have together.
    target: (height, width) that they are to have.
    methods: {name: 'bicubic' or 'bilinear'} of what is resized; the rest is passed on.
  """
  if size == target:
    yield from bands
    return
  ratio = size[0] / target[0]
  support = math.ceil(2 * max(ratio, 1)) + 1
  held, top, done = {}, 0, 0
  for band in bands:
    beside, band = _split(band, {name for name in band if name not in methods})
    held = {name: np.concatenate([held[name], x]) if held else x for name, x in band.items()}
    have = top + (len(next(iter(held.values()))) if held else 0)
    last = target[0] if have == size[0] else math.floor((have - support) / ratio)
    found = {}
    if last > done:
      rows = (done * ratio - top, min(last * ratio, size[0]) - top)
      whole = (rows[0], rows[1]) == (0, size[0])
      shape = (last - done, target[1])
      found = {name: resized(x, shape, methods[name], None if whole else rows) for name, x in held.items()}
      done = last
      first = max(math.floor(done * ratio) - support, top)
      held, top = {name: x[first - top :].copy() for name, x in held.items()}, first
    if found or beside:
      yield {**found, **beside}


def _split(band: Band, names: Collection[str]) -> tuple[Band, Band]:
  """What of a band has these names, and the rest."""
  return {n: x for n, x in band.items() if n in names}, {n: x for n, x in band.items() if n not in names}


class Feed:
  """The rows of one output, from bands of any height."""

  def __init__(self, bands: Iterable[np.ndarray]):
    """Reads from `bands`, arrays [rows, ...], as they are needed."""
    self._bands, self._held = iter(bands), None

  def take(self, count: int) -> np.ndarray:
    """The next `count` rows, fewer at the end of the image; at its end none."""
    parts = [] if self._held is None else [self._held]
    have = sum(map(len, parts))
    while have < count and (band := next(self._bands, None)) is not None:
      parts.append(band)
      have += len(band)
    if not parts:
      return np.empty((0,))
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    self._held = rows[count:] if len(rows) > count else None
    return rows[:count]


class Ticks:
  """Counts finished tiles for a progress callback."""

  def __init__(self, progress: Callable[[int, int], None] | None, total: int):
    self._progress, self._total, self._done = progress, total, 0

  def __call__(self) -> None:
    """Counts one more."""
    self._done += 1
    if self._progress:
      self._progress(self._done, self._total)


def gathered(bands: Iterable[Band], shapes: Mapping[str, tuple[int, int]]) -> dict[str, np.ndarray]:
  """All rows of each output; `shapes` has the size of each."""
  found: dict[str, np.ndarray] = {}
  rows: collections.Counter[str] = collections.Counter()
  for band in bands:
    for name, x in band.items():
      if x.shape[:2] == shapes[name] and not rows[name]:
        found[name] = x
        continue
      if name not in found:
        found[name] = np.empty((*shapes[name], x.shape[-1]), x.dtype)
      found[name][rows[name] : rows[name] + len(x)] = x
      rows[name] += len(x)
  return found
