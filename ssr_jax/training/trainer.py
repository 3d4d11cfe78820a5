"""The training loop of all stages of all systems: `train(config, workdir)`.

In this order: devices, data, state, programs, loop, export.
"""

from collections.abc import Mapping
import functools
import json
import pathlib
import platform
import sys
from typing import Any

import jax
import numpy as np

from ssr_jax import xla
from ssr_jax.data import loader
from ssr_jax.image import files
from ssr_jax.systems.base import Stage, Tree
from ssr_jax.training import (
  checkpoint,
  data,
  distributed,
  export,
  fields,
  flops,
  lock,
  logging,
  manifest,
  resume,
  sharding,
  signals,
  stages,
)
from ssr_jax.training import state as state_lib
from ssr_jax.training.start import check_same_meaning, start_from
from ssr_jax.types import SSRError


def train(config: Any, workdir: str) -> int:
  """Trains one stage; returns the exit code: 0, or `signals.PREEMPTED` if it was stopped by a signal.

  Args:
    config: an ml_collections config with the fields of `configs.common.base`.
    workdir: directory of checkpoints, scalars, pictures and the exported model. A stopped run continues from it.

  Raises:
    SSRError: an invalid field, photo or weight file.
  """
  fields.check(config)
  xla.keep_freed_memory()
  xla.enable_compilation_cache()
  jax.config.update('jax_debug_nans', config.debug)
  jax.config.update('jax_enable_checks', config.debug)

  # -- Devices ---------------------------------------------------------------------------------------------------------
  distributed.start(config.distributed)
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.train.batch_size, config.train.accumulate, mesh)
  stage = stages.build(config)
  stages.learned_files(stage)  # before the photos are read, which can take long

  place = pathlib.Path(workdir).absolute()
  with lock.held(place):
    # -- Data and state ------------------------------------------------------------------------------------------------
    run = Run(config, place, stage, mesh, data.read(config, stage, mesh))
    try:
      # -- Loop --------------------------------------------------------------------------------------------------------
      if not run.loop():
        return signals.PREEMPTED

      # -- Export ------------------------------------------------------------------------------------------------------
      run.export()
    except BaseException:  # Ctrl-C too
      run.abandon()
      raise
  return 0


# -- The run -----------------------------------------------------------------------------------------------------------


class Run:
  """A run of a stage: its state on the devices, its compiled programs and its files."""

  def __init__(self, config: Any, workdir: pathlib.Path, stage: Stage, mesh: sharding.Mesh, found: data.Data):
    """Makes or restores the state."""
    self.config, self.workdir, self.stage, self.mesh, self.data = config, workdir, stage, mesh, found
    self.is_primary = jax.process_index() == 0  # the process that writes and prints
    settings = config.train
    self.store = checkpoint.Checkpoints(workdir / 'checkpoints', settings.keep, stage.metric, stage.higher_is_better)
    step = self.store.latest()
    if step is not None and step > settings.steps:
      raise SSRError(
        f'{workdir}: its last checkpoint is of step {step}, beyond train.steps={settings.steps}; name another '
        '--workdir, or take its weights with `ssr export`'
      )
    self.resumed, self.first_step, self.position = step is not None, step or 0, None
    self.changes: list[str] = []
    self.start = start = start_from(config, stage, lambda: found.first, self.resumed)
    self.content = {'photos': found.fingerprint, 'frozen': start.frozen_files, 'learned': start.learned_files}
    host = jax.tree.map(np.asarray, (start.params, start.stats, start.constants))
    params, stats, self.constants = host
    frozen = start.frozen | {'constants': self.constants}
    self.program = state_lib.program(stage, config, mesh, params, stats, frozen)
    self.state = jax.jit(self.program.create, out_shardings=self.program.places)(params, stats)
    if step is not None:
      self.state, self.constants, self.position, facts = self.store.restore(step, self.state, self.constants)
      self._check_same_run(facts)
      recorded = facts['export']['training']
      start.origin = f'checkpoint {workdir}/checkpoints/{step}'
      start.inherited = facts['inherited'] if 'inherited' in facts else facts['brought']  # its name before 0.2
      start.earlier, start.parent = recorded.get('earlier_steps', {}), recorded['started_from']
    self.frozen = sharding.put(frozen | {'constants': self.constants}, self.program.frozen_places)
    self._compile()
    self._open(sum(x.size for part in stage.trains for x in jax.tree.leaves(params[part])))

  def _check_same_run(self, facts: Mapping[str, Any]) -> None:
    """SSRError where the run that goes on from a checkpoint would not be the one that its log describes."""
    changed = resume.changes(self.workdir, facts.get('config', {}), json.loads(self.config.to_json_best_effort()))
    check_same_meaning(str(self.workdir), self.config, self.stage, facts['export'])  # a module's defaults, too
    resume.check_content(self.workdir, facts.get('content', {}), self.content)
    self.changes = facts.get('changes', []) + [f'step {self.first_step}: {change}' for change in changed]
    if changed and self.is_primary:
      print(f'goes on with {", ".join(changed)}', flush=True)

  def _compile(self) -> None:
    """Makes programs for the mesh from the stage's functions; they compile at their first call."""
    whole = sharding.replicated(self.mesh)

    def program(method):
      def call(params, stats, frozen, batch, key=None):
        return method(stages.context(params, stats, frozen, key), batch)

      return xla.jit(state_lib.with_mesh(self.mesh, call), out_shardings=whole)

    stage = self.stage
    self._validate, self._figures, self._measure = map(program, (stage.validate, stage.figures, stage.export))
    self._gather = jax.jit(lambda tree: tree, out_shardings=whole)
    # Other inputs of steps are transferred once: in the loop an implicit transfer is an error.
    self.held = [sharding.put_whole(batch, self.mesh) for batch in self.data.held]
    count = len(self.held)
    self.keys = jax.jit(lambda: [jax.random.key(i) for i in range(count)], out_shardings=whole)()
    self.seed = sharding.put(np.int32(self.config.train.seed), whole)

  def _open(self, parameters: int) -> None:
    """Opens the run's files, prints its description and validates the weights that it starts from."""
    settings, workdir = self.config.train, self.workdir
    if self.is_primary:
      workdir.mkdir(parents=True, exist_ok=True)
      _write(workdir / 'config.json', self.config.to_json_best_effort(indent=2))
      photos = len(self.data.photos)
      where = f'{parameters:,} parameters from {self.start.origin}; {photos} photos; step {self.first_step}'
      print(f'{self.config.stage}: {where}', flush=True)
      print(f'{self.mesh.size} x {self.device}, mesh {dict(self.mesh.shape)}', flush=True)
    self.scalars = logging.Scalars(workdir, self.first_step) if self.is_primary else logging.Nothing()
    self.progress = logging.Progress(settings.steps, self.first_step, settings.batch_size, self._peak_share())
    self.iterator: loader.Batches | None = None
    self.skipped: list[int] = []
    self.validation: dict[str, float] = {}
    self.before = self._validate_start()

  @property
  def device(self) -> str:
    """Kind of the mesh's devices."""
    return self.mesh.devices.flat[0].device_kind

  def _peak_share(self) -> float:
    """Seconds of a step's matrix products at the peak of all chips; 0 if the chips' peak is unknown."""
    peak = flops.peak(self.mesh.devices.flat[0])
    if not peak:
      return 0.0
    batch = jax.eval_shape(lambda: self.data.first)
    return flops.of_step(self.config, self.state.params, self.state.stats, self.frozen, batch) / peak / self.mesh.size

  def _validate_start(self) -> dict[str, float] | None:
    """Validation metrics of the weights that the run started from, for comparison; None without `config.init_from`."""
    file = self.workdir / 'before.json'
    before = None
    if self.config.init_from and not self.resumed:
      before = self.validate()
      self.scalars.write(0, before, 'validation/')
    elif self.resumed and file.exists():
      before = logging.figures(file.read_bytes())
      if before is None and self.is_primary:
        print(f'{file}: damaged; not compared with the weights that the run started from', file=sys.stderr, flush=True)
    if before and self.is_primary:
      _write(file, json.dumps(before))
      print('before: ' + _words(before), flush=True)
    return before

  @property
  def _averages(self) -> tuple[Tree, Tree]:
    """The moving averages of parameters and batch statistics, which are validated and exported."""
    return self.state.ema, self.state.ema_stats

  def validate(self) -> dict[str, float]:
    """Mean validation scalars over the held-out batches."""
    pairs = zip(self.held, self.keys, strict=True)
    rows = jax.device_get([self._validate(*self._averages, self.frozen, batch, key) for batch, key in pairs])
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

  def about(self, step: int) -> dict[str, Any]:
    """Metadata of an export of the current weights, as for `export.write`."""
    measured = self.start.inherited
    if not measured:
      found = jax.device_get(self._measure(*self._averages, self.frozen, self.held[0]))
      measured = jax.tree.map(lambda x: x.tolist(), found)
    config, trained = self.config, self.stage.trains
    training = {
      'stage': config.stage,
      'steps': step,
      **({'earlier_steps': self.start.earlier} if self.start.earlier else {}),
      'batch_size': config.train.batch_size,
      'photos': len(self.data.photos),
      **({'changes': self.changes} if self.changes else {}),
      'started_from': self.start.parent,
      'machine': f'{self.mesh.size} x {self.device}, {platform.machine()}',
      'validation': {name: round(value, 6) for name, value in self.validation.items()},
    }
    return {
      'name': config.name,
      'system': config.system,
      'parts': {part: config.model[part].to_dict() | measured.get(part, {}) for part in trained},
      'sections': dict(self.stage.sections),
      'training': training,
    }

  def save(self, step: int, iterator: loader.Batches, validated: bool) -> None:
    """Starts to write a checkpoint."""
    facts = {
      'config': json.loads(self.config.to_json_best_effort()),
      'export': self.about(step),
      'inherited': self.start.inherited,
      'content': self.content,
      'changes': self.changes,
    }
    if validated and not manifest.finite(self.validation) and self.is_primary:
      print(f'step {step}: validation is not finite; this checkpoint does not compete for the best', flush=True)
    metrics = self.validation if validated else None
    self.store.save(step, self.state, self.constants, iterator.get_state(), facts, metrics)

  def report(self, step: int, values: Mapping[str, jax.Array], records: np.ndarray) -> None:
    """Handles a finished step: counts it if it was skipped, and writes its scalars at the logging interval.

    Raises:
      SSRError: more than `train.max_skipped` steps were not finite.
    """
    limit = self.config.train.max_skipped
    if not jax.device_get(values['finite']):
      self.skipped.append(step)
      names = ', '.join(self.data.name(int(i)) for i in records)
      if self.is_primary:
        self.scalars.write(step, {'skipped': len(self.skipped)})
        print(f'step {step}: loss or gradient is not finite; skipped. It saw {names}', flush=True)
      if len(self.skipped) > limit:
        raise SSRError(
          f'steps {self.skipped}: loss or gradient is not finite, more than train.max_skipped={limit} '
          f'times; the last one saw {names}; lower train.learning_rate or look at these records'
        )
    if step % self.config.train.log_every == 0 and self.is_primary:
      floats = {name: float(value) for name, value in jax.device_get(dict(values)).items() if name != 'finite'}
      self.scalars.write(step, floats | self.progress.report(step, floats))

  def loop(self) -> bool:
    """Runs the steps, with validation, figures, checkpoints and logging; False if it was stopped by a signal."""
    config, settings = self.config, self.config.train
    read = config.data
    self.iterator = iterator = loader.batches(
      self.data.batches, self.first_step, read.threads, read.prefetch, read.workers
    )
    if self.position:
      iterator.set_state(self.position)
    pending, stopped, step = None, False, self.first_step
    profile = tuple(config.profile)
    with signals.Preemption() as preemption, jax.transfer_guard('disallow'):
      for step in range(self.first_step, settings.steps + 1):
        last, fresh = step == settings.steps, step == self.first_step
        due = functools.partial(_due, step, last, fresh)
        validated = due(settings.validate_every)
        if validated or (last and not self.validation):
          self.validation = self.validate()
          self.scalars.write(step, self.validation, 'validation/')
          if self.is_primary:
            print(f'step {step}: validation ' + _words(self.validation), flush=True)
        if due(settings.figures_every):
          figures = jax.device_get(self._figures(*self._averages, self.frozen, self.held[0], self.keys[0]))
          self.scalars.picture(step, logging.image_grid(figures))
        stopped = preemption.reached(step) and not last
        if not fresh and (stopped or due(settings.checkpoint_every)):
          self.save(step, iterator, validated)
        if last or stopped:
          break
        if profile and step == self.first_step + profile[0]:
          jax.profiler.start_trace(self.workdir / 'profile')
        batch = next(iterator)
        records = batch.pop('record')
        self.state, values = self.program.step(self.state, self.frozen, sharding.put_batch(batch, self.mesh), self.seed)
        if pending:
          self.report(*pending)
        pending = step + 1, values, records
        if profile and step + 1 == self.first_step + sum(profile):
          jax.block_until_ready(self.state)
          jax.profiler.stop_trace()
      if pending:
        self.report(*pending)
    iterator.close()
    self.store.wait()
    self.scalars.close()
    if stopped and self.is_primary:
      saved = f'saved step {step}' if step > self.first_step or self.resumed else 'nothing was trained yet'
      print(f'asked to stop: {saved}; run the same command again to go on', flush=True)
    return not stopped

  def abandon(self) -> None:
    """Ends a run that failed or was interrupted: a checkpoint that is being written is finished, or withdrawn."""
    for part in (self.iterator, self.store, self.scalars):
      try:
        if part is not None:
          part.close()
      except Exception as error:  # what ended the run is raised anyway
        line = ' '.join(str(error).split())[:300]
        print(f'while ending: {line}', file=sys.stderr, flush=True)

  def export(self) -> None:
    """Writes the model, as `ssr export WORKDIR DIR` does from the last checkpoint, and a summary."""
    params, stats = jax.device_get(self._gather(self._averages))
    parts = self.stage.trains
    summary = {
      'stage': self.config.stage,
      'step': int(jax.device_get(self.state.step)),
      'skipped': int(jax.device_get(self.state.skipped)),
      'parts': parts,
      'metric': self.stage.metric,
      'higher_is_better': self.stage.higher_is_better,
      'before': self.before,
      'validation': self.validation,
    }
    about = self.about(self.config.train.steps)
    self.store.close()
    if self.is_primary:
      export.write(checkpoint.collect(params, stats, self.constants, parts), about, self.workdir / 'model')
      _write(self.workdir / 'summary.json', json.dumps(summary, indent=2))
      print(json.dumps(summary))


def _due(step: int, last: bool, fresh: bool, every: int) -> bool:
  """Whether an action is due that runs every `every` steps and after the last one."""
  return not fresh and (last or step % every == 0)


def _write(path: pathlib.Path, text: str) -> None:
  files.write_bytes(path, f'{text}\n'.encode())


def _words(values: Mapping[str, float]) -> str:
  return '  '.join(f'{name} {value:.4f}' for name, value in values.items())
