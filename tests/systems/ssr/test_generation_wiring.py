"""Losses of the vae, diffusion and distill stages against their definitions, with functions in place of networks."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from ssr_jax import diffusion, xla
from ssr_jax.image import colourfix
from ssr_jax.image.resize import upscale
from ssr_jax.systems.ssr import amf, core
from ssr_jax.systems.ssr.encoders import Conditions
from ssr_jax.systems.ssr.stages import distill as distill_lib
from ssr_jax.training import stages
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store
from tests.systems.ssr import wiring


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
def test_the_students_critic_takes_photos_for_real(tiny_model_dir, monkeypatch):
  """Also: both are judged beside the restored image, and the student's target is the photo."""
  stage = wiring.stage('distill', tiny_model_dir, **{'loss.teacher': 0.0, 'loss.grid': 0.0, 'loss.detail': 0.0})
  params, stats, constants = stage.init(jax.random.key(0))
  frozen = dict(store.load_model(tiny_model_dir, parts=stage.needs).variables) | {'constants': constants}
  params, stats = stage.prepare(stages.context(params, stats, frozen), wiring.BATCH, False)
  ctx = stages.context(params, stats, frozen, jax.random.key(1), 10**6)
  photo, _, restored, conditions = stage.inputs(ctx, wiring.BATCH)
  np.testing.assert_allclose(photo, wiring.HR / 255.0, atol=1e-6)
  judged = []
  monkeypatch.setattr(
    distill_lib.disc_lib, 'hinge_loss', lambda real, fake: judged.append((real, fake)) or 0.0 * real.mean()
  )
  stage.loss(ctx, wiring.BATCH)
  judge = lambda image: stage.critic.apply({'params': params['critic']}, jnp.concatenate([image, restored], -1))
  _, image = stage.study(ctx, restored, conditions)
  np.testing.assert_allclose(judged[0][0], judge(photo), atol=1e-4)
  np.testing.assert_allclose(judged[0][1], judge(image), atol=1e-4)
  assert float(jnp.abs(judge(photo) - judge(image)).max()) > 1e-2


@pytest.mark.slow
def test_the_student_takes_its_detail_from_the_teachers_image_and_the_rest_from_the_photo(tiny_model_dir, monkeypatch):
  fields = {'loss.teacher': 0.0, 'loss.realism': 0.0, 'loss.detail': 0.0, 'loss.grid': 0.0, 'loss.taught_levels': 2}
  stage = wiring.stage('distill', tiny_model_dir, **fields)
  params, stats, constants = stage.init(jax.random.key(0))
  frozen = dict(store.load_model(tiny_model_dir, parts=stage.needs).variables) | {'constants': constants}
  params, stats = stage.prepare(stages.context(params, stats, frozen), wiring.BATCH, False)
  ctx = stages.context(params, stats, frozen, jax.random.key(1))
  rng = np.random.default_rng(0)
  lr = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
  # A photo of slow waves and a teacher with another brightness and pixels that alternate.
  y, x = np.mgrid[:64, :64]
  slow = np.repeat((128 + 60 * np.sin(2 * np.pi * (x + y) / 64))[None, ..., None], 3, -1).round().astype(np.uint8)
  fast = np.where((x + y) % 2, 20, -20)[None, ..., None]
  batch = wiring.BATCH | {'hr': np.repeat(slow, 2, 0), 'lr': lr}
  batch['taught'] = (90 + fast + np.zeros_like(batch['hr'], np.int64)).astype(np.uint8)
  photo, seen, restored, _ = stage.inputs(ctx, batch)
  np.testing.assert_allclose(seen, lr / 255, atol=1e-6)
  expected = stage.refine(frozen, lr / np.float32(255), unroll=True).image
  np.testing.assert_allclose(restored, jnp.clip(expected, 0, 1), atol=1e-5)
  compared = []
  monkeypatch.setattr(
    distill_lib.vae_lib, 'reconstruction_loss', lambda image, target: compared.append(target) or jnp.sum(image)
  )
  stage.loss(ctx, batch)
  inner = (slice(None), slice(8, -8), slice(8, -8))
  np.testing.assert_allclose(
    np.asarray(compared[0])[inner], ((slow + fast) / 255 + np.zeros((2, 64, 64, 3)))[inner], atol=0.02
  )
  plain = stage.target({'hr': batch['hr']}, photo)
  np.testing.assert_array_equal(plain, photo)
  with pytest.raises(SSRError, match='LR images are at 1/8, the model at 1/4'):
    stage.inputs(ctx, batch | {'lr': lr[:, ::2, ::2]})


@pytest.mark.slow
@pytest.mark.parametrize('guided', [False, True])
def test_the_student_is_trained_on_the_image_that_sampling_shows(guided, tiny_model_dir, tmp_path):
  """`study` and `Restorer.sample` make the same image of the same LR image, up to 8 bits and the noise."""
  import shutil

  import ssr_jax

  photo = data.coffee()[100:228, 250:378]  # 32x32 at LR size, a bucket: nothing is padded
  batch = {'hr': photo[None], 'seed': np.zeros(1, np.uint32)}
  fields = {'distill.noise': 0.0, 'distill.strength': 1.0, 'svkr.iterations': 3, 'data.patch': 128}
  fields['model.student_vae.guided'] = guided
  stage = wiring.stage('distill', tiny_model_dir, **fields)
  params, stats, constants = stage.init(jax.random.key(0))
  frozen = dict(store.load_model(tiny_model_dir, parts=stage.needs).variables) | {'constants': constants}
  params, stats = stage.prepare(stages.context(params, stats, frozen), batch, False)
  if guided:  # fresh guides are zero
    for name in filter(lambda name: name.startswith('guide_'), params['student_vae']):
      params['student_vae'][name] = jax.tree.map(lambda x: x + 0.02, params['student_vae'][name])
  params['student']['unet'] = jax.tree.map(lambda x: 1.2 * x, params['student']['unet'])
  ctx = stages.context(params, stats, frozen, jax.random.key(1))
  _, lr, restored, conditions = stage.inputs(ctx, batch)
  latents = stage.study(ctx, restored, conditions)[0]
  # Sampling clips before the colour fix; in training that would stop gradients.
  decoded = jnp.clip(stage.decode(ctx, latents, restored), 0, 1)
  image = np.clip(colourfix.wavelet(decoded, restored, 2, 2), 0, 1)
  directory = tmp_path / 'model'
  shutil.copytree(tiny_model_dir, directory)
  for part in stage.trains:
    fields = stage.config.model[part].to_dict() | stage.export(ctx, batch).get(part, {})
    variables = jax.tree.map(np.asarray, {'params': params[part], 'batch_stats': stats.get(part, {})})
    format.save_part(directory, part, _plain(fields), variables)
  format.update(directory, **stage.sections)
  found = ssr_jax.load(directory).sample(np.asarray(lr))
  np.testing.assert_allclose(found.restored, restored, atol=2e-3)
  assert np.abs(found.image - image).mean() < 0.02 < np.abs(found.image - found.restored).mean()  # weights are float16


@pytest.mark.slow
def test_a_student_that_starts_from_the_restored_image_gives_it(tiny_model_dir):
  fields = {'distill.noise': 0.0, 'distill.from_restored': True}
  with pytest.raises(SSRError, match='from_restored needs a guided decoder'):
    wiring.stage('distill', tiny_model_dir, **fields)
  stage = wiring.stage('distill', tiny_model_dir, **fields, **{'model.student_vae.guided': True})
  params, stats, constants = stage.init(jax.random.key(0))
  frozen = dict(store.load_model(tiny_model_dir, parts=stage.needs).variables) | {'constants': constants}
  params, stats = stage.prepare(stages.context(params, stats, frozen), wiring.BATCH, False)

  @jax.jit
  def study(params):
    ctx = stages.context(params, stats, frozen, jax.random.key(1))
    _, _, restored, conditions = stage.inputs(ctx, wiring.BATCH)
    return restored, stage.study(ctx, restored, conditions)[1]

  restored, image = study(params)
  np.testing.assert_allclose(image, restored, atol=1e-5)
  first = params['student_vae']['decoder']['conv_in']['kernel']
  np.testing.assert_array_equal(first, frozen['vae']['params']['decoder']['conv_in']['kernel'])


def _plain(fields):
  return {k: np.asarray(v).tolist() if isinstance(v, jax.Array) else v for k, v in fields.items()}


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
      None,
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


class _Critic:
  """Scores by brightness, with one weight; against that of the image beside it where there is one."""

  def apply(self, variables, image):
    beside = 2 * image[..., 3:].mean((1, 2, 3)) if image.shape[-1] == 6 else 1
    return variables['params'] * image[..., :3].mean((1, 2, 3)) - beside


def test_the_autoencoders_critic_learns_photos_for_real_and_the_decoder_to_fool_it(monkeypatch):
  """Value and gradients by hand, of an image of one gray that is a parameter and a critic that sees brightness."""
  fields = {'train.steps': 10, 'loss.adversarial_start': 0.5, 'loss.adversarial': 0.3, 'loss.kl': 0.0}
  stage = wiring.stage('vae', '', **fields)
  monkeypatch.setattr(stage, 'critic', _Critic())
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


def test_the_students_critic_learns_photos_for_real_beside_the_restored_image(monkeypatch):
  """Value and gradients by hand, as of the autoencoder's."""
  fields = {'loss.teacher': 0.0, 'loss.grid': 0.0, 'loss.detail': 0.0, 'loss.realism': 0.5, 'train.steps': 10}
  stage = wiring.stage('distill', '', **fields, **{'loss.adversarial_start': 0.5})
  monkeypatch.setattr(stage, 'critic', _Critic())
  photo, restored = jnp.full((2, 8, 8, 3), 0.75), jnp.full((2, 8, 8, 3), 0.5)
  monkeypatch.setattr(stage, 'inputs', lambda ctx, batch: (photo, None, restored, None))
  monkeypatch.setattr(stage, 'study', lambda ctx, *_: (None, jnp.full(photo.shape, ctx.params['student'])))
  gray, weight = 0.25, 2.0

  def found(step):
    def loss(params):
      return stage.loss(wiring.context(step=step, params=params), wiring.BATCH)

    (value, (scalars, _)), gradient = jax.value_and_grad(loss, has_aux=True)({'student': gray, 'critic': weight})
    return float(value), {k: float(v) for k, v in scalars.items()}, {k: float(v) for k, v in gradient.items()}

  real, fake = weight * 0.75 - 2 * 0.5, weight * gray - 2 * 0.5  # a half and minus a half
  judge = 0.5 * ((1 - real) + (1 + fake))
  for step, strength in ((4, 0.0), (5, 0.5 * (1 - judge))):
    value, scalars, gradient = found(step)
    assert scalars['reconstruction'] == pytest.approx(0.5) and scalars['critic'] == pytest.approx(judge)
    assert value == pytest.approx(0.5 + judge)
    assert gradient['critic'] == pytest.approx(0.5 * (-0.75 + gray))
    # Pull and push have one direction here, brighter: the push is `strength` of the pull.
    assert gradient['student'] == pytest.approx(-(1 + strength), rel=1e-4)


def test_the_student_is_pulled_to_what_its_teacher_makes_of_the_same_noise(monkeypatch):
  fields = {'loss.teacher': 0.5, 'loss.grid': 0.0, 'loss.detail': 0.0, 'loss.realism': 0.0}
  stage = wiring.stage('distill', '', **fields)
  photo, seen = jnp.full((2, 8, 8, 3), 0.75), []
  monkeypatch.setattr(stage, 'inputs', lambda ctx, batch: (photo, None, photo - 0.25, 'conditions'))
  monkeypatch.setattr(core, 'encode', lambda modules, variables, image, **how: image[:, ::4, ::4])
  monkeypatch.setattr(
    core, 'decode', lambda modules, variables, z, autoencoder, restored: jnp.repeat(jnp.repeat(z, 4, 1), 4, 2)
  )
  monkeypatch.setattr(colourfix, 'wavelet', lambda image, reference, levels, chroma: image)

  def generate(modules, variables, steer, first, eps, keys, schedule, *, network, **how):
    seen.append((network, first, eps, how))
    return first + (ctx.params['student'] if network == 'student' else -0.5)

  monkeypatch.setattr(core, 'generate', generate)
  ctx = wiring.context(params={'student': 0.1, 'student_vae': 0.0, 'critic': 0.0})
  value, (scalars, _) = stage.loss(ctx, wiring.BATCH)
  assert float(scalars['teacher']) == pytest.approx(0.36, rel=1e-4)
  assert float(value) == pytest.approx(0.15 + 0.5 * 0.36, rel=1e-4)
  (student, first, eps, how), (teacher, same_first, same_eps, taught) = seen
  assert (student, teacher) == ('student', 'unet')
  np.testing.assert_array_equal(first, same_first)
  np.testing.assert_array_equal(eps, same_eps)
  assert how['start'] == taught['start'] == stage.config.distill.start
  assert (how['steps'], taught['steps']) == (stage.config.distill.steps, stage.config.distill.teacher_steps)
  assert how['noise'] == stage.config.distill.noise and how['unroll']
