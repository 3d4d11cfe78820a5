"""Rendered RGB-D: scenes in perspective with true inverse depth, textured from photos, made from a seed.

There is no RGB-D set to train the compact depth net on, so the project draws one: streets, fields, corridors, rooms,
table tops and close-ups, with ridges, boxes, spheres, pillars and upright cut-outs standing in them. Nothing here is
meant to fool a person; it is meant to hold the cues that carry over to photos: texture that shrinks with distance,
occlusion, ground that recedes, shading, contact shadows, haze, blurred backgrounds.

Conventions: camera at the origin, x right, y down, z forward, lengths in units of about a metre. A pixel's ray has
z = 1, so the point seen along it is ray * z and its inverse depth is 1/z; the sky has inverse depth 0.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

import numpy as np
from scipy import ndimage

_FAR = 1e-3  # inverse depth below which a plane counts as not seen (one kilometre)
_TRIES = 4  # scenes drawn before one with hardly any relief, or hardly any picture, is let through


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole camera.

  Attributes:
    focal: focal length in pixels, of rows.
    pitch: radians, positive looks down.
    roll: radians.
    height: metres above the ground.
    squeeze: how much wider than tall a pixel sees: the net squashes photos of any shape to one, so do the scenes.
  """

  focal: float
  pitch: float
  roll: float
  height: float
  squeeze: float = 1.0

  @property
  def rotation(self) -> np.ndarray:
    """[3, 3], takes world directions (y straight down, z level) to camera directions."""
    c, s = math.cos(self.pitch), math.sin(self.pitch)
    tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = math.cos(self.roll), math.sin(self.roll)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ tilt


class Texture:
  """A mip pyramid of one square photo crop, tiled by mirroring, looked up in units of its own side."""

  def __init__(self, crop: np.ndarray):
    """crop: float32 [n, n, 3], n a power of two."""
    self.side = crop.shape[0]
    levels, offsets = [crop.reshape(-1, 3)], [0]
    while crop.shape[0] > 1:
      crop = 0.25 * (crop[::2, ::2] + crop[1::2, ::2] + crop[::2, 1::2] + crop[1::2, 1::2])
      offsets.append(offsets[-1] + len(levels[-1]))
      levels.append(crop.reshape(-1, 3))
    self.texels = np.concatenate(levels)
    self.offsets = np.array(offsets, np.int32)

  @property
  def mean(self) -> np.ndarray:
    return self.texels[-1]

  def __call__(self, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Colours [n, 3] at (u, v) [n]; footprint [n] is what a pixel covers, in sides. Bilinear in the nearest level."""
    level = np.rint(np.log2(np.maximum(footprint * self.side, 1e-6)))
    level = np.clip(level, 0, len(self.offsets) - 1).astype(np.int32)
    side = np.right_shift(np.int32(self.side), level)
    x, y = u * side - 0.5, v * side - 0.5
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0)[:, None].astype(np.float32), (y - y0)[:, None].astype(np.float32)
    x0, y0 = x0.astype(np.int32), y0.astype(np.int32)
    base = self.offsets[level]

    def mirrored(i):
      i = i & (2 * side - 1)
      return np.minimum(i, 2 * side - 1 - i)

    left, right = mirrored(x0), mirrored(x0 + 1)
    top, bottom = base + mirrored(y0) * side, base + mirrored(y0 + 1) * side
    texels = self.texels
    upper = texels[top + left] * (1 - fx) + texels[top + right] * fx
    lower = texels[bottom + left] * (1 - fx) + texels[bottom + right] * fx
    return upper * (1 - fy) + lower * fy


@dataclasses.dataclass(frozen=True)
class Paint:
  """How a surface is coloured: texture tiled every `period` metres, scaled by `gain`, mixed with its plain mean."""

  texture: Texture
  period: float
  gain: np.ndarray  # [3]
  contrast: float  # 0 plain, 1 the photo as it is

  def __call__(self, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    colour = self.texture(u / self.period, v / self.period, footprint / self.period)
    return (self.texture.mean + self.contrast * (colour - self.texture.mean)) * self.gain


class Canvas:
  """Colour and inverse depth under construction; surfaces are drawn far to near, and a z-buffer settles the rest."""

  def __init__(self, camera: Camera, height: int, width: int):
    self.camera = camera
    self.image = np.zeros((height, width, 3), np.float32)
    self.inverse_depth = np.zeros((height, width), np.float32)
    self.x = ((np.arange(width) - (width - 1) / 2) / camera.focal * camera.squeeze).astype(np.float32)
    self.y = ((np.arange(height) - (height - 1) / 2) / camera.focal).astype(np.float32)

  def box_of(self, points: np.ndarray) -> tuple[slice, slice]:
    """The pixel window that holds camera points [n, 3]; the whole picture if one lies behind the camera."""
    height, width = self.inverse_depth.shape
    if points[:, 2].min() < 0.05:
      return slice(0, height), slice(0, width)
    x = points[:, 0] / points[:, 2] * self.camera.focal / self.camera.squeeze + (width - 1) / 2
    y = points[:, 1] / points[:, 2] * self.camera.focal + (height - 1) / 2
    clip = lambda value, size: int(min(max(value, 0), size))
    return (
      slice(clip(math.floor(y.min()) - 1, height), clip(math.ceil(y.max()) + 2, height)),
      slice(clip(math.floor(x.min()) - 1, width), clip(math.ceil(x.max()) + 2, width)),
    )

  def quad(
    self,
    corner: np.ndarray,
    across: np.ndarray,
    along: np.ndarray,
    paint: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    inside: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    *,
    endless: bool = False,
    decal: bool = False,
    relief: float = 0.0,
  ) -> None:
    """Draws the points corner + u across + v along.

    Every such surface is one homography: with M the inverse of [across | along | corner], M ray = (u, v, 1) / z, so
    the last row is the inverse depth, exact and affine over the picture.

    Args:
      corner, across, along: [3], world coordinates.
      paint: (u, v, footprint), all [n] and in metres, to colours [n, 3] (or, for a decal, to a gain [n, 1]).
      inside: signed distance-like function of (u, v) in [0, 1], in units of the quad, positive inside; None is all.
      endless: no borders; u and v run over the whole plane.
      decal: multiply what is already there (a shadow) instead of covering it, and leave depth alone.
      relief: how much darker the outline is than the middle, in [0, 1), so that a cut-out looks round; needs `inside`.
    """
    rotation = self.camera.rotation
    corner, across, along = rotation @ corner, rotation @ across, rotation @ along
    columns = np.stack([across, along, corner], axis=1)
    if abs(np.linalg.det(columns)) < 1e-9:
      return  # seen edge on
    m = np.linalg.inv(columns).astype(np.float32)
    if endless:
      rows, cols = slice(0, len(self.y)), slice(0, len(self.x))
    else:
      rows, cols = self.box_of(np.stack([corner, corner + across, corner + along, corner + across + along]))
    x, y = self.x[None, cols], self.y[rows, None]
    if not x.size or not y.size:
      return
    w = m[2, 0] * x + (m[2, 1] * y + m[2, 2])
    old = self.inverse_depth[rows, cols]
    seen = w > np.maximum(old * (0.99 if decal else 1), _FAR)
    index = np.flatnonzero(seen)
    if not index.size:
      return
    iy, ix = np.divmod(index, w.shape[1])
    w, x, y = w.reshape(-1)[index], x[0, ix], y[iy, 0]
    z = 1 / w
    u = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) * z
    v = (m[1, 0] * x + m[1, 1] * y + m[1, 2]) * z
    # What one pixel covers along u and v, in units of the quad: the homography's derivatives.
    scale = z / self.camera.focal
    squeeze = self.camera.squeeze
    du = scale * (squeeze * abs(m[0, 0] - u * m[2, 0]) + abs(m[0, 1] - u * m[2, 1]))
    dv = scale * (squeeze * abs(m[1, 0] - v * m[2, 0]) + abs(m[1, 1] - v * m[2, 1]))
    coverage = np.ones_like(u)
    if not endless:
      coverage = np.clip(np.minimum(u, 1 - u) / du + 0.5, 0, 1) * np.clip(np.minimum(v, 1 - v) / dv + 0.5, 0, 1)
      if inside is not None:
        margin = inside(u, v)
        coverage *= np.clip(margin / np.maximum(du, dv) + 0.5, 0, 1)
    keep = np.flatnonzero(coverage > 0.02)
    if not keep.size:
      return
    if relief:
      margin = margin[keep]
    u, v, du, dv, w, coverage = (a[keep] for a in (u, v, du, dv, w, coverage))
    wide, tall = np.linalg.norm(across), np.linalg.norm(along)
    a, b = du * wide, dv * tall
    # Between the two sides of the footprint, nearer the longer one: some blur at grazing angles against aliasing.
    footprint = np.maximum(a, b) ** 0.7 * np.minimum(a, b) ** 0.3
    colour = paint(u * wide, v * tall, footprint).astype(np.float32)
    if relief:
      colour *= (1 - relief * np.clip(1 - margin / 0.15, 0, 1) ** 2)[:, None]
    self._put(rows, cols, index[keep], w, colour, coverage, decal)

  def _put(self, rows, cols, index, w, colour, coverage, decal=False) -> None:
    iy, ix = np.divmod(index, len(range(*cols.indices(len(self.x)))))
    iy, ix = iy + rows.start, ix + cols.start
    under = self.image[iy, ix]
    coverage = coverage[:, None].astype(np.float32)
    self.image[iy, ix] = under * (1 + coverage * (colour - 1)) if decal else under + coverage * (colour - under)
    if not decal:
      solid = coverage[:, 0] >= 0.5
      self.inverse_depth[iy[solid], ix[solid]] = w[solid]

  def ellipsoid(self, centre: np.ndarray, axes: np.ndarray, paint, light: np.ndarray, ambient: float) -> None:
    """Draws {centre + axes q : |q| = 1}, lit from `light` (world, towards the light). axes: [3, 3], columns."""
    rotation = self.camera.rotation
    centre_c, axes_c = rotation @ centre, rotation @ axes
    reach = np.abs(axes_c).sum(axis=1)
    if centre_c[2] - reach[2] < 0.05:
      return  # the camera would be inside or touch it
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    rows, cols = self.box_of(centre_c + signs @ axes_c.T)
    x, y = self.x[None, cols], self.y[rows, None]
    if not x.size or not y.size:
      return
    m = np.linalg.inv(axes_c).astype(np.float32)
    origin = (m @ centre_c).astype(np.float32)  # q = z * (m ray) - origin
    rx, ry, rz = (m[i, 0] * x + (m[i, 1] * y + m[i, 2]) for i in range(3))
    rr = rx * rx + ry * ry + rz * rz
    ro = rx * origin[0] + ry * origin[1] + rz * origin[2]
    oo = float(origin @ origin)
    discriminant = ro * ro - rr * (oo - 1)
    index = np.flatnonzero(discriminant > 0)
    if not index.size:
      return
    root = np.sqrt(discriminant.reshape(-1)[index])
    ro, rr = ro.reshape(-1)[index], rr.reshape(-1)[index]
    z = (ro - root) / rr
    w = 1 / z
    iy, ix = np.divmod(index, rx.shape[1])
    seen = w > self.inverse_depth[rows, cols][iy, ix]
    index, z, w, root, rr = index[seen], z[seen], w[seen], root[seen], rr[seen]
    if not index.size:
      return
    q = np.stack([r.reshape(-1)[index] for r in (rx, ry, rz)], -1) * z[:, None] - origin
    normal = q @ np.linalg.inv(axes).astype(np.float32)  # world normal, up to length
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    lambert = np.maximum(normal @ light.astype(np.float32), 0)
    size = float(np.linalg.norm(axes, axis=0).mean())
    facing = np.clip(root / np.sqrt(rr * max(oo, 1e-6)), 0, 1)  # 0 at the rim
    footprint = z / self.camera.focal / (0.3 + 0.7 * facing)
    u, v = np.arctan2(q[:, 0], -q[:, 2]) * size, np.arcsin(np.clip(q[:, 1], -1, 1)) * size
    colour = paint(u, v, footprint) * (ambient + (1 - ambient) * lambert)[:, None]
    # The rim's chord grows like a square root, so its half length in pixels tells how much of a pixel is covered.
    coverage = np.clip((root / rr / z) * self.camera.focal / 4, 0.3, 1)
    self._put(rows, cols, index, w, colour, np.maximum(coverage, 0.5))

  def pillar(self, foot: np.ndarray, radius: float, height: float, paint, light: np.ndarray, ambient: float) -> None:
    """Draws an upright cylinder on `foot` (world); its top, seldom seen, is left open and shows as the far inside."""
    rotation = self.camera.rotation
    up = np.array([0.0, -height, 0.0])
    signs = np.array([[i, 0, k] for i in (-1, 1) for k in (-1, 1)]) * radius
    points = np.concatenate([foot + signs, foot + up + signs]) @ rotation.T
    if points[:, 2].min() < 0.05:
      return
    rows, cols = self.box_of(points)
    x, y = self.x[None, cols], self.y[rows, None]
    if not x.size or not y.size:
      return
    r = rotation.T.astype(np.float32)  # camera ray to world ray
    rx, ry, rz = (r[i, 0] * x + (r[i, 1] * y + r[i, 2]) for i in range(3))
    rr, ro = rx * rx + rz * rz, rx * foot[0] + rz * foot[2]
    discriminant = ro * ro - rr * (foot[0] ** 2 + foot[2] ** 2 - radius**2)
    root = np.sqrt(np.maximum(discriminant, 0))
    for side in (1, -1):  # far wall first
      z = (ro + side * root) / np.maximum(rr, 1e-9)
      level = ry * z - foot[1]
      seen = (discriminant > 0) & (level <= 0) & (level >= -height) & (z > 0.05)
      seen &= self.inverse_depth[rows, cols] * z < 1
      index = np.flatnonzero(seen)
      if not index.size:
        continue
      z, ray_x, ray_z, level = (a.reshape(-1)[index] for a in (z, rx, rz, level))
      nx, nz = (ray_x * z - foot[0]) / radius, (ray_z * z - foot[2]) / radius
      lambert = np.maximum(-side * (nx * light[0] + nz * light[2]), 0)
      u = np.arctan2(nx, -nz) * radius
      facing = np.abs(nx * ray_x + nz * ray_z) / np.sqrt(rr.reshape(-1)[index])
      colour = paint(u, level, z / self.camera.focal / (0.3 + 0.7 * facing))
      colour = colour * (ambient + (1 - ambient) * lambert)[:, None]
      self._put(rows, cols, index, 1 / z, colour, np.ones_like(z))


# ---------------------------------------------------------------------------------------------------------------------
# Silhouettes: signed functions of (u, v) in [0, 1]^2, positive inside, v downwards with the foot at v = 1.


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  r = np.hypot(2 * u - 1, 2 * v - 1)
  return 0.5 * (1 - r)


def _star(rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """A closed outline r(angle), smooth (Fourier) or with corners (polygon)."""
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


def _foliage(rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """A ragged crown, thresholded noise inside an ellipse, sometimes on a trunk."""
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


def _figure(rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """A union of a few ellipses: standing figures, animals, bottles."""
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


def _ridge(rng: np.random.Generator, rough: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """Everything below a random skyline: hills, tree lines, roofs."""
  at = np.linspace(0, 1, 129)
  line = np.zeros_like(at)
  for k in range(1, 24):
    line += rng.normal(0, 1) * k ** (-1.6 + rough) * np.sin(2 * np.pi * k * at + rng.uniform(0, 2 * np.pi))
  if rng.random() < 0.3:  # roofs
    steps = np.sort(rng.integers(0, 129, int(rng.integers(4, 16))))
    line = np.repeat(rng.standard_normal(len(steps) + 1), np.diff([0, *steps, 129]))
  line = 0.05 + 0.6 * (line - line.min()) / max(np.ptp(line), 1e-6)
  return lambda u, v: v - np.interp(u, at, line)


def _bars(rng: np.random.Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """A fence or a frame."""
  count, thick = int(rng.integers(3, 12)), rng.uniform(0.1, 0.3)
  rail = rng.uniform(0.02, 0.08)

  def inside(u, v):
    bars = (thick - np.abs(u * count % 1 - 0.5)) / count
    return np.maximum(bars, rail - np.minimum(np.abs(v - 0.15), np.abs(v - 0.75)))

  return inside


# ---------------------------------------------------------------------------------------------------------------------
# Scenes


class _Scene:
  """One scene's draws: camera, light, photos, and the surfaces put on a canvas."""

  def __init__(self, rng: np.random.Generator, textures: Sequence[np.ndarray], height: int, width: int):
    self.rng, self.textures = rng, textures
    kinds = ['field', 'street', 'room', 'table', 'portrait']
    self.kind = kinds[rng.choice(len(kinds), p=[0.3, 0.15, 0.2, 0.15, 0.2])]
    field_of_view = math.radians(rng.uniform(35, 75))  # of the longer side
    squeeze = float(np.exp(rng.uniform(-0.25, 0.45)))
    pitch = {
      'field': rng.normal(0.03, 0.12), 'street': rng.normal(0, 0.1), 'room': rng.normal(0.05, 0.15),
      'table': rng.uniform(0.25, 1.0), 'portrait': rng.normal(0.05, 0.1),
    }[self.kind]  # fmt: skip
    self.camera = Camera(
      focal=0.5 * max(height, width * squeeze) / math.tan(field_of_view / 2),
      squeeze=squeeze,
      pitch=float(np.clip(pitch, -0.3, 1.1)),
      roll=float(rng.normal(0, 0.03)),
      height=float(rng.uniform(0.4, 1.2) if self.kind == 'table' else np.exp(rng.uniform(np.log(0.8), np.log(3.5)))),
    )
    self.canvas = Canvas(self.camera, height, width)
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, 1.3)
    self.light = np.array([
      math.cos(elevation) * math.sin(azimuth), -math.sin(elevation), math.cos(elevation) * math.cos(azimuth)
    ])  # fmt: skip
    self.ambient = float(rng.uniform(0.35, 0.8))
    self.outdoors = self.kind in ('field', 'street') or rng.random() < 0.5

  def texture(self) -> Texture:
    """A random square crop of a random photo: of a small patch (a material) up to most of the photo (a thing)."""
    rng = self.rng
    photo = self.textures[rng.integers(len(self.textures))]
    most = min(photo.shape[:2])
    extent = int(min(most, np.exp(rng.uniform(np.log(40), np.log(max(most, 41))))))
    top, left = rng.integers(photo.shape[0] - extent + 1), rng.integers(photo.shape[1] - extent + 1)
    side = 1 << max(4, min(7, extent.bit_length() - 1))
    rows = top + np.arange(side) * extent // side
    cols = left + np.arange(side) * extent // side
    crop = photo[rows[:, None], cols[None]].astype(np.float32) / 255
    if rng.random() < 0.5:
      crop = crop[:, ::-1]
    return Texture(crop)

  def paint(self, period: float) -> Paint:
    """A random paint whose texture spans about `period` metres."""
    rng = self.rng
    return Paint(
      texture=self.texture(),
      period=period * float(np.exp(rng.normal(0, 0.4))),
      gain=(np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.07, 3))).astype(np.float32),
      contrast=float(np.clip(rng.uniform(0.15, 1.3), 0, 1)),
    )

  def lit(self, paint: Paint, normal: np.ndarray) -> Paint:
    """`paint` under the scene's light on a flat surface."""
    normal = normal / np.linalg.norm(normal)
    shade = self.ambient + (1 - self.ambient) * max(float(normal @ self.light), 0)
    return dataclasses.replace(paint, gain=(paint.gain * shade).astype(np.float32))

  def render(self) -> tuple[np.ndarray, np.ndarray]:
    """Draws everything, far to near; image and inverse depth."""
    self.backdrop()
    if self.kind != 'portrait' or self.rng.random() < 0.5:
      self.ground()
    {
      'field': self.ridges, 'street': self.walls, 'room': self.walls, 'table': lambda: None, 'portrait': self.ridges
    }[self.kind]()  # fmt: skip
    self.haze()
    if self.kind in ('portrait', 'table') and self.rng.random() < 0.6:
      self.blur(self.rng.uniform(0.5, 2.5))
    self.objects()
    return self.develop()

  def backdrop(self) -> None:
    """What lies at infinity: a sky with clouds, or a photo as a distant, blurred view."""
    rng, canvas = self.rng, self.canvas
    height, width = canvas.inverse_depth.shape
    if rng.random() < (0.45 if self.kind == 'portrait' else 0.1):
      photo = self.textures[rng.integers(len(self.textures))]
      rows, cols = np.arange(height) * photo.shape[0] // height, np.arange(width) * photo.shape[1] // width
      canvas.image[:] = photo[rows[:, None], cols[None]].astype(np.float32) / 255
      self.blur(rng.uniform(1, 6))
      return
    low = rng.uniform(0.6, 1) * np.array([1, 1, 1]) + rng.normal(0, 0.05, 3)
    high = rng.uniform(0.35, 0.95) * np.array([rng.uniform(0.5, 1), rng.uniform(0.75, 1), 1])
    if rng.random() < 0.15:  # dusk, night, dark wall of a studio
      low, high = low * rng.uniform(0.1, 0.5), high * rng.uniform(0.05, 0.4)
    ramp = np.linspace(1, 0, height)[:, None, None] ** rng.uniform(0.5, 1.5)
    canvas.image[:] = low + ramp * (high - low)
    if rng.random() < 0.5:
      clouds = _noise(rng, height, width, int(rng.integers(2, 8)), stretch=2.5)
      canvas.image += (rng.uniform(0, 0.5) * np.clip(clouds, 0, 1))[..., None] * (0.95 - canvas.image)

  def ground(self) -> None:
    down = self.camera.height
    turn = self.rng.uniform(0, 2 * np.pi)
    across = np.array([math.cos(turn), 0, math.sin(turn)])
    along = np.array([-math.sin(turn), 0, math.cos(turn)])
    corner = np.array([0, down, 0.0])
    paint = self.lit(self.paint(down * self.rng.uniform(0.7, 4)), np.array([0, -1.0, 0]))
    self.canvas.quad(corner, across, along, paint, endless=True)
    if self.rng.random() < 0.3:  # a path, a road, a rug, a pond
      wide, aside = down * self.rng.uniform(0.5, 3), down * self.rng.normal(0, 1.5)
      turn = self.rng.normal(0, 0.5)
      along = np.array([math.sin(turn), 0, math.cos(turn)]) * down * self.rng.choice([3, 60])
      across = np.array([math.cos(turn), 0, -math.sin(turn)]) * wide
      start = np.array([aside, 0.999 * down, down * self.rng.uniform(0.2, 4)]) - 0.5 * across
      inside = self.silhouette() if self.rng.random() < 0.4 else None
      self.canvas.quad(start, across, along, self.lit(self.paint(wide), np.array([0, -1.0, 0])), inside)

  def walls(self) -> None:
    """Room and corridor: two sides, a back wall, a ceiling. Street: the sides, tall, with gaps."""
    rng, down = self.rng, self.camera.height
    turn = rng.normal(0, 0.35)
    forward = np.array([math.sin(turn), 0, math.cos(turn)])
    right = np.array([math.cos(turn), 0, -math.sin(turn)])
    room = self.kind == 'room'
    tall = down * (rng.uniform(1.4, 2.6) if room else rng.uniform(2, 8))
    left_at, right_at = -down * rng.uniform(1, 4), down * rng.uniform(1, 4)
    far = down * np.exp(rng.uniform(np.log(2.5), np.log(12))) if room else down * rng.uniform(15, 60)
    floor = np.array([0, down, 0.0])
    rise = np.array([0, -tall, 0.0])
    start = -3 * down * forward
    if room or rng.random() < 0.5:
      paint = self.lit(self.paint(0.7 * tall), -forward)
      corner = floor + far * forward + left_at * right
      self.wall(corner + rise, (right_at - left_at) * right, -rise, -forward, paint)
    for at, normal in ((left_at, right), (right_at, -right)):
      if rng.random() < 0.12:
        continue
      paint = self.lit(self.paint(0.7 * tall), normal)
      if room:
        self.wall(floor + start + at * right + rise, (far + 3 * down) * forward, -rise, normal, paint)
        continue
      position = 0.5 * down * rng.uniform(0.5, 3)
      while position < far:  # a row of houses
        length, height = down * rng.uniform(2, 8), rise * rng.uniform(0.5, 1.2)
        setback = rng.uniform(0, 0.3) * down * np.sign(at)
        corner = floor + position * forward + (at + setback) * right
        self.wall(corner + height, length * forward, -height, normal, paint)
        depth = 2 * down * np.sign(at) * right
        self.canvas.quad(corner + height, depth, -height, self.lit(paint, -forward))
        position += length + rng.choice([0, rng.uniform(0, 4)]) * down
        if rng.random() < 0.5:
          paint = self.lit(self.paint(0.7 * tall), normal)
    if room and rng.random() < 0.85:
      corner = floor + rise + start + left_at * right
      paint = self.lit(self.paint(down * 2), np.array([0, 1.0, 0]))
      paint = dataclasses.replace(paint, contrast=paint.contrast * 0.5)
      self.canvas.quad(corner, (right_at - left_at) * right, (far + 3 * down) * forward, paint)

  def wall(self, corner: np.ndarray, across: np.ndarray, along: np.ndarray, normal: np.ndarray, paint: Paint) -> None:
    """A wall, sometimes with doors, windows or pictures: edges that are no steps in depth."""
    rng = self.rng
    self.canvas.quad(corner, across, along, paint)
    if rng.random() < 0.5:
      return
    # In a row at one height, as windows are; a hair in front of the wall.
    length, tall = np.linalg.norm(across), np.linalg.norm(along)
    count = int(rng.integers(1, 2 + min(8, int(2 * length / tall))))
    top = rng.uniform(0.1, 0.5)
    high = rng.uniform(0.1, 1 - top)
    wide = min(rng.uniform(0.15, 0.6) * tall / length, 0.8 / count)
    its = self.lit(self.paint(tall * high), normal)
    for i in range(count):
      at = (i + 0.5) / count - 0.5 * wide
      self.canvas.quad(corner + at * across + top * along + 0.003 * tall * normal, wide * across, high * along, its)

  def ridges(self) -> None:
    """Layers of hills, tree lines and roofs, far to near."""
    rng, down = self.rng, self.camera.height
    count = int(rng.integers(0, 4))
    for distance in sorted(down * np.exp(rng.uniform(np.log(8), np.log(200), count)), reverse=True):
      wide, tall = distance * rng.uniform(1.5, 5), distance * rng.uniform(0.08, 0.6)
      across = np.array([wide, 0, distance * rng.normal(0, 0.3)])
      corner = np.array([rng.normal(0, 0.3) * wide, down - tall, distance]) - 0.5 * across
      along = np.array([0, tall, 0])
      paint = self.lit(self.paint(tall), np.array([0, -0.5, -0.9]))
      self.canvas.quad(corner, across, along, paint, _ridge(rng, rng.uniform(0, 0.9)))

  def silhouette(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    rng = self.rng
    pick = rng.random()
    if pick < 0.1:
      return None
    if pick < 0.2:
      return _ellipse
    if pick < 0.5:
      return _star(rng)
    return _figure(rng) if pick < 0.75 else _foliage(rng)

  def objects(self) -> None:
    """Things standing on the ground (some floating), far to near, each with a soft shadow at its foot."""
    rng, down = self.rng, self.camera.height
    near, far = {'table': (0.8, 3), 'portrait': (1.2, 5), 'room': (1.3, 7)}.get(self.kind, (2, 25))
    count = int(rng.integers(1, 4) if self.kind == 'portrait' else rng.integers(2, 14))
    # Along the optical axis, so that a camera looking down still finds them.
    distances = sorted(down * np.exp(rng.uniform(np.log(near), np.log(far), count)), reverse=True)
    half = self.canvas.x[-1]
    for distance in distances:
      aside = distance * half * rng.uniform(-1.1, 1.1) * (0.6 if self.kind == 'portrait' else 1)
      tall = down * np.exp(rng.normal(*{'table': (-1.0, 0.4), 'room': (-0.4, 0.5)}.get(self.kind, (0, 0.6))))
      foot = np.array([aside, down, distance])
      if self.kind == 'portrait':
        tall = distance * rng.uniform(0.3, 1.1)
        foot[1] = min(down, distance * rng.uniform(0.1, 0.8)) if rng.random() < 0.7 else down
      elif self.kind == 'table':
        foot[2] = distance * math.cos(min(self.camera.pitch, 0.8))
      self.thing(foot, min(tall, distance * rng.uniform(0.2, 0.9)))

  def thing(self, foot: np.ndarray, tall: float) -> None:
    rng, canvas = self.rng, self.canvas
    turn = rng.uniform(-0.6, 0.6)
    pick = rng.random()
    on_ground = abs(foot[1] - self.camera.height) < 1e-6
    wide = min(tall * float(np.exp(rng.normal(-0.4, 0.4))), 0.5 * foot[2])
    if on_ground:
      self.shadow(foot, wide)
    period = max(tall, wide) * rng.uniform(0.6, 1.5)
    if pick < 0.5:  # an upright cut-out, sometimes a fence
      right = np.array([math.cos(turn), 0, math.sin(turn)])
      inside = self.silhouette()
      if on_ground and rng.random() < 0.08:
        inside, wide = _bars(rng), tall * rng.uniform(1, 5)
      corner = foot - 0.5 * wide * right - np.array([0, tall, 0])
      normal = np.array([math.sin(turn), -0.3, -math.cos(turn)])
      relief = float(rng.uniform(0, 0.7)) if inside is not None else 0.0
      paint = self.lit(self.paint(period), normal)
      canvas.quad(corner, wide * right, np.array([0, tall, 0.0]), paint, inside, relief=relief)
    elif pick < 0.75:
      self.box(foot, wide, tall, wide * float(np.exp(rng.normal(0, 0.4))), rng.uniform(0, np.pi))
    elif pick < 0.9:
      radii = 0.5 * np.array([wide, tall, wide * np.exp(rng.normal(0, 0.2))])
      if rng.random() < 0.5:
        radii[:] = radii.min()
      c, s = math.cos(turn), math.sin(turn)
      axes = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) * radii
      canvas.ellipsoid(foot - np.array([0, radii[1], 0]), axes, self.paint(period), self.light, self.ambient)
    else:
      radius = tall * rng.uniform(0.04, 0.35)
      height = tall * (rng.uniform(1, 4) if radius < 0.1 * tall else 1)
      canvas.pillar(foot, radius, height, self.paint(period), self.light, self.ambient)

  def box(self, foot: np.ndarray, wide: float, tall: float, deep: float, turn: float) -> None:
    """A box standing on `foot`; the faces turned to the camera are drawn."""
    right = np.array([math.cos(turn), 0, math.sin(turn)])
    forward = np.array([-math.sin(turn), 0, math.cos(turn)])
    down = np.array([0, tall, 0.0])
    middle = foot - 0.5 * down
    paint = self.paint(max(wide, tall))
    top_paint = self.paint(wide) if self.rng.random() < 0.3 else paint
    for normal, half, across, along, its in (
      (right, 0.5 * wide, deep * forward, down, paint),
      (-right, 0.5 * wide, deep * forward, down, paint),
      (forward, 0.5 * deep, wide * right, down, paint),
      (-forward, 0.5 * deep, wide * right, down, paint),
      (np.array([0, -1.0, 0]), 0.5 * tall, wide * right, deep * forward, top_paint),
    ):
      centre = middle + half * normal
      if centre @ normal < 0:  # the camera, at the origin, is on the outer side
        self.canvas.quad(centre - 0.5 * across - 0.5 * along, across, along, self.lit(its, normal))

  def shadow(self, foot: np.ndarray, wide: float) -> None:
    """A soft dark ellipse on the ground, drawn out away from the light."""
    dark = self.rng.uniform(0.3, 0.8)
    away = -np.array([self.light[0], 0, self.light[2]]) / max(-self.light[1], 0.3)
    size = wide * 1.3
    across, along = np.array([size, 0, 0]), np.array([0, 0, size])
    corner = foot + 0.3 * size * away - 0.5 * (across + along) - np.array([0, 0.002 * self.camera.height, 0])

    def gain(u, v, footprint):
      r = np.hypot(2 * u / size - 1, 2 * v / size - 1)
      return (1 - dark * np.clip(1.3 - 1.3 * r, 0, 1))[:, None]

    self.canvas.quad(corner, across, along, gain, _ellipse, decal=True)

  def haze(self) -> None:
    """Distance takes contrast and gives the colour of the air."""
    if not self.outdoors or self.rng.random() < 0.4:
      return
    reach = self.camera.height * np.exp(self.rng.uniform(np.log(15), np.log(300)))
    air = (self.rng.uniform(0.6, 0.95) + self.rng.normal(0, 0.04, 3)).astype(np.float32)
    w = self.canvas.inverse_depth
    clear = np.where(w > 0, np.exp(-1 / np.maximum(w * reach, 1e-3)), 1)[..., None]  # the sky has its own colour
    self.canvas.image = (air + clear * (self.canvas.image - air)).astype(np.float32)

  def blur(self, sigma: float) -> None:
    self.canvas.image = ndimage.gaussian_filter(self.canvas.image, (sigma, sigma, 0), truncate=2.5)

  def develop(self) -> tuple[np.ndarray, np.ndarray]:
    """What the camera does to light: uneven exposure, white balance, tone, blur, noise."""
    rng = self.rng
    image, depth = self.canvas.image, self.canvas.inverse_depth
    height, width = depth.shape
    if rng.random() < 0.5:  # light and shade across the scene
      image *= np.exp(rng.uniform(0, 0.35) * _noise(rng, height, width, int(rng.integers(2, 5))))[..., None]
    # A camera's meter: most of the way to a middling brightness.
    exposure = (rng.uniform(0.28, 0.6) / max(float(np.clip(image, 0, 1).mean()), 0.02)) ** rng.uniform(0.6, 1)
    image *= (exposure * np.exp(rng.normal(0, 0.05, 3))).astype(np.float32)
    saturation = 0.0 if rng.random() < 0.05 else np.clip(rng.normal(1, 0.2), 0.3, 1.5)
    gray = image.mean(axis=-1, keepdims=True)
    image = np.clip(gray + np.float32(saturation) * (image - gray), 0, 1)
    image = image ** np.float32(np.exp(rng.normal(0, 0.2)))
    self.canvas.image = image
    if rng.random() < 0.7:
      self.blur(rng.uniform(0.3, 1.4))
    image = self.canvas.image
    image = image + np.float32(rng.uniform(0, 0.03)) * rng.standard_normal(image.shape, dtype=np.float32)
    if rng.random() < 0.5:
      image, depth = image[:, ::-1], depth[:, ::-1]
    return np.ascontiguousarray(np.clip(image, 0, 1), np.float32), np.ascontiguousarray(depth, np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, cells: int, stretch: float = 1.0) -> np.ndarray:
  """Smooth noise [height, width] of about unit deviation, `cells` bumps across, `stretch` times as many down."""
  grid = rng.standard_normal((max(2, round(cells * stretch)) + 3, cells + 3)).astype(np.float32)
  rows = np.linspace(0, grid.shape[0] - 1, height)
  cols = np.linspace(0, grid.shape[1] - 1, width)
  return ndimage.map_coordinates(grid, np.meshgrid(rows, cols, indexing='ij'), order=1).astype(np.float32)


def render_scene(
  rng: np.random.Generator, textures: Sequence[np.ndarray], height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """One random scene with its true inverse depth.

  Args:
    rng: every draw comes from it, so the same state gives the same bytes.
    textures: photos, uint8 [h, w, 3] of any sizes from 24x24 up.
    height: of the picture, pixels.
    width: of the picture, pixels.

  Returns:
    image: float32 [height, width, 3] in [0, 1].
    inverse_depth: float32 [height, width], 1/z along the optical axis, 0 at the sky; larger is nearer.

  Raises:
    ValueError: no textures, or one that is not uint8 [h, w, 3] of at least 24x24.
  """
  if not len(textures):
    raise ValueError('render_scene needs at least one texture')
  for photo in textures:
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or min(photo.shape[:2]) < 24:
      raise ValueError(f'textures must be uint8 [h, w, 3] of at least 24x24; got {photo.dtype} {photo.shape}')
  for _ in range(_TRIES):
    image, inverse_depth = _Scene(rng, textures, height, width).render()
    low, high = np.quantile(inverse_depth[::4, ::4], (0.03, 0.97))
    if high - low > 0.25 * high and image.std() > 0.06:
      break
  return image, inverse_depth


def scene_batch(
  seed: int | Sequence[int], batch: int, height: int, width: int, textures: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
  """A batch of scenes; scene i depends on (seed, i) alone, whatever the batch size.

  Args:
    seed: one number, or several (seed, epoch, step).
    batch: b.
    height, width: of the pictures.
    textures: as for `render_scene`.

  Returns:
    images float32 [b, height, width, 3] and inverse depths float32 [b, height, width, 1].
  """
  seeds = [seed] if isinstance(seed, int) else list(seed)
  scenes = [render_scene(np.random.default_rng([*seeds, i]), textures, height, width) for i in range(batch)]
  images, depths = zip(*scenes, strict=True)
  return np.stack(images), np.stack(depths)[..., None]
