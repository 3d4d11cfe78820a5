"""Checkpoints of two processes: one manifest of whole arrays, and both agree on which checkpoint is whole."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import pytest

from ssr_jax.training import manifest

ROOT = pathlib.Path(__file__).resolve().parents[2]

_PROCESS = """
import pathlib, sys
import jax
import numpy as np
folder, port, index = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f'127.0.0.1:{port}', 2, index)
from jax.sharding import NamedSharding, PartitionSpec
from ssr_jax.training import checkpoint, lock, sharding
from ssr_jax.types import SSRError
mesh = sharding.make_mesh({'data': 2})
places = {'step': sharding.replicated(mesh), 'ema': {'net': NamedSharding(mesh, PartitionSpec('data'))}}
net = np.arange(20000, dtype=np.float32).reshape(200, 100)
value = lambda step: {'step': np.int32(step), 'ema': {'net': net + step}}
with lock.held(folder):
  store = checkpoint.Checkpoints(folder / 'checkpoints', 2, 'psnr', True)
  first = store.latest()
  if first is None:
    for step in (1, 2, 3):
      store.save(step, sharding.put(value(step), places), {}, {'next': step}, {}, {'psnr': float(step)})
  else:
    state, _, data, _ = store.restore(first, sharding.put(value(0), places), {})
    (shard,) = state['ema']['net'].addressable_shards
    np.testing.assert_array_equal(shard.data, value(first)['ema']['net'][shard.index])
    assert data == {'next': first}
  store.close()
  print(f'process {index} began at {first}')
"""


def _both(folder):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = str(free.getsockname()[1])
  env = {**os.environ, 'JAX_NUM_CPU_DEVICES': '1', 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, '-c', _PROCESS, str(folder), port]
  both = [
    subprocess.Popen([*command, str(i)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for i in range(2)
  ]
  try:
    found = [process.communicate(timeout=300) for process in both]
  finally:
    for process in both:
      process.kill()
  assert [process.returncode for process in both] == [0, 0], found[0][1][-2000:] + found[1][1][-2000:]
  return found


@pytest.mark.slow
def test_two_processes_write_one_manifest_and_fall_back_together(tmp_path):
  outs = [out for out, _ in _both(tmp_path)]
  assert all(out.endswith(f'process {i} began at None\n') for i, out in enumerate(outs))
  folder = tmp_path / 'checkpoints'
  contents = manifest.read(folder / '3')  # by a third process, on its own
  assert contents.arrays['state/ema/net'] == ((200, 100), 'float32') and contents.metrics == {'psnr': 3.0}
  state = manifest.load(folder / '3', manifest.metadata(folder / '3'))
  assert manifest.checksums(jax.tree.map(jax.numpy.asarray, state)) == contents.checksums
  for path in (p for p in (folder / '3' / 'state').rglob('*') if p.is_file() and p.stat().st_size > 5000):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  (out0, err0), (out1, err1) = _both(tmp_path)
  assert out0.endswith('process 0 began at 2\n') and out1.endswith('process 1 began at 2\n')
  assert '/3: not a whole checkpoint' in err0 and 'not a whole' not in err1  # process 0 says it
  assert sorted(p.name for p in folder.iterdir()) == ['2', '3.damaged']
