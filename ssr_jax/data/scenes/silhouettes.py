"""Silhouettes of cut-outs: functions of (u, v) in [0, 1]^2, positive inside, about the distance to the outline.

v points downwards; the foot is at v = 1.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Silhouette = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """The ellipse that touches the four sides."""
  r = np.hypot(2 * u - 1, 2 * v - 1)
  return 0.5 * (1 - r)


def star(rng: np.random.Generator) -> Silhouette:
  """A closed outline r(angle), smooth (a Fourier series) or a polygon."""
  angles = np.linspace(-np.pi, np.pi, 257)
  if rng.random() < 0.4:
    corners = int(rng.integers(3, 9))
    at = np.sort(rng.uniform(-np.pi, np.pi, corners))
    outline = np.interp(angles, at, rng.uniform(0.55, 1, corners), period=2 * np.pi)
  else:
    outline = np.full_like(angles, 0.75)
    for k in range(1, 8):
      outline += rng.normal(0, 0.22 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
  outline = np.clip(outline / outline.max(), 0.15, 1)

  def inside(u, v):
    x, y = 2 * u - 1, 2 * v - 1
    return 0.5 * (np.interp(np.arctan2(y, x), angles, outline) - np.hypot(x, y))

  return inside


def foliage(rng: np.random.Generator) -> Silhouette:
  """A ragged crown, thresholded noise in an ellipse, on a trunk or without one."""
  cells = int(rng.integers(8, 40))
  noise = ndimage.gaussian_filter(rng.standard_normal((64, 64)).astype(np.float32), 32 / cells, mode='wrap')
  noise *= 0.25 / noise.std()
  trunk = rng.random() < 0.6
  crown = rng.uniform(0.5, 0.85) if trunk else 1.0
  thick = rng.uniform(0.02, 0.08)
  lean = rng.normal(0, 0.1)

  def inside(u, v):
    r = np.hypot(2 * u - 1, 2 * v / crown - 1)
    iu, iv = np.clip((u * 63).astype(np.int32), 0, 63), np.clip((v * 63).astype(np.int32), 0, 63)
    shape = 0.3 * (0.8 - r + noise[iv, iu])
    if trunk:
      shape = np.maximum(shape, np.where(v > 0.4 * crown, thick - np.abs(u - 0.5 - lean * (1 - v)), -1))
    return shape

  return inside


def figure(rng: np.random.Generator) -> Silhouette:
  """A union of a few ellipses, like standing figures, animals or bottles."""
  count = int(rng.integers(2, 6))
  centres = np.stack([rng.uniform(0.25, 0.75, count), rng.uniform(0.1, 0.9, count)], -1)
  radii = np.stack([rng.uniform(0.1, 0.3, count), rng.uniform(0.1, 0.4, count)], -1)
  centres[0], radii[0] = (0.5, 0.55), (rng.uniform(0.2, 0.4), 0.45)

  def inside(u, v):
    best = np.full_like(u, -1)
    for (cu, cv), (ru, rv) in zip(centres, radii, strict=True):
      best = np.maximum(best, min(ru, rv) * (1 - np.hypot((u - cu) / ru, (v - cv) / rv)))
    return best

  return inside


def ridge(rng: np.random.Generator, rough: float) -> Silhouette:
  """Everything below a random skyline of hills, trees or roofs; `rough`, 0 to 1, adds high frequencies."""
  at = np.linspace(0, 1, 129)
  line = np.zeros_like(at)
  for k in range(1, 24):
    line += rng.normal(0, 1) * k ** (-1.6 + rough) * np.sin(2 * np.pi * k * at + rng.uniform(0, 2 * np.pi))
  if rng.random() < 0.3:  # roofs
    steps = np.sort(rng.integers(0, 129, int(rng.integers(4, 16))))
    line = np.repeat(rng.standard_normal(len(steps) + 1), np.diff([0, *steps, 129]))
  line = 0.05 + 0.6 * (line - line.min()) / max(np.ptp(line), 1e-6)
  return lambda u, v: v - np.interp(u, at, line)


def bars(rng: np.random.Generator) -> Silhouette:
  """Upright bars with two rails, like a fence."""
  count, thick = int(rng.integers(3, 12)), rng.uniform(0.1, 0.3)
  rail = rng.uniform(0.02, 0.08)

  def inside(u, v):
    bars = (thick - np.abs(u * count % 1 - 0.5)) / count
    return np.maximum(bars, rail - np.minimum(np.abs(v - 0.15), np.abs(v - 0.75)))

  return inside
