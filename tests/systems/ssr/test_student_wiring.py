"""The loss of the distill stage against its definition, and the student against what sampling makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from ssr_jax.image import colourfix
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.stages import distill as distill_lib
from ssr_jax.training import stages
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store
from tests.systems.ssr import wiring


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
  expected = stage.refine(frozen, jnp.asarray(lr / np.float32(255)), unroll=True).image
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
@pytest.mark.parametrize('how', ['plain', 'guided', 'nbsr'])
def test_the_student_is_trained_on_the_image_that_sampling_shows(how, tiny_model_dir, tmp_path):
  """`study` and `Restorer.sample` make the same image of the same LR image, up to 8 bits and the noise."""
  import shutil

  import ssr_jax

  photo = data.coffee()[100:228, 250:378]  # 32x32 at LR size, a bucket: nothing is padded
  batch = {'hr': photo[None], 'seed': np.zeros(1, np.uint32)}
  fields = {'distill.noise': 0.0, 'distill.strength': 1.0, 'svkr.iterations': 3, 'data.patch': 128}
  fields |= {'model.student_vae.guided': how == 'guided', 'distill.nbsr': how == 'nbsr'}
  fields |= {'distill.decoder': how != 'nbsr', 'model.student_nbsr.global_skip': False}  # as the model's NBSR
  stage = wiring.stage('distill', tiny_model_dir, **fields)
  params, stats, constants = stage.init(jax.random.key(0))
  frozen = dict(store.load_model(tiny_model_dir, parts=stage.needs).variables) | {'constants': constants}
  params, stats = stage.prepare(stages.context(params, stats, frozen), batch, False)
  if how == 'nbsr':  # so is the latent's map
    params['student_nbsr']['conv_latent'] = jax.tree.map(lambda x: x + 0.02, params['student_nbsr']['conv_latent'])
  if how == 'guided':  # fresh guides are zero
    for name in filter(lambda name: name.startswith('guide_'), params['student_vae']):
      params['student_vae'][name] = jax.tree.map(lambda x: x + 0.02, params['student_vae'][name])
  params['student']['unet'] = jax.tree.map(lambda x: 1.2 * x, params['student']['unet'])
  ctx = stages.context(params, stats, frozen, jax.random.key(1))
  _, lr, restored, conditions = stage.inputs(ctx, batch)
  latents = stage.study(ctx, restored, conditions)[0]
  # Sampling clips before the colour fix; in training that would stop gradients.
  decoded = jnp.clip(stage.decode(ctx, latents, restored, conditions), 0, 1)
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
@pytest.mark.parametrize('nbsr', [False, True])
def test_a_student_that_starts_from_the_restored_image_gives_it(nbsr, tiny_model_dir):
  fields = {'distill.noise': 0.0, 'distill.from_restored': True}
  with pytest.raises(SSRError, match='from_restored needs a guided decoder'):
    wiring.stage('distill', tiny_model_dir, **fields)
  with pytest.raises(SSRError, match=r'distill\.decoder and config\.distill\.nbsr are both True'):
    wiring.stage('distill', tiny_model_dir, **{'distill.nbsr': True})
  if nbsr:
    fields = {'distill.noise': 0.0, 'distill.nbsr': True, 'distill.decoder': False}
    with pytest.raises(SSRError, match=r'student_nbsr.global_skip is True, that of .* has False'):
      wiring.stage('distill', tiny_model_dir, **fields)
    fields['model.student_nbsr.global_skip'] = False
  stage = wiring.stage('distill', tiny_model_dir, **fields, **{'model.student_vae.guided': True})
  params, stats, constants = stage.init(jax.random.key(0))
  frozen = dict(store.load_model(tiny_model_dir, parts=stage.needs).variables) | {'constants': constants}
  params, stats = stage.prepare(stages.context(params, stats, frozen), wiring.BATCH, False)

  @jax.jit
  def study(params):
    ctx = stages.context(params, stats, frozen, jax.random.key(1))
    _, _, restored, conditions = stage.inputs(ctx, wiring.BATCH)
    latents, image = stage.study(ctx, restored, conditions)
    if nbsr:  # the restored image is clipped, NBSR's own is not
      image = jnp.clip(stage.decode(ctx, latents, restored, conditions), 0, 1)
    return restored, image

  restored, image = study(params)
  np.testing.assert_allclose(image, restored, atol=1e-5)
  if nbsr:
    return
  first = params['student_vae']['decoder']['conv_in']['kernel']
  np.testing.assert_array_equal(first, frozen['vae']['params']['decoder']['conv_in']['kernel'])


def _plain(fields):
  return {k: np.asarray(v).tolist() if isinstance(v, jax.Array) else v for k, v in fields.items()}


def test_the_students_critic_learns_the_target_for_real_beside_the_restored_image(monkeypatch):
  """Value and gradients by hand, as of the autoencoder's; the target is not the photo where there is a teacher."""
  fields = {'loss.teacher': 0.0, 'loss.grid': 0.0, 'loss.detail': 0.0, 'loss.realism': 0.5, 'train.steps': 10}
  stage = wiring.stage('distill', '', **fields, **{'loss.adversarial_start': 0.5})
  monkeypatch.setattr(stage, 'critic', wiring.Critic())
  photo, restored = jnp.full((2, 8, 8, 3), 0.9), jnp.full((2, 8, 8, 3), 0.5)
  monkeypatch.setattr(stage, 'inputs', lambda ctx, batch: (photo, None, restored, None))
  monkeypatch.setattr(stage, 'target', lambda batch, photo: photo - 0.15)
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
  monkeypatch.setattr(core, 'decode', lambda modules, variables, z, *more: jnp.repeat(jnp.repeat(z, 4, 1), 4, 2))
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


@pytest.mark.slow
def test_the_students_texture_is_compared_with_the_targets_along_new_directions_each_step(monkeypatch):
  fields = {'loss.teacher': 0.0, 'loss.grid': 0.0, 'loss.detail': 0.0, 'loss.realism': 0.0, 'loss.texture': 2.0}
  stage = wiring.stage('distill', '', **fields)
  photo = jnp.asarray(wiring.HR / np.float32(255))
  blurred = colourfix.low_frequencies(photo, 2)
  monkeypatch.setattr(stage, 'inputs', lambda ctx, batch: (0 * photo, None, blurred, None))
  monkeypatch.setattr(stage, 'study', lambda ctx, *_: (None, blurred + ctx.params['student'] * (photo - blurred)))
  monkeypatch.setattr(stage, 'target', lambda batch, _: photo)
  keys = []
  own = distill_lib.texture_loss
  monkeypatch.setattr(distill_lib, 'texture_loss', lambda *a: keys.append(jax.random.key_data(a[2])) or own(*a))

  def found(share, key=1):
    def loss(params):
      return stage.loss(wiring.context(key, params=params), wiring.BATCH)

    (value, (scalars, _)), gradient = jax.value_and_grad(loss, has_aux=True)({'student': share})
    return float(value), {k: float(v) for k, v in scalars.items()}, float(gradient['student'])

  value, scalars, gradient = found(0.5)
  absolute = float(jnp.abs(photo - blurred).mean())
  assert scalars['reconstruction'] == pytest.approx(value)
  assert value == pytest.approx(0.5 * absolute + 2 * scalars['texture_loss'], rel=1e-4)
  ahead, behind = found(0.51)[1]['texture_loss'], found(0.49)[1]['texture_loss']
  assert gradient == pytest.approx(-absolute + 2 * (ahead - behind) / 0.02, rel=1e-2)
  assert ahead < behind and found(1.0)[1]['texture_loss'] == pytest.approx(0, abs=1e-6)
  found(0.5, key=2)
  assert len({tuple(np.asarray(key)) for key in keys}) == 2
