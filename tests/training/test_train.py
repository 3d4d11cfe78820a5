"""train.py: every stage runs and learns something finite, resumes exactly, and says what is wrong in one line."""

import json
import pathlib
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image
import pytest
from safetensors.numpy import load_file
from skimage import data

from configs import common, tiny
from ssr_jax import cli
from ssr_jax.data import records
from ssr_jax.systems.ssr.stages import common as base
from ssr_jax.training import signals, stages, start
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store
import train

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAGES = {
  'depth': ('depth',),
  'kernel': ('dkenet',),
  'nbsr': ('nbsr',),
  'svkr': ('dkenet', 'nbsr'),
  'vae': ('vae',),
  'diffusion': ('unet',),
  'distill': ('student', 'student_vae'),
}


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photos')
  for name in ('astronaut', 'coffee', 'chelsea', 'rocket'):
    Image.fromarray(getattr(data, name)()[:200, :240]).save(folder / f'{name}.png')
  return folder


def _config(stage, photos, parts_from, **fields):
  overrides = {'data.train': f'folder:{photos}', 'parts_from': str(parts_from)}
  return common.apply(tiny.get_config(stage), overrides | {k.replace('__', '.'): v for k, v in fields.items()})


# Compiling takes a minute or more for most; their steps are in tests/golden, their losses in tests/systems/ssr.
@pytest.mark.slow
@pytest.mark.parametrize('stage', STAGES)
def test_stage_runs_and_exports_loadable_weights(stage, photos, tiny_model_dir, tmp_path):
  assert not train.main(_config(stage, photos, tiny_model_dir), str(tmp_path))
  model = store.load_model(tmp_path / 'model')
  assert set(model.variables) == set(STAGES[stage])
  for leaf in jax.tree.leaves(model.variables):
    assert np.isfinite(leaf).all()
  rows = [json.loads(line) for line in (tmp_path / 'scalars.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows if 'loss' in row] == [1, 2]
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert np.isfinite(list(summary['validation'].values())).all() and summary['metric'] in summary['validation']
  if stage == 'vae':
    assert model.config['parts']['vae']['config']['scaling_factor'] != 0.18215
  if stage == 'distill':  # what sampling has to know comes along, and the student is a step or two from its teacher
    assert model.config['sampling']['student'] == {
      'steps': 1,
      'start': 0.1,
      'noise': 1.0,
      'wavelet_levels': 2,
      'chroma_levels': 2,
      'strength': 1.0,
    }
    student, teacher = (
      format.flatten(v) for v in (model.variables['student'], format.load_part(tiny_model_dir, 'unet'))
    )
    moved = [name for name in teacher if np.abs(student[name] - teacher[name]).max() > 1e-3]
    assert len(moved) < len(teacher) / 20 and any((student[name] != teacher[name]).any() for name in teacher)
    # The decoder learned along; what makes latents is bit for bit as it was, and so is their scaling.
    before = store.load_model(tiny_model_dir, parts=('vae',))
    old, new = format.flatten(before.variables['vae']), format.flatten(model.variables['student_vae'])
    learned = {name for name in old if not np.array_equal(old[name], new[name])}
    decodes = ('params/decoder', 'params/post_quant_conv', 'params/shortcut_out')
    assert all(name.startswith(decodes) for name in learned) and len(learned) > len(old) / 4
    scalings = [
      m.config['parts'][part]['config'].get('scaling_factor', 0.18215)
      for m, part in ((model, 'student_vae'), (before, 'vae'))
    ]
    np.testing.assert_array_equal(*np.float32(scalings))


@pytest.mark.slow
def test_true_depth_of_rendered_scenes_reaches_the_blur(photos, tiny_model_dir, tmp_path, monkeypatch):
  """A kernel stage with blur by depth, half of whose records are scenes: those, and only those, bring their depth."""
  seen, true_depth = [], base.true_depth
  monkeypatch.setattr(
    base, 'true_depth', lambda batch, estimate: seen.append(sorted(batch)) or true_depth(batch, estimate)
  )
  fields = dict(data__scenes=0.5, recipe__field='depth', recipe__mode='no_noise')
  assert not train.main(_config('kernel', photos, tiny_model_dir, **fields), str(tmp_path))
  assert seen and all({'depth', 'has_depth'} <= set(names) for names in seen)


@pytest.mark.slow
def test_photos_with_depth_maps_train_the_depth_net_without_rendering(tiny_model_dir, tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  for folder in ('photos', 'maps'):
    (tmp_path / folder).mkdir()
  distance = np.linspace(500, 4000, 80 * 90).reshape(80, 90).astype(np.uint16)
  for i in range(4):
    Image.fromarray(rng.integers(0, 255, (80, 90, 3), np.uint8)).save(tmp_path / 'photos' / f'{i}.png')
    Image.fromarray(distance).save(tmp_path / 'maps' / f'{i}.png')
  monkeypatch.setattr(records, 'scene_record', lambda *_: pytest.fail('a scene was rendered'))
  config = _config('depth', tmp_path, tiny_model_dir, data__train=f'rgbd:{tmp_path}/photos,{tmp_path}/maps')
  assert not train.main(config, str(tmp_path / 'run'))
  assert json.loads((tmp_path / 'run' / 'summary.json').read_text())['validation']['aligned_l1'] > 0


@pytest.mark.slow
def test_running_again_goes_on_exactly(photos, tiny_model_dir, tmp_path):
  """Steps 3 and 4 from the checkpoint at 2 give exactly the weights of an uninterrupted run."""
  config = _config('nbsr', photos, tiny_model_dir, train__steps=4, train__checkpoint_every=2, train__keep=3)
  train.main(config, str(tmp_path))
  whole = load_file(tmp_path / 'model' / 'nbsr.safetensors')
  shutil.rmtree(tmp_path / 'model')
  shutil.rmtree(tmp_path / 'checkpoints' / '4')
  (tmp_path / 'scalars.jsonl').unlink()
  train.main(config, str(tmp_path))
  rows = [json.loads(line) for line in (tmp_path / 'scalars.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows if 'loss' in row] == [3, 4]
  resumed = load_file(tmp_path / 'model' / 'nbsr.safetensors')
  for name in whole:
    np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
  with pytest.raises(SSRError, match='last checkpoint is of step 4, beyond train.steps=3'):
    train.main(_config('nbsr', photos, tiny_model_dir, train__steps=3), str(tmp_path))


def _weights_at(workdir, step):
  """The trained parameters of a checkpoint, not averaged and not rounded, with the optimiser's moments."""
  manager = ocp.CheckpointManager(workdir / 'checkpoints', item_handlers={'state': ocp.PyTreeCheckpointHandler()})
  tree = manager.restore(step, args=ocp.args.Composite(state=ocp.args.PyTreeRestore()))['state']['state']
  manager.close()
  return tree


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['nbsr', 'depth'])
def test_killed_at_any_moment_it_ends_with_the_same_weights(stage, photos, tiny_model_dir, tmp_path):
  """kill -9 at a random moment after the first checkpoint, then the same command: every array is bit-equal."""
  fields = dict(train__steps=8, train__checkpoint_every=1, train__validate_every=100, train__figures_every=100)
  config = _config(stage, photos, tiny_model_dir, **fields)
  train.main(config, str(tmp_path / 'whole'))
  command = [sys.executable, 'train.py', f'--config=configs/tiny.py:{stage}', f'--workdir={tmp_path}/killed']
  command += [f'--config.data.train=folder:{photos}', f'--config.parts_from={tiny_model_dir}']
  command += [f'--config.{name.replace("__", ".")}={value}' for name, value in fields.items()]
  process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
  checkpoints = tmp_path / 'killed' / 'checkpoints'
  deadline = time.monotonic() + 300
  while not (checkpoints.is_dir() and any(p.name.isdigit() for p in checkpoints.iterdir())):
    assert process.poll() is None and time.monotonic() < deadline, process.stderr.read().decode()[-2000:]
    time.sleep(0.01)
  time.sleep(random.uniform(0, 0.3))
  process.kill()
  process.communicate()
  assert not train.main(config, str(tmp_path / 'killed'))
  whole, killed = (_weights_at(tmp_path / run, 8) for run in ('whole', 'killed'))
  assert jax.tree.structure(whole) == jax.tree.structure(killed)
  jax.tree.map(np.testing.assert_array_equal, whole, killed)


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_its_own_code(photos, tiny_model_dir, tmp_path):
  """It saves where it stands, although no checkpoint was due; the same command ends the run."""
  fields = dict(train__steps=100000, train__checkpoint_every=100000, train__validate_every=100000)
  command = [sys.executable, 'train.py', '--config=configs/tiny.py:nbsr', f'--workdir={tmp_path}/run']
  command += [f'--config.data.train=folder:{photos}', f'--config.parts_from={tiny_model_dir}']
  command += [f'--config.{name.replace("__", ".")}={value}' for name, value in fields.items()]
  process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  scalars = tmp_path / 'run' / 'scalars.jsonl'
  deadline = time.monotonic() + 300
  while not (scalars.exists() and len(scalars.read_text().splitlines()) > 2):
    assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()[-2000:]
    time.sleep(0.05)
  process.terminate()
  out, _ = process.communicate(timeout=120)
  assert process.returncode == 75 and 'asked to stop: saved step' in out
  (saved,) = [int(p.name) for p in (tmp_path / 'run' / 'checkpoints').iterdir() if p.name.isdigit()]
  assert saved > 2
  # An export of that checkpoint is what a run that ends there writes.
  assert cli.main(['export', str(tmp_path / 'run'), str(tmp_path / 'exported')]) == 0
  train.main(_config('nbsr', photos, tiny_model_dir, train__steps=saved), str(tmp_path / 'run'))
  exported, model = (load_file(tmp_path / where / 'nbsr.safetensors') for where in ('exported', 'run/model'))
  assert exported.keys() == model.keys()
  for name in model:
    np.testing.assert_array_equal(exported[name], model[name])


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_up_to_a_limit(photos, tiny_model_dir, tmp_path):
  """A learning rate without measure makes every step after the first NaN or infinite."""
  config = _config(
    'nbsr',
    photos,
    tiny_model_dir,
    train__steps=20,
    train__learning_rate=1e38,
    train__max_skipped=2,
    train__checkpoint_every=100,
    train__validate_every=100,
  )
  with pytest.raises(SSRError, match='not finite, more than train.max_skipped=2 times.*the last one saw .*png'):
    train.main(config, str(tmp_path))


@pytest.mark.slow
def test_starts_from_the_weights_it_is_given(photos, tiny_model_dir, tmp_path):
  """With a learning rate of zero, init_from's weights come out as they went in; another config's are refused."""
  config = _config('vae', photos, tiny_model_dir)
  train.main(config, str(tmp_path / 'a'))
  still = common.apply(
    config.copy_and_resolve_references(), {'init_from': str(tmp_path / 'a' / 'model'), 'train.learning_rate': 0.0}
  )
  train.main(still, str(tmp_path / 'b'))
  first, second = (load_file(tmp_path / run / 'model' / 'vae.safetensors') for run in 'ab')
  for name in first:
    np.testing.assert_array_equal(first[name], second[name])
  assert json.loads((tmp_path / 'b' / 'summary.json').read_text())['before'] is not None
  wider = common.apply(still, {'model.vae.channels': (12, 8)})
  with pytest.raises(SSRError, match=r'config.model.vae.channels is \(12, 8\), the weights were trained with'):
    train.main(wider, str(tmp_path / 'c'))


@pytest.mark.slow
def test_an_autoencoder_keeps_the_scaling_that_its_unet_was_trained_on(photos, tiny_model_dir, tmp_path):
  """A new one's is measured; one that goes on, also after an interruption, keeps that of the weights it began with."""

  def scaling(run):
    return format.read_config(tmp_path / run / 'model')['parts']['vae']['config']['scaling_factor']

  train.main(_config('vae', photos, tiny_model_dir), str(tmp_path / 'a'))
  format.update(tmp_path / 'a' / 'model', name='parent')  # another than its folder's
  fields = dict(train__learning_rate=0.05, init_from=str(tmp_path / 'a' / 'model'), train__checkpoint_every=1)
  train.main(_config('vae', photos, tiny_model_dir, train__steps=2, **fields), str(tmp_path / 'b'))
  assert scaling('b') == scaling('a')
  weights = [load_file(tmp_path / run / 'model' / 'vae.safetensors')['params/encoder/conv_in/kernel'] for run in 'ab']
  assert np.abs(weights[0] - weights[1]).max() > 0.01  # so a measured one would differ
  train.main(_config('vae', photos, tiny_model_dir, train__steps=3, **fields), str(tmp_path / 'b'))
  assert scaling('b') == scaling('a')

  # Nor does it forget what they were and how long they were trained, be it asked by its model or by its checkpoint.
  a, b = (format.read_config(tmp_path / run / 'model')['parts']['vae']['training'] for run in 'ab')
  assert 'earlier_steps' not in a and b['steps'] == 3 and b['earlier_steps'] == {'vae': a['steps']} != {'vae': 0}
  assert (a['started_from'], b['started_from']) == ('scratch', 'parent')
  for place in (tmp_path / 'b', tmp_path / 'b' / 'model'):
    assert start.read_initial(str(place), 'ssr', ('vae',))[2]['steps'] == {'vae': 3 + a['steps']}


def test_weights_are_not_read_as_what_they_are_not(photos, tiny_model_dir):
  """Neither the schedule nor a norm's groups show in any shape."""
  config = _config('diffusion', photos, tiny_model_dir, init_from='there')
  about = {'parts': {'unet': config.model.unet.to_dict()}, 'sections': {'schedule': {}}}
  assert start.check_same_meaning('there', config, stages.build(config), about) == {}
  other = common.apply(config.copy_and_resolve_references(), {'schedule.prediction': 'v'})
  with pytest.raises(SSRError, match="there: config.schedule.prediction is 'v', the UNet was trained with 'eps'"):
    start.check_same_meaning('there', other, stages.build(other), about)
  other = common.apply(config.copy_and_resolve_references(), {'model.unet.groups': 1})
  with pytest.raises(SSRError, match='config.model.unet.groups is 1, the weights were trained with'):
    start.check_same_meaning('there', other, stages.build(other), about)


def test_asked_to_stop_before_the_first_step_it_claims_nothing(photos, tiny_model_dir, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(signals.Preemption, 'reached', lambda self, step: True)
  assert train.main(_config('nbsr', photos, tiny_model_dir), str(tmp_path)) == 75
  assert 'nothing was trained yet' in capsys.readouterr().out
  assert not [p for p in (tmp_path / 'checkpoints').iterdir() if p.name.isdigit()]


@pytest.mark.parametrize(
  'arguments,expected',
  [
    (['--config=configs/tiny.py:sharpen'], "unknown stage 'sharpen'; known: depth, kernel"),
    (
      ['--config=configs/tiny.py:nbsr', '--config.train.stepz=3'],
      "config.train has no field 'stepz'; did you mean 'steps'",
    ),
    (['--config=configs/tiny.py:nbsr', '--config.train.steps=many'], 'many'),
    (['--config=configs/none.py:nbsr'], 'none.py'),
    ([], '--config is missing'),
  ],
)
def test_wrong_usage_is_one_line(arguments, expected, tmp_path):
  command = [sys.executable, 'train.py', f'--workdir={tmp_path}/run', *arguments]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 2 and expected in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1 and 'Traceback' not in done.stderr


def test_missing_data_is_one_line(tmp_path, tiny_model_dir):
  with pytest.raises(SSRError, match='is not a folder'):
    train.main(_config('nbsr', tmp_path / 'nothing', tiny_model_dir), str(tmp_path / 'run'))


@pytest.mark.slow
def test_the_autoencoder_starts_as_a_pca(photos, tiny_model_dir):
  """Before the first step its reconstruction is NumPy's projection on the leading components of 4x4 squares."""
  stage = stages.build(_config('vae', photos, tiny_model_dir))
  batch = {'hr': np.stack([np.asarray(Image.open(p))[:64, :64] for p in sorted(photos.iterdir())])}
  params, stats, _ = stage.init(jax.random.key(0))
  params, _ = stage.prepare(stages.context(params, stats, {}), batch, False)
  image = batch['hr'] / 255.0
  out = jax.jit(lambda p, x: stage.modules['vae'].apply({'params': p}, x)[0])(params['vae'], image.astype(np.float32))
  squares = (2 * image - 1).reshape(4, 16, 4, 16, 4, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 48)
  _, _, components = np.linalg.svd(squares, full_matrices=False)
  expected = squares @ components[:4].T @ components[:4]
  expected = expected.reshape(4, 16, 16, 3, 4, 4).transpose(0, 1, 4, 2, 5, 3).reshape(image.shape)
  np.testing.assert_allclose(out, (expected + 1) / 2, atol=1e-4)
