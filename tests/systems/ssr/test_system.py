"""What SSR's system does around its core: depths of the whole from pass to pass, alignment, colours, strength."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.image import colourfix, edges
from ssr_jax.systems.ssr import plan as plan_lib
from ssr_jax.systems.ssr.options import Options
from ssr_jax.systems.ssr.system import SYSTEM

CONFIG = {
  'name': 'model',
  'scale': 4,
  'svkr': {'iterations': 3},
  'schedule': {},
  'sampling': {'sampler': 'ddim', 'steps': 2, 'start': 0.5, 'wavelet_levels': 2},
}
PARTS = ('depth', 'dkenet', 'nbsr', 'vae', 'unet')


def _plan(**asked):
  return plan_lib.plan(CONFIG, dict.fromkeys(PARTS), Options(**asked))


class _Gray:
  """A depth net: brightness."""

  resolution = (6, 10)

  def apply(self, variables, image):
    return variables * image.mean(-1, keepdims=True)


def test_depths_are_those_of_the_passes_in_their_order():
  modules, variables, plan = {'depth': _Gray()}, {'depth': 0.5}, _plan()
  assert SYSTEM.passes(plan) == 3 and SYSTEM.view_size(modules, plan) == (6, 10)
  assert SYSTEM.passes(dataclasses.replace(plan, iterations=0)) == 1
  views = [jax.random.uniform(jax.random.key(i), (1, 6, 10, 3)) for i in range(3)]
  context = SYSTEM.prepare(modules, variables, views[0], plan)
  for view in views[1:]:
    context = SYSTEM.advance(modules, variables, context, view, plan)
  np.testing.assert_allclose(context, [0.5 * view.mean(-1, keepdims=True) for view in views], atol=1e-6)


@pytest.mark.parametrize('reduction, multiple', [(2, 1), (4, 1), (8, 2), (16, 4)])
def test_tiles_begin_where_a_latent_pixel_does(reduction, multiple):
  modules = {'vae': types.SimpleNamespace(reduction=reduction)}
  assert SYSTEM.alignment(modules, _plan()) == multiple
  assert SYSTEM.alignment(modules, _plan(steps=0)) == 1  # no latents, no alignment


def test_the_result_has_the_restored_images_colours_and_the_share_of_the_change_that_was_asked_for():
  rng = np.random.default_rng(0)
  found = {'image': rng.random((16, 24, 3), np.float32), 'restored': rng.random((16, 24, 3), np.float32)}
  image, restored = found['image'], found['restored']
  fixed = colourfix.wavelet(image, restored, 2)
  for blend in (0.0, 0.25, 1.0):
    result = SYSTEM.finish(found, _plan(blend=blend))
    np.testing.assert_allclose(result['image'], (1 - blend) * restored + blend * fixed, atol=1e-5)
    assert result['restored'] is restored
  np.testing.assert_array_equal(SYSTEM.finish(found, _plan(colour_fix='none'))['image'], image)
  np.testing.assert_array_equal(SYSTEM.finish({'restored': restored}, _plan(steps=0))['image'], restored)


def test_the_change_is_smoothed_and_the_blended_image_sharpened(monkeypatch):
  """In this order, in bands of rows, and as far as `reach` says."""
  rng = np.random.default_rng(0)
  found = {name: rng.random((70, 24, 3), np.float32) for name in ('image', 'restored')}
  image, restored = found['image'], found['restored']
  plan = dataclasses.replace(_plan(blend=0.25), smooth=1.2, sharpen=1.5)
  fixed = colourfix.wavelet(image, restored, 2)
  want = edges.steepen(restored + 0.25 * edges.smooth(fixed - restored, 1.2), 1.5)
  np.testing.assert_allclose(SYSTEM.finish(found, plan)['image'], want, atol=1e-5)
  monkeypatch.setattr('ssr_jax.systems.ssr.system._BAND', 16)
  np.testing.assert_allclose(SYSTEM.finish(found, plan)['image'], want, atol=1e-5)
  assert SYSTEM.reach(plan) == 4 + 4 + edges.REACH  # of the colour fix, of smoothing and of sharpening
  changed = {name: np.concatenate([1 - x[:30], x[30:]]) for name, x in found.items()}
  np.testing.assert_allclose(
    SYSTEM.finish(changed, plan)['image'][30 + SYSTEM.reach(plan) :], want[30 + SYSTEM.reach(plan) :], atol=1e-6
  )
  only = dataclasses.replace(_plan(steps=0), sharpen=1.5)
  image = SYSTEM.finish({'restored': restored}, only)['image']
  np.testing.assert_allclose(image, edges.steepen(restored, 1.5), atol=1e-6)
  assert SYSTEM.reach(only) == edges.REACH and SYSTEM.reach(_plan(steps=0)) == 0


def test_before_the_last_pass_the_view_is_the_restored_image_and_nothing_is_sampled(monkeypatch):
  def refine(modules, variables, lr, *, window, depths, **options):
    assert len(depths) == 2 and options == _plan().svkr
    return types.SimpleNamespace(image=lr - 0.5, depth=None, kernels=None)

  monkeypatch.setattr('ssr_jax.systems.ssr.core.refine', refine)
  found = SYSTEM.restore({}, {}, jnp.ones((1, 4, 4, 3)), None, jnp.zeros((2, 1, 6, 10, 1)), None, _plan(), last=False)
  assert list(found) == ['view']
  np.testing.assert_array_equal(found['view'], np.full((1, 4, 4, 3), 0.5))
