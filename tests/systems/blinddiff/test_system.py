"""BlindDiff through the house: options, tiles and padding, training with its restart, export, sampling, its page."""

import dataclasses
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
from configs.blinddiff import compact, full, tiny
import ssr_jax
from ssr_jax import cli, systems
from ssr_jax.degrade import Recipe, uniform
from ssr_jax.evaluation.cases import Dataset
from ssr_jax.image import blur
from ssr_jax.image.colour import luma
from ssr_jax.image.kernels import shaped_kernels
from ssr_jax.image.noise import noise_level
from ssr_jax.metrics.kernel_psnr import kernel_psnr
from ssr_jax.metrics.lr_psnr import lr_psnr
from ssr_jax.runtime import inspection, trust
from ssr_jax.systems.blinddiff import core
from ssr_jax.systems.blinddiff.options import Options
from ssr_jax.systems.blinddiff.sizes import SIZES
from ssr_jax.training import shapes as run_shapes
from ssr_jax.training import stages, state, trainer
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store
from tests.systems.blinddiff.drawn import drawn
from tools import kernel_steps

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
  """A tiny random model."""
  directory = tmp_path_factory.mktemp('models') / 'tiny'
  config = SIZES['tiny']['mcformer']
  module = systems.build('mcformer', system='blinddiff', **config)
  variables = drawn(module, *systems.get('blinddiff').parts['mcformer'].example(module))
  format.save_part(directory, 'mcformer', config, variables, system='blinddiff')
  tiny_config = tiny.get_config('blinddiff')
  sections = {name: tiny_config[name].to_dict() for name in ('schedule', 'domain', 'sampling')}
  format.update(directory, **sections)
  return directory


@pytest.fixture(scope='module')
def model(model_dir):
  return ssr_jax.load(model_dir)


LR = data.coffee()[100:118, 200:222]  # 18 x 22: padded to 20 x 24 for a network that needs multiples of 4


@pytest.mark.slow
def test_sample_returns_the_image_and_one_kernel(model):
  result = model.sample(LR)
  assert result.image.shape == (72, 88, 3) and result.image.dtype == np.uint8
  assert result.kernels.shape == (18, 22, 441) and result.outputs.keys() == {'kernels'}
  np.testing.assert_allclose(result.kernels[0, 0].sum(), 1, rtol=1e-5)
  np.testing.assert_array_equal(result.kernels, np.broadcast_to(result.kernels[0, 0], result.kernels.shape))
  np.testing.assert_array_equal(model.sample(LR).image, result.image)
  assert np.abs(model.sample(LR, seed=1).image.astype(int) - result.image).max() > 2


@pytest.mark.parametrize('down', ['bicubic', 'stride'])
def test_kernels_explain_a_photo_together_with_the_models_reduction(model, down):
  plan = dataclasses.replace(model.check(), domain=core.Domain(down=down))
  image = np.random.default_rng(0).random((1, 96, 112, 3)).astype(np.float32)
  kernel = np.asarray(shaped_kernels(2.0, 1.0, 0.4, 1.0, False, 21))
  wanted = np.asarray(blur.blur_reduce(image, kernel[None], 4, down))
  gathering = model.system.gathering(kernel[None, None, None], plan)
  found = np.asarray(blur.blur_downsample(image, gathering, 4))
  np.testing.assert_allclose(found[:, 6:-6, 6:-6], wanted[:, 6:-6, 6:-6], atol=1e-5)


@pytest.mark.slow
def test_a_photo_is_inspected_and_a_result_trusted_as_far_as_its_residual(model):
  found = inspection.inspect(model, LR, at=[(3, 4)])
  result = model.sample(LR, trust=True)
  assert found.depth is None
  np.testing.assert_allclose(found.kernels[3, 4].ravel(), result.kernels[4, 3], atol=1e-6)
  photo, image = LR.astype(np.float32) / 255, result.image.astype(np.float32) / 255
  kernels = model.system.gathering(result.kernels, model.check())
  noise = float(noise_level(np.asarray(luma(photo))[..., None])[0])
  np.testing.assert_allclose(result.trust, trust.trust_map(photo, None, image, kernels, noise), atol=0.05)  # of 8 bits
  assert not result.trust[..., 0].any() and result.trust[..., 1].any()
  # One kernel: everything is in focus, and nothing of the defocus is kept.
  np.testing.assert_array_equal(model.sample(LR, keep_defocus=1.0).image, result.image)


def test_padding_is_what_the_network_needs_and_no_more(model, monkeypatch):
  """The network sees 20 x 24, reflected, and not the size class of 32 x 32; core gets what the plan says."""
  seen = {}

  def restore(modules, variables, lr, eps, keys, schedule, domain, guidance, **options):
    seen.update(lr=lr.shape, eps=eps.shape, schedule=schedule, domain=domain, guidance=guidance, **options)
    return jax.numpy.zeros(eps.shape), jax.numpy.full((options['steps'], 1, 441), 1 / 441)

  monkeypatch.setattr(core, 'restore', restore)
  fresh = ssr_jax.runtime.Restorer(model.system, model.config, model.variables, model.modules)
  with jax.disable_jit():
    fresh.sample(LR, steps=3, guidance=0.5, operator='true', sigma=2.0, stop_kernel=True)
  assert seen['lr'] == (1, 20, 24, 3) and seen['eps'] == (1, 80, 96, 3)
  assert seen['steps'] == 3 and seen['spacing'] == 'linspace'
  assert seen['guidance'] == core.Guidance(0.5, 'true', True, 0.0)
  assert seen['domain'] == core.Domain(True, 2.0) and seen['schedule'].shape == 'linear'
  assert seen['schedule'].prediction == 'v'
  y, x = np.mgrid[-10:11, -10:11]
  gaussian = np.exp(-(x**2 + y**2) / 8)
  np.testing.assert_allclose(seen['known'], (gaussian / gaussian.sum()).reshape(1, -1), atol=1e-7)
  with jax.disable_jit():
    fresh.sample(LR)
  assert seen['guidance'] == core.Guidance(1.0) and seen['steps'] == 2 and seen['known'] is None


def test_noise_of_a_tile_is_that_of_the_image(model, monkeypatch):
  seen = []

  def restore(modules, variables, lr, eps, keys, *rest, **options):
    seen.append((jax.device_get(eps), jax.random.key_data(keys)))
    return eps, jax.numpy.full((1, 1, 441), 1 / 441)

  monkeypatch.setattr(core, 'restore', restore)
  fresh = ssr_jax.runtime.Restorer(model.system, model.config, model.variables, model.modules)
  with jax.disable_jit():
    fresh.sample(np.zeros((64, 96, 3), np.float32), tile=64)
  (first, key), (second, other) = seen
  assert first.shape == (1, 256, 256, 3) and not (key == other).all()
  np.testing.assert_array_equal(first[:, :, 4 * 32 :], second[:, :, : 256 - 4 * 32])


@pytest.mark.parametrize(
  'options,match',
  [
    ({'steps': 0}, 'steps 0: must be a whole number from 1 to 1000'),
    ({'guidance': -1.0}, 'guidance -1.0: must be 0 for none'),
    ({'guidance': float('nan')}, 'guidance nan'),
    ({'operator': 'cubic'}, 'known: estimated, bicubic, true'),
    ({'sigma': 0.0}, r'sigma 0.0: must lie in \[0.1, 10\]'),
    ({'sampler': 'ddim'}, "unknown option 'sampler'; system 'blinddiff' has steps, guidance"),
  ],
)
def test_wrong_options_are_one_line(model, options, match):
  with pytest.raises(SSRError, match=match):
    model.sample(LR, **options)


def test_a_model_without_its_part_and_with_wrong_sections(model, model_dir, tmp_path):
  with pytest.raises(SSRError, match='has no part mcformer'):
    model.system.plan(format.new_config('empty', 'blinddiff'), {}, Options())
  for section, field, value in (
    ('domain', 'down', 'area'),
    ('sampling', 'steps', 0),
    ('schedule', 'shape', 'cosine'),
    ('sampling', 'speed', 1),
  ):
    with pytest.raises(SSRError, match=field):
      format.update(model_dir, **{section: {field: value}})


def _config(photos, **fields):
  return common.apply(
    tiny.get_config('blinddiff'),
    {'data.train': f'folder:{photos}', **{name.replace('__', '.'): value for name, value in fields.items()}},
  )


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photos')
  for name in ('astronaut', 'coffee', 'chelsea', 'rocket'):
    Image.fromarray(getattr(data, name)()[:200, :240]).save(folder / f'{name}.png')
  return folder


@pytest.fixture(scope='module')
def run(photos, tmp_path_factory):
  """The workdir of two steps."""
  workdir = tmp_path_factory.mktemp('run')
  assert trainer.train(_config(photos), str(workdir)) == 0
  return workdir


@pytest.mark.slow
def test_training_writes_a_model_that_samples(run):
  summary = json.loads((run / 'summary.json').read_text())
  assert summary['parts'] == ['mcformer'] and summary['step'] == 2
  assert {'loss', 'noise', 'kernel_l1', 'first_kernel_psnr', 'first_psnr', 'bicubic_psnr'} <= set(summary['validation'])
  written = json.loads((run / 'model' / 'model.json').read_text())
  assert written['system'] == 'blinddiff' and written['domain']['gain'] == 2.0 and written['sampling']['steps'] == 2
  assert written['schedule'] == tiny.get_config('blinddiff').schedule.to_dict()
  assert ssr_jax.load(run / 'model').sample(LR[:16, :16]).image.shape == (64, 64, 3)


@pytest.mark.slow
def test_running_again_goes_on_exactly(run, photos, tmp_path):
  """The second step from the checkpoint of the first gives exactly the weights of an uninterrupted run."""
  again = tmp_path / 'run'
  shutil.copytree(run, again)
  shutil.rmtree(again / 'model')
  shutil.rmtree(again / 'checkpoints' / '2')
  (again / 'scalars.jsonl').unlink()
  assert trainer.train(_config(photos), str(again)) == 0
  rows = [json.loads(line) for line in (again / 'scalars.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows if 'noise' in row and 'validation' not in row][-1] == 2
  one, other = (store.load_model(place / 'model').variables['mcformer'] for place in (run, again))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_every_mesh_has_the_same_losses(photos):
  """Three steps on 8 virtual devices, shared out as copies, as slices and as both, against one device."""
  meshes = ('1x1x1', '8x1x1', '1x8x1', '2x4x1')
  script = ROOT / 'tests' / 'training' / 'mesh_losses.py'
  command = [sys.executable, str(script), 'blinddiff:blinddiff', str(photos), '', '3', *meshes]
  done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
  assert done.returncode == 0, done.stderr[-3000:]
  losses = json.loads(done.stdout.splitlines()[-1])
  single = losses.pop(meshes[0])
  assert np.ptp(single[::2]) > 1e-3 * abs(single[0]), 'three steps changed nothing'
  for mesh, found in losses.items():
    np.testing.assert_allclose(found, single, rtol=2e-4, err_msg=mesh)


def test_the_stage_degrades_as_the_config_says(photos):
  """Loss by a spy in place of the network: the true kernel, and the LR image of the recipe."""
  stage = stages.build(_config(photos))
  batch = {'hr': jnp.stack([data.coffee()[:64, :64]] * 2), 'seed': jnp.array([3, 4], jnp.uint32)}
  low = stage.degrade(batch)
  seen = {}

  class Spy:
    variance = 'fixed'

    def apply(self, variables, x_t, t, u):
      seen.update(u=u)
      return x_t, jnp.tile(low.kernels[:, 0, 0], (len(x_t) // 2, 1))  # validation repeats the batch

  stage.modules = {'mcformer': Spy()}
  ctx = stages.context({'mcformer': {}}, {}, {}, jax.random.key(0))
  _, (terms, _) = stage.loss(ctx, batch)
  assert float(terms['kernel_l1']) == 0
  np.testing.assert_allclose(seen['u'], stage.domain.enlarge(low.lr), atol=1e-6)
  found = stage.validate(ctx, batch)
  # The true kernel makes the LR image again; its PSNR has only a floor against the logarithm of 0.
  assert float(found['first_lr_psnr']) > 100 and float(found['first_kernel_l1']) == 0
  assert stage.higher_is_better is False and stage.metric in found


def test_bfloat16_and_rematerialisation_are_in_the_training_program(photos, products_of):
  """Read from its jaxpr: float32 parameters, gradients and last convolution; each of the three blocks recomputed."""
  config = _config(photos, train__dtype='bfloat16', train__remat='blocks')
  built, params, stats, frozen = run_shapes.of_run(config)
  batch = {'hr': np.zeros((2, 64, 64, 3), np.uint8), 'seed': np.zeros(2, np.uint32)}
  arguments = params, stats, frozen, batch, jax.random.key(0), jax.numpy.zeros((), jax.numpy.int32)
  gradient = jax.grad(lambda *a: state.loss_of(built)(*a)[0])
  assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(gradient, *arguments))} == {np.dtype(np.float32)}
  forward = jax.make_jaxpr(lambda *a: state.loss_of(built)(*a)[0])(*arguments)
  assert str(forward).count('= remat2[') == 3
  convolutions = [e for e in products_of(gradient, *arguments) if e.primitive.name == 'conv_general_dilated']
  kinds = {
    head: {
      v.aval.dtype.name for e in convolutions for v in e.invars if ('conv_out' in str(e.source_info.name_stack)) == head
    }
    for head in (True, False)
  }
  assert kinds == {True: {'float32'}, False: {'bfloat16'}}


@pytest.mark.parametrize(
  'fields,match',
  [
    ({'recipe.field': 'smooth'}, "recipe.field is 'smooth'; the stage needs one kernel"),
    ({'recipe.field': 'isotropic-stride'}, "reduces by 'stride', config.domain.down is 'bicubic'"),
    ({'model.mcformer.variance': 'learned'}, 'for released weights'),
  ],
)
def test_a_config_that_cannot_be_is_refused(photos, fields, match):
  config = _config(photos)
  config.model.mcformer.variance = 'fixed'
  with pytest.raises(SSRError, match=match):
    stages.build(common.apply(config, fields))


def test_weights_of_another_forward_process_are_refused(photos):
  stage = stages.build(_config(photos))
  stage.check_sections(stage.sections)
  for section, field, value in (('schedule', 'prediction', 'eps'), ('domain', 'gain', 1.0)):
    other = stage.sections | {section: {**stage.sections[section], field: value}}
    with pytest.raises(SSRError, match=f'config.{section}.{field} is .*, the weights were trained with'):
      stage.check_sections(other)


def test_configs_of_every_size():
  for module, size in ((full, 'full'), (compact, 'compact'), (tiny, 'tiny')):
    config = module.get_config('blinddiff')
    assert config.model.to_dict() == {'mcformer': SIZES[size]['mcformer']}
    stages.build(config)
    assert [Recipe.parse(name).field for name in config.eval.recipes] == list(uniform.GAUSSIAN8)
    assert (config.eval.crop, config.model.mcformer.modulate) == (4, 'both') and 'lr_psnr' in config.eval.metrics
    assert set(config.sampling) <= set(systems.get('blinddiff').sections['sampling'])


def test_the_trainings_of_the_ablations_are_options_of_the_command_line():
  found, given = [], ('--config.loss.kernel=0', '--config.model.mcformer.modulate=time', '--config.sampling.guidance=0')
  argv = ['train.py', f'--config={tiny.__file__}:blinddiff', *given, '--workdir=x']
  with pytest.raises(SystemExit):
    common.run(lambda config, workdir: found.append(config), '', argv)
  stage = stages.build(found[0])
  assert stage.modules['mcformer'].modulate == 'time' and stage.config.loss.kernel == 0
  assert stage.sections['sampling']['guidance'] == 0


@pytest.mark.slow
def test_ssr_info_and_upscale_know_it(model, model_dir, tmp_path, capsys):
  assert cli.main(['info', 'blinddiff', '--size', 'tiny', '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  assert list(found['stages']) == ['blinddiff'] and list(found['variants']) == ['first', 'result']
  assert set(found['options']) == {'steps', 'guidance', 'operator', 'sigma', 'stop_kernel'}
  restoring = found['sizes']['tiny']['restoring']
  assert restoring['result']['flops']['mcformer'] > 100 * restoring['first']['flops']['mcformer'] > 0
  groups = found['sizes']['tiny']['parts']['mcformer']['groups']
  assert sum(groups.values()) == found['sizes']['tiny']['parts']['mcformer']['parameters']
  Image.fromarray(LR).save(tmp_path / 'photo.png')
  command = ['upscale', str(tmp_path / 'photo.png'), '-o', str(tmp_path / 'out.png'), '--model', str(model_dir)]
  assert cli.main([*command, '--guidance', '0.5', '--steps', '1', '--stop-kernel']) == 0
  image = np.asarray(Image.open(tmp_path / 'out.png'))
  np.testing.assert_array_equal(image, model.sample(LR, guidance=0.5, steps=1, stop_kernel=True).image)


@pytest.mark.slow
def test_the_kernel_is_told_at_the_first_step_at_the_last_and_of_the_true_image(model, model_dir, tmp_path, capsys):
  """By what the model returns and by a call of its network; 72 x 88 pixels are padded to 80 x 96."""
  (tmp_path / 'hr').mkdir()
  Image.fromarray(data.coffee()[100:172, 200:288]).save(tmp_path / 'hr' / 'a.png')
  recipes = ('isotropic-1.8/no_noise', 'isotropic-stride-3.0/no_noise')
  command = [f'folder:{tmp_path / "hr"}', '--model', str(model_dir), '--csv', str(tmp_path / 'a.csv')]
  assert kernel_steps.main([*command, '--recipes', ','.join(recipes)]) == 0
  head, *rows = [line.split(',') for line in (tmp_path / 'a.csv').read_text().splitlines()]
  assert head == ['step', 't', 'kernel_psnr', 'kernel_l1', 'lr_psnr']
  assert [row[:2] for row in rows] == [['1', '999'], ['2', '0'], ['true image', '0']]
  expected, apply = np.zeros((3, 3)), jax.jit(model.modules['mcformer'].apply)
  for case in Dataset.parse(f'folder:{tmp_path / "hr"}', recipes, 0, 0).cases([]):
    lr, hr = (np.pad(x, ((0, n), (0, n), (0, 0)), 'reflect') for x, n in ((case.lr, 2), (case.hr, 8)))
    u = core.Domain().enlarge(jnp.asarray(lr[None], jnp.float32) / 255)
    x = 2 * (hr[None].astype(np.float32) / 255 - u)
    found = [
      model.sample(case.lr, steps=1, guidance=0.0).kernels[0, 0],
      model.sample(case.lr).kernels[0, 0],
      apply(model.variables['mcformer'], x, np.zeros(1), u)[1][0],
    ]
    for i, kernel in enumerate(found):
      field = np.broadcast_to(kernel, case.kernels.shape)
      l1 = np.abs(kernel - case.kernels[0, 0]).sum()
      scores = [kernel_psnr(field, case.kernels), l1, lr_psnr(case.hr, field, case.lr_clean, case.reduction)]
      expected[i] += np.array(scores) / 2
  told = np.array([[float(value) for value in rows[i][2:]] for i in range(3)])
  np.testing.assert_allclose(told, expected, rtol=1e-4)
  assert np.ptp(told[:, 1]) > 1e-4, 'the three are one kernel'
  table = capsys.readouterr().out
  assert f'| last step | {expected[1, 0]:.2f} |' in table and f'| true image | {expected[2, 0]:.2f} |' in table
  assert f'| first step | {expected[0, 0]:.2f} |' in table
  for options, message in (
    (['--model', 'compact'], 'a model of ssr'),
    (['--recipes', 'smooth'], 'one kernel for an'),
    (['--steps', '0'], 'steps 0: must be'),
    (['--guidance', '-1'], 'guidance -1.0: must be'),
  ):
    assert kernel_steps.main([*command, *options]) == 1
    assert message in capsys.readouterr().err
