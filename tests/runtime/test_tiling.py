"""The restorer around a system that is a ruler: what its tiles see, and how they are put together. Nothing compiles."""

import jax
import numpy as np
from PIL import Image
import pytest

from ssr_jax.runtime.restorer import Restorer
from ssr_jax.systems.base import Output, System
from tests.runtime import standins

SCALE = 4


class Ruler(System):
  """Answers with the enlarged tile, and beside it with the coordinates of every pixel; remembers its calls."""

  name = 'ruler'
  outputs = (
    Output('where', 'map', 'coordinates'),
    Output('coarse', 'kernels', 'coordinates of the LR image'),
    Output('image', 'image', 'result'),
  )
  Options = standins.Options

  def __init__(self, align=1, rounds=1, view=None):
    self.align, self.rounds, self.view = align, rounds, view
    self.tiles, self.views = [], []

  def required(self, config, modules, options):
    return ()

  def plan(self, config, modules, options):
    return standins.Plan()

  def alignment(self, modules, plan):
    return self.align

  def passes(self, plan):
    return self.rounds

  def view_size(self, modules, plan):
    return self.view

  def prepare(self, modules, variables, view, plan):
    self.views.append(view)
    return ['prepared']

  def advance(self, modules, variables, context, view, plan):
    self.views.append(view)
    return [*context, 'advanced']

  def restore(self, modules, variables, lr, window, context, noise, plan, last=True):
    self.tiles.append((lr[0], window, context, noise, last))
    large = np.repeat(np.repeat(lr, SCALE, 1), SCALE, 2)
    if not last:
      return {'view': 1 - large}
    return {
      'where': _coordinates(large.shape[1:3], SCALE * np.asarray(window.origin)),
      'coarse': _coordinates(lr.shape[1:3], window.origin),
      'image': large,
    }


def _coordinates(shape, origin):
  axes = [first + np.arange(length) for first, length in zip(origin, shape, strict=True)]
  return np.stack(np.meshgrid(*axes, indexing='ij'), -1)[None].astype(np.float32)


def _photo(h, w, seed=0):
  return np.random.default_rng(seed).random((h, w, 3), np.float32)


def _run(system, lr, **options):
  restorer = Restorer(system, {'name': 'ruler', 'scale': SCALE}, {}, {})
  with jax.disable_jit():
    return restorer.sample(lr, **options)


@pytest.mark.parametrize('shape, align', [((70, 150), 1), ((71, 90), 2), ((64, 65), 4), ((30, 100), 1)])
def test_tiles_of_a_ruler_join_to_the_whole_ruler(shape, align):
  lr = _photo(*shape)
  found = _run(Ruler(align), lr, tile=64)
  large = (SCALE * shape[0], SCALE * shape[1])
  np.testing.assert_allclose(found.where, _coordinates(large, (0, 0))[0], atol=1e-2)
  np.testing.assert_allclose(found.coarse, _coordinates(shape, (0, 0))[0], atol=1e-2)
  np.testing.assert_allclose(found.image, lr.repeat(SCALE, 0).repeat(SCALE, 1), atol=1e-5)


@pytest.mark.parametrize('shape, padded', [((20, 28), (32, 32)), ((17, 40), (32, 64)), ((64, 50), (64, 64))])
def test_padding_mirrors_the_image(shape, padded):
  """At the bottom and right, about the last pixel: pixel h - 1 + i is pixel h - 1 - i."""
  system, lr = Ruler(), _photo(*shape)
  _run(system, lr)
  ((tile, *_),) = system.tiles
  assert tile.shape == (*padded, 3)
  (h, w), (H, W) = shape, padded
  rows, columns = ([i if i < n else 2 * (n - 1) - i for i in range(size)] for n, size in ((h, H), (w, W)))
  np.testing.assert_array_equal(tile, lr[np.ix_(rows, columns)])


def test_every_tile_knows_the_images_size_its_own_place_and_its_noise():
  """Also where a tile reaches past the image, which is mirrored there."""
  system, (h, w) = Ruler(align=4), (70, 101)
  lr = _photo(h, w)
  _run(system, lr, tile=64, seed=7)
  assert len(system.tiles) == 6
  mirrored = np.pad(lr, ((0, 64), (0, 64), (0, 0)), mode='symmetric')
  for tile, window, context, noise, last in system.tiles:
    np.testing.assert_array_equal(window.size, (h, w))
    np.testing.assert_array_equal(noise.origin, window.origin)
    y, x = (int(o) for o in window.origin)
    inside = (min(64, h - y), min(64, w - x))
    np.testing.assert_array_equal(tile[: inside[0], : inside[1]], mirrored[y : y + inside[0], x : x + inside[1]])
    assert tile.shape == (64, 64, 3) and y % 4 == x % 4 == 0
    assert int(noise.seed) == 7 and context is None and last
  places = [tuple(int(o) for o in window.origin) for _, window, *_ in system.tiles]
  assert places == [(y, x) for y in (0, 8) for x in (0, 32, 40)]


def test_the_whole_is_seen_small_before_every_pass():
  """First the LR image, then what the last pass made of it; every tile of a pass gets the same context."""
  system, lr = Ruler(rounds=3, view=(6, 10)), _photo(40, 90)
  ticks = []
  _run(system, lr, tile=64, progress=lambda done, total: ticks.append((done, total)))
  assert ticks == [(i + 1, 6) for i in range(6)]  # two tiles in three passes
  made = 1 - lr.repeat(SCALE, 0).repeat(SCALE, 1)
  for view, image in zip(system.views, (lr, made, made), strict=True):
    planes = [Image.fromarray(image[..., c]).resize((10, 6), Image.Resampling.BILINEAR) for c in range(3)]
    np.testing.assert_allclose(view, np.stack([np.asarray(p) for p in planes], -1)[None], atol=1e-5)
  contexts = [(context, last) for _, _, context, _, last in system.tiles]
  rounds = [['prepared'], ['prepared', 'advanced'], ['prepared', 'advanced', 'advanced']]
  assert contexts == [(context, i == 2) for i, context in enumerate(rounds) for _ in range(2)]


def test_a_single_tile_needs_no_view_of_the_whole():
  system = Ruler(rounds=3, view=(6, 10))
  _run(system, _photo(40, 90))
  assert not system.views and [(context, last) for _, _, context, _, last in system.tiles] == [(None, True)]


def test_each_image_of_a_batch_has_its_own_seed():
  system = Ruler()
  found = _run(system, np.stack([_photo(9, 9, i) for i in range(3)]), seed=[4, 9, -1])
  assert [int(noise.seed) for _, _, _, noise, _ in system.tiles] == [4, 9, 2**32 - 1]
  for i in range(3):
    np.testing.assert_array_equal(found.image[i, ::4, ::4], _photo(9, 9, i))


def test_eight_bits_come_back_as_they_were():
  """All 256 levels, through float32 and back."""
  lr = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
  found = _run(Ruler(), lr)
  assert found.image.dtype == np.uint8
  np.testing.assert_array_equal(found.image, lr.repeat(SCALE, 0).repeat(SCALE, 1))


@pytest.mark.parametrize('off', [-0.4, 0.4])
def test_eight_bits_are_the_nearest(off):
  class Off(Ruler):
    def finish(self, found, plan):
      return {**found, 'image': found['image'] + np.float32(off / 255)}

  lr = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
  np.testing.assert_array_equal(_run(Off(), lr).image, lr.repeat(SCALE, 0).repeat(SCALE, 1))


def test_kernels_that_are_not_kept_are_none_and_the_rest_stays():
  found = _run(Ruler(), _photo(9, 9), keep_kernels=False)
  assert found.coarse is None and found.where.shape == (36, 36, 2)


# -- Other sizes than the model's --------------------------------------------------------------------------------------


def _by_hand(length, target):
  """[target, length]: Pillow's bicubic along one axis, by its definition: Keys' kernel, a = -1/2, widened to shrink."""
  stretch = max(1, length / target)
  centres = (np.arange(target)[:, None] + 0.5) * length / target
  x = np.abs(np.arange(length) + 0.5 - centres) / stretch
  weights = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize('scale', [1, 1.5, 2, 3, 4, 5.3, 8])
def test_a_result_of_another_scale_is_the_models_resized(scale):
  lr = _photo(20, 30)
  found = _run(Ruler(), lr, scale=scale)
  H, W = round(scale * 20), round(scale * 30)
  assert found.image.shape == (H, W, 3) and found.where.shape == (H, W, 2) and found.coarse.shape == (20, 30, 2)
  own = lr.repeat(SCALE, 0).repeat(SCALE, 1)
  wanted = np.einsum('ij,kl,jlc->ikc', _by_hand(20 * SCALE, H), _by_hand(30 * SCALE, W), own, optimize=True)
  np.testing.assert_allclose(found.image, np.clip(wanted, 0, 1), atol=1e-5)
  if scale == SCALE:
    np.testing.assert_array_equal(found.image, own)
  np.testing.assert_array_equal(_run(Ruler(), lr, size=(H, W)).image, found.image)


def test_rounding_to_8_bit_comes_after_the_resize():
  lr = np.rint(255 * _photo(20, 30)).astype(np.uint8)
  found = _run(Ruler(), lr, scale=1.5)
  own = lr.repeat(SCALE, 0).repeat(SCALE, 1)
  wanted = np.einsum(
    'ij,kl,jlc->ikc', _by_hand(20 * SCALE, 30), _by_hand(30 * SCALE, 45), own.astype(float), optimize=True
  )
  assert found.image.dtype == np.uint8
  assert np.abs(found.image - np.clip(wanted, 0, 255)).max() <= 0.5 + 1e-3


def test_a_batch_has_the_size_of_its_images():
  found = _run(Ruler(), np.stack([_photo(20, 30), _photo(20, 30, 1)]), scale=2)
  assert found.image.shape == (2, 40, 60, 3)
  np.testing.assert_array_equal(found.image[1], _run(Ruler(), _photo(20, 30, 1), scale=2).image)
