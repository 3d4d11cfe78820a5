"""How long programs take and how much memory they need, for benchmarks; and a train step to be timed."""

from collections.abc import Callable
import pathlib
import resource
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def measure(call: Callable[[], Any], repeat: int) -> dict[str, float]:
  """Seconds of the first call and the median of `repeat` later ones; JAX arrays are waited for."""

  def once():
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin

  first = once()
  return {'first': first, 'later': statistics.median(once() for _ in range(repeat))}


def train_step(config) -> tuple[Callable[[], Any], jax.sharding.Mesh, int]:
  """The step of train.py on random pictures, on all devices at the config's batch size.

  Weights are those of a start from scratch where they are trained and zero where they are not: time does not depend on
  them.

  Returns:
    step: runs one step and returns the new state and scalars; the mesh; and the operations of the model in a step.
  """
  # Here and not above: the optimiser's packages would count in the memory of programs that do not train.
  from ssr_jax.training import flops, shapes, sharding
  from ssr_jax.training import state as state_lib

  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
  stage, params, stats, frozen = shapes.of_run(config)
  shape = shapes.of_batch(stage, config, config.train.batch_size)
  work = flops.of_step(config, params, stats, frozen, shape)
  program = state_lib.program(stage, config, mesh, params, stats, frozen)

  state = jax.jit(program.create, out_shardings=program.places)(*stage.init(jax.random.key(0))[:2])
  zeros = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), frozen)
  frozen = jax.jit(zeros, out_shardings=program.frozen_places)()
  rng = np.random.default_rng(0)
  draw = lambda x: (rng.integers(256, size=x.shape) if x.dtype.kind in 'ui' else rng.random(x.shape)).astype(x.dtype)
  batch = sharding.put_whole(jax.tree.map(draw, shape), mesh)
  seed = sharding.put(np.int32(0), sharding.replicated(mesh))

  def step():
    nonlocal state
    state, values = program.step(state, frozen, batch, seed)
    return state, values

  return step, mesh, work


def peak_device_memory() -> int | None:
  """Most bytes that were in use at once on a device with memory of its own, of the fullest device; None for a CPU."""
  found = [device.memory_stats() for device in jax.local_devices()]
  return max((stats['peak_bytes_in_use'] for stats in found if stats), default=None)


def peak_memory() -> float:
  """Most bytes this process held at once.

  On Linux ru_maxrss starts at what the parent held when it forked, so that a large parent would be counted. VmHWM
  starts at zero with the program.
  """
  status = pathlib.Path('/proc/self/status')
  if status.exists():
    line = next(line for line in status.read_text().splitlines() if line.startswith('VmHWM:'))
    return int(line.split()[1]) * 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
