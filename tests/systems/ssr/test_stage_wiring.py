"""Losses of the depth, kernel, nbsr and svkr stages against their definitions, with functions in place of networks."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.image.resize import upscale
from ssr_jax.systems.ssr.stages import common as stage_common
from ssr_jax.systems.ssr.stages import nbsr
from ssr_jax.systems.ssr.svkr import SVKR
from ssr_jax.types import SSRError
from tests.systems.ssr import wiring


def test_depth_loss_is_zero_for_the_true_inverse_depth_and_not_for_its_negative(tiny_model_dir, monkeypatch):
  stage = wiring.stage('depth', tiny_model_dir)
  seen = []
  for sign in (2.0, -2.0):
    wiring.replace(
      monkeypatch, stage, depth=lambda image, raw=False, s=sign: seen.append(image) or s * wiring.DEPTH[..., None] + 3
    )
    value = float(stage.loss(wiring.context(params={'depth': {}}), wiring.BATCH)[0])
    assert (value < 1e-4) if sign > 0 else (value > 1)
  # Half of the records are seen degraded and enlarged, the others as they are.
  kept = [bool(np.allclose(seen[0][i], wiring.HR[i] / 255, atol=1e-5)) for i in range(2)]
  lr = stage.degrade(wiring.BATCH).lr
  for i, same in enumerate(kept):
    if not same:
      np.testing.assert_allclose(seen[0][i], upscale(lr, 4)[i], atol=1e-5)


@pytest.mark.parametrize('name', ['kernel', 'svkr'])
def test_kernel_losses_compare_with_the_true_field(name, tiny_model_dir, monkeypatch):
  """The truth scores 0; its mirror image, and the field of a mirrored depth, do not."""
  stage = wiring.stage(
    name, tiny_model_dir, **{'recipe.field': 'depth', 'recipe.mode': 'no_noise', 'svkr.iterations': 1}
  )
  truth = stage.degrade(wiring.BATCH, wiring.DEPTH[:, 2::4, 2::4]).kernels
  area = stage.degrade(wiring.BATCH, stage_common.true_depth(wiring.BATCH, jnp.zeros((2, 16, 16, 1)))).kernels
  assert float(jnp.abs(truth - area).max()) < 1e-3
  networks = {'depth': lambda image: jnp.zeros((*image.shape[:3], 1))}
  if name == 'svkr':
    networks['nbsr'] = lambda lr, k: wiring.PHOTO
  ctx = wiring.context(params={'dkenet': {}, **({'nbsr': {}} if name == 'svkr' else {})})
  values = {}
  for how, kernels in {'true': area, 'mirrored': area[:, :, ::-1], 'upside down': area[:, ::-1]}.items():
    wiring.replace(monkeypatch, stage, dkenet=lambda lr, depth, k=kernels: k, **networks)
    _, (scalars, _) = stage.loss(ctx, wiring.BATCH)
    values[how] = float(scalars['kernel_l1'])
  assert values['true'] < 1e-7 < 1e-5 < min(values['mirrored'], values['upside down'])
  expected = float(jnp.abs(area - area[:, ::-1]).mean())
  np.testing.assert_allclose(values['upside down'], expected, rtol=1e-4)


def test_dkenet_trains_on_the_lr_image_and_the_depths_of_sampling(tiny_model_dir, monkeypatch):
  """The estimate on the enlarged LR image, the one on HR, or a known depth: each of the three, and nothing else."""
  stage = wiring.stage('kernel', tiny_model_dir, **{'recipe.field': 'depth', 'recipe.mode': 'no_noise'})
  seen = {}

  def dkenet(lr, depth):
    seen.update(lr=lr, depth=depth)
    return jnp.full((2, 16, 16, 441), 1 / 441)

  red = lambda image: jax.image.resize(
    jax.image.resize(image[..., :1], (2, 32, 32, 1), 'linear'), (2, 16, 16, 1), 'linear'
  )
  true = wiring.DEPTH.reshape(2, 16, 4, 16, 4).mean((2, 4))
  true = (true - true.min((1, 2), keepdims=True)) / jnp.ptp(true, (1, 2), keepdims=True)
  wiring.replace(monkeypatch, stage, depth=lambda image: image[..., :1], dkenet=dkenet)
  found = []
  for seed in range(12):
    batch = wiring.BATCH | {
      'seed': jnp.array([seed, seed + 100], jnp.uint32),
      'has_depth': jnp.array([True, seed % 2 == 0]),
    }
    stage.loss(wiring.context(params={'dkenet': {}}), batch)
    low = stage.degrade(batch, jnp.where(batch['has_depth'][:, None, None], true, red(wiring.PHOTO)[..., 0]))
    np.testing.assert_array_equal(seen['lr'][0], low.lr[0])
    kinds = {'lr': np.clip(red(upscale(low.lr, 4)), 0, 1), 'hr': red(wiring.PHOTO), 'true': true[..., None]}
    for i in range(2):
      # The shown depth is that of one kind; the seen LR image of a record without depth is blurred by the estimate.
      error = {kind: np.abs(seen['depth'][i] - image[i]).max() for kind, image in kinds.items()}
      best = min(error, key=error.get)
      assert error[best] < 0.02
      found.append((best, bool(batch['has_depth'][i])))
  assert {kind for kind, known in found if known} == {'lr', 'hr', 'true'}
  assert {kind for kind, known in found if not known} == {'lr', 'hr'}


def test_the_kernel_loss_adds_the_squared_error_by_its_weight(tiny_model_dir, monkeypatch):
  fields = {'recipe.field': 'depth', 'recipe.mode': 'no_noise', 'loss.kernel': 100.0, 'loss.kernel_squared': 1e4}
  stage = wiring.stage('kernel', tiny_model_dir, **fields)
  truth = stage.degrade(wiring.BATCH, wiring.DEPTH[:, 2::4, 2::4]).kernels
  wiring.replace(monkeypatch, stage, depth=lambda image: image[..., :1], dkenet=lambda lr, depth: truth + 0.01)
  monkeypatch.setattr(stage, 'degrade', lambda *_: _degraded(truth))
  value, _ = stage.loss(wiring.context(params={'dkenet': {}}), wiring.BATCH)
  np.testing.assert_allclose(value, 100 * 0.01 + 1e4 * 0.01**2, rtol=1e-4)


def _degraded(kernels):
  return types.SimpleNamespace(kernels=kernels, lr=jnp.zeros((2, 16, 16, 3)))


def test_nbsr_trains_on_defocus_by_the_true_depth(tiny_model_dir, monkeypatch):
  stage = wiring.stage('nbsr', tiny_model_dir, **{'recipe.field': 'depth', 'recipe.mode': 'no_noise'})
  seen = []
  wiring.replace(monkeypatch, stage, nbsr=lambda lr, k: seen.append(lr) or wiring.PHOTO)
  stage.loss(wiring.context(params={'nbsr': {}}), wiring.BATCH)
  true = stage_common.true_depth(wiring.BATCH, jnp.zeros((2, 16, 16, 1)))
  np.testing.assert_array_equal(seen[0], stage.degrade(wiring.BATCH, true).lr)
  assert np.abs(seen[0] - stage.degrade(wiring.BATCH, 1 - true).lr).max() > 0.02


@pytest.mark.parametrize('name', ['nbsr', 'svkr'])
def test_restoration_losses_compare_with_the_photo(name, tiny_model_dir, monkeypatch):
  """Charbonnier of the photo itself is its floor of a thousandth; of 1 - wiring.HR it is the mean distance."""
  stage = wiring.stage(name, tiny_model_dir, **{'svkr.iterations': 1})
  uniform = lambda lr, depth: jnp.full((*lr.shape[:3], 441), 1 / 441)
  values = []
  for image in (wiring.PHOTO, 1 - wiring.PHOTO):
    networks = {'nbsr': lambda lr, k, image=image: image}
    if name == 'svkr':
      networks |= {'depth': lambda image: jnp.zeros((*image.shape[:3], 1)), 'dkenet': uniform}
    wiring.replace(monkeypatch, stage, **networks)
    value, (scalars, _) = stage.loss(
      wiring.context(params={'nbsr': {}, **({'dkenet': {}} if name == 'svkr' else {})}), wiring.BATCH
    )
    values.append(float(scalars.get('restoration', value)))
  np.testing.assert_allclose(values[0], 1e-3, rtol=1e-3)
  np.testing.assert_allclose(values[1], np.mean(np.sqrt((1 - 2 * (wiring.HR / 255.0)) ** 2 + 1e-6)), rtol=1e-4)


def test_nbsr_gets_the_lr_image_and_nearly_its_kernels(tiny_model_dir, monkeypatch):
  stage = wiring.stage('nbsr', tiny_model_dir)
  seen = []
  wiring.replace(monkeypatch, stage, nbsr=lambda lr, k: seen.append((lr, k)) or wiring.PHOTO)
  photos = {name: wiring.BATCH[name] for name in ('hr', 'seed')}
  low = stage.degrade(photos)
  for key in range(6):
    stage.loss(wiring.context(key, params={'nbsr': {}}), photos)
  shares = []
  for lr, kernels in seen:
    np.testing.assert_array_equal(lr, low.lr)
    mixed = jnp.roll(low.kernels, 1, 0) - low.kernels
    shares += list(np.asarray(((kernels - low.kernels) * mixed).sum((1, 2, 3)) / (mixed**2).sum((1, 2, 3))))
  assert (
    np.isclose(shares, 0, atol=1e-5).any() and max(shares) > 0.02 and min(shares) + 1e-5 >= 0 and max(shares) <= 0.2
  )


# -- The same at once, without networks or compilation -----------------------------------------------------------------


def test_nbsr_restores_a_share_of_the_batch_with_estimated_kernels(tiny_model_dir, monkeypatch):
  """DKENet sees the LR images of that share and their depth; validation is by estimates alone, for all images."""
  stage = wiring.stage('nbsr', tiny_model_dir, **{'loss.estimated': 0.5, 'recipe.field': 'smooth'})
  assert stage.needs == ('depth', 'dkenet') and stage.trains == ('nbsr',)
  low = stage.degrade(wiring.BATCH)
  seen, asked = [], []

  def dkenet(lr, depth):
    asked.append((lr, depth))
    return jnp.full((*lr.shape[:3], 441), 1 / 441) * (1 + depth)

  networks = {
    'depth': lambda image: image[..., 1:2],
    'dkenet': dkenet,
    'nbsr': lambda lr, k: seen.append((lr, k)) or wiring.PHOTO,
  }
  wiring.replace(monkeypatch, stage, **networks)
  ctx = wiring.context(params={'nbsr': {}})
  _, (scalars, _) = stage.loss(ctx, wiring.BATCH)
  assert set(scalars) == {'psnr'} and len(asked) == 1
  np.testing.assert_array_equal(asked[0][0], low.lr[:1])
  assert asked[0][1].shape == (1, 16, 16, 1)
  np.testing.assert_array_equal(seen[0][0], low.lr)
  np.testing.assert_allclose(seen[0][1][:1], (1 + asked[0][1]) / 441 * np.ones(441, np.float32), rtol=1e-5)
  error = jnp.abs(seen[0][1][1] - low.kernels[1]).max()
  assert error <= 0.21 * jnp.abs(low.kernels[0] - low.kernels[1]).max()

  values = stage.validate(ctx, wiring.BATCH)
  assert set(values) == {'psnr', 'true_psnr', 'bicubic_psnr'} and len(asked[1][0]) == 2
  np.testing.assert_array_equal(seen[1][1], low.kernels)
  np.testing.assert_allclose(seen[2][1], (1 + asked[1][1]) / 441 * np.ones(441, np.float32), rtol=1e-5)


def test_nbsr_without_estimates_reads_no_other_model(tiny_model_dir):
  stage = wiring.stage('nbsr', tiny_model_dir, parts_from='a model that does not exist')
  assert stage.needs == () and set(stage.modules) == {'nbsr'}
  for share in (-0.1, 1.5, float('nan')):
    with pytest.raises(SSRError, match='config.loss.estimated'):
      wiring.stage('nbsr', tiny_model_dir, **{'loss.estimated': share})


def test_half_of_the_fields_are_disturbed_by_up_to_a_fifth_evenly():
  """The amount and the coin are independent: of one key, no amount would exceed a tenth."""
  kernels = jnp.eye(2)[jnp.arange(4000) % 2][:, None, None]  # the next image's kernels are orthogonal
  amount = np.asarray(nbsr.disturb(jax.random.key(0), kernels))[np.arange(4000), 0, 0, 1 - np.arange(4000) % 2]
  touched = amount[amount > 0]
  assert abs(len(touched) / 4000 - 0.5) < 0.03
  np.testing.assert_allclose(np.quantile(touched, [0.25, 0.5, 0.75, 1]), [0.05, 0.1, 0.15, 0.2], atol=0.01)


@pytest.mark.parametrize('name', ['kernel', 'nbsr', 'svkr'])
def test_losses_of_the_refinement_by_hand(name, monkeypatch):
  """The true kernels and the recipe's target score the floor; what is off by a constant everywhere scores that."""
  stage = wiring.stage(name, '', **{'loss.kernel': 50.0})
  kernels = jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 441), np.float32))
  low = types.SimpleNamespace(lr='lr', kernels=kernels, target=wiring.PHOTO)
  monkeypatch.setattr(stage, 'degrade', lambda batch, depth: low)
  monkeypatch.setattr(stage, 'degrade_by_depth', lambda variables, batch: ('photo', low, 'depth'))
  seen = []
  for off in (0.0, 0.25):
    if name == 'kernel':
      wiring.replace(monkeypatch, stage, dkenet=lambda lr, depth: seen.append((lr, depth)) or kernels + off)
      wanted = 50 * off
    elif name == 'nbsr':
      wiring.replace(monkeypatch, stage, nbsr=lambda lr, k: seen.append((lr, 'depth')) or wiring.PHOTO + off)
      wanted = np.sqrt(off**2 + 1e-6)
    else:
      found = SVKR('depth', kernels + off, wiring.PHOTO + off)
      monkeypatch.setattr(stage, 'refine', lambda variables, lr, unroll: seen.append((lr, 'depth')) or found)
      wanted = np.sqrt(off**2 + 1e-6) + 1e-3 * 50 * off
    ctx = wiring.context(params={part: {} for part in stage.trains})
    assert float(stage.loss(ctx, wiring.BATCH)[0]) == pytest.approx(wanted, rel=1e-3, abs=1e-6)
  assert seen == [('lr', 'depth')] * 2


def test_the_depth_net_learns_the_true_inverse_depth_and_not_its_negative(monkeypatch):
  """Scale and shift are free, the sign is not."""
  stage, seen = wiring.stage('depth', ''), []
  monkeypatch.setattr(stage, 'views', lambda batch: 'views')
  for sign in (2.0, -2.0):
    wiring.replace(
      monkeypatch, stage, depth=lambda image, raw: seen.append((image, raw)) or sign * wiring.DEPTH[..., None] + 3
    )
    value = float(stage.loss(wiring.context(params={'depth': {}}), wiring.BATCH)[0])
    assert (value < 1e-4) if sign > 0 else (value > 1)
  assert seen == [('views', True)] * 2
