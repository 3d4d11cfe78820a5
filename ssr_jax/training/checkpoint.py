"""Atomic, asynchronous checkpoints with orbax, and stopping on preemption."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import pathlib
import signal
import threading
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ssr_jax.types import SSRError

Tree = Any

PREEMPTED = 75
"""Exit code of a run that was stopped and saved its state (EX_TEMPFAIL): run the same command again."""


class Checkpoints:
  """The checkpoints of one run: the last ones and the best one.

  A checkpoint is written to a temporary directory and then renamed, so that an interrupted one is never read. It holds
  the state, the trained parts' constants, the position in the data, the run's config and the metadata of an export.
  """

  def __init__(self, directory: pathlib.Path, keep: int, metric: str, higher_is_better: bool):
    """Opens a directory, which may be missing.

    Args:
      directory: absolute path, the same on every process.
      keep: number of latest checkpoints to keep.
      metric: the validation metric whose best checkpoint is also kept.
      higher_is_better: its direction.
    """
    policies = checkpoint_managers.AnyPreservationPolicy(
      [
        checkpoint_managers.preservation_policy.LatestN(keep),
        checkpoint_managers.preservation_policy.BestN(
          get_metric_fn=lambda metrics: metrics[metric],
          reverse=not higher_is_better,
          n=1,
          keep_checkpoints_without_metrics=False,
        ),
      ]
    )
    self._directory = directory
    self._manager = ocp.CheckpointManager(
      directory,
      options=ocp.CheckpointManagerOptions(preservation_policy=policies, enable_async_checkpointing=True),
    )

  def latest(self) -> int | None:
    """Step of the newest checkpoint, None if there is none."""
    return self._manager.latest_step()

  def save(
    self,
    step: int,
    state: Tree,
    constants: Tree,
    data: Mapping[str, Any],
    about: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Starts to write a checkpoint in the background; does nothing if the step has one.

    Args:
      step: number of steps done.
      state: the `TrainState`.
      constants: {part: constants} of the trained parts.
      data: the data iterator's position, for JSON.
      about: the run's config and the metadata of an export, for JSON.
      metrics: validation metrics at this step, if it was validated.

    Raises:
      SSRError: this checkpoint or the one before could not be written; earlier ones remain.
    """
    if step in self._manager.all_steps():
      return
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave({'state': state, 'constants': constants}),
      data=ocp.args.JsonSave(dict(data)),
      about=ocp.args.JsonSave(dict(about)),
    )
    with self._one_line_errors():
      self._manager.save(step, args=arguments, metrics=dict(metrics) if metrics else None)

  def restore(self, step: int, state: Tree, constants: Tree) -> tuple[Tree, Tree, dict[str, Any], dict[str, Any]]:
    """Reads a checkpoint onto the current mesh; it may have been written on another.

    Args:
      step: from `latest`.
      state: arrays or `jax.ShapeDtypeStruct`s with the shardings to read into.
      constants: likewise.

    Returns:
      state, constants, the data iterator's position, and `about` as given to `save`.

    Raises:
      SSRError: the checkpoint does not fit, for example because the config has changed.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, {'state': state, 'constants': constants})
    json = ocp.args.JsonRestore()
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(target), data=json, about=json)
    try:
      found = self._manager.restore(step, args=arguments)
    except (ValueError, KeyError, TypeError) as error:
      reason = ' '.join(str(error).split())[:300]
      raise SSRError(
        f'{self._directory}/{step}: does not fit the config ({reason}); go on with the config it was written with, '
        'or name another --workdir'
      ) from error
    return found['state']['state'], found['state']['constants'], found['data'], found['about']

  def wait(self) -> None:
    """Waits until everything is on disk; SSRError if it could not be written."""
    with self._one_line_errors():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then stops the writer's threads."""
    with self._one_line_errors():
      self._manager.close()

  @contextlib.contextmanager
  def _one_line_errors(self) -> Iterator[None]:
    """Turns the writer's errors, of this call or of the background since the last, into an SSRError of one line."""
    try:
      yield
    except Exception as error:
      if not _no_room(error):
        raise
      last = f'step {self.latest()} is the last good one' if self.latest() is not None else 'there is no good one yet'
      reason = ' '.join(str(error).split())[:200]
      raise SSRError(f'{self._directory}: a checkpoint could not be written ({reason}); {last}; make room') from error


def _no_room(error: BaseException | None) -> bool:
  """Whether a full disk, a quota or a size limit caused an error, which the writer wraps several times."""
  words = ('no space left', 'disk quota', 'file too large', 'enospc', 'edquot', 'efbig', 'resource_exhausted')
  while error is not None:
    if any(word in str(error).lower() for word in words):
      return True
    error = error.__cause__ or error.__context__
  return False


def read_weights(run: pathlib.Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any], int]:
  """Reads the averaged weights of a run's checkpoint to the host, from any mesh.

  Args:
    run: the workdir, or its folder of checkpoints.
    step: of the checkpoint; default the newest.

  Returns:
    {part: Flax variables}, `about` as given to `Checkpoints.save`, and the step.

  Raises:
    SSRError: there is no such checkpoint.
  """
  directory = run / 'checkpoints' if (run / 'checkpoints').is_dir() else run
  steps = sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit()) if directory.is_dir() else []
  if not steps or step not in (None, *steps):
    has = f'has those of steps {", ".join(map(str, steps))}' if steps else 'has none'
    raise SSRError(f'{run}: no checkpoint{"" if step is None else f" of step {step}"}; it {has}')
  step = steps[-1] if step is None else step
  json = ocp.JsonCheckpointHandler
  handlers = {'state': ocp.PyTreeCheckpointHandler(), 'data': json(), 'about': json()}
  with ocp.CheckpointManager(directory.absolute(), item_handlers=handlers) as manager:
    stored = manager.item_metadata(step)['state'].tree
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    stats = 'ema_stats' if 'ema_stats' in stored['state'] else 'stats'  # not averaged before 0.2
    wanted = {'state': {name: stored['state'][name] for name in ('ema', stats)}, 'constants': stored['constants']}
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), wanted)
    arguments = ocp.args.Composite(
      state=ocp.args.PyTreeRestore(
        wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
      ),
      about=ocp.args.JsonRestore(),
    )
    found = manager.restore(step, args=arguments)
  tree, about = jax.device_get(found['state']), found['about']
  return collect(tree['state']['ema'], tree['state'][stats], tree['constants'], about['export']['parts']), about, step


def collect(params: Tree, stats: Tree, constants: Tree, parts) -> dict[str, Any]:
  """{part: Flax variables} without empty collections."""
  return {
    part: {
      name: tree[part]
      for name, tree in (('params', params), ('batch_stats', stats), ('constants', constants))
      if tree.get(part)
    }
    for part in parts
  }


class Preemption:
  """Detects preemption: SIGTERM on this process or on any process of the run.

  Use as a context. The signal only sets a flag; the loop asks `reached` between steps, saves and exits with
  `PREEMPTED`.
  """

  def __init__(self):
    self._asked = False
    self._former: Callable | int | None = None

  def __enter__(self) -> 'Preemption':
    # With several processes jax's coordination service handles the signal and agrees on a step for all of them.
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
      self._former = signal.signal(signal.SIGTERM, self._mark)
    return self

  def __exit__(self, *unused) -> None:
    if self._former is not None:
      signal.signal(signal.SIGTERM, self._former)

  def _mark(self, *unused) -> None:
    self._asked = True

  def reached(self, step: int) -> bool:
    """Whether to save and stop before this step; the same on all processes."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked
