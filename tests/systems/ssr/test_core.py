"""The pure core: every input reaches where it belongs, told by spies in place of networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax import diffusion
from ssr_jax.diffusion.noise import NoiseField
from ssr_jax.image import resize as resize_lib
from ssr_jax.systems.base import Window
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr import plan as plan_lib
from ssr_jax.systems.ssr.options import Options
from ssr_jax.systems.ssr.svkr import SVKR
from ssr_jax.systems.ssr.system import SYSTEM

VARIABLES = {part: part for part in ('depth', 'dkenet', 'unet', 'vae')} | {
  'nbsr': {'constants': {'pca': jnp.eye(441, 15)}}
}


class Spy:
  """A module whose `apply` calls a function with what it got but the variables, and remembers that."""

  def __init__(self, **methods):
    self._methods, self.seen = methods, []
    self.resolution, self.reduction = (32, 48), 4

  def apply(self, variables, *arguments, method='__call__', **options):
    self.seen.append((variables, method, arguments, options))
    return self._methods[method](*arguments, **options)


def _modules():
  """Networks that a reader can follow: depth is brightness, kernels two taps by depth, restored a darker LR."""
  gray = lambda image: image.mean(-1, keepdims=True)

  def kernels(lr, depth):
    return jnp.concatenate([depth, 1 - depth, jnp.zeros((*depth.shape[:3], 439))], -1)

  def latents(image, key=None):
    b, h, w, _ = image.shape
    return image.reshape(b, h // 4, 4, w // 4, 4, 3).mean((2, 4))

  up = lambda z: jnp.repeat(jnp.repeat(z, 4, 1), 4, 2)
  return {
    'depth': Spy(__call__=gray),
    'dkenet': Spy(__call__=kernels),
    'nbsr': Spy(__call__=lambda lr, kernels: 0.9 * resize_lib.upscale(lr, 4) + 0.05 * kernels[..., :1].mean()),
    'vae': Spy(to_latents=latents, from_latents=up),
    'unet': Spy(__call__=lambda z, t, steer, maps: 0.5 * z, encode_maps=lambda steer: 'maps'),
  }


def _photo(h=16, w=24, seed=0):
  small = jax.random.uniform(jax.random.key(seed), (1, 4, 4, 3))
  return jnp.clip(jax.image.resize(small, (1, h, w, 3), 'linear'), 0.05, 0.95)


def _plan(**changes):
  config = {'name': 'spies', 'scale': 4, 'svkr': {}, 'schedule': {'prediction': 'v'}}
  config['sampling'] = {'sampler': 'ddim', 'steps': 3, 'start': 0.6}
  return plan_lib.plan(config, dict.fromkeys((*core.RESTORING, 'vae', 'unet')), Options(**changes))


def _window(h=16, w=24, y=0, x=0):
  return Window(jnp.array([h, w]), jnp.array([y, x]))


def test_the_unet_gets_code_depth_lr_and_latents_of_its_tile():
  modules, lr, plan = _modules(), _photo(), _plan()
  noise = NoiseField(jnp.uint32(7), jnp.array([0, 0]))
  found = SYSTEM.restore(modules, VARIABLES, lr, _window(), None, noise, plan)
  (_, _, (steer,), _), *calls = modules['unet'].seen
  depth = found['depth'].reshape(1, 16, 4, 24, 4, 1).mean((2, 4))
  np.testing.assert_allclose(steer.depth, depth, atol=0.02)  # near is near: not flipped, not transposed
  np.testing.assert_allclose(steer.kernel_code, found['kernels'][..., :15], atol=1e-6)  # the basis is the identity
  np.testing.assert_array_equal(steer.lr, lr)
  np.testing.assert_allclose(steer.lr_latent, lr, atol=0.03)  # of the bicubic enlargement, not of the restored image
  schedule = plan.schedule
  steps = schedule.timesteps(3, 0.6)
  assert [len(c[2]) for c in calls] == [3] and all(c[3] == {'maps': 'maps'} for c in calls)  # traced once, in a loop
  eps, key = noise.window((16, 24, 3), 16)
  first = found['restored'].reshape(1, 16, 4, 24, 4, 3).mean((2, 4))
  z = schedule.add_noise(first, eps[None], jnp.int32(steps[0]))
  z = diffusion.ddim(lambda z, t: 0.5 * z, schedule, key[None], z, 3, 0.6)
  expected = jnp.clip(jnp.repeat(jnp.repeat(z, 4, 1), 4, 2), 0, 1)
  np.testing.assert_allclose(found['image'], expected, atol=1e-5)
  assert np.abs(np.asarray(found['image']) - np.asarray(found['restored'])).max() > 0.05


def test_dkenet_sees_the_depth_of_the_restored_image_at_lr_size():
  modules, lr = _modules(), _photo()
  refined = core.refine(modules, VARIABLES, lr, iterations=2, unroll=True)
  depths = [arguments[1] for _, _, arguments, _ in modules['dkenet'].seen]
  bicubic, restored = depths  # of the bicubic image, then of the first restored one
  np.testing.assert_allclose(bicubic, lr.mean(-1, keepdims=True), atol=0.03)
  assert np.abs(np.asarray(restored) - np.asarray(bicubic)).mean() > 0.02
  kernels = 0.9 * restored + 0.1 * bicubic
  np.testing.assert_allclose(refined.kernels[..., :1], kernels, atol=1e-5)
  np.testing.assert_array_equal(modules['nbsr'].seen[-1][2][1], refined.kernels)


@pytest.mark.parametrize('iterations', [0, 1, 2, 3])
@pytest.mark.parametrize('rule', ['algorithm1', 'eq2'])
def test_a_tile_with_the_wholes_depths_is_the_crop_of_the_whole(iterations, rule):
  lr = _photo(24, 32)
  whole_modules, modules = _modules(), _modules()
  seen = []
  spied = whole_modules['depth']
  spied.apply = lambda v, image, seen=seen: seen.append(image.mean(-1, keepdims=True)) or seen[-1]
  options = {'iterations': iterations, 'rule': rule, 'gamma': 0.7, 'unroll': True}
  whole = core.refine(whole_modules, VARIABLES, lr, window=_window(24, 32), **options)
  y, x = 8, 12
  # An NBSR without the field's mean, which a tile cannot know.
  for m in (whole_modules, modules):
    m['nbsr'] = Spy(__call__=lambda lr, kernels: 0.9 * resize_lib.upscale(lr, 4))
  tile = core.refine(
    modules, VARIABLES, lr[:, y : y + 16, x : x + 16], window=_window(24, 32, y, x), depths=seen, **options
  )
  np.testing.assert_allclose(tile.kernels, whole.kernels[:, y : y + 16, x : x + 16], atol=1e-6)
  np.testing.assert_array_equal(tile.depth, whole.depth)
  large = core.spread_depth(whole.depth, (96, 128), _window(24, 32), 4)
  small = core.spread_depth(tile.depth, (64, 64), _window(24, 32, y, x), 4)
  np.testing.assert_allclose(small, large[:, 4 * y : 4 * y + 64, 4 * x : 4 * x + 64], atol=1e-6)


def test_seeing_a_padded_image_is_seeing_its_content():
  image = jax.random.uniform(jax.random.key(0), (2, 52, 36, 3))
  padded = jnp.pad(image, ((0, 0), (0, 12), (0, 28), (0, 0)), constant_values=7.0)
  for size in ((8, 8), (64, 80)):  # smaller and larger
    wanted = jax.image.resize(image, (2, *size, 3), 'linear')
    np.testing.assert_allclose(core.see(image, size), wanted, atol=1e-5)
    np.testing.assert_allclose(core.see(padded, size, _window(13, 9), 4), wanted, atol=1e-5)


def test_spreading_depth_is_a_bilinear_resize_and_repeats_the_border():
  depth = jax.random.uniform(jax.random.key(0), (1, 8, 8, 1))
  wanted = jax.image.resize(depth, (1, 20, 5, 1), 'linear')
  np.testing.assert_allclose(core.spread_depth(depth, (20, 5)), wanted, atol=1e-6)
  found = core.spread_depth(depth, (12, 8), _window(20, 5, 13, 0))
  np.testing.assert_allclose(found[:, :7, :5], wanted[:, 13:], atol=1e-6)
  np.testing.assert_allclose(found[:, 7:, :5], jnp.broadcast_to(wanted[:, -1:], (1, 5, 5, 1)), atol=1e-6)
  np.testing.assert_allclose(found[:, :7, 5:], jnp.broadcast_to(wanted[:, 13:, -1:], (1, 7, 3, 1)), atol=1e-6)


def _refined(h=16, w=24):
  """What a refinement could have found: everything differs from place to place, and near is 1."""
  ramp = jnp.broadcast_to(jnp.linspace(0, 1, 12)[:, None, None] ** 2, (1, 12, 12, 1))
  kernels = jax.random.uniform(jax.random.key(3), (1, h, w, 441))
  return SVKR(depth=ramp, kernels=kernels / kernels.sum(-1, keepdims=True), image=_photo(4 * h, 4 * w, seed=9))


def test_conditions_are_the_code_the_depth_the_lr_image_and_its_latent():
  lr, refined = _photo(), _refined()
  basis = jax.random.normal(jax.random.key(4), (441, 15))
  latent = jax.random.normal(jax.random.key(5), (1, 16, 24, 4))
  steer = core.conditions({'nbsr': {'constants': {'pca': basis}}}, lr, refined.kernels, refined.depth, latent)
  code = np.asarray(refined.kernels, np.float64) @ np.asarray(basis, np.float64)
  np.testing.assert_allclose(steer.kernel_code, code, atol=1e-5)
  np.testing.assert_allclose(steer.depth, jax.image.resize(refined.depth, (1, 16, 24, 1), 'linear'), atol=1e-6)
  assert steer.lr is lr and steer.lr_latent is latent
  window = _window(32, 48, 7, 5)
  tile = core.conditions({'nbsr': {'constants': {'pca': basis}}}, lr, refined.kernels, refined.depth, latent, window)
  whole = jax.image.resize(refined.depth, (1, 32, 48, 1), 'linear')
  np.testing.assert_allclose(tile.depth, whole[:, 7:23, 5:29], atol=1e-6)


def test_training_sees_the_latent_of_the_lr_image_and_not_of_the_restored_one():
  modules, lr, refined = _modules(), _photo(), _refined()
  steer = core.observe(modules, VARIABLES, lr, refined, 4)
  np.testing.assert_allclose(steer.lr_latent, lr, atol=0.03)
  assert np.abs(np.asarray(refined.image).reshape(1, 16, 4, 24, 4, 3).mean((2, 4)) - lr).mean() > 0.1
  np.testing.assert_allclose(steer.kernel_code, refined.kernels[..., :15], atol=1e-6)


def test_the_autoencoder_sees_images_in_their_range_and_whose_it_is():
  modules = _modules() | {'student_vae': Spy(to_latents=lambda image, key: 2 * image, from_latents=lambda z: 3 * z)}
  image = jnp.array([-0.5, 0.25, 1.5]).reshape(1, 1, 1, 3)
  key = jax.random.key(0)
  found = core.encode(modules, VARIABLES | {'student_vae': 'own'}, image, key, 'student_vae')
  np.testing.assert_allclose(found, 2 * np.array([0, 0.25, 1]).reshape(1, 1, 1, 3))
  assert modules['student_vae'].seen[0][0] == 'own' and modules['student_vae'].seen[0][2][1] is key
  # A decoder's overshoot stays: the colour fix comes before the clip.
  np.testing.assert_allclose(core.decode(modules, VARIABLES | {'student_vae': 'own'}, image, 'student_vae'), 3 * image)


def test_a_students_nbsr_sees_latent_lr_and_kernels():
  nbsr = Spy(__call__=lambda latent, lr, code: latent)
  steer = core.Conditions(jnp.full((1, 2, 2, 15), 3.0), jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 3)), jnp.zeros(()))
  latents = jnp.full((1, 2, 2, 3), 5.0)
  core.decode({'student_nbsr': nbsr}, {'student_nbsr': 'own'}, latents, 'student_nbsr', None, steer)
  ((variables, method, seen, _),) = nbsr.seen
  assert variables == 'own' and method == '__call__'
  assert all(a is b for a, b in zip(seen, (latents, steer.lr, steer.kernel_code), strict=True))


def test_sampling_begins_at_the_restored_latent_with_the_tiles_noise(monkeypatch):
  """And is steered by the LR image's latent; the arguments of `core.generate`, one by one."""
  modules, lr, refined = _modules(), _photo(), _refined()
  plan = dataclasses.replace(_plan(), noise=0.4)
  noise = NoiseField(jnp.uint32(7), jnp.array([3, 5]))
  seen = {}

  def generate(modules, variables, steer, first, eps, keys, schedule, **how):
    seen.update(steer=steer, first=first, eps=eps, keys=keys, schedule=schedule, how=how)
    return 2 * first - 0.5

  monkeypatch.setattr(core, 'generate', generate)
  image = SYSTEM._generate(modules, VARIABLES, lr, refined, refined.image, _window(32, 48, 3, 5), noise, plan)
  mean = np.asarray(refined.image).reshape(1, 16, 4, 24, 4, 3).mean((2, 4))
  np.testing.assert_allclose(seen['first'], mean, atol=1e-5)
  np.testing.assert_allclose(seen['steer'].lr_latent, lr, atol=0.03)
  whole = jax.image.resize(refined.depth, (1, 32, 48, 1), 'linear')
  np.testing.assert_allclose(seen['steer'].depth, whole[:, 3:19, 5:29], atol=1e-6)
  eps, key = noise.window((16, 24, 3), 16)
  np.testing.assert_array_equal(seen['eps'], eps[None])
  assert seen['keys'].shape == (1,) and seen['keys'][0] == key and seen['schedule'] is plan.schedule
  how = {'network': 'unet', 'sampler': 'ddim', 'steps': 3, 'start': 0.6, 'noise': 0.4}
  assert seen['how'] == how | {'correct': None}
  wanted = np.clip(2 * mean - 0.5, 0, 1).repeat(4, 1).repeat(4, 2)
  np.testing.assert_allclose(image, wanted, atol=1e-5)

  pulls = []
  monkeypatch.setattr(core, 'guidance', lambda *arguments: pulls.append(arguments) or 'pulled')
  plan = dataclasses.replace(plan, guidance=0.5)
  SYSTEM._generate(modules, VARIABLES, lr, refined, refined.image, _window(32, 48, 3, 5), noise, plan)
  assert seen['how'] == how | {'correct': 'pulled'}
  ((weight, decoded, photo, kernels, scale),) = pulls
  assert (weight, scale) == (0.5, 4) and photo is lr and kernels is refined.kernels
  np.testing.assert_allclose(np.clip(decoded(jnp.asarray(2 * mean - 0.5)), 0, 1), wanted, atol=1e-5)
