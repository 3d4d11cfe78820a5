"""Two processes of four devices each train as one process of eight does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image
import pytest
from skimage import data

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _command(workdir, photos, model, *more):
  fields = {
    'data.train': f'folder:{photos}',
    'parts_from': model,
    'train.steps': 4,
    'train.batch_size': 8,
    'train.checkpoint_every': 2,
    'train.validate_every': 2,
    'train.figures_every': 4,
    'mesh.data': 2,
    'mesh.fsdp': 4,
    'mesh.min_size': 64,
  }
  command = [sys.executable, 'train.py', '--config=configs/tiny.py:nbsr', f'--workdir={workdir}']
  return command + [f'--config.{name}={value}' for name, value in fields.items()] + list(more)


def _start(command, devices):
  env = {**os.environ, 'JAX_NUM_CPU_DEVICES': str(devices), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(processes):
  """Waits for all; where one fails the others would wait for it for ever, so they are ended."""
  outs = []
  try:
    for process in processes:
      out, err = process.communicate(timeout=600)
      assert process.returncode == 0, err[-3000:]
      outs.append(out)
  finally:
    for process in processes:
      if process.poll() is None:
        process.kill()
        process.communicate()
  return outs


def _rows(workdir):
  rows = [json.loads(line) for line in (workdir / 'scalars.jsonl').read_text().splitlines()]
  return [{k: v for k, v in row.items() if k != 'time' and not k.endswith('_per_second')} for row in rows]


def _checkpoint(workdir, step):
  handlers = {'state': ocp.PyTreeCheckpointHandler(), 'data': ocp.JsonCheckpointHandler()}
  with ocp.CheckpointManager(workdir / 'checkpoints', item_handlers=handlers) as manager:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), manager.item_metadata(step)['state'].tree
    )
    found = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target)),
        data=ocp.args.JsonRestore(),
      ),
    )
  return found['state'], found['data']


@pytest.mark.slow  # four starts of train.py
def test_two_processes_train_as_one(tiny_model_dir, tmp_path):
  photos = tmp_path / 'photos'
  photos.mkdir()
  for name in ('astronaut', 'coffee', 'chelsea', 'rocket'):
    Image.fromarray(getattr(data, name)()[:200, :240]).save(photos / f'{name}.png')
  one, two = tmp_path / 'one', tmp_path / 'two'
  _finish([_start(_command(one, photos, tiny_model_dir), 8)])
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  join = [f'--config.distributed.coordinator=127.0.0.1:{port}', '--config.distributed.processes=2']
  first, second = _finish(
    [_start(_command(two, photos, tiny_model_dir, *join, f'--config.distributed.index={i}'), 4) for i in range(2)]
  )
  assert 'validation' in first and 'validation' not in second and 'parameters from' not in second  # process 0 prints

  rows = _rows(one)
  assert [row['step'] for row in rows if 'loss' in row] == [1, 2, 3, 4]
  for a, b in zip(rows, _rows(two), strict=True):
    assert a.keys() == b.keys()
    np.testing.assert_allclose([b[k] for k in a], [a[k] for k in a], rtol=1e-4)
  (state_one, data_one), (state_two, data_two) = _checkpoint(one, 4), _checkpoint(two, 4)
  assert data_one == data_two
  # Adam divides by the root of the second moment: where a gradient is nearly nothing, its rounding shows.
  for name in ('params', 'ema'):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state_one['state'][name], state_two['state'][name]
    )

  # The same run goes on with the other number of processes, from the other's checkpoint.
  _finish(
    [
      _start(
        _command(two, photos, tiny_model_dir, '--config.train.steps=5', '--config.mesh.fsdp=1', '--config.mesh.data=1'),
        1,
      )
    ]
  )
  assert [row['step'] for row in _rows(two) if 'loss' in row] == [1, 2, 3, 4, 5]
