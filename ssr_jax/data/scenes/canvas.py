"""The camera, and the canvas on which surfaces are drawn with their inverse depth."""

from collections.abc import Callable
import dataclasses
import math

import numpy as np

from ssr_jax.data.scenes.silhouettes import Silhouette

FAR = 1e-3  # planes with a smaller inverse depth (beyond one kilometre) are not drawn

Colouring = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(u, v, footprint), all [n] and in metres on the surface, to colours [n, 3]; for a decal to gains [n, 1]."""


@dataclasses.dataclass(frozen=True)
class Camera:
  """A pinhole camera.

  Attributes:
    focal: focal length in rows of pixels.
    pitch: in radians; positive looks down.
    roll: in radians.
    height: above the ground, in metres.
    squeeze: horizontal extent of a pixel over its vertical extent. The net resizes photos of all aspect ratios to one
      size, so scenes have pixels that are not square too.
  """

  focal: float
  pitch: float
  roll: float
  height: float
  squeeze: float = 1.0

  @property
  def rotation(self) -> np.ndarray:
    """[3, 3], from world directions (y straight down, z horizontal) to camera directions."""
    c, s = math.cos(self.pitch), math.sin(self.pitch)
    tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = math.cos(self.roll), math.sin(self.roll)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ tilt


class Canvas:
  """A picture under construction; surfaces are drawn roughly far to near, with a z-buffer.

  Attributes:
    camera: sees the picture.
    image: float32 [height, width, 3]; may exceed 1 until it is developed.
    inverse_depth: float32 [height, width], 1/z in 1/metres; 0 where nothing was drawn.
    x: [width], x of the pixels' rays.
    y: [height], y of the pixels' rays.
  """

  def __init__(self, camera: Camera, height: int, width: int):
    self.camera = camera
    self.image: np.ndarray = np.zeros((height, width, 3), np.float32)
    self.inverse_depth: np.ndarray = np.zeros((height, width), np.float32)
    self.x = ((np.arange(width) - (width - 1) / 2) / camera.focal * camera.squeeze).astype(np.float32)
    self.y = ((np.arange(height) - (height - 1) / 2) / camera.focal).astype(np.float32)

  def box_of(self, points: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that contain camera points [n, 3]; all of them if a point is behind the camera."""
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
    paint: Colouring,
    inside: Silhouette | None = None,
    *,
    endless: bool = False,
    decal: bool = False,
    relief: float = 0.0,
  ) -> None:
    """Draws the points corner + u across + v along.

    Such a surface is a homography: with M the inverse of [across | along | corner], M ray = (u, v, 1) / z. The last row
    of M gives the inverse depth, which is exact and affine in the picture.

    Args:
      corner: [3], world coordinates of (u, v) = (0, 0).
      across: [3], world vector of u.
      along: [3], world vector of v.
      paint: colours of the surface.
      inside: limits the surface to a silhouette in the quad; None draws all of it.
      endless: draws the whole plane instead of u, v in [0, 1].
      decal: multiplies the colours that are already there, like a shadow, and leaves the depth as it is.
      relief: how much darker the outline is than the middle, in [0, 1), which makes a cut-out look round; needs
        `inside`.
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
    seen = w > np.maximum(old * (0.99 if decal else 1), FAR)
    index = np.flatnonzero(seen)
    if not index.size:
      return
    iy, ix = np.divmod(index, w.shape[1])
    w, x, y = w.reshape(-1)[index], x[0, ix], y[iy, 0]
    z = 1 / w
    u = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) * z
    v = (m[1, 0] * x + m[1, 1] * y + m[1, 2]) * z
    # Extent of a pixel along u and v, in units of the quad: the derivatives of the homography.
    scale = z / self.camera.focal
    squeeze = self.camera.squeeze
    du = scale * (squeeze * abs(m[0, 0] - u * m[2, 0]) + abs(m[0, 1] - u * m[2, 1]))
    dv = scale * (squeeze * abs(m[1, 0] - v * m[2, 0]) + abs(m[1, 1] - v * m[2, 1]))
    coverage, margin = np.ones_like(u), None
    if not endless:
      coverage = np.clip(np.minimum(u, 1 - u) / du + 0.5, 0, 1) * np.clip(np.minimum(v, 1 - v) / dv + 0.5, 0, 1)
      if inside is not None:
        margin = inside(u, v)
        coverage *= np.clip(margin / np.maximum(du, dv) + 0.5, 0, 1)
    keep = np.flatnonzero(coverage > 0.02)
    if not keep.size:
      return
    u, v, du, dv, w, coverage = (a[keep] for a in (u, v, du, dv, w, coverage))
    wide, tall = np.linalg.norm(across), np.linalg.norm(along)
    a, b = du * wide, dv * tall
    # Between the two sides of the footprint, nearer to the longer one: some blur at grazing angles prevents aliasing.
    footprint = np.maximum(a, b) ** 0.7 * np.minimum(a, b) ** 0.3
    colour = paint(u * wide, v * tall, footprint).astype(np.float32)
    if relief and margin is not None:
      colour *= (1 - relief * np.clip(1 - margin[keep] / 0.15, 0, 1) ** 2)[:, None]
    self._put(rows, cols, index[keep], w, colour, coverage, decal)

  def _put(
    self,
    rows: slice,
    cols: slice,
    index: np.ndarray,
    w: np.ndarray,
    colour: np.ndarray,
    coverage: np.ndarray,
    decal: bool = False,
  ) -> None:
    """Blends colours [n, 3] by coverage [n] into the pixels with flat indices [n] in a window; w [n] is 1/z."""
    iy, ix = np.divmod(index, len(range(*cols.indices(len(self.x)))))
    iy, ix = iy + rows.start, ix + cols.start
    under = self.image[iy, ix]
    coverage = coverage[:, None].astype(np.float32)
    self.image[iy, ix] = under * (1 + coverage * (colour - 1)) if decal else under + coverage * (colour - under)
    if not decal:
      solid = coverage[:, 0] >= 0.5
      self.inverse_depth[iy[solid], ix[solid]] = w[solid]

  def ellipsoid(
    self, centre: np.ndarray, axes: np.ndarray, paint: Colouring, light: np.ndarray, ambient: float
  ) -> None:
    """Draws the points centre + axes q with |q| = 1; nothing where the camera is inside or too near.

    Args:
      centre: [3], world coordinates.
      axes: [3, 3]; the columns are the half axes in world coordinates.
      paint: colours of the surface.
      light: [3], unit vector towards the light, world coordinates.
      ambient: share of the light that comes from all sides, in [0, 1].
    """
    rotation = self.camera.rotation
    centre_c, axes_c = rotation @ centre, rotation @ axes
    reach = np.abs(axes_c).sum(axis=1)
    if centre_c[2] - reach[2] < 0.05:
      return  # the camera is inside or very near
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
    normal = q @ np.linalg.inv(axes).astype(np.float32)  # world normal, not of unit length yet
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    lambert = np.maximum(normal @ light.astype(np.float32), 0)
    size = float(np.linalg.norm(axes, axis=0).mean())
    facing = np.clip(root / np.sqrt(rr * max(oo, 1e-6)), 0, 1)  # 0 at the rim
    footprint = z / self.camera.focal / (0.3 + 0.7 * facing)
    u, v = np.arctan2(q[:, 0], -q[:, 2]) * size, np.arcsin(np.clip(q[:, 1], -1, 1)) * size
    colour = paint(u, v, footprint) * (ambient + (1 - ambient) * lambert)[:, None]
    # The chord through the ellipsoid grows from the rim like a square root; its length in pixels approximates how much
    # of a pixel is covered.
    coverage = np.clip((root / rr / z) * self.camera.focal / 4, 0.3, 1)
    self._put(rows, cols, index, w, colour, np.maximum(coverage, 0.5))

  def pillar(
    self, foot: np.ndarray, radius: float, height: float, paint: Colouring, light: np.ndarray, ambient: float
  ) -> None:
    """Draws an upright cylinder; its top, which is seldom visible, is open and shows the inside of the far wall.

    Args:
      foot: [3], centre of the base, world coordinates.
      radius: in metres.
      height: in metres.
      paint: colours of the surface.
      light: [3], unit vector towards the light, world coordinates.
      ambient: share of the light that comes from all sides, in [0, 1].
    """
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
    r = rotation.T.astype(np.float32)  # from camera rays to world rays
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
