"""Defocus that is kept, with a system whose restoration, kernels and depth are known."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from ssr_jax.image import blur
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.runtime import defocus
from ssr_jax.runtime.restorer import Restorer
from ssr_jax.systems.base import Output, System
from ssr_jax.types import SSRError
from tests.runtime import standins
from tests.runtime.standins import compiled_operator  # noqa: F401  a fixture

SCALE, FOCUS = 4, 1.5  # variance of the kernels in focus


pytestmark = pytest.mark.usefixtures('compiled_operator')


class Lens(System):
  """Knows a scene, its depth and its blur, and restores the scene but for a blur of its own."""

  name = 'lens'
  outputs = (
    Output('depth', 'depth', 'depth'),
    Output('kernels', 'kernels', 'kernels'),
    Output('restored', 'image', 'restored'),
    Output('image', 'image', 'result'),
  )
  Options = standins.Options

  def __init__(self, variance, left=1.0, pattern=None, width=40):
    """The right half of a scene is out of focus; `left` is the deviation of the blur that restoring leaves."""
    h = width
    self.scene = _scene(h, width) if pattern is None else pattern
    near = np.where(np.arange(width) < width // 2, 0.9, 0.2)
    of = np.broadcast_to(np.where(near > 0.5, FOCUS, variance), (h, width)).astype(np.float32)
    self.known = {
      'depth': np.broadcast_to(near.repeat(SCALE)[None, :, None], (SCALE * h, SCALE * width, 1)).astype(np.float32),
      'kernels': np.asarray(kernel_lib.gaussian_kernels(of, of, 0.0)),
      'restored': ndimage.gaussian_filter(self.scene, left, axes=(0, 1)),
    }
    self.photo = np.clip(
      np.asarray(blur.blur_downsample(self.scene[None], self.known['kernels'][None], SCALE))[0], 0, 1
    )
    self.calls = 0

  def required(self, config, modules, options):
    return ()

  def plan(self, config, modules, options):
    return standins.Plan()

  def restore(self, modules, variables, lr, window, context, noise, plan, last=True):
    self.calls += 1
    y, x = (int(o) for o in window.origin)
    h, w = lr.shape[1:3]
    found = {}
    for name, array in self.known.items():
      scale = 1 if name == 'kernels' else SCALE
      tile = array[scale * y : scale * (y + h), scale * x : scale * (x + w)]
      rest = [(0, scale * side - n) for side, n in zip((h, w), tile.shape[:2], strict=True)]
      found[name] = np.pad(tile, [*rest, (0, 0)], 'edge')[None]
    return found

  def finish(self, found, plan):
    return {**found, 'image': found['restored']}

  def reach(self, plan):
    return 0


def _scene(h, w):
  """Texture of many scales, [H, W, 3]."""
  noise = np.random.default_rng(0).standard_normal((SCALE * h, SCALE * w, 3))
  mixed = sum(2**i * ndimage.gaussian_filter(noise, 2.0**i, axes=(0, 1)) for i in range(4))
  return np.clip(0.5 + 0.12 * mixed, 0, 1).astype(np.float32)


def _run(system, how='sample', **options):
  model = Restorer(system, {'name': 'lens', 'scale': SCALE, 'parts': {}}, {}, {})
  with jax.disable_jit():
    if how == 'sample':
      return model.sample(system.photo, **options)
    return np.concatenate([band['image'] for band in model.stream(system.photo, **options) if 'image' in band])


def _spread(image, column):
  """Deviation of the line spread function across an upright edge."""
  line = np.diff(image[40:-40, column - 20 : column + 20, 1].mean(0))
  place = np.arange(len(line))
  line = line / line.sum()
  mean = (line * place).sum()
  return np.sqrt((line * (place - mean) ** 2).sum())


@pytest.mark.parametrize('variance', [4, 6, 9])
@pytest.mark.parametrize('left', [0.5, 2.0])
def test_an_edge_out_of_focus_keeps_its_blur_whatever_restoring_leaves(variance, left):
  edge = np.full((160, 160, 3), 0.3, np.float32)
  edge[:, 120:] = 0.7
  system = Lens(variance, left, edge)
  assert _spread(_run(system).image, 120) == pytest.approx(left, rel=0.1)
  assert _spread(_run(system, keep_defocus=1.0).image, 120) == pytest.approx(np.sqrt(variance), rel=0.08)
  # Two deviations mixed half and half: the variances' mean.
  half = _spread(_run(system, keep_defocus=0.5).image, 120)
  assert half == pytest.approx(np.sqrt((variance + left**2) / 2), rel=0.08)


def test_an_impulse_out_of_focus_keeps_its_kernel():
  point = np.full((160, 160, 3), 0.2, np.float32)
  point[80:84, 120:124] = 1
  image = _run(Lens(8, 0.5, point), keep_defocus=1.0).image[60:104, 100:144, 1] - 0.2
  y, x = np.indices(image.shape)
  weights = image / image.sum()
  for axis in (y, x):
    variance = (weights * (axis - (weights * axis).sum()) ** 2).sum()
    assert np.sqrt(variance) == pytest.approx(np.sqrt(8 + 15 / 12), rel=0.08)  # and a square of four pixels


def _gain(image, scene):
  return -10 * np.log10(np.mean((image - scene) ** 2))


def test_what_is_in_focus_gains_as_without_it():
  system = Lens(8, width=80)
  without, kept = _run(system), _run(system, keep_defocus=1.0)
  enlarged = defocus.resized(system.photo, (320, 320), 'bicubic')
  focus = np.s_[:, :160]
  assert abs(_gain(kept.image[focus], system.scene[focus]) - _gain(without.image[focus], system.scene[focus])) < 0.05
  assert _gain(without.image[focus], system.scene[focus]) > _gain(enlarged[focus], system.scene[focus]) + 1
  np.testing.assert_array_equal(kept.image[:, :152], without.image[:, :152])
  np.testing.assert_allclose(kept.image[:, 168:], np.clip(enlarged, 0, 1)[:, 168:], atol=1e-5)
  np.testing.assert_array_equal(kept.restored, without.restored)  # only the answer changes


def test_zero_is_as_without_it_to_the_bit_and_takes_no_further_pass():
  system = Lens(8, width=80)
  without = _run(system, tile=64)
  calls, system.calls = system.calls, 0
  zero = _run(system, tile=64, keep_defocus=0.0)
  assert system.calls == calls
  for name in ('image', 'restored', 'depth', 'kernels'):
    np.testing.assert_array_equal(getattr(zero, name), getattr(without, name))
  ticks, system.calls = [], 0
  _run(system, tile=64, keep_defocus=1, progress=lambda *a: ticks.append(a))
  assert system.calls == 2 * calls and ticks == [(i + 1, 2 * calls) for i in range(2 * calls)]


@pytest.mark.parametrize('options', [{}, {'scale': 2.5}, {'keep_kernels': False, 'trust': True}])
def test_tiles_and_bands_give_what_one_tile_gives(options):
  system = Lens(8, width=110)
  whole = _run(system, tile=128, keep_defocus=0.8, **options)
  tiled = _run(system, tile=64, keep_defocus=0.8, **options)
  np.testing.assert_allclose(tiled.image, whole.image, atol=2e-3)
  options.pop('keep_kernels', None)
  np.testing.assert_allclose(_run(system, 'stream', tile=64, keep_defocus=0.8, **options), tiled.image, atol=1e-6)
  assert np.abs(_run(system, tile=64).image[: len(whole.image)].mean() - 0.5) < 0.2
  if 'trust' in options:  # of the result without it
    np.testing.assert_array_equal(tiled.trust, _run(system, tile=64, trust=True).trust)


def test_the_dtype_is_that_of_the_photo():
  system = Lens(8)
  wanted = _run(system, keep_defocus=1.0).image
  system.photo = np.rint(system.photo * 255).astype(np.uint8)
  found = _run(system, keep_defocus=1.0).image
  assert found.dtype == np.uint8 and np.abs(found / 255 - wanted).max() < 0.01


# -- What is out of focus ----------------------------------------------------------------------------------------------


def test_motion_is_no_defocus_and_depth_is_that_of_each_pixel():
  kernels = kernel_lib.gaussian_kernels(np.float32([7, 7, 2]), np.float32([2, 7, 2]), np.float32([0.4, 0, 1]))
  depth = np.arange(48, dtype=np.float32).reshape(1, 4, 12, 1) / 48
  found = np.asarray(defocus.measured(kernels[None, None], depth, SCALE))[0, 0]
  np.testing.assert_allclose(found[:, 0], [2, 7, 2], rtol=0.04)  # the support cuts 7 by a little
  np.testing.assert_allclose(found[:, 1], [depth[0, :, 4 * i : 4 * i + 4].mean() for i in range(3)], rtol=1e-5)
  assert not np.asarray(defocus.measured(kernels[None, None], None, SCALE))[..., 1].any()


def test_the_photos_share_grows_from_what_is_in_focus():
  variance = np.concatenate([np.full(10, 2.0), np.linspace(2, 6, 90)])[None].repeat(20, 0)
  share = defocus.photo_share(np.stack([variance, 0 * variance], -1).astype(np.float32))
  np.testing.assert_array_equal(share[variance <= 2.8], 0)
  np.testing.assert_array_equal(share[variance >= 4.2], 1)
  assert (np.diff(share[0]) >= 0).all() and share[0][np.abs(variance[0] - 3.5).argmin()] == pytest.approx(0.5, abs=0.05)
  assert not defocus.photo_share(np.full((5, 5, 2), 3, np.float32)).any()  # the same everywhere: all in focus


def test_depth_evens_out_estimates_as_far_as_it_explains_them():
  rng = np.random.default_rng(0)
  depth = np.linspace(0, 1, 160, dtype=np.float32)[None].repeat(160, 0)
  patches = rng.normal(0, 0.6, (16, 16)).repeat(10, 0).repeat(10, 1)  # estimates are wrong in patches
  noisy = 2 + 3 * (depth > 0.5) + patches
  of = lambda variance, depth: defocus.photo_share(np.stack([variance, depth], -1).astype(np.float32))
  error = lambda share: np.abs(share - (depth > 0.5)).mean()
  useless = of(noisy, rng.random(depth.shape))
  assert error(of(noisy, depth)) < 0.6 * error(useless)
  np.testing.assert_allclose(useless, of(noisy, 0 * depth), atol=0.05)  # what explains nothing changes nothing


def test_single_wrong_estimates_are_taken_out_and_edges_stay():
  variance = np.where(np.arange(60) < 30, 2.0, 6.0)[None].repeat(60, 0)
  wanted = np.where(np.arange(60) < 30, 0.0, 1.0)[None].repeat(60, 0)
  wrong = np.random.default_rng(0).random(variance.shape) < 0.1
  found = defocus.photo_share(np.stack([np.where(wrong, 9 - variance, variance), 0 * variance], -1).astype(np.float32))
  assert np.abs(found - wanted)[:, [*range(28), *range(32, 60)]].max() == 0 and np.abs(found - wanted).mean() < 0.01


@pytest.mark.parametrize('keep', [-0.1, 1.1, float('nan'), 'much', True])
def test_a_wrong_share_is_refused(keep):
  with pytest.raises(SSRError, match='keep_defocus'):
    _run(Lens(8), keep_defocus=keep)


def test_a_system_without_kernels_is_refused():
  class Blind(Lens):
    name, outputs = 'blind', (Output('image', 'image', 'result'),)

  with pytest.raises(SSRError, match="keep_defocus needs blur kernels, which system 'blind' of model 'lens' does not"):
    _run(Blind(8), keep_defocus=0.5)
