"""Photos whose colour profile is not sRGB: as the sRGB that models know, and back.

It reads profiles that state three primaries and a tone curve for each, as those of cameras, phones and editors do
(Display P3, Adobe RGB, ProPhoto, Rec. 2020), in any number of bits; LittleCMS in Pillow converts 8 bits only. What lies
outside sRGB's gamut is kept aside and added to the result again.
"""

from collections.abc import Callable
import dataclasses
import functools
import struct
from typing import Any

import numpy as np
from PIL import ImageCms

from ssr_jax.types import Float

_ROWS = 256  # converted at once
_GRID = np.linspace(0, 1, 65536)
_SAME = 0.004
"""Largest difference, of values in [0, 1], in a profile that counts as sRGB: about a level of 8 bits."""

Values = Float[np.ndarray, '*n 3']


@dataclasses.dataclass(frozen=True)
class Space:
  """An RGB colour space.

  Attributes:
    primaries: [3, 3], from linear values to CIE XYZ of ICC's connection space.
    curves: for each channel the linear values of 65536 encoded ones from 0 to 1, ascending.
  """

  primaries: np.ndarray
  curves: tuple[np.ndarray, np.ndarray, np.ndarray]

  @classmethod
  def parse(cls, icc: bytes) -> 'Space | None':
    """The space of an ICC profile; None if the profile has no primaries and curves, or is damaged."""
    try:
      tags = _tags(icc)
      if icc[16:20] != b'RGB ' or b'A2B0' in tags:  # tables go before primaries
        return None
      primaries = np.stack([_xyz(tags[c + b'XYZ']) for c in (b'r', b'g', b'b')], 1)
      with np.errstate(all='ignore'):
        red, green, blue = (_curve(tags[c + b'TRC']) for c in (b'r', b'g', b'b'))
    except (KeyError, ValueError, IndexError, struct.error):
      return None
    sound = all(np.isfinite(x).all() and (np.diff(x) >= 0).all() and x[-1] > x[0] for x in (red, green, blue))
    if not sound or not abs(np.linalg.det(primaries)) > 1e-6:
      return None
    return cls(primaries, (red, green, blue))

  def linear(self, values: Values) -> Values:
    """Linear values of encoded ones in [0, 1]."""
    return np.stack([np.interp(values[..., c], _GRID, self.curves[c]) for c in range(3)], -1)

  def encoded(self, linear: Values) -> Values:
    """Encoded values, in [0, 1], of linear ones, which are clipped."""
    return np.stack([np.interp(linear[..., c], self.curves[c], _GRID) for c in range(3)], -1)


@functools.cache
def srgb() -> Space:
  """sRGB, with its primaries as LittleCMS states them."""
  space = Space.parse(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
  assert space is not None
  return space


class Wide:
  """A photo of another colour space: its rows as sRGB, and the way back for a result.

  Attributes:
    shape: [h, w, 3].
    dtype: float32, of the rows.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, rgb: Any, space: Space):
    """Wraps [h, w, 3] uint8, or float in [0, 1]: an array, or what gives arrays for slices of rows."""
    self._rgb, self._space, self.shape = rgb, space, rgb.shape
    # A file that is decoded row by row has a reader for the way back, which comes later than the model.
    self._beside = rgb.again() if hasattr(rgb, 'again') else rgb
    self._to = np.linalg.solve(srgb().primaries, space.primaries).T
    self._back = np.linalg.solve(space.primaries, srgb().primaries).T

  def __getitem__(self, rows: slice) -> Float[np.ndarray, 'n w 3']:
    """Rows as sRGB in [0, 1]; colours outside its gamut are clipped."""
    return np.clip(self._unclipped(self._rgb[rows]), 0, 1).astype(np.float32)

  def back(self, rows: np.ndarray, first: int, size: tuple[int, int]) -> np.ndarray:
    """A result's rows in the photo's own space, with what `__getitem__` clipped.

    Args:
      rows: [n, W, 3] sRGB, float in [0, 1].
      first: their first row in the result.
      size: (H, W) of the result, not smaller than the photo.

    Returns:
      [n, W, 3] in the photo's dtype.
    """
    out = np.empty(rows.shape, self._rgb.dtype)
    for start in range(0, len(rows), _ROWS):
      values = rows[start : start + _ROWS] + self._outside(first + start, min(_ROWS, len(rows) - start), size)
      values = self._space.encoded(_odd(_linear_of_srgb, values) @ self._back)
      out[start : start + _ROWS] = np.rint(255 * values) if out.dtype == np.uint8 else values
    return out

  def _outside(self, first: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """What is clipped of the photo, bilinearly at rows of a result."""
    (h, w, _), (H, W) = self.shape, size
    y = np.clip((np.arange(first, first + count) + 0.5) * (h / H) - 0.5, 0, h - 1)
    x = np.clip((np.arange(W) + 0.5) * (w / W) - 0.5, 0, w - 1)
    top = int(y[0])
    seen = self._unclipped(self._beside[top : int(y[-1]) + 2])
    outside = seen - np.clip(seen, 0, 1)
    if not outside.any():
      return np.zeros(1)
    outside = _between(outside, y - top, 0)
    return _between(outside, x, 1)

  def _unclipped(self, values: np.ndarray) -> np.ndarray:
    values = values / 255 if values.dtype == np.uint8 else values.astype(np.float64)
    return _odd(_srgb_of_linear, self._space.linear(values) @ self._to)


def wide(rgb: Any, icc: bytes | None, gray: bool = False) -> tuple[Wide | None, str]:
  """What converts a photo by its colour profile, and a note on what could not be done.

  Args:
    rgb: as of `Wide`.
    icc: the profile, or None.
    gray: whether the photo is gray; its profile then says nothing of colours.

  Returns:
    (None, '') where the photo is gray, has no profile, or one that is sRGB within a level of 8 bits; (None, note) where
    the profile cannot be applied.
  """
  if icc is None or gray:
    return None, ''
  space = Space.parse(icc)
  if space is None:
    return None, 'its colour profile has no primaries and curves; the pixels were taken for sRGB, and it was kept'
  found = Wide(rgb, space)
  corners = np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 3), -1).reshape(-1, 3)
  moved = _odd(_srgb_of_linear, space.linear(corners) @ found._to)
  return (None, '') if np.abs(moved - corners).max() < _SAME else (found, '')


def _between(image: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
  """Linear interpolation along an axis at positions within it."""
  low = at.astype(int)
  share = (at - low).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
  high = np.minimum(low + 1, image.shape[axis] - 1)
  return image.take(low, axis) * (1 - share) + image.take(high, axis) * share


def _srgb_of_linear(x: np.ndarray) -> np.ndarray:
  """IEC 61966-2-1, also above 1."""
  return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 0.0031308) ** (1 / 2.4) - 0.055)


def _linear_of_srgb(x: np.ndarray) -> np.ndarray:
  return np.where(x <= 0.04045, x / 12.92, ((np.maximum(x, 0.04045) + 0.055) / 1.055) ** 2.4)


def _odd(curve: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
  """A curve, continued below zero as an odd function."""
  return np.sign(x) * curve(np.abs(x))


def _tags(icc: bytes) -> dict[bytes, bytes]:
  """{signature: content} of a profile (ICC.1:2022, 7.3)."""
  (count,) = struct.unpack_from('>I', icc, 128)
  if count > 1000:
    raise ValueError('no profile')
  entries = (struct.unpack_from('>4sII', icc, 132 + 12 * i) for i in range(count))
  return {name: icc[start : start + size] for name, start, size in entries}


def _xyz(tag: bytes) -> np.ndarray:
  """XYZType (10.31)."""
  return np.array(struct.unpack_from('>3i', tag, 8)) / 65536


def _curve(tag: bytes) -> np.ndarray:
  """A curveType or parametricCurveType (10.6, 10.18): the linear values of `_GRID`."""
  x = _GRID
  if tag[:4] == b'curv':
    (count,) = struct.unpack_from('>I', tag, 8)
    if count == 0:
      return x
    if count == 1:
      return x ** (struct.unpack_from('>H', tag, 12)[0] / 256)
    table = np.frombuffer(tag, '>u2', count, 12) / 65535
    return np.interp(x, np.linspace(0, 1, count), table)
  if tag[:4] != b'para':
    raise ValueError('unknown curve')
  (kind,) = struct.unpack_from('>H', tag, 8)
  if kind > 4:
    raise ValueError('unknown curve')
  numbers = struct.unpack_from(f'>{(1, 3, 4, 5, 7)[kind]}i', tag, 12)
  g, a, b, c, d, e, f = _parameters(kind, [n / 65536 for n in numbers])
  return np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)


def _parameters(kind: int, p: list[float]) -> tuple[float, ...]:
  """(g, a, b, c, d, e, f) of (a x + b)^g + e from x = d on, and c x + f below, for the five kinds of table 68."""
  if kind == 0:
    return p[0], 1, 0, 0, 0, 0, 0
  if kind in (1, 2):
    g, a, b = p[:3]
    c = p[3] if kind == 2 else 0
    return g, a, b, 0, -b / a if a else 0, c, c
  g, a, b, c, d = p[:5]
  e, f = p[5:] if kind == 4 else (0, 0)
  return g, a, b, c, d, e, f
