"""What is found in a photo, with a system whose kernels and depth are known. Nothing compiles."""

import math

import jax
import numpy as np
import pytest

from ssr_jax.image import kernels as kernel_lib
from ssr_jax.runtime import inspection
from ssr_jax.runtime.restorer import Restorer
from ssr_jax.systems.base import Output, System
from ssr_jax.types import SSRError
from tests.runtime import standins

SCALE = 4


class Optics(System):
  """Knows the blur and the depth at every place of an image: variance grows to the right and down, depth down."""

  name = 'optics'
  outputs = (
    Output('depth', 'depth', 'depth'),
    Output('kernels', 'kernels', 'kernels'),
    Output('image', 'image', 'result'),
  )
  Options = standins.Options

  def __init__(self):
    self.steps = []

  @property
  def estimating(self):
    return {'steps': 0}

  def required(self, config, modules, options):
    return ()

  def plan(self, config, modules, options):
    return standins.Plan(steps=1 if options.steps is None else options.steps)

  def restore(self, modules, variables, lr, window, context, noise, plan, last=True):
    self.steps.append(plan.steps)
    (y, x), (h, w), (th, tw) = (np.asarray(a) for a in (window.origin, window.size, lr.shape[1:3]))
    kernels = kernels_at(np.arange(x, x + tw) / w, np.arange(y, y + th)[:, None] / h)[None]
    deep = ((np.arange(SCALE * th) + 0.5) / SCALE + y) / h
    depth = np.broadcast_to(np.minimum(deep, 1)[None, :, None, None], (1, SCALE * th, SCALE * tw, 1))
    return {'depth': depth.astype(np.float32), 'kernels': kernels, 'image': lr.repeat(SCALE, 1).repeat(SCALE, 2)}


def variances_at(right, down):
  """(along 0.5, across it) at places 0 to 1 from left to right and from top to bottom."""
  right, down = np.broadcast_arrays(right, down)
  return 2 + 4.5 * right + 0.5 * down, 2 + 1.5 * right + 0.5 * down


def kernels_at(right, down):
  """Kernels [..., k*k] of these variances."""
  return np.asarray(kernel_lib.gaussian_kernels(*variances_at(right, down), 0.5))


def _inspect(lr, **options):
  system = Optics()
  model = Restorer(system, {'name': 'optics', 'scale': SCALE, 'parts': {}}, {}, {})
  with jax.disable_jit():
    return system, inspection.inspect(model, lr, **options)


@pytest.mark.parametrize('shape', [(24, 32), (211, 70), (40, 400)])
def test_blur_depth_and_kernels_are_those_of_every_pixel(shape):
  """In one tile and in several, which are blended; a field of more pixels than the picture needs is thinned."""
  h, w = shape
  lr = np.random.default_rng(0).random((h, w, 3), np.float32)
  at = [(0, 0), (w - 1, h - 1), (w // 3, h // 2), (w // 3, h - 1)]
  system, found = _inspect(lr, tile=64, at=at)
  assert set(system.steps) == {0}  # no more than the estimates need
  right, down = np.arange(w) / w, np.arange(h)[:, None] / h
  along, across = variances_at(right, down)
  long, short, angle = np.moveaxis(found.blur, -1, 0)
  # The support of 18 taps cuts the widest kernels by 2 %.
  np.testing.assert_allclose(long, np.sqrt(along) / SCALE, rtol=0.025)
  np.testing.assert_allclose(short, np.sqrt(across) / SCALE, rtol=0.025)
  np.testing.assert_allclose(angle[:, 2:], np.rad2deg(0.5), atol=2)
  np.testing.assert_allclose(found.depth, np.broadcast_to((np.arange(h)[:, None] + 0.5) / h, shape), atol=2e-2)
  assert found.spread(w // 3, 1) == pytest.approx(np.sqrt(3) / SCALE, rel=0.03)
  for x, y in at:
    np.testing.assert_allclose(found.kernels[x, y].ravel(), kernels_at(x / w, y / h), atol=1e-5)
  step = -(-max(shape) // 192)
  wanted = kernels_at(right[::step], down[::step])
  np.testing.assert_allclose(found.field, wanted, atol=1e-5)


def test_noise_is_that_of_the_photo():
  lr = 0.5 + 0.03 * np.random.default_rng(0).standard_normal((128, 128, 3), np.float32) * np.array([1, 2, 0.5])
  np.testing.assert_allclose(_inspect(lr.astype(np.float32))[1].noise, [0.03, 0.06, 0.015], rtol=0.12)
  whole = np.rint(255 * lr).astype(np.uint8)
  np.testing.assert_allclose(_inspect(whole)[1].noise, [0.03, 0.06, 0.015], rtol=0.12)


def test_the_direction_of_the_blur_turns_with_the_kernel():
  for angle in (0, 30, 90, 135, 179):
    kernel = kernel_lib.gaussian_kernels(6.0, 1.5, math.radians(angle))
    long, short, found = inspection.blur_of(kernel, SCALE)
    assert abs((found - angle + 90) % 180 - 90) < 1 and long > 1.9 * short


def test_what_cannot_be_inspected_is_said():
  photo = np.zeros((20, 30, 3), np.uint8)
  for lr, at, word in ((photo, [(30, 0)], 'outside the photo'), (photo[None], [], 'one image')):
    with pytest.raises(SSRError, match=word):
      _inspect(lr, at=at)

  class Blind(Optics):
    name, outputs = 'blind', (Output('image', 'image', 'result'),)

  with pytest.raises(SSRError, match="inspect needs blur kernels, which system 'blind' of model 'b' does not estimate"):
    inspection.inspect(Restorer(Blind(), {'name': 'b', 'scale': 4, 'parts': {}}, {}, {}), photo)
