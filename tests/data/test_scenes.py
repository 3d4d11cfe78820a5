"""The renderer: same seed same bytes, geometry against ray casting written out in loops, order of drawing."""

import math

import numpy as np
import pytest
import skimage.data

from ssr_jax.data import scenes
from ssr_jax.data.scenes import silhouettes
from ssr_jax.data.scenes.canvas import FAR

HEIGHT, WIDTH = 24, 32


@pytest.fixture(scope='module')
def photos():
  return [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]


@pytest.fixture
def camera():
  return scenes.Camera(focal=30.0, pitch=0.3, roll=0.1, height=1.7, squeeze=1.3)


def white(u, v, footprint):
  return np.ones((len(u), 3), np.float32)


def black(u, v, footprint):
  return np.zeros((len(u), 3), np.float32)


def world_rays(camera, height=HEIGHT, width=WIDTH):
  """[height, width, 3]: where each pixel looks, in the world; the camera's own z along each is 1."""
  rays = np.zeros((height, width, 3))
  for i in range(height):
    for j in range(width):
      x, y, z = (j - (width - 1) / 2) / camera.focal, (i - (height - 1) / 2) / camera.focal, 1.0
      x *= camera.squeeze
      # Undo the roll about z, then the pitch about x.
      x, y = (
        x * math.cos(camera.roll) + y * math.sin(camera.roll),
        -x * math.sin(camera.roll) + y * math.cos(camera.roll),
      )
      c, s = math.cos(camera.pitch), math.sin(camera.pitch)
      y, z = c * y + s * z, c * z - s * y
      rays[i, j] = x, y, z
  return rays


def test_same_seed_same_bytes_and_other_seed_another_scene(photos):
  one, again, other = (scenes.render_scene(np.random.default_rng([5, i]), photos, 48, 64) for i in (0, 0, 1))
  for a, b in zip(one, again, strict=True):
    assert a.tobytes() == b.tobytes()
  assert np.abs(one[0] - other[0]).max() > 0.05


def test_nothing_but_the_generator_is_drawn_from(photos):
  np.random.seed(0)
  first = scenes.render_scene(np.random.default_rng(3), photos, 32, 48)[0]
  np.random.seed(1)
  state = np.random.get_state()[1].tobytes()
  second = scenes.render_scene(np.random.default_rng(3), photos, 32, 48)[0]
  assert first.tobytes() == second.tobytes()
  assert np.random.get_state()[1].tobytes() == state


@pytest.mark.parametrize('height, width', [(48, 64), (37, 53), (64, 40)])
def test_many_scenes_are_well_formed(photos, height, width):
  for seed in range(25):
    image, inverse_depth = scenes.render_scene(np.random.default_rng([seed, height]), photos, height, width)
    assert image.shape == (height, width, 3) and image.dtype == np.float32
    assert inverse_depth.shape == (height, width) and inverse_depth.dtype == np.float32
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
    assert np.isfinite(inverse_depth).all() and inverse_depth.min() >= 0
    assert inverse_depth.max() < 1 / 0.05


def test_most_scenes_have_relief_and_are_neither_black_nor_burnt_out(photos):
  good = 0
  for seed in range(30):
    image, inverse_depth = scenes.render_scene(np.random.default_rng(seed), photos, 48, 64)
    low, high = np.quantile(inverse_depth, (0.03, 0.97))
    good += high > 1.2 * low and 0.1 < image.mean() < 0.9 and image.std() > 0.05
  assert good >= 27


def test_the_bottom_of_a_picture_is_nearer_on_average(photos):
  maps = [scenes.render_scene(np.random.default_rng([1, i]), photos, 48, 64)[1] for i in range(40)]
  maps = np.mean([m / max(m.max(), 1e-9) for m in maps], axis=0)
  assert maps[36:].mean() > 1.5 * maps[:12].mean()


def test_the_ground_has_the_inverse_depth_of_a_plane(camera):
  canvas = scenes.Canvas(camera, HEIGHT, WIDTH)
  canvas.quad(np.array([0, camera.height, 0.0]), np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), white, endless=True)
  expected = world_rays(camera)[..., 1] / camera.height  # z * ray_y = height
  expected = np.where(expected > FAR, expected, 0)
  np.testing.assert_allclose(canvas.inverse_depth, expected, atol=1e-6)
  assert (canvas.inverse_depth == 0).any() and (canvas.inverse_depth > 0).any()


def test_a_slanted_quad_lies_where_ray_casting_puts_it(camera):
  corner, across, along = np.array([-0.8, -0.5, 3.0]), np.array([1.5, 0.1, 0.7]), np.array([0.1, 1.4, 0.3])
  canvas = scenes.Canvas(camera, HEIGHT, WIDTH)
  canvas.quad(corner, across, along, white)
  rays = world_rays(camera)
  hits = 0
  for i in range(HEIGHT):
    for j in range(WIDTH):
      u, v, z = np.linalg.solve(np.stack([across, along, -rays[i, j]], 1), -corner)
      if min(u, v, 1 - u, 1 - v) > 0.03:
        hits += 1
        assert canvas.inverse_depth[i, j] == pytest.approx(1 / z, rel=1e-4)
      elif min(u, v, 1 - u, 1 - v) < -0.03:
        assert canvas.inverse_depth[i, j] == 0
  assert hits > 50


def test_an_ellipsoid_lies_where_ray_casting_puts_it(camera):
  centre, axes = np.array([0.2, 1.0, 4.0]), np.diag([1.0, 0.6, 0.8])
  canvas = scenes.Canvas(camera, HEIGHT, WIDTH)
  canvas.ellipsoid(centre, axes, white, light=np.array([0, -1.0, 0]), ambient=0.5)
  rays = world_rays(camera) / np.diag(axes)
  hits = 0
  for i in range(HEIGHT):
    for j in range(WIDTH):
      ray, middle = rays[i, j], centre / np.diag(axes)
      roots = np.roots([ray @ ray, -2 * ray @ middle, middle @ middle - 1])
      if np.isreal(roots).all():
        hits += 1
        assert canvas.inverse_depth[i, j] == pytest.approx(1 / roots.real.min(), rel=1e-4)
      else:
        assert canvas.inverse_depth[i, j] == 0
  assert hits > 50
  rows = np.flatnonzero(canvas.inverse_depth.any(axis=1))
  column = canvas.inverse_depth[rows[len(rows) // 2]].argmax()
  top, bottom = canvas.image[rows[1], column].mean(), canvas.image[rows[-2], column].mean()
  assert top > bottom  # lit from above


def test_a_pillar_lies_where_ray_casting_puts_it(camera):
  foot, radius, height = np.array([-0.3, 1.7, 4.0]), 0.5, 1.5
  canvas = scenes.Canvas(camera, HEIGHT, WIDTH)
  canvas.pillar(foot, radius, height, white, light=np.array([0, -1.0, 0]), ambient=0.5)
  rays = world_rays(camera)
  hits = 0
  for i in range(HEIGHT):
    for j in range(WIDTH):
      x, y, z = rays[i, j]
      roots = np.roots([x * x + z * z, -2 * (x * foot[0] + z * foot[2]), foot[0] ** 2 + foot[2] ** 2 - radius**2])
      on_it = [r for r in roots.real if foot[1] - height <= r * y <= foot[1]] if np.isreal(roots).all() else []
      hits += bool(on_it)
      assert canvas.inverse_depth[i, j] == pytest.approx(1 / min(on_it) if on_it else 0, rel=1e-4)
  assert hits > 30


def test_the_nearer_surface_wins_whatever_the_order(camera):
  def card(canvas, distance, paint, size):
    corner = np.array([-size / 2, -size / 2, distance])
    canvas.quad(corner, np.array([size, 0, 0.0]), np.array([0, size, 0.0]), paint)

  level = scenes.Camera(camera.focal, 0.0, 0.0, camera.height)
  far_first, near_first = (scenes.Canvas(level, HEIGHT, WIDTH) for _ in range(2))
  card(far_first, 6.0, white, 4)
  card(far_first, 3.0, black, 1)
  card(near_first, 3.0, black, 1)
  card(near_first, 6.0, white, 4)
  middle = (HEIGHT // 2, WIDTH // 2)
  for canvas in (far_first, near_first):
    assert canvas.inverse_depth[middle] == pytest.approx(1 / 3)
    assert canvas.inverse_depth[middle[0], middle[1] + 8] == pytest.approx(1 / 6)
    assert canvas.image[middle].max() == 0
    assert canvas.image[middle[0], middle[1] + 8].min() == 1
  np.testing.assert_array_equal(far_first.inverse_depth, near_first.inverse_depth)


def test_a_cut_out_covers_its_silhouette_only():
  canvas = scenes.Canvas(scenes.Camera(40.0, 0.0, 0.0, 1.0), 64, 64)
  canvas.quad(np.array([-1.0, -1, 2]), np.array([2.0, 0, 0]), np.array([0, 2.0, 0]), white, silhouettes.ellipse)
  share = (canvas.inverse_depth > 0).sum() / (2 * 40 / 2) ** 2
  assert share == pytest.approx(math.pi / 4, rel=0.03)


def test_a_shadow_darkens_and_leaves_depth_alone(camera):
  canvas = scenes.Canvas(camera, HEIGHT, WIDTH)
  plane = np.array([0, camera.height, 0.0]), np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
  canvas.quad(*plane, white, endless=True)
  before = canvas.inverse_depth.copy()
  corner = np.array([-1, camera.height - 0.002, 3.0])
  half = lambda u, v, footprint: np.full((len(u), 1), 0.5)
  canvas.quad(corner, 2 * plane[1], 2 * plane[2], half, silhouettes.ellipse, decal=True)
  np.testing.assert_array_equal(canvas.inverse_depth, before)
  assert ((canvas.image > 0) & (canvas.image < 0.6)).any()


def test_texture_keeps_straight_lines_in_perspective():
  """A checkerboard floor: the colour at each pixel is that of the ground point its ray meets."""
  camera = scenes.Camera(60.0, 0.6, 0.0, 1.0)
  board = np.kron(np.indices((2, 2)).sum(0) % 2, np.ones((32, 32)))[..., None].repeat(3, -1).astype(np.float32)
  paint = scenes.Paint(scenes.Texture(board), period=1.0, gain=np.ones(3, np.float32), contrast=1.0)
  canvas = scenes.Canvas(camera, 48, 64)
  canvas.quad(np.array([0, 1.0, 0]), np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), paint, endless=True)
  rays = world_rays(camera, 48, 64)
  ground = rays / rays[..., 1:2]
  compared = 0
  for i in range(24, 48):
    for j in range(64):
      u, v = ground[i, j, 0], ground[i, j, 2]
      u, v = (1 - abs(t % 2 - 1) for t in (u, v))  # mirrored tiles
      if min(abs(u - 0.5), abs(v - 0.5)) < 0.08:
        continue  # within the blur of an edge
      compared += 1
      assert canvas.image[i, j, 0] == pytest.approx(float((u > 0.5) != (v > 0.5)), abs=0.2)
  assert compared > 500


def test_a_far_texture_is_its_mean():
  board = (np.indices((64, 64)).sum(0) % 2)[..., None].repeat(3, -1).astype(np.float32)
  texture = scenes.Texture(board)
  places = np.random.default_rng(0).uniform(-5, 5, (2, 100))
  np.testing.assert_allclose(texture(*places, np.full(100, 1.0)), 0.5, atol=1e-6)
  fine = texture(*places, np.full(100, 1 / 64))
  assert fine.std() > 0.1 and fine.min() >= 0 and fine.max() <= 1


def test_textures_that_will_not_do_are_refused():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match='at least one'):
    scenes.render_scene(rng, [], 32, 32)
  with pytest.raises(ValueError, match='float64'):
    scenes.render_scene(rng, [np.zeros((64, 64, 3))], 32, 32)
