"""Flags that contradict each other are told before anything waits for another process."""

from types import SimpleNamespace

import jax
import pytest

from ssr_jax.training import distributed
from ssr_jax.types import SSRError


def _options(**given):
  return SimpleNamespace(**{'coordinator': '', 'processes': 0, 'index': 0, 'auto': False} | given)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
  """What would be asked of jax; no process is joined."""
  for name in ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE', 'TPU_WORKER_HOSTNAMES'):
    monkeypatch.delenv(name, raising=False)
  found = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda **arguments: found.append(arguments))
  return found


@pytest.mark.parametrize(
  'given,expected',
  [
    (dict(coordinator='a:1', processes=2, index=2), 'config.distributed.index=2: must be 0 to 1'),
    (dict(coordinator='a:1', processes=2, index=-1), 'config.distributed.index=-1'),
    (dict(coordinator='a:1'), 'config.distributed.index=0'),
    (dict(processes=2), 'config.distributed.coordinator .* is not'),
  ],
)
def test_flags_that_do_not_fit_are_named(given, expected, calls):
  with pytest.raises(SSRError, match=expected):
    distributed.start(_options(**given))
  assert not calls


def test_one_process_joins_nobody_and_several_tasks_are_seen(calls, monkeypatch):
  distributed.start(_options())
  monkeypatch.setenv('SLURM_NTASKS', '1')
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'only-one')
  distributed.start(_options())
  assert not calls
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')
  distributed.start(_options())
  monkeypatch.delenv('TPU_WORKER_HOSTNAMES')
  monkeypatch.setenv('SLURM_NTASKS', '4')
  distributed.start(_options())
  assert [sorted(found) for found in calls] == [['initialization_timeout']] * 2  # jax finds the rest itself
  distributed.start(_options(coordinator='a:1', processes=3, index=2))
  assert calls[-1] == calls[0] | {'coordinator_address': 'a:1', 'num_processes': 3, 'process_id': 2}


def test_processes_that_do_not_find_each_other_are_one_line(monkeypatch):
  def fail(**unused):
    raise RuntimeError('deadline\nexceeded')

  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  with pytest.raises(SSRError, match='did not find each other .deadline exceeded.'):
    distributed.start(_options(auto=True))
