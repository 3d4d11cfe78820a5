"""Joining the processes of a run, one per host, and what they agree on."""

from collections.abc import Callable
import json
import os
from typing import Any

import jax
import numpy as np

from ssr_jax.types import SSRError

_TIMEOUT = 300
_MESSAGE = 4096  # bytes of what processes agree on


def start(options) -> None:
  """Joins the run's other processes, if any; call it before the first array is made.

  With `coordinator` the options say how; with `auto`, or in an environment with several tasks (SLURM, Open MPI, TPU
  pods under GKE), jax reads the environment. A second call does nothing.

  Args:
    options: the config's `distributed` section: coordinator ('host:port' of process 0), processes, index, auto.

  Raises:
    SSRError: contradictory options, or processes that cannot connect.
  """
  if jax.distributed.is_initialized():
    return
  arguments = {}
  if options.coordinator:
    if not 0 <= options.index < options.processes:
      raise SSRError(
        f'config.distributed.index={options.index}: must be 0 to {options.processes - 1}, one for each of '
        f'config.distributed.processes={options.processes}'
      )
    arguments = dict(coordinator_address=options.coordinator, num_processes=options.processes, process_id=options.index)
  elif options.processes > 1:
    raise SSRError('config.distributed.processes is set, but config.distributed.coordinator (host:port) is not')
  elif options.index:
    raise SSRError('config.distributed.index is set, but config.distributed.coordinator (host:port) is not')
  elif not (options.auto or _several_tasks()):
    return
  try:
    jax.distributed.initialize(**arguments, initialization_timeout=_TIMEOUT)
  except (RuntimeError, ValueError) as error:
    reason = ' '.join(str(error).split())[:300]
    raise SSRError(f'config.distributed: the processes did not find each other ({reason})') from error


def agreed(value: Callable[[], Any]) -> Any:
  """What process 0 finds, a JSON value, on all processes; an SSRError there is one on all."""
  if jax.process_count() == 1:
    return value()
  from jax.experimental import multihost_utils

  found: dict[str, Any] = {}
  if jax.process_index() == 0:
    try:
      found = {'value': value()}
    except SSRError as error:
      found = {'error': str(error)[: _MESSAGE // 4]}
  message = np.frombuffer(json.dumps(found).encode().ljust(_MESSAGE), np.uint8)
  with jax.transfer_guard('allow'):
    message = np.asarray(multihost_utils.broadcast_one_to_all(message))
  found = json.loads(message.tobytes())
  if 'error' in found:
    raise SSRError(found['error'])
  return found['value']


def _several_tasks() -> bool:
  """Whether the environment names more than one task."""
  if any(int(os.environ.get(name, '1') or 1) > 1 for name in ('SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')):
    return True
  return len([host for host in os.environ.get('TPU_WORKER_HOSTNAMES', '').split(',') if host]) > 1
