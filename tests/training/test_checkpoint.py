"""Checkpoints: what stays, what is never chosen, and what a full disk says."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ssr_jax.training import checkpoint, disk, signals
from ssr_jax.types import SSRError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _state(value, size=4):
  return {'step': jnp.asarray(value, jnp.int32), 'w': jnp.full((size,), float(value))}


def _open(folder, keep=2):
  return checkpoint.Checkpoints(folder, keep, 'psnr', True)


def test_the_last_ones_and_the_best_stay_and_come_back(tmp_path):
  store = _open(tmp_path / 'c')
  assert store.latest() is None
  for step, psnr in ((1, 20.0), (2, 30.0), (3, None), (4, 25.0), (5, None)):
    store.save(step, _state(step), {'pca': jnp.arange(3.0)}, {'next_index': step}, {'a': 1}, psnr and {'psnr': psnr})
    store.wait()
  assert sorted(int(p.name) for p in (tmp_path / 'c').iterdir() if p.name.isdigit()) == [2, 4, 5]
  store.close()
  store = _open(tmp_path / 'c')
  assert store.latest() == 5
  state, constants, data, _about = store.restore(5, _state(0), {'pca': jnp.zeros(3)})
  assert data == {'next_index': 5} and int(state['step']) == 5
  np.testing.assert_array_equal(state['w'], np.full(4, 5.0))
  np.testing.assert_array_equal(constants['pca'], np.arange(3.0))
  store.close()


def test_ctrl_c_inside_of_a_save_lets_the_checkpoint_be_finished(tmp_path, monkeypatch):
  """In the writer's own code, where it would leave half of the checkpoint and a thread that waits for the rest."""
  store = _open(tmp_path / 'c')
  parts = []

  def interrupted(self, *arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    parts.append(self)
    return save(self, *arguments, **options)

  save = ocp.CompositeCheckpointHandler.async_save
  handler = signal.default_int_handler
  signal.signal(signal.SIGINT, handler)  # a run in the background may have begun with SIGINT ignored
  with monkeypatch.context() as patch:
    patch.setattr(ocp.CompositeCheckpointHandler, 'async_save', interrupted)
    with pytest.raises(KeyboardInterrupt):
      store.save(1, _state(1), {}, {'next_index': 1}, {})
  assert parts and signal.getsignal(signal.SIGINT) is handler
  store.close()
  assert [path.name for path in (tmp_path / 'c').iterdir()] == ['1']
  store = _open(tmp_path / 'c')
  assert int(store.restore(store.latest(), _state(0), {})[0]['step']) == 1
  store.close()


def test_another_shape_is_refused_in_one_line(tmp_path):
  store = _open(tmp_path / 'c')
  store.save(1, _state(1), {}, {}, {})
  store.wait()
  with pytest.raises(SSRError, match='does not fit the config'):
    store.restore(1, {'other': jnp.zeros(3)}, {})
  store.close()


def test_a_half_written_checkpoint_is_never_chosen(tmp_path):
  """A copy of a real one under the name that orbax writes to before it renames, and an empty folder of that kind."""
  store = _open(tmp_path / 'c')
  store.save(3, _state(3), {}, {}, {})
  store.close()
  (tmp_path / 'c' / '7.orbax-checkpoint-tmp').mkdir()
  (tmp_path / 'c' / '9.orbax-checkpoint-tmp-12345').mkdir()
  store = _open(tmp_path / 'c')
  assert store.latest() == 3
  store.close()


_FULL = """
import pathlib, resource, signal, sys
import jax.numpy as jnp
import numpy as np
from ssr_jax.training import checkpoint
from ssr_jax.types import SSRError
count, limit = int(sys.argv[2]), int(sys.argv[3])
store = checkpoint.Checkpoints(pathlib.Path(sys.argv[1]), 2, 'psnr', True)
# 1 MB that does not compress, in so many arrays: each one fails
noise = {f'w{i}': jnp.asarray(np.random.default_rng(i).normal(size=((1 << 18) // count,)), jnp.float32)
         for i in range(count)}
store.save(1, noise, {}, {}, {})
store.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
  store.save(2, {name: array + 1 for name, array in noise.items()}, {}, {}, {})
  store.wait()
except SSRError as error:
  print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(
  not hasattr(resource, 'RLIMIT_FSIZE') or not hasattr(signal, 'SIGXFSZ'), reason='no file size limit'
)
@pytest.mark.parametrize('count, limit', [(1, 100_000), (64, 1_000), (64, 10_000)])
def test_a_full_disk_is_one_line_and_keeps_the_last_good_one(tmp_path, count, limit):
  """A limit on the size of files stands for the full disk: the same system call fails, for a like reason."""
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    [sys.executable, '-c', _FULL, str(tmp_path / 'c'), str(count), str(limit)], capture_output=True, text=True, env=env
  )
  assert 'could not be written' in done.stdout and 'step 1 is the last good one' in done.stdout, done.stderr[-2000:]
  assert 'Traceback' not in done.stderr and 'Error' not in done.stderr, done.stderr[-2000:]
  assert [p.name for p in (tmp_path / 'c').iterdir()] == ['1']
  store = _open(tmp_path / 'c')
  assert store.latest() == 1
  size = (1 << 18) // count
  state, *_ = store.restore(1, {f'w{i}': jax.ShapeDtypeStruct((size,), jnp.float32) for i in range(count)}, {})
  for i in range(count):
    np.testing.assert_array_equal(state[f'w{i}'], np.random.default_rng(i).normal(size=size).astype(np.float32))
  store.close()


def test_other_errors_in_callbacks_are_told(monkeypatch):
  told = []
  monkeypatch.setattr(sys, 'unraisablehook', told.append)
  disk.tell_once()
  disk.tell_once()
  kept = [RuntimeError('another'), ValueError('Event loop is closed')]
  for error in (kept[0], RuntimeError('Event loop is closed'), kept[1]):
    sys.unraisablehook(types.SimpleNamespace(exc_value=error))
  assert [found.exc_value for found in told] == kept


def test_sigterm_is_a_mark_that_the_loop_reads():
  with signals.Preemption() as preemption:
    assert not preemption.reached(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.reached(2)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
