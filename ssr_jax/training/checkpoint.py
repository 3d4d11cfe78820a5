"""Atomic, asynchronous checkpoints with orbax."""

from collections.abc import Iterator, Mapping
import contextlib
import itertools
import pathlib
import shutil
import sys
import threading
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ssr_jax.training import disk, distributed, manifest, signals
from ssr_jax.types import SSRError

Tree = Any

_PATIENCE = 10.0  # seconds for the other arrays' writers, once one has failed


class Checkpoints:
  """The checkpoints of one run: the last ones and the best one.

  A checkpoint is written to a temporary directory and then renamed, so that an interrupted one is never read. It holds
  the state, the trained parts' constants, the position in the data, the run's config and the metadata of an export, and
  a `manifest` of all of it. Older ones are deleted only once a newer one was read back and found whole. A damaged one
  is never deleted and never read: it is renamed to STEP.damaged, and the newest whole one takes its place.
  """

  def __init__(self, directory: pathlib.Path, keep: int, metric: str, higher_is_better: bool):
    """Opens a directory, which may be missing; verifies the newest checkpoint and sets damaged ones aside.

    Args:
      directory: absolute path, the same on every process.
      keep: number of latest checkpoints to keep.
      metric: the validation metric whose best checkpoint is also kept.
      higher_is_better: its direction.

    Raises:
      SSRError: there are checkpoints, and all of them are damaged.
    """
    self._directory, self._keep, self._metric, self._higher = directory, keep, metric, higher_is_better
    self._latest: int | None = distributed.agreed(lambda: _set_aside(directory))
    self._unverified: int | None = None
    self._waiting = False
    disk.tell_once()
    self._manager = ocp.CheckpointManager(
      directory,
      # This class deletes old checkpoints: orbax does it before anything has read the new one.
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.preservation_policy.PreserveAll(), enable_async_checkpointing=True
      ),
    )
    self._figures = {step: _figure(directory / str(step), metric) for step in self._manager.all_steps()}
    _opened.add(self)

  def latest(self) -> int | None:
    """Step of the newest checkpoint, which is whole; None if there is none."""
    return self._latest

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
      metrics: validation metrics at this step, if it was validated. With one that is not finite, the checkpoint does
        not compete for the best.

    Raises:
      SSRError: this checkpoint or the one before could not be written or read back, or weights or averages are not
        finite; earlier ones remain.
    """
    if step in self._manager.all_steps():
      return
    self.wait()
    tree = {'state': state, 'constants': constants}
    bad = manifest.not_finite(tree)
    if bad:
      raise SSRError(
        f'step {step}: {bad.removeprefix("state/")} is not finite: nothing of this step is saved or exported; '
        f'{self._good()}; go on from it with a lower train.learning_rate'
      )
    if metrics and not manifest.finite(metrics):
      metrics = None
    facts = manifest.make(tree, data, about, metrics)
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(tree),
      data=ocp.args.JsonSave(dict(data)),
      about=ocp.args.JsonSave(dict(about)),
      **{manifest.NAME: ocp.args.JsonSave(facts)},
    )
    self._unverified = step
    with signals.uninterrupted(), self._one_line_errors():
      self._manager.save(step, args=arguments)

  def restore(self, step: int, state: Tree, constants: Tree) -> tuple[Tree, Tree, dict[str, Any], dict[str, Any]]:
    """Reads a checkpoint onto the current mesh; it may have been written on another.

    Args:
      step: from `latest`.
      state: arrays or `jax.ShapeDtypeStruct`s with the shardings to read into.
      constants: likewise.

    Returns:
      state, constants, the data iterator's position, and `about` as given to `save`.

    Raises:
      SSRError: the checkpoint does not fit, for example because the config has changed; or what was read is not what
        was saved.
    """
    where = self._directory / str(step)
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, {'state': state, 'constants': constants})
    try:
      facts = manifest.read_shapes(where)
    except manifest.Damaged as error:
      raise SSRError(f'{where}: damaged ({error}); run the same command again') from error
    self._check_fit(where, target, facts.arrays)  # orbax does not compare shapes, and converts types
    found = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))['state']
    if facts.checksums is not None and manifest.checksums(found) != facts.checksums:
      raise SSRError(f'{where}: what was read is not what was saved; run the same command again')
    return found['state'], found['constants'], facts.data, facts.about

  def _check_fit(self, where: pathlib.Path, target: Tree, stored: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """SSRError unless a checkpoint has the arrays that the config makes."""
    ours = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in manifest.names(target).items()}
    for name in sorted(ours.keys() | stored.keys()):
      if ours.get(name) != stored.get(name):
        a, b = (' '.join(map(str, arrays.get(name, ('absent',)))) for arrays in (stored, ours))
        raise SSRError(
          f'{where}: does not fit the config ({name} is {a}, the config says {b}); go on with the config it was '
          'written with, or name another --workdir'
        )

  @property
  def busy(self) -> bool:
    """Whether a checkpoint is being written, verified or deleted."""
    return self._waiting or self._manager.is_saving_in_progress()

  def wait(self) -> None:
    """Waits until the last checkpoint is on disk and verified, then deletes those that it supersedes.

    Raises:
      SSRError: it could not be written, or does not read back as it was.
    """
    self._waiting = True
    try:
      self._wait()
    finally:
      self._waiting = False

  def _wait(self) -> None:
    with self._one_line_errors():
      self._manager.wait_until_finished()
    step, self._unverified = self._unverified, None
    if step is None:
      return
    reason = distributed.agreed(lambda: _reason(self._directory / str(step)))
    if reason is not None:
      raise SSRError(f'{self._directory}/{step}: written, but it does not read back ({reason}); {self._good()}')
    self._latest, self._figures[step] = step, _figure(self._directory / str(step), self._metric)
    steps = sorted(self._manager.all_steps())
    kept = {*steps[-self._keep :], self._best()}
    for old in steps:
      if old not in kept:
        self._manager.delete(old)
        self._figures.pop(old, None)

  def close(self) -> None:
    """Waits, then stops the writer's threads."""
    try:
      self.wait()
    finally:
      _opened.discard(self)
      with self._one_line_errors():
        self._manager.close()

  def _best(self) -> int | None:
    """Step of the checkpoint with the best figure, of equal ones the newest."""
    known = [(value if self._higher else -value, step) for step, value in self._figures.items() if value is not None]
    return max(known)[1] if known else None

  def _good(self) -> str:
    return 'there is no good one yet' if self._latest is None else f'step {self._latest} is the last good one'

  def _withdraw(self) -> None:
    """Removes what a failed save has written, which takes up the room."""
    with contextlib.suppress(Exception):  # the failure is being told
      self._manager.wait_until_finished()
    end = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():  # which the manager does not know where `save` itself failed
      if type(thread).__module__.startswith('orbax.'):
        threading.Thread.join(thread, max(0.0, end - time.monotonic()))  # its own would raise the thread's error
    if jax.process_index() == 0:
      for path in self._directory.glob('*.orbax-checkpoint-tmp*'):
        shutil.rmtree(path, ignore_errors=True)

  @contextlib.contextmanager
  def _one_line_errors(self) -> Iterator[None]:
    """Turns the writer's errors, of this call or of the background since the last, into an SSRError of one line."""
    try:
      yield
    except Exception as error:
      self._unverified = None
      if not disk.no_room(error):
        raise
      self._withdraw()
      reason = ' '.join(str(error).split())[:200]
      raise SSRError(
        f'{self._directory}: a checkpoint could not be written ({reason}); {self._good()}; make room'
      ) from error


_opened: set[Checkpoints] = set()


def busy() -> bool:
  """Whether this process is writing, verifying or deleting a checkpoint, which should not be cut short."""
  return any(store.busy for store in tuple(_opened))


def _steps(directory: pathlib.Path) -> list[int]:
  """Steps that have a directory, or whatever else is named so, the newest first."""
  if not directory.is_dir():
    return []
  return sorted((int(p.name) for p in directory.iterdir() if p.name.isdigit()), reverse=True)


def _reason(directory: pathlib.Path, all_of_it: bool = True) -> str | None:
  """Why a directory is not a whole checkpoint; None if it is one."""
  try:
    (manifest.read if all_of_it else manifest.read_facts)(directory)
  except manifest.Damaged as error:
    return str(error)
  return None


def _figure(directory: pathlib.Path, metric: str) -> float | None:
  try:
    return (manifest.read_facts(directory).metrics or {}).get(metric)
  except manifest.Damaged:
    return None


def _set_aside(directory: pathlib.Path) -> int | None:
  """Renames damaged checkpoints and says so; returns the step of the newest whole one.

  Data of older ones than the newest whole one is not read: they are when their turn comes.

  Raises:
    SSRError: all are damaged. Then nothing is renamed: the next run would start from scratch.
  """
  damaged: dict[int, str] = {}
  newest = None
  for step in _steps(directory):
    reason = _reason(directory / str(step), all_of_it=newest is None)
    if reason is not None:
      damaged[step] = reason
    elif newest is None:
      newest = step
  places = {step: directory / str(step) for step in damaged}
  lost = [step for step, path in places.items() if path.is_dir() and any(path.iterdir())]
  if newest is None and lost:
    raise SSRError(
      f'{directory}: no checkpoint is whole (step {lost[0]}: {damaged[lost[0]]}); put back a copy, or name another '
      '--workdir to start again'
    )
  for step, reason in damaged.items():
    aside = directory / f'{step}.damaged'
    for i in itertools.count(2):
      if not aside.exists():
        break
      aside = directory / f'{step}.damaged-{i}'
    (directory / str(step)).rename(aside)
    rest = '' if newest is None or newest > step else f'; going on from step {newest}'
    _say(f'{directory}/{step}: not a whole checkpoint ({reason}); renamed to {aside.name}{rest}')
  if newest is not None and manifest.read_facts(directory / str(newest)).checksums is None:
    _say(f'{directory}/{newest}: written before checkpoints had a manifest; it is readable, but cannot be verified')
  return newest


def _say(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def read_weights(run: pathlib.Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any], int]:
  """Reads the averaged weights of a run's checkpoint to the host, from any mesh.

  Args:
    run: the workdir, or its folder of checkpoints.
    step: of the checkpoint; default the newest.

  Returns:
    {part: Flax variables}, `about` as given to `Checkpoints.save`, and the step.

  Raises:
    SSRError: there is no such checkpoint, or none is whole. A damaged newest one is passed over, with a line.
  """
  directory = run / 'checkpoints' if (run / 'checkpoints').is_dir() else run
  steps = _steps(directory)
  if not steps or step not in (None, *steps):
    has = f'has those of steps {", ".join(map(str, reversed(steps)))}' if steps else 'has none'
    raise SSRError(f'{run}: no checkpoint{"" if step is None else f" of step {step}"}; it {has}')
  facts, step = _read_newest(directory, steps if step is None else [step])
  if facts.checksums is None:
    _say(f'{directory}/{step}: written before checkpoints had a manifest; it is readable, but cannot be verified')
  where = (directory / str(step)).absolute()
  stored = manifest.metadata(where)
  stats = 'ema_stats' if 'ema_stats' in stored['state'] else 'stats'  # not averaged before 0.2
  wanted = {'state': {name: stored['state'][name] for name in ('ema', stats)}, 'constants': stored['constants']}
  tree = manifest.load(where, wanted)
  parts = facts.about['export']['parts']
  return collect(tree['state']['ema'], tree['state'][stats], tree['constants'], parts), facts.about, step


def _read_newest(directory: pathlib.Path, steps: list[int]) -> tuple[manifest.Contents, int]:
  """The newest whole checkpoint of these, and its step; says which damaged ones it passed over."""
  for step in steps:
    try:
      return manifest.read((directory / str(step)).absolute()), step
    except manifest.Damaged as error:
      line = f'{directory}/{step}: not a whole checkpoint ({error})'
      if step == steps[-1]:
        raise SSRError(f'{line}; name another run or step') from error
      _say(f'{line}; reading an earlier one')
  raise AssertionError('the last step returns or raises')


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
