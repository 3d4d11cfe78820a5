"""Losses of the vae and diffusion stages against their definitions, with functions in place of networks."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax import diffusion, xla
from ssr_jax.image.resize import upscale
from ssr_jax.systems.ssr import amf, core
from ssr_jax.systems.ssr.encoders import Conditions
from ssr_jax.training import stages
from ssr_jax.weights import store
from tests.systems.ssr import wiring


@pytest.mark.slow
def test_the_diffusion_target_is_the_photos_latent_and_the_conditions_are_the_lr_images(tiny_model_dir, monkeypatch):
  """A network that knows the photo's latent has no loss; one that knows the LR image's has."""
  fields = {'loss.constraints': (0.0, 0.0, 0.0), 'loss.draws': 1, 'svkr.iterations': 0}
  stage = wiring.stage('diffusion', tiny_model_dir, **fields)
  cells = lambda image, factor=4: image.reshape(2, 16, 4, 16, 4, 3).mean((2, 4))
  photo = cells(jnp.asarray(wiring.HR, jnp.float32) / 255)
  seen = {}

  def vae(image, key=None, method=None):
    assert method == 'to_latents'
    return cells(image)

  def unet_knowing(z0):
    def unet(*arguments, method=None, train=False, **options):
      if method == 'reconstruct':
        return ()
      z_t, t, conditions = arguments
      seen.update(conditions=conditions, train=train)
      prediction = (z_t - alpha(t) * z0) / sigma(t)
      features = ((), (), ())
      return ((prediction, features), {'batch_stats': 'moved'}) if train else (prediction, features)

    return unet

  coefficients = lambda t: stage.schedule.coefficients(t)
  alpha, sigma = (lambda t, i=i: coefficients(t)[i][:, None, None, None] for i in (0, 1))
  lr = stage.degrade(wiring.BATCH).lr
  networks = {
    'depth': lambda image: image[..., :1],
    'dkenet': lambda lr, depth: jnp.concatenate([depth, jnp.zeros((2, 16, 16, 440))], -1),
    'nbsr': lambda lr, k: upscale(lr, 4),
    'vae': vae,
  }
  ctx = wiring.context(params={'unet': {}})
  values = []
  for z0 in (photo, cells(jnp.clip(upscale(lr, 4), 0, 1)), 1 - photo):
    wiring.replace(monkeypatch, stage, unet=unet_knowing(z0), **networks)
    value, (_, stats) = stage.loss(ctx, wiring.BATCH)
    values.append(float(value))
  assert values[0] < 1e-6 < 1e-4 < min(values[1:]) and stats == {'unet': 'moved'} and seen['train']
  steer = seen['conditions']
  np.testing.assert_array_equal(steer.lr, lr)
  np.testing.assert_allclose(steer.lr_latent, cells(jnp.clip(upscale(lr, 4), 0, 1)), atol=1e-5)
  np.testing.assert_allclose(steer.kernel_code[..., :1], steer.depth, atol=1e-5)


@pytest.mark.slow
def test_a_fresh_amf_is_calibrated_on_loaded_weights_too(tiny_model_dir):
  """As after `ssr weights import`: in training mode the AMF-UNet then equals its base, which it did not before."""
  stage = wiring.stage('diffusion', tiny_model_dir, **{'svkr.iterations': 0})
  params, stats, constants = stage.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  params['unet']['unet']['conv_out']['kernel'] = rng.normal(0, 0.1, params['unet']['unet']['conv_out']['kernel'].shape)
  frozen = dict(store.load_model(tiny_model_dir, parts=stage.needs).variables) | {'constants': constants}
  ctx = stages.context(params, stats, frozen)
  assert amf.is_fresh(params['unet'])
  _, _, _, conditions = stage.inputs(ctx.frozen, wiring.BATCH, 0)
  z, t = jax.random.normal(jax.random.key(2), conditions.lr_latent.shape), jnp.array([100, 600])
  base = stage.modules['unet'].bind({'params': params['unet']}).unet
  wanted = base(z, t)

  def in_training(params, stats):
    variables = {'params': params['unet'], 'batch_stats': stats['unet']}
    return stage.modules['unet'].apply(variables, z, t, conditions, train=True, mutable=['batch_stats'])[0]

  calibrated = in_training(*stage.prepare(ctx, wiring.BATCH, True))
  deviation = float(jnp.std(wanted))
  before = float(jnp.abs(in_training(params, stats) - wanted).mean()) / deviation
  after = float(jnp.abs(calibrated - wanted).mean()) / deviation
  assert after < 0.5 * before and after < 0.3  # another batch than the calibration's: its statistics differ a little

  trained = jax.tree.map(np.array, params)
  trained['unet']['unet']['mid_res_0']['amf']['alpha_1_out']['kernel'] += 0.01
  assert not amf.is_fresh(trained['unet'])
  kept, _ = stage.prepare(dataclasses.replace(ctx, params=trained), wiring.BATCH, True)
  assert kept is trained  # weights that were trained keep their norms


def test_core_generates_what_the_samplers_make_of_the_network(tiny_model_dir):
  """The schedule's first step, the noise, and the network's calls; against the sampler called by hand."""
  schedule = diffusion.Schedule(prediction='v')
  first = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
  eps, keys = jax.random.normal(jax.random.key(1), first.shape), jax.random.split(jax.random.key(2), 1)

  class Network:
    def apply(self, variables, *arguments, method=None, maps=None):
      return 'maps' if method == 'encode_maps' else 0.3 * arguments[0] + 1e-4 * arguments[1][0]

  for start, noise in ((0.5, 1.0), (0.5, 0.2), (1.0, 1.0), (1.0, 0.0)):
    z = eps
    if (start, noise) != (1.0, 1.0):
      z = schedule.add_noise(first, noise * eps, jnp.int32(schedule.timesteps(4, start)[0]))
    wanted = diffusion.ddpm(lambda z, t: 0.3 * z + 1e-4 * t[0], schedule, keys, z, 4, start)
    found = core.generate(
      {'unet': Network()},
      {'unet': {}},
      Conditions(*[first] * 4),
      first,
      eps,
      keys,
      schedule,
      sampler='ddpm',
      steps=4,
      start=start,
      noise=noise,
    )
    np.testing.assert_allclose(found, wanted, atol=1e-6)


# -- The same at once, without networks or compilation -----------------------------------------------------------------


def test_amf_trains_on_batch_statistics_and_is_validated_on_running_ones(monkeypatch):
  stage = wiring.stage('diffusion', '', **{'loss.constraints': (0.0, 0.0, 0.0), 'loss.draws': 1})
  photo, seen = jnp.zeros((2, 4, 4, 3)), []
  monkeypatch.setattr(stage, 'inputs', lambda *arguments: (photo, photo, None, Conditions(*[photo] * 4)))

  def unet(*arguments, method=None, train=False, mutable=False, **options):
    if method == 'reconstruct':
      return ()
    seen.append((train, mutable))
    out = (arguments[0], ())
    return (out, {'batch_stats': 'moved'}) if mutable else out

  wiring.replace(monkeypatch, stage, unet=unet, vae=lambda image, key, method: image)
  _, (_, stats) = stage.loss(wiring.context(params={'unet': {}}), wiring.BATCH)
  assert seen == [(True, ['batch_stats'])] and stats == {'unet': 'moved'}
  seen.clear()
  stage.validate(wiring.context(params={'unet': {}}), wiring.BATCH)
  assert seen == [(False, False)] * 4


def test_calibration_sees_noised_photo_latents_over_the_whole_schedule(monkeypatch):
  """And what it measures is what training starts with; weights that were trained stay as they are."""
  stage = wiring.stage('diffusion', '')
  photo, lr = jnp.full((3, 4, 4, 3), 0.5), jnp.zeros((3, 1, 1, 3))
  monkeypatch.setattr(stage, 'inputs', lambda *arguments: (photo, lr, None, 'conditions'))
  wiring.replace(monkeypatch, stage, vae=lambda image, key, method: 2 * image)
  seen = []

  def calibrate(module, variables, *arguments):
    seen.append(arguments)
    return {'params': 'calibrated', 'batch_stats': 'measured'}

  monkeypatch.setattr(amf, 'calibrate', calibrate)
  monkeypatch.setattr(xla, 'jit', lambda function: function)  # so that what it sees are numbers
  ctx = wiring.context(params={'unet': 'fresh', 'other': 1}, stats={'unet': 'zero'})
  for fresh, inherited, calls in ((True, False, 1), (True, True, 2), (False, False, 3), (False, True, 3)):
    monkeypatch.setattr(amf, 'is_fresh', lambda params, fresh=fresh: fresh)
    params, stats = stage.prepare(ctx, wiring.BATCH, inherited)
    assert len(seen) == calls
  assert params is ctx.params and stats is ctx.stats  # the last one was trained
  monkeypatch.setattr(amf, 'is_fresh', lambda params: True)
  params, stats = stage.prepare(ctx, wiring.BATCH, True)
  assert params == {'unet': 'calibrated', 'other': 1} and stats == {'unet': 'measured'}
  z_t, t, conditions = seen[0]
  np.testing.assert_array_equal(t, [0, 499, 999])
  assert conditions == 'conditions'
  alpha, sigma = (np.asarray(c)[:, None, None, None] for c in stage.schedule.coefficients(t))
  noise = (np.asarray(z_t) - alpha * 1.0) / sigma
  np.testing.assert_allclose(noise[1:], np.asarray(jax.random.normal(jax.random.key(0), z_t.shape))[1:], atol=1e-4)


def test_diffusion_takes_its_target_from_the_photo_and_its_conditions_from_the_lr_image(monkeypatch):
  stage = wiring.stage('diffusion', '', **{'svkr.iterations': 3})
  seen = {}

  def refine(modules, variables, lr, **options):
    seen.update(lr=lr, options=options)
    return 'refined'

  monkeypatch.setattr(core, 'refine', refine)
  monkeypatch.setattr(core, 'observe', lambda *arguments: arguments[2:])
  low = types.SimpleNamespace(target='photo', lr='lr')
  monkeypatch.setattr(stage, 'degrade', lambda batch: low)
  assert stage.inputs({}, wiring.BATCH, 2) == ('photo', 'lr', 'refined', ('lr', 'refined', 4))
  assert seen['lr'] == 'lr' and seen['options']['iterations'] == 2 and seen['options']['scale'] == 4


def test_the_autoencoders_critic_learns_photos_for_real_and_the_decoder_to_fool_it(monkeypatch):
  """Value and gradients by hand, of an image of one gray that is a parameter and a critic that sees brightness."""
  fields = {'train.steps': 10, 'loss.adversarial_start': 0.5, 'loss.adversarial': 0.3, 'loss.kl': 0.0}
  stage = wiring.stage('vae', '', **fields)
  monkeypatch.setattr(stage, 'critic', wiring.Critic())
  latent = jnp.zeros((2, 4, 4, 2))

  def apply(ctx, image, method):
    return (latent, latent - 30) if method == 'encode' else jnp.full(wiring.HR.shape, ctx.params['vae'])

  monkeypatch.setattr(stage, 'apply', apply)
  photo = wiring.HR / np.float64(255)
  gray, weight = 0.1, 2.0

  def found(step):
    def loss(params):
      return stage.loss(wiring.context(step=step, params=params), wiring.BATCH)

    (value, (scalars, _)), gradient = jax.value_and_grad(loss, has_aux=True)({'vae': gray, 'critic': weight})
    return float(value), {k: float(v) for k, v in scalars.items()}, {k: float(v) for k, v in gradient.items()}

  real, fake = weight * photo.mean((1, 2, 3)) - 1, weight * gray - 1
  judge = 0.5 * (np.maximum(1 - real, 0).mean() + max(1 + fake, 0))
  fool = np.log1p(np.exp(-fake))
  assert (real < 1).all() and fake > -1  # where the hinge has a slope
  judged = 0.5 * (-photo.mean() + gray)  # of the critic's loss to its weight; being fooled does not train it
  drawn = np.sign(gray - photo).mean()  # of the reconstruction to the gray, to which differences are blind
  pushed = -weight / (1 + np.exp(fake))
  for step, strength in ((4, 0.0), (5, 0.3)):
    value, scalars, gradient = found(step)
    assert scalars['critic'] == pytest.approx(judge, rel=1e-4) and scalars['generator'] == pytest.approx(fool, rel=1e-4)
    plain = scalars['reconstruction'] + stage.config.loss.detail * scalars['detail']
    assert value == pytest.approx(plain + judge + strength * fool, rel=1e-4)
    assert gradient['critic'] == pytest.approx(judged, rel=1e-3)
    assert gradient['vae'] == pytest.approx(drawn + strength * pushed, rel=1e-3)
  assert scalars['reconstruction'] == pytest.approx(np.abs(photo - gray).mean(), rel=1e-4)
