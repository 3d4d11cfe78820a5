"""LPIPS in the losses of `vae` and `distill`: its value, its gradient, and weights that are or are not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax import metrics
from ssr_jax.training import shapes, stages, start, trainer
from ssr_jax.types import SSRError
from ssr_jax.weights import published
from tests.metrics import random_lpips
from tests.systems.ssr import wiring

FIELDS = {'loss.lpips': 0.5, 'loss.lpips_backbone': 'alex'}


@pytest.fixture
def metric(tmp_path, monkeypatch):
  path = random_lpips.install(tmp_path / 'home', monkeypatch)
  return metrics.load(['lpips'], {'lpips': path})['lpips']


def _score(metric, image, reference):
  pairs = zip(np.asarray(image, np.float64), np.asarray(reference, np.float64), strict=True)
  return float(np.mean([metric({'image': a, 'reference': b}) for a, b in pairs]))


@pytest.mark.slow
def test_the_autoencoders_loss_has_the_metrics_value_and_its_gradient_reaches_the_decoder(metric, monkeypatch):
  stage = wiring.stage('vae', '', **FIELDS, **{'loss.adversarial': 0.0, 'loss.kl': 0.0, 'loss.latent_noise': 0.0})
  assert stage.learned == ('lpips',)
  photo = wiring.HR / np.float32(255)
  noise = np.random.default_rng(0).normal(0, 0.2, photo.shape).astype(np.float32)
  latent = jnp.zeros((2, 4, 4, 2))

  def apply(ctx, image, method='__call__'):
    decoded = jnp.asarray(photo + ctx.params['vae'] * noise)
    return {'encode': (latent, latent - 30), 'decode': decoded, '__call__': (decoded, latent, latent - 30)}[method]

  monkeypatch.setattr(stage, 'apply', apply)
  frozen = {'lpips': metric.loaded.variables}

  def found():
    def loss(params):
      return stage.loss(wiring.context(params=params, frozen=frozen), wiring.BATCH)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))({'vae': 0.5})

  (value, (scalars, _)), gradient = found()
  expected = _score(metric, photo + 0.5 * noise, photo)
  assert expected > 1e-3 and float(scalars['lpips']) == pytest.approx(expected, rel=1e-3)
  plain = scalars['reconstruction'] + stage.config.loss.detail * scalars['detail']
  assert float(value - plain) == pytest.approx(0.5 * expected, rel=1e-3)
  stage.config.loss.lpips = 0.0  # the same loss without the term
  (bare, (fewer, _)), bare_gradient = found()
  stage.config.loss.lpips = 0.5
  assert 'lpips' not in fewer and float(bare) == pytest.approx(float(plain), rel=1e-5)
  ahead, behind = (_score(metric, photo + (0.5 + step) * noise, photo) for step in (0.02, -0.02))
  assert float(gradient['vae'] - bare_gradient['vae']) == pytest.approx(0.5 * (ahead - behind) / 0.04, rel=0.05)

  checked = jax.jit(lambda: stage.validate(wiring.context(params={'vae': 0.5}, frozen=frozen), wiring.BATCH))()
  assert float(checked['lpips']) == pytest.approx(_score(metric, np.clip(photo + 0.5 * noise, 0, 1), photo), rel=1e-3)
  assert float(checked['objective']) == pytest.approx(float(plain) + 0.5 * float(checked['lpips']), rel=1e-3)


def test_the_students_loss_has_the_metrics_value_and_its_gradient(metric, monkeypatch):
  fields = {'loss.teacher': 0.0, 'loss.grid': 0.0, 'loss.detail': 0.0, 'loss.realism': 0.0}
  stage = wiring.stage('distill', '', **fields, **FIELDS)
  photo = wiring.HR / np.float32(255)
  noise = np.random.default_rng(0).normal(0, 0.2, photo.shape).astype(np.float32)
  taught = jnp.clip(photo + 0.1, 0, 1)  # what the student is compared with
  monkeypatch.setattr(stage, 'inputs', lambda ctx, batch: (jnp.asarray(photo), None, jnp.asarray(photo), None))
  monkeypatch.setattr(stage, 'study', lambda ctx, *_: (None, taught + ctx.params['student'] * noise))
  monkeypatch.setattr(stage, 'target', lambda batch, photo: taught)
  frozen = {'lpips': metric.loaded.variables}

  def loss(params):
    return stage.loss(wiring.context(params=params, frozen=frozen), wiring.BATCH)

  (value, (scalars, _)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))({'student': 0.5})
  distance = lambda amount: _score(metric, taught + amount * noise, taught)
  assert float(scalars['lpips']) == pytest.approx(distance(0.5), rel=1e-3)
  absolute = np.abs(noise).mean()
  assert float(value) == pytest.approx(0.5 * absolute + 0.5 * distance(0.5), rel=1e-3)
  slope = absolute + 0.5 * (distance(0.52) - distance(0.48)) / 0.04
  assert float(gradient['student']) == pytest.approx(slope, rel=0.02)


@pytest.mark.slow
def test_a_run_takes_the_imported_weights_as_a_frozen_part(metric, monkeypatch, capsys):
  stage = wiring.stage('vae', '', **FIELDS)
  begun = start.start_from(stage.config, stage, lambda: wiring.BATCH, False)
  kernels = (weights['params']['conv_0']['kernel'] for weights in (begun.frozen['lpips'], metric.loaded.variables))
  np.testing.assert_array_equal(*kernels)
  assert begun.learned_files == {'lpips': metric.loaded.digest} and not begun.frozen_files
  _, _, _, frozen = shapes.of_run(stage.config)  # what a program is compiled with where there are no weights
  assert jax.tree.map(np.shape, frozen['lpips']) == jax.tree.map(np.shape, begun.frozen['lpips'])


@pytest.mark.parametrize('name', ['vae', 'distill'])
def test_without_weights_a_run_ends_in_one_line_before_it_reads_photos(name, tmp_path, monkeypatch):
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path))
  stage = wiring.stage(name, '', **{'loss.lpips': 0.5})
  assert stage.learned == ('lpips-vgg',) and published.of_metric('lpips-vgg') is None
  monkeypatch.setattr(stages, 'build', lambda config: stage)
  monkeypatch.setattr(trainer.data, 'read', lambda *_: pytest.fail('photos were read'))
  with pytest.raises(SSRError, match=r'config.loss.lpips: there are no weights; import .*lpips-vgg FILE.* set it to 0'):
    trainer.train(stage.config, str(tmp_path / 'run'))


def test_the_term_is_off_by_default_and_wrong_fields_are_refused():
  stage = wiring.stage('vae', '')
  assert stage.learned == () and stage.config.loss.lpips == 0 and stage.config.loss.lpips_backbone == 'vgg'
  for fields, words in (
    ({'loss.lpips': -1.0}, 'config.loss.lpips is -1.0: must be at least 0'),
    ({'loss.lpips': 1.0, 'loss.lpips_backbone': 'squeeze'}, "is 'squeeze'; known: vgg, alex"),
    ({**FIELDS, 'data.patch': 24}, 'config.data.patch is 24: with loss.lpips it must be at least 31'),
  ):
    with pytest.raises(SSRError, match=words):
      wiring.stage('vae', '', **fields)
