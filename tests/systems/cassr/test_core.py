"""The method by spies in place of the networks, and against loops in NumPy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax import diffusion
from ssr_jax.diffusion.guidance import classifier_free
from ssr_jax.image.resize import upscale
from ssr_jax.nn.controlnet import Control
from ssr_jax.systems.cassr import core

SCHEDULE = diffusion.Schedule()
RNG = np.random.default_rng(0)
PROMPTS = jnp.asarray(RNG.standard_normal((3, 2, 5)), jnp.float32)


class Spy:
  """A module whose `apply` is the method of that name; it keeps what it was asked."""

  def __init__(self, **methods):
    self.calls, self._methods = [], methods

  def apply(self, variables, *arguments, method='__call__', **options):
    self.calls.append((method, arguments))
    return self._methods[method](*arguments, **options)


def steering(**fields):
  """A ControlNet with two skips whose taps are the hint times 1 and 2, and whose residuals are ten times that."""

  def control(z, t, context, hint):
    return Control((hint, 2 * hint), (10 * hint, 20 * hint), 100 * hint)

  def attend(place, name, y, taps):
    return {'lr': 3.0, 'reference': 5.0}[name] * taps[1].mean((1, 2))[:, None, :1] + 0 * y

  spy = Spy(control=control, attend=attend, embed=lambda image: image + 1)
  spy.__dict__.update({'controls': ('lr', 'reference'), 'multiple_attention': True, 'hint': 'pixels', **fields})
  return spy


def unet(z, t, context, residuals=None, attend=None):
  found = z
  if residuals:
    found = found + residuals[0][0] + residuals[0][1] + residuals[1]
  if attend:
    y = jnp.zeros((len(z), 4, 1))
    found = found + (attend('up_0', 0, 'self', y) + 7 * attend('up_0', 0, 'cross', y))[:, :1, :, None]
  return found


def prior():
  return Spy(__call__=unet, prompts=lambda: PROMPTS)


VARIABLES = {'prior': {}, 'cassr': {}, 'activation': {}}
Z = jnp.asarray(RNG.standard_normal((2, 4, 4, 1)), jnp.float32)
T = jnp.array([5, 6])
HINTS = {name: jnp.asarray(RNG.standard_normal((2, 4, 4, 1)), jnp.float32) for name in ('lr', 'reference')}


@pytest.mark.parametrize('attention', [True, False])
def test_one_controlnet_sees_both_images_in_one_batch_and_its_features_arrive(attention):
  modules = {'prior': prior(), 'cassr': steering()}
  found = core.predict(modules, VARIABLES, Z, T, PROMPTS[:2], HINTS, attention=attention)
  (call,) = [arguments for method, arguments in modules['cassr'].calls if method == 'control']
  np.testing.assert_array_equal(call[0], np.concatenate([Z, Z]))
  np.testing.assert_array_equal(call[1], [5, 6, 5, 6])
  np.testing.assert_array_equal(call[2], np.concatenate([PROMPTS[:2]] * 2))
  np.testing.assert_array_equal(call[3], np.concatenate([HINTS['lr'], HINTS['reference']]))
  expected = Z + 130 * (HINTS['lr'] + HINTS['reference'])
  if attention:  # Eq. 1 attends to the reference before self-attention, Eq. 2 to the LR image before the text
    mean = {name: 2 * hint.mean((1, 2), keepdims=True) for name, hint in HINTS.items()}
    expected = expected + 5 * mean['reference'] + 7 * 3 * mean['lr']
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_one_image_alone_steers_and_nothing_is_added_for_the_other():
  modules = {'prior': prior(), 'cassr': steering(controls=('lr',))}
  found = core.predict(modules, VARIABLES, Z, T, PROMPTS[:2], {'lr': HINTS['lr']})
  expected = Z + 130 * HINTS['lr'] + 21 * 2 * HINTS['lr'].mean((1, 2), keepdims=True)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
  plain = core.predict({'prior': prior()}, VARIABLES, Z, T, PROMPTS[:2])
  np.testing.assert_array_equal(plain, Z)


def test_hints_are_of_images_or_of_latents():
  images, latents = {'reference': 2 * Z, 'lr': Z}, {'lr': 3 * Z, 'reference': 4 * Z}
  for hint, given in (('pixels', images), ('latent', latents)):
    modules = {'cassr': steering(hint=hint)}
    found = core.see(modules, VARIABLES, 'cassr', images, latents)
    assert list(found) == ['lr', 'reference'] and len(modules['cassr'].calls) == 1
    for name in found:
      np.testing.assert_allclose(found[name], given[name] + 1, rtol=1e-6)


@pytest.mark.parametrize('weight', [1, 1.0, 5.5])
def test_guidance_leads_away_from_the_negative_prompt(weight):
  seen = []

  def predict(z, t, context):
    seen.append(len(z))
    return z * context.mean((1, 2))[:, None, None, None] + t[:, None, None, None]

  positive, negative = PROMPTS[:2], PROMPTS[1:]
  found = classifier_free(predict, positive, negative, weight)(Z, T)
  towards, away = (predict(Z, T, context) for context in (positive, negative))
  np.testing.assert_allclose(found, away + weight * (towards - away), rtol=1e-5, atol=1e-5)
  assert seen[0] == (2 if weight == 1 else 4)
  if weight == 1:
    np.testing.assert_array_equal(found, towards)


def test_sampling_begins_at_the_lr_images_latent_and_follows_ddim():
  """Three steps of a loop in NumPy with the true formulas; the network is the spy above."""
  modules = {'prior': prior(), 'cassr': steering()}
  images = {name: RNG.standard_normal((1, 4, 4, 1)).astype(np.float32) / 300 for name in ('lr', 'reference')}
  latents = {'lr': RNG.standard_normal((1, 4, 4, 1)).astype(np.float32)}
  eps = RNG.standard_normal((1, 4, 4, 1)).astype(np.float32)
  how = core.Sampling(steps=3, guidance=2.0, attention=False)
  with jax.disable_jit():
    given, keys = jax.tree.map(jnp.asarray, (images, latents, eps)), jax.random.split(jax.random.key(0), 1)
    found = core.generate(modules, VARIABLES, *given, keys, SCHEDULE, how)
  first = next(arguments for method, arguments in modules['cassr'].calls if method == 'control')
  abar = SCHEDULE.alphas_cumprod
  assert 0.068 < np.sqrt(abar[999]) < 0.069  # what is left of the image in the first latent
  np.testing.assert_allclose(first[0][:1], np.sqrt(abar[999]) * latents['lr'] + np.sqrt(1 - abar[999]) * eps, rtol=1e-5)
  assert len(first[0]) == 4 and (first[1] == 999).all()  # two prompts, two images
  np.testing.assert_array_equal(first[2][:2], [PROMPTS[2], PROMPTS[1]])  # degraded, then clean
  np.testing.assert_allclose(
    first[3][:, 0, 0, 0], [images[n][0, 0, 0, 0] + 1 for n in ('lr', 'lr', 'reference', 'reference')]
  )

  z = np.sqrt(abar[999]) * latents['lr'] + np.sqrt(1 - abar[999]) * eps
  hint = images['lr'] + images['reference'] + 2
  for t, s in ((999, 666), (666, 332), (332, None)):
    noise = z + 130 * hint  # the same for both prompts
    x0 = (z - np.sqrt(1 - abar[t]) * noise) / np.sqrt(abar[t])
    z = x0 if s is None else np.sqrt(abar[s]) * x0 + np.sqrt(1 - abar[s]) * noise
  np.testing.assert_allclose(found, z, rtol=1e-3)


def test_the_prompt_is_the_one_asked_for():
  modules = {'prior': prior(), 'cassr': steering()}
  how = core.Sampling(steps=1, guidance=1.0, prompt='null', attention=False)
  keys = jax.random.split(jax.random.key(0), 2)
  core.generate(modules, VARIABLES, HINTS, {'lr': Z}, Z, keys, SCHEDULE, how)
  contexts = [arguments[2] for method, arguments in modules['prior'].calls if method == '__call__']
  assert len(contexts) == 1 and contexts[0].shape == (2, 2, 5)  # w = 1: no negative prompt


def test_tiles_see_their_own_place_and_blend_to_the_whole():
  z = jnp.asarray(RNG.standard_normal((2, 10, 7, 3)), jnp.float32)
  hints = {'lr': jnp.asarray(RNG.standard_normal((2, 10, 7, 2)), jnp.float32)}
  pointwise = lambda z, hints: jnp.sin(z) + hints['lr'].sum(-1, keepdims=True)
  for tile, overlap in ((4, 2), (5, 1), (8, 4)):
    np.testing.assert_allclose(core.in_tiles(pointwise, z, hints, tile, overlap), pointwise(z, hints), atol=1e-5)
  shapes = []

  def call(z, hints):
    shapes.append((z.shape, hints['lr'].shape))
    return z - z.mean((1, 2), keepdims=True)

  with jax.disable_jit():
    found = core.in_tiles(call, z, hints, 6, 2)
  assert shapes == [((2, 6, 6, 3), (2, 6, 6, 2))] * 4
  # By hand: tiles at rows 0 and 4, columns 0 and 1; weights of a Gaussian with a tenth of the side as deviation.
  weight = np.exp(-0.5 * ((np.arange(6) - 2.5) / 0.6) ** 2)
  total, norm = np.zeros(z.shape), np.zeros((10, 7, 1))
  for y in (0, 4):
    for x in (0, 1):
      place = np.s_[y : y + 6, x : x + 6]
      w = np.outer(weight, weight)[..., None]
      total[:, *place] += w * call(z[:, *place], {'lr': hints['lr'][:, *place]})
      norm[place] += w
  np.testing.assert_allclose(found, total / norm, atol=1e-5)
  np.testing.assert_array_equal(core.in_tiles(call, z, hints, 0, 0), call(z, hints))


def test_the_reference_image_is_made_as_asked(monkeypatch):
  lr = jnp.asarray(RNG.random((1, 4, 4, 3)), jnp.float32)
  enlarged = np.clip(upscale(lr, 4), 0, 1)
  np.testing.assert_allclose(core.activate({}, {}, lr, 'lr'), enlarged, atol=1e-6)
  seen = {}

  def refine(modules, variables, lr, **options):
    seen.update(options)
    return types.SimpleNamespace(image=upscale(lr, 4) + 0.5)

  monkeypatch.setattr(core.ssr, 'refine', refine)
  found = core.activate({}, {}, lr, 'svkr', iterations=2, window='w')
  np.testing.assert_allclose(found, np.clip(upscale(lr, 4) + 0.5, 0, 1), atol=1e-6)
  assert seen == {'iterations': 2, 'window': 'w', 'scale': 4}
  restorer = Spy(__call__=lambda lr: upscale(lr, 4) / 2)
  np.testing.assert_allclose(
    core.activate({'restorer': restorer}, {'restorer': {}}, lr, 'restorer'),
    np.clip(upscale(lr, 4) / 2, 0, 1),
    atol=1e-6,
  )
  drawn = core.activate({}, {}, lr, 'controlnet', draw=lambda u: 1 - u)
  np.testing.assert_allclose(drawn, np.clip(1 - upscale(lr, 4), 0, 1), atol=1e-6)
  for reference in ('controlnet', 'scedit'):
    with pytest.raises(ValueError, match='known: svkr, lr, restorer, controlnet'):
      core.activate({}, {}, lr, reference)


def test_the_loss_is_the_error_of_the_noise_or_of_v():
  z0 = jnp.asarray(RNG.standard_normal((2, 4, 4, 1)), jnp.float32)
  key = jax.random.key(3)
  t_key, eps_key = jax.random.split(key)
  t, eps = jax.random.randint(t_key, (2,), 0, 1000), np.asarray(jax.random.normal(eps_key, z0.shape))
  alpha, sigma = (np.sqrt(x)[:, None, None, None] for x in (SCHEDULE.alphas_cumprod[t], 1 - SCHEDULE.alphas_cumprod[t]))
  z = alpha * z0 + sigma * eps
  for prediction, target in (('eps', eps), ('v', alpha * eps - sigma * z0)):
    schedule = diffusion.Schedule(prediction=prediction)
    found = core.loss({'prior': prior(), 'cassr': steering()}, VARIABLES, key, z0, PROMPTS[:2], schedule)
    np.testing.assert_allclose(found, ((z - target) ** 2).mean((1, 2, 3)), rtol=1e-4)
