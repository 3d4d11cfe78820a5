"""CasSR's stages: their losses by spies, training with its restart and export, what is refused."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from skimage import data

from configs import common
from configs.cassr import compact, full, tiny
import ssr_jax
from ssr_jax.image.resize import upscale
from ssr_jax.systems.cassr import core
from ssr_jax.systems.cassr.sizes import SIZES
from ssr_jax.training import checkpoint, stages, state, trainer
from ssr_jax.training import shapes as run_shapes
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photos')
  for name in ('astronaut', 'coffee', 'chelsea', 'rocket'):
    Image.fromarray(getattr(data, name)()[:200, :240]).save(folder / f'{name}.png')
  return folder


def config_of(stage, photos, model_dir, **fields):
  own = {'data.train': f'folder:{photos}', 'parts_from': str(model_dir)}
  return common.apply(tiny.get_config(stage), own | {name.replace('__', '.'): v for name, v in fields.items()})


BATCH = {
  'hr': jnp.stack([data.coffee()[y : y + 64, 100:164] for y in range(0, 320, 20)]),
  'seed': jnp.arange(16, dtype=jnp.uint32),
}


def spied(stage, monkeypatch):
  """Puts spies in place of the autoencoder, the prompts and core.loss; returns what they see."""
  seen = {'encoded': []}

  def encode(modules, variables, image, key=None):
    seen['encoded'].append(image)
    return image[:, ::4, ::4, :1]

  def loss(modules, variables, key, z0, context, schedule, hints=None, part='cassr'):
    seen.setdefault('losses', []).append((z0, context, hints, part))
    return jnp.arange(len(z0), dtype=jnp.float32)

  monkeypatch.setattr(core.ssr, 'encode', encode)
  monkeypatch.setattr(core, 'loss', loss)
  monkeypatch.setattr(stage, 'context', lambda variables, prompt: prompt)
  return seen


@pytest.mark.slow
def test_the_priors_records_have_their_prompt_and_the_image_that_it_says(photos, model_dir, monkeypatch):
  stage = stages.build(config_of('prior', photos, model_dir, loss__degraded=0.4, loss__null=0.3, loss__draws=2))
  seen = spied(stage, monkeypatch)
  ctx = stages.context({'prior': {}}, {}, {}, jax.random.key(0))
  value, (terms, _) = stage.loss(ctx, BATCH)
  low = stage.degrade(BATCH)
  coin = np.asarray(stage.coin(BATCH))
  worse, null = coin < 0.4, (coin >= 0.4) & (coin < 0.7)
  assert 0 < worse.sum() < 16 and 0 < null.sum() < 16 and (worse | null).sum() < 16  # the seeds have all three
  (image,) = seen['encoded']
  enlarged = upscale(low.lr, 4)
  np.testing.assert_allclose(image[worse], enlarged[worse], atol=1e-6)
  np.testing.assert_allclose(image[~worse], low.target[~worse], atol=1e-6)
  ((z0, prompt, hints, _),) = seen['losses']
  assert z0.shape == (32, 16, 16, 1) and hints is None  # two draws
  np.testing.assert_array_equal(prompt, np.tile(np.where(worse, 2, np.where(null, 0, 1)), 2))  # of PROMPTS
  assert float(value) == 15.5 == float(terms['error'])


@pytest.mark.parametrize('part', ['cassr', 'activation'])
@pytest.mark.slow
def test_steering_sees_lr_and_reference_and_the_clean_photos_latent(part, photos, model_dir, monkeypatch):
  stage = stages.build(config_of(part, photos, model_dir, loss__null=0.3, loss__draws=2))
  seen = spied(stage, monkeypatch)
  asked = []

  def activate(modules, variables, lr, reference, **options):
    asked.append((lr, reference, options))
    return 1 - upscale(lr, 4)

  monkeypatch.setattr(core, 'activate', activate)
  monkeypatch.setattr(core, 'see', lambda modules, variables, part, images, latents: latents)
  ctx = stages.context({part: {}}, {}, {}, jax.random.key(0))
  stage.loss(ctx, BATCH)
  low = stage.degrade(BATCH)
  enlarged = np.clip(upscale(low.lr, 4), 0, 1)
  ((z0, prompt, hints, for_part),) = seen['losses']
  assert for_part == part
  coin = np.asarray(stage.coin(BATCH))
  assert 0 < (coin < 0.3).sum() < 16
  np.testing.assert_array_equal(prompt, np.tile(np.where(coin < 0.3, 0, 1), 2))
  np.testing.assert_allclose(z0, np.tile(low.target[:, ::4, ::4, :1], (2, 1, 1, 1)), atol=1e-6)
  expected = {'lr': enlarged} | ({'reference': 1 - upscale(low.lr, 4)} if part == 'cassr' else {})
  assert hints.keys() == expected.keys()
  for name, image in expected.items():
    np.testing.assert_allclose(hints[name], np.tile(image[:, ::4, ::4, :1], (2, 1, 1, 1)), atol=1e-6)
  if part == 'cassr':
    ((lr, reference, options),) = asked
    assert reference == 'svkr' and options['iterations'] == 1 and options['scale'] == 4
    np.testing.assert_allclose(lr, low.lr, atol=1e-6)
  else:
    assert not asked
  found = stage.validate(ctx, BATCH)  # four draws in a loop that is traced once, and the prior on the same ones
  assert set(found) == {'error', 'base'} and stage.metric in found
  assert [hints is None for *_, hints, _ in seen['losses'][1:]] == [True, False]


def test_the_controlnet_starts_as_the_prior_and_loaded_weights_stay(photos, model_dir):
  stage = stages.build(config_of('cassr', photos, model_dir))
  prior = store.load_model(model_dir, parts=('prior',)).variables
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), jax.eval_shape(stage.init, jax.random.key(0))[0])
  ctx = stages.context(zeros, {}, prior)
  params, _ = stage.prepare(ctx, BATCH, False)
  found = format.flatten(params['cassr'])
  theirs = format.flatten(prior['prior']['params']['unet'])
  copied = {name for name in found if name.removeprefix('controlnet/') in theirs}
  assert any('down_1_attn_0' in name for name in copied) and any('mid_res_1' in name for name in copied)
  for name, value in found.items():
    expected = theirs[name.removeprefix('controlnet/')] if name in copied else 0
    np.testing.assert_array_equal(value, np.broadcast_to(expected, value.shape), err_msg=name)
  assert all('/see/' in name or '/zero_' in name or name.startswith('extra_') for name in found.keys() - copied)
  assert stage.prepare(ctx, BATCH, True)[0] is zeros


@pytest.fixture(scope='module')
def run(photos, model_dir, tmp_path_factory):
  """The workdir of three steps."""
  workdir = tmp_path_factory.mktemp('run')
  assert trainer.train(config_of('cassr', photos, model_dir, train__steps=3), str(workdir)) == 0
  return workdir


@pytest.mark.slow
def test_training_moves_what_steers_and_nothing_else(run, model_dir, photos):
  """The base is no part of a run's state: its file stays, and the model that is written has the one trained part."""
  summary = json.loads((run / 'summary.json').read_text())
  assert summary['parts'] == ['cassr'] and summary['step'] == 3 and {'error', 'base'} <= set(summary['validation'])
  written = json.loads((run / 'model' / 'model.json').read_text())
  assert list(written['parts']) == ['cassr'] and written['system'] == 'cassr'
  assert written['sampling']['steps'] == 2 and written['schedule']['prediction'] == 'v'
  assert written['svkr'] == {'iterations': 1, 'gamma': 0.9, 'rule': 'algorithm1'}
  assert not any(store.verify(model_dir).values())
  variables, _, _ = checkpoint.read_weights(run)
  assert list(variables) == ['cassr']
  stage = stages.build(config_of('cassr', photos, model_dir))
  prior = store.load_model(model_dir, parts=('prior',)).variables['prior']['params']['unet']
  moved = format.flatten(variables['cassr']['params'])
  assert moved.keys() == format.flatten(jax.eval_shape(stage.init, jax.random.key(0))[0]['cassr']).keys()
  for name, value in moved.items():
    start = format.flatten(prior).get(name.removeprefix('controlnet/'))
    # Copied from the prior; by the third step the outputs that were zero let it move. A softmax over a prompt of one
    # token is 1, whatever its query and key.
    if start is not None and '/kernel' in name and not name.endswith(('cross/to_q/kernel', 'cross/to_k/kernel')):
      assert np.abs(value - start).max() > 0, name
    if '/zero_' in name or '/to_out/' in name:
      assert np.any(value), name


@pytest.mark.slow
def test_running_again_goes_on_exactly(run, photos, model_dir, tmp_path):
  again = tmp_path / 'run'
  shutil.copytree(run, again)
  shutil.rmtree(again / 'model')
  shutil.rmtree(again / 'checkpoints' / '3')
  assert trainer.train(config_of('cassr', photos, model_dir, train__steps=3), str(again)) == 0
  one, other = (store.load_model(place / 'model').variables['cassr'] for place in (run, again))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_trained_part_joins_the_model_of_the_others(run, model_dir, tmp_path):
  shutil.copytree(model_dir, tmp_path / 'whole')
  format.copy_part(run / 'model', 'cassr', tmp_path / 'whole')
  image = ssr_jax.load(tmp_path / 'whole').sample(data.coffee()[:32, :32], reference='lr').image
  assert image.shape == (128, 128, 3) and image.std() > 1


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['prior', 'activation', 'cassr'])
def test_every_stage_is_a_program_in_bfloat16_with_float32_gradients(stage, photos, model_dir, products_of):
  """From its jaxpr, with rematerialisation, by which attention's closure must be differentiated too."""
  config = config_of(stage, photos, model_dir, train__dtype='bfloat16', train__remat='blocks')
  built, params, stats, frozen = run_shapes.of_run(config)
  batch = {'hr': np.zeros((2, 64, 64, 3), np.uint8), 'seed': np.zeros(2, np.uint32)}
  arguments = params, stats, frozen, batch, jax.random.key(0), jax.numpy.zeros((), jax.numpy.int32)
  gradient = jax.grad(lambda *a: state.loss_of(built)(*a)[0])
  assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(gradient, *arguments))} == {np.dtype(np.float32)}
  assert 'remat' in str(jax.make_jaxpr(lambda *a: state.loss_of(built)(*a)[0])(*arguments))
  name = type(built.modules[stage]).__name__
  convolutions = [e for e in products_of(gradient, *arguments) if e.primitive.name == 'conv_general_dilated']
  own = [e for e in convolutions if name in str(e.source_info.name_stack)]
  assert own and {v.aval.dtype.name for e in own for v in e.invars} == {'bfloat16'}


@pytest.mark.parametrize(
  'stage,fields,match',
  [
    ('cassr', {'sampling.reference': 'controlnet'}, 'training makes svkr, lr or restorer on the fly'),
    ('cassr', {'sampling.reference': 'restorer'}, "has no 'restorer', which the stage 'cassr' needs"),
    ('cassr', {'model.cassr.head_dim': 8}, 'cassr.head_dim is 8, that of the prior is 4'),
    ('cassr', {'schedule.prediction': 'eps'}, "config.schedule.prediction is 'eps', the weights were trained with 'v'"),
    ('cassr', {'loss.null': 1.5}, 'loss.null is 1.5; it is a share'),
    ('prior', {'loss.degraded': 0.95}, 'are shares; their sum is at most 1'),
    ('prior', {'model.prior.learned': False}, 'prompts come from a text encoder'),
  ],
)
def test_a_config_that_cannot_be_is_refused(stage, fields, match, photos, model_dir):
  with pytest.raises(SSRError, match=match):
    stages.build(common.apply(config_of(stage, photos, model_dir), fields))


def test_without_the_reference_nothing_makes_one(photos, model_dir):
  stage = stages.build(config_of('cassr', photos, model_dir, model__cassr__controls=('lr',)))
  assert stage.needs == ('vae', 'prior')
  assert stages.build(config_of('cassr', photos, model_dir)).needs == ('depth', 'dkenet', 'nbsr', 'vae', 'prior')
  assert stages.build(config_of('cassr', photos, model_dir, sampling__reference='lr')).needs == ('vae', 'prior')


def test_configs_of_every_size():
  for module, size in ((full, 'full'), (compact, 'compact'), (tiny, 'tiny')):
    for stage in ('prior', 'activation', 'cassr'):
      if (size, stage) == ('full', 'prior'):
        with pytest.raises(SSRError, match='ssr weights import sd15'):
          module.get_config(stage)
        continue
      config = common.apply(module.get_config(stage), {'parts_from': ''})
      assert config.model.to_dict() == SIZES[size]
      stages.build(config)


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['prior', 'activation', 'cassr'])
def test_every_mesh_has_the_same_losses(stage, photos, model_dir):
  """Three steps on 8 virtual devices, shared out as copies, as slices and as both, against one device."""
  meshes = ('1x1x1', '8x1x1', '1x8x1', '2x4x1')
  script = ROOT / 'tests' / 'training' / 'mesh_losses.py'
  command = [sys.executable, str(script), f'cassr:{stage}', str(photos), str(model_dir), '3', *meshes]
  done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
  assert done.returncode == 0, done.stderr[-3000:]
  losses = json.loads(done.stdout.splitlines()[-1])
  single = losses.pop(meshes[0])
  assert np.ptp(single[::2]) > 1e-3 * abs(single[0]), 'three steps changed nothing'
  for mesh, found in losses.items():
    np.testing.assert_allclose(found, single, rtol=2e-4, err_msg=mesh)
