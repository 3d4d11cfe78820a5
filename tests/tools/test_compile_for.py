"""tools/compile_for.py: what it reads from programs, and that it compiles what train.py and Restorer.sample run."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest
from skimage import data

from configs import tiny
from ssr_jax.data import loader, records, sources
from ssr_jax.training import compiled, shapes, sharding, stages, topologies
from ssr_jax.types import SSRError
from tools import compile_for

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
  'message,needed',
  [
    ('Ran out of memory on HBM, the total memory required for HLO temporaries (48.00G) exceeds available HBM.', 48),
    ('XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.\nMore', 20.5),
  ],
)
def test_what_does_not_fit_is_a_row_like_others(message, needed):
  class Lowered:
    def compile(self, compiler_options):
      raise jax.errors.JaxRuntimeError(f'RESOURCE_EXHAUSTED: {message}')

  need = compiled.compile_lowered(Lowered())
  assert not need.fits and need.needed == needed * 2**30
  job = compile_for.Job('step', 'batch 8', None, 10**12)
  assert compile_for.row('v5e-16', 'fsdp 16', job, need)[-5:] == (
    f'{needed:.3f}',
    f'{needed / 16:.1%}',
    '-',
    '1',
    'does not fit',
  )
  assert compile_for.traffic(need) == message.splitlines()[0]


@pytest.mark.parametrize('stage', ['nbsr', 'depth', 'kernel'])
def test_the_shapes_are_those_of_a_run(stage, tiny_model_dir, tmp_path):
  """Parameters, constants and batches as the run makes them, against what is compiled."""
  for name in ('astronaut', 'coffee'):
    Image.fromarray(getattr(data, name)()[:200, :240]).save(tmp_path / f'{name}.png')
  config = tiny.get_config(stage)
  config.parts_from, config.data.scenes = str(tiny_model_dir), 0.5 * (stage == 'kernel')
  photos = sources.from_spec(f'folder:{tmp_path}', ('hr',))
  made, source = records.photo_record(64), photos
  if stage == 'depth':
    made, source = records.scene_record(photos, 64, 64), range(4)
  elif stage == 'kernel':
    made = records.partly(0.5, records.scene_record(photos, 64, 64), 64)
  batch = loader.dataset(source, made, 2, 0)[0]
  del batch['record']
  built = stages.build(config)
  look = lambda tree: jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), tree)
  assert look(shapes.of_batch(built, config, 2)) == look(batch)
  if stage == 'nbsr':  # its constants are drawn with NumPy, which no trace sees
    _, params, stats, frozen = shapes.of_run(config)
    assert look((params, stats, frozen['constants'])) == look(built.init(jax.random.key(0)))


@pytest.mark.slow
def test_the_programs_are_lowered_as_they_run():
  """On this machine's own device: what is compiled for a TPU goes the same way up to the compiler."""
  config = tiny.get_config('nbsr')
  config.train.remat = 'blocks'
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  one, two = compile_for.train_jobs(config, mesh, [2, 4])
  assert (one.label, one.size, two.size) == ('nbsr step', 'batch 2', 'batch 4') and two.work == 2 * one.work > 0
  state, scalars = two.lower().out_info
  assert state.params['nbsr']['conv_in']['kernel'].shape == (3, 3, 3, 8) and scalars['loss'].shape == ()

  config = tiny.get_config()
  config.parts_from = ''
  restore, sample = compile_for.sampling_jobs(config, jax.devices()[0], [32])
  assert (restore.label, sample.label) == ('restore', 'sample, dpmpp_2m x8') and 0 < restore.work < sample.work
  shapes_of = lambda job: {name: x.shape for name, x in job.lower().out_info.items()}
  restored = {'depth': (1, 128, 128, 1), 'kernels': (1, 32, 32, 441), 'restored': (1, 128, 128, 3)}
  assert shapes_of(restore) == restored and shapes_of(sample) == restored | {'image': (1, 128, 128, 3)}
  config.eval.sampling.steps = 4
  _, fewer = compile_for.sampling_jobs(config, jax.devices()[0], [32])
  assert fewer.label == 'sample, dpmpp_2m x4' and restore.work < fewer.work < sample.work
  with pytest.raises(SSRError, match='--sides=33: .*use 64'):
    list(compile_for.sampling_jobs(config, jax.devices()[0], [33]))


def test_a_model_that_is_not_here_is_taken_from_the_config():
  config = tiny.get_config('diffusion')
  config.parts_from = 'nowhere'
  assert "'nowhere' is not on this machine" in shapes.without_weights(config)
  assert config.parts_from == '' and stages.build(config).needs == ('depth', 'dkenet', 'nbsr', 'vae')
  config.parts_from = 'compact'
  assert shapes.without_weights(config) is None and config.parts_from == 'compact'


def test_wrong_usage_is_one_line():
  command = [sys.executable, 'tools/compile_for.py', '--config', 'configs/tiny.py:nbsr', '--topology', 'v5e-5']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stderr.startswith('error: --topology=v5e-5: unknown; known: v4-') and done.stderr.count('\n') == 1


def _compile(tmp_path, *arguments):
  [topology] = [x.removeprefix('--topology=') for x in arguments if x.startswith('--topology=')]
  chip, _ = topologies.find_chip(topology)
  if topologies.compiler(chip) is None:
    extra = 'cuda' if chip.gpu else 'tpu'
    pytest.skip(f"nothing that compiles for {topology} is installed: pip install -e '.[{extra}]'")
  out = tmp_path / 'needs.json'
  command = [sys.executable, 'tools/compile_for.py', f'--json={out}', *arguments]
  env = {**os.environ, 'SSR_WEIGHTS': str(tmp_path)}
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(out.read_text()), done.stdout


@pytest.mark.tpu_aot
def test_the_tiny_step_compiles(tmp_path):
  """Four chips that hold copies of the state: they hold all of it, and every gradient is summed over them."""
  [need], text = _compile(
    tmp_path, '--config=configs/tiny.py:diffusion', '--config.parts_from=nowhere', '--topology=v5e-4', '--batch=4'
  )
  assert "'nowhere' is not on this machine" in text and '\nv5e-4 ' in text
  config = tiny.get_config('diffusion')
  config.parts_from = ''
  _, params, _, _ = shapes.of_run(config)
  size = sum(4 * x.size for x in jax.tree.leaves(params))
  # Parameters, their average and two moments at least; layouts pad small arrays to whole tiles.
  assert need['fits'] and need['arguments'] > 4 * size > need['results'] and need['operations'] > 0
  assert need['needed'] == need['arguments'] + need['results'] + need['temporaries'] <= 16 * 2**30
  assert need['complete'] and need['sent']['all-reduce'][1] >= size


@pytest.mark.tpu_aot
@pytest.mark.slow
def test_the_compact_step_and_sampling_compile(tmp_path):
  """Slices hold a part of the state each and gather parameters; rematerialisation needs less at its peak."""
  step = ['--config=configs/compact.py:diffusion', '--topology=v5e-16', '--batch=64']
  [copies], _ = _compile(tmp_path, *step)
  [slices], _ = _compile(tmp_path, *step, '--config.mesh.fsdp=16', '--config.mesh.min_size=1024')
  assert slices['arguments'] < copies['arguments']  # by how much, layouts decide: they pad small arrays to whole tiles
  assert slices['sent']['all-gather'][1] > copies['sent'].get('all-gather', (0, 0))[1]
  [less], _ = _compile(tmp_path, *step, '--config.train.remat=blocks')
  assert less['needed'] < copies['needed'] and less['operations'] == copies['operations']
  restore, generate = _compile(tmp_path, '--config=configs/compact.py', '--topology=v5e-1', '--sampling')[0]
  assert restore['program'] == 'restore' and generate['program'].startswith('generate') and not generate['sent']


@pytest.mark.gpu_aot
def test_a_gpus_program_has_cudnns_attention_and_half_the_parameters(tmp_path):
  """Sampling in bfloat16, and a step on eight GPUs that hold copies: the compiler that a GPU would use takes both."""
  sampling = ['--config=configs/compact.py', '--topology=h200-1', '--sampling', '--sides=64']
  [_, whole], _ = _compile(tmp_path, *sampling)
  [_, half], _ = _compile(tmp_path, *sampling, '--config.eval.dtype=bfloat16')
  assert half['calls']['__cudnn$fmhaSoftmax'] and '__cudnn$fmhaSoftmax' not in whole['calls']  # it has no float32
  assert half['fits'] and half['arguments'] < 0.6 * whole['arguments'] and half['needed'] < whole['needed']
  [need], _ = _compile(
    tmp_path,
    '--config=configs/tiny.py:diffusion',
    '--config.parts_from=nowhere',
    '--topology=h200-8',
    '--batch=8',
    '--config.train.dtype=bfloat16',
  )
  config = tiny.get_config('diffusion')
  config.parts_from = ''
  _, params, _, _ = shapes.of_run(config)
  size = sum(4 * x.size for x in jax.tree.leaves(params))
  # Gradients are summed in the dtype of the computation.
  assert need['fits'] and need['arguments'] > 4 * size and need['sent']['all-reduce'][1] >= size / 2


@pytest.mark.gpu_aot
@pytest.mark.parametrize('split', [(None, 'fsdp'), ('fsdp', None)])
def test_attention_with_shared_parameters_compiles_for_gpus(split):
  """By itself the compiler shares twenty heads among four pairs of eight GPUs, which the rule of cuDNN refuses."""
  if topologies.compiler(topologies.CHIPS['h200']) is None:
    pytest.skip("nothing that compiles for GPUs is installed: pip install -e '.[cuda]'")
  program = """
import jax, sys
jax.config.update('jax_platforms', 'cpu')
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ssr_jax import xla
from ssr_jax.nn.attention import attention
from ssr_jax.training import compiled, topologies
from tools import compile_for

mesh = jax.sharding.Mesh(np.array(topologies.devices('h200-8')).reshape(1, 8, 1), ('data', 'fsdp', 'tensor'))

def loss(x, *kernels):
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    q, k, v = ((x @ kernel).reshape(8, 256, 20, 64) for kernel in kernels)
    return (attention(q, k, v).astype(jnp.float32) ** 2).mean()

shape = lambda size, *split: jax.ShapeDtypeStruct(
    size, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*split)))
arguments = [shape((8, 256, 1280)), *[shape((1280, 1280), *SPLIT)] * 3]
with xla.compiling_for('gpu', 9.0):
  lowered = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3))).trace(*arguments).lower()
print(sorted(compiled.compile_lowered(lowered, options=compile_for.GPU_OPTIONS).calls))
"""
  command = [sys.executable, '-c', program.replace('SPLIT', repr(split))]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
  assert "'__cudnn$fmhaSoftmax', '__cudnn$fmhaSoftmaxBackward'" in done.stdout
