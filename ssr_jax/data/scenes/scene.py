"""Random scenes: draws of camera, light, textures and objects, put on a canvas far to near."""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import ndimage

from ssr_jax.data.scenes import silhouettes
from ssr_jax.data.scenes.canvas import Camera, Canvas
from ssr_jax.data.scenes.textures import Paint, Texture

_TRIES = 4  # scenes drawn before one with little relief or contrast is accepted


def render_scene(
  rng: np.random.Generator, textures: Sequence[np.ndarray], height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """Renders one random scene with its exact inverse depth.

  Args:
    rng: source of all randomness; the same state gives the same bytes.
    textures: photos, uint8 [h, w, 3], each of at least 24x24.
    height: of the picture in pixels.
    width: of the picture in pixels.

  Returns:
    image: float32 [height, width, 3] in [0, 1].
    inverse_depth: float32 [height, width], 1/z along the optical axis in 1/metres; 0 in the sky, larger is nearer.

  Raises:
    ValueError: there are no textures, or one is not uint8 [h, w, 3] of at least 24x24.
  """
  if not len(textures):
    raise ValueError('render_scene needs at least one texture')
  for photo in textures:
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or min(photo.shape[:2]) < 24:
      raise ValueError(f'textures must be uint8 [h, w, 3] of at least 24x24; got {photo.dtype} {photo.shape}')
  tries = 0
  while True:
    image, inverse_depth = _Scene(rng, textures, height, width).render()
    tries += 1
    low, high = np.quantile(inverse_depth[::4, ::4], (0.03, 0.97))
    if tries == _TRIES or (high - low > 0.25 * high and image.std() > 0.06):
      return image, inverse_depth


class _Scene:
  """One scene: its camera, light and kind are drawn when it is made, everything else by `render`.

  Vectors are in world coordinates, in metres; `down`, the height of the camera, is the unit of most lengths.
  """

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
    """A random square crop of a random photo, from a small patch (a material) to most of the photo (an object)."""
    rng = self.rng
    photo = self.textures[int(rng.integers(len(self.textures)))]
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

  def paint(self, period: float | np.floating) -> Paint:
    """A random paint whose texture spans about `period` metres."""
    rng = self.rng
    return Paint(
      texture=self.texture(),
      period=period * float(np.exp(rng.normal(0, 0.4))),
      gain=(np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.07, 3))).astype(np.float32),
      contrast=float(np.clip(rng.uniform(0.15, 1.3), 0, 1)),
    )

  def lit(self, paint: Paint, normal: np.ndarray) -> Paint:
    """`paint` on a flat surface with this outward normal [3], under the scene's light."""
    normal = normal / np.linalg.norm(normal)
    shade = self.ambient + (1 - self.ambient) * max(float(normal @ self.light), 0)
    return dataclasses.replace(paint, gain=(paint.gain * shade).astype(np.float32))

  def render(self) -> tuple[np.ndarray, np.ndarray]:
    """Draws everything, far to near; returns image and inverse depth as `render_scene` does."""
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
    """Draws what is infinitely far: a sky with clouds, or a blurred photo."""
    rng, canvas = self.rng, self.canvas
    height, width = canvas.inverse_depth.shape
    if rng.random() < (0.45 if self.kind == 'portrait' else 0.1):
      photo = self.textures[int(rng.integers(len(self.textures)))]
      rows, cols = np.arange(height) * photo.shape[0] // height, np.arange(width) * photo.shape[1] // width
      canvas.image[:] = photo[rows[:, None], cols[None]].astype(np.float32) / 255
      self.blur(rng.uniform(1, 6))
      return
    low = rng.uniform(0.6, 1) * np.array([1, 1, 1]) + rng.normal(0, 0.05, 3)
    high = rng.uniform(0.35, 0.95) * np.array([rng.uniform(0.5, 1), rng.uniform(0.75, 1), 1])
    if rng.random() < 0.15:  # dusk, night, a dark studio
      low, high = low * rng.uniform(0.1, 0.5), high * rng.uniform(0.05, 0.4)
    ramp = np.linspace(1, 0, height)[:, None, None] ** rng.uniform(0.5, 1.5)
    canvas.image[:] = low + ramp * (high - low)
    if rng.random() < 0.5:
      clouds = _noise(rng, height, width, int(rng.integers(2, 8)), stretch=2.5)
      canvas.image += (rng.uniform(0, 0.5) * np.clip(clouds, 0, 1))[..., None] * (0.95 - canvas.image)

  def ground(self) -> None:
    """Draws the ground plane, sometimes with a path, road, rug or pond on it."""
    down = self.camera.height
    turn = self.rng.uniform(0, 2 * np.pi)
    across = np.array([math.cos(turn), 0, math.sin(turn)])
    along = np.array([-math.sin(turn), 0, math.cos(turn)])
    corner = np.array([0, down, 0.0])
    paint = self.lit(self.paint(down * self.rng.uniform(0.7, 4)), np.array([0, -1.0, 0]))
    self.canvas.quad(corner, across, along, paint, endless=True)
    if self.rng.random() < 0.3:
      wide, aside = down * self.rng.uniform(0.5, 3), down * self.rng.normal(0, 1.5)
      turn = self.rng.normal(0, 0.5)
      along = np.array([math.sin(turn), 0, math.cos(turn)]) * down * self.rng.choice([3, 60])
      across = np.array([math.cos(turn), 0, -math.sin(turn)]) * wide
      start = np.array([aside, 0.999 * down, down * self.rng.uniform(0.2, 4)]) - 0.5 * across
      inside = self.silhouette() if self.rng.random() < 0.4 else None
      self.canvas.quad(start, across, along, self.lit(self.paint(wide), np.array([0, -1.0, 0])), inside)

  def walls(self) -> None:
    """Draws the walls of a room (sides, back, usually a ceiling) or the rows of houses along a street."""
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
    """Draws a wall, often with windows, doors or pictures: edges in colour that are not edges in depth.

    Args:
      corner: [3], upper left.
      across: [3], along the wall.
      along: [3], down the wall.
      normal: [3], towards the room or street.
      paint: of the wall, lit.
    """
    rng = self.rng
    self.canvas.quad(corner, across, along, paint)
    if rng.random() < 0.5:
      return
    # In a row at one height, like windows, and slightly in front of the wall so that they win the z-test.
    length, tall = np.linalg.norm(across), np.linalg.norm(along)
    count = int(rng.integers(1, 2 + min(8, int(2 * length / tall))))
    top = rng.uniform(0.1, 0.5)
    high = rng.uniform(0.1, 1 - top)
    wide = min(rng.uniform(0.15, 0.6) * tall / length, 0.8 / count)
    panel = self.lit(self.paint(tall * high), normal)
    for i in range(count):
      at = (i + 0.5) / count - 0.5 * wide
      self.canvas.quad(corner + at * across + top * along + 0.003 * tall * normal, wide * across, high * along, panel)

  def ridges(self) -> None:
    """Draws layers of hills, trees and roofs, far to near."""
    rng, down = self.rng, self.camera.height
    count = int(rng.integers(0, 4))
    for distance in sorted(down * np.exp(rng.uniform(np.log(8), np.log(200), count)), reverse=True):
      wide, tall = distance * rng.uniform(1.5, 5), distance * rng.uniform(0.08, 0.6)
      across = np.array([wide, 0, distance * rng.normal(0, 0.3)])
      corner = np.array([rng.normal(0, 0.3) * wide, down - tall, distance]) - 0.5 * across
      along = np.array([0, tall, 0])
      paint = self.lit(self.paint(tall), np.array([0, -0.5, -0.9]))
      self.canvas.quad(corner, across, along, paint, silhouettes.ridge(rng, rng.uniform(0, 0.9)))

  def silhouette(self) -> silhouettes.Silhouette | None:
    """A random one; None is the whole rectangle."""
    rng = self.rng
    pick = rng.random()
    if pick < 0.1:
      return None
    if pick < 0.2:
      return silhouettes.ellipse
    if pick < 0.5:
      return silhouettes.star(rng)
    return silhouettes.figure(rng) if pick < 0.75 else silhouettes.foliage(rng)

  def objects(self) -> None:
    """Draws objects, far to near; most stand on the ground and have a soft shadow at the foot."""
    rng, down = self.rng, self.camera.height
    near, far = {'table': (0.8, 3), 'portrait': (1.2, 5), 'room': (1.3, 7)}.get(self.kind, (2, 25))
    count = int(rng.integers(1, 4) if self.kind == 'portrait' else rng.integers(2, 14))
    # Distances are along the optical axis, so that a camera that looks down sees the objects too.
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
    """Draws one object of a random kind, `tall` metres high, standing on `foot` [3]."""
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
        inside, wide = silhouettes.bars(rng), tall * rng.uniform(1, 5)
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
    """Draws the visible faces of a box.

    Args:
      foot: [3], centre of the base.
      wide: in metres, as `tall` and `deep`.
      tall: height.
      deep: the other horizontal side.
      turn: about the vertical axis, in radians.
    """
    right = np.array([math.cos(turn), 0, math.sin(turn)])
    forward = np.array([-math.sin(turn), 0, math.cos(turn)])
    down = np.array([0, tall, 0.0])
    middle = foot - 0.5 * down
    paint = self.paint(max(wide, tall))
    top_paint = self.paint(wide) if self.rng.random() < 0.3 else paint
    for normal, half, across, along, face in (
      (right, 0.5 * wide, deep * forward, down, paint),
      (-right, 0.5 * wide, deep * forward, down, paint),
      (forward, 0.5 * deep, wide * right, down, paint),
      (-forward, 0.5 * deep, wide * right, down, paint),
      (np.array([0, -1.0, 0]), 0.5 * tall, wide * right, deep * forward, top_paint),
    ):
      centre = middle + half * normal
      if centre @ normal < 0:  # the camera, at the origin, is outside of this face
        self.canvas.quad(centre - 0.5 * across - 0.5 * along, across, along, self.lit(face, normal))

  def shadow(self, foot: np.ndarray, wide: float) -> None:
    """Draws a soft shadow on the ground: a dark disc, shifted away from the light."""
    dark = self.rng.uniform(0.3, 0.8)
    away = -np.array([self.light[0], 0, self.light[2]]) / max(-self.light[1], 0.3)
    size = wide * 1.3
    across, along = np.array([size, 0, 0]), np.array([0, 0, size])
    corner = foot + 0.3 * size * away - 0.5 * (across + along) - np.array([0, 0.002 * self.camera.height, 0])

    def gain(u, v, footprint):
      r = np.hypot(2 * u / size - 1, 2 * v / size - 1)
      return (1 - dark * np.clip(1.3 - 1.3 * r, 0, 1))[:, None]

    self.canvas.quad(corner, across, along, gain, silhouettes.ellipse, decal=True)

  def haze(self) -> None:
    """Fades distant surfaces into the colour of the air."""
    if not self.outdoors or self.rng.random() < 0.4:
      return
    reach = self.camera.height * np.exp(self.rng.uniform(np.log(15), np.log(300)))
    air = (self.rng.uniform(0.6, 0.95) + self.rng.normal(0, 0.04, 3)).astype(np.float32)
    w = self.canvas.inverse_depth
    clear = np.where(w > 0, np.exp(-1 / np.maximum(w * reach, 1e-3)), 1)[..., None]  # the sky is left as it is
    self.canvas.image = (air + clear * (self.canvas.image - air)).astype(np.float32)

  def blur(self, sigma: float) -> None:
    """Blurs what has been drawn so far; sigma is in pixels."""
    self.canvas.image = ndimage.gaussian_filter(self.canvas.image, (sigma, sigma, 0), truncate=2.5)

  def develop(self) -> tuple[np.ndarray, np.ndarray]:
    """Applies uneven light, exposure, white balance, saturation, tone, blur, noise and a random mirror."""
    rng = self.rng
    image, depth = self.canvas.image, self.canvas.inverse_depth
    height, width = depth.shape
    if rng.random() < 0.5:  # light and shade across the scene
      image *= np.exp(rng.uniform(0, 0.35) * _noise(rng, height, width, int(rng.integers(2, 5))))[..., None]
    # Like a camera's exposure metering: most of the way to a medium brightness.
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
  """Smooth noise [height, width] of about unit deviation: `cells` bumps across, `stretch` times as many down."""
  grid = rng.standard_normal((max(2, round(cells * stretch)) + 3, cells + 3)).astype(np.float32)
  rows = np.linspace(0, grid.shape[0] - 1, height)
  cols = np.linspace(0, grid.shape[1] - 1, width)
  return ndimage.map_coordinates(grid, np.meshgrid(rows, cols, indexing='ij'), order=1).astype(np.float32)
