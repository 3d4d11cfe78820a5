"""Trains one stage of SSR.

  python train.py --config=configs/compact.py:STAGE --workdir=DIR [--config.path.to.field=value ...]

Stages: depth, kernel, nbsr, svkr, vae, diffusion, distill. Running the same command again goes on from the last
checkpoint in the workdir, to the same weights as if it had never stopped. The trained part's weights (the moving
average) are written to DIR/model, in the format that `ssr_jax.load` reads; scalars to DIR/scalars.jsonl and
DIR/tensorboard, pictures to DIR/pictures. SIGTERM saves a checkpoint and ends with exit code 75: run the command again.
"""

import dataclasses
import json
import pathlib
import platform

from configs import common


def main(config, workdir: str) -> int:
  """Runs one stage; returns the exit code."""
  import jax
  import numpy as np

  from ssr_jax import xla
  from ssr_jax.data import pipeline, sources
  from ssr_jax.systems.ssr import stages
  from ssr_jax.training import checkpoint, distributed, export, logging, sharding
  from ssr_jax.training import state as state_lib
  from ssr_jax.types import SSRError
  from ssr_jax.weights.store import load_model

  train = config.train
  workdir = pathlib.Path(workdir).absolute()
  xla.keep_freed_memory()
  xla.enable_compilation_cache()
  jax.config.update('jax_debug_nans', config.debug)
  jax.config.update('jax_enable_checks', config.debug)

  # -- Devices: processes and their mesh -------------------------------------------------------------------------------
  distributed.start(config.distributed)
  lead = jax.process_index() == 0  # the one that writes and prints
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(train.batch_size, train.accumulate, mesh)
  whole = sharding.replicated(mesh)
  stage = stages.build(config)

  # -- Data ------------------------------------------------------------------------------------------------------------
  settings = config.data
  everything = sources.from_spec(settings.train, ('hr',), optional=() if stage.depth == 'none' else ('depth',))
  # Where the source has no depth of its own, rendered scenes have it: all records of a stage that needs depth.
  rendered = {'needs': 1.0, 'uses': settings.scenes, 'none': 0.0}[stage.depth] * ('depth' not in everything.keys)
  photos, held_photos = sources.split(everything, settings.holdout)
  held_photos = held_photos if len(held_photos) else photos
  cache = settings.cache_mb << 20
  record, held_record = pipeline.photo_record(settings.patch, settings.shrink), pipeline.photo_record(settings.patch)
  source, held_source = photos, held_photos
  if rendered:
    # A scene draws its photos itself, so each worker keeps those it drew.
    textures = [sources.Cached(p, cache // max(1, settings.workers)) for p in (photos, held_photos)]
    record, held_record = (pipeline.scene_record(p, settings.patch, settings.patch) for p in textures)
    if rendered < 1:
      record = pipeline.partly(rendered, record, settings.patch, settings.shrink)
      held_record = pipeline.partly(rendered, held_record, settings.patch)
    else:
      source, held_source = range(len(photos) * 16), range(64)
  options = dict(max_bad_records=settings.max_bad_records, cache_bytes=cache)
  index, count = sharding.piece(mesh)
  data = pipeline.dataset(
    source, record, train.batch_size, train.seed, process_index=index, process_count=count, **options
  )
  # Validation crops and their degradation are fixed: always the same seed, whatever the run's.
  held = pipeline.dataset(held_source, held_record, 8, seed=0, **options)
  held_batches = [held[i] for i in range(train.validation_batches)]
  for batch in held_batches:
    del batch['record']

  # -- State: own workdir, then init_from, then scratch ----------------------------------------------------------------
  params, stats, constants = stage.init(jax.random.key(train.seed))
  store = checkpoint.Checkpoints(workdir / 'checkpoints', train.keep, stage.metric, stage.higher_is_better)
  start = store.latest()
  if start is not None and start > train.steps:
    raise SSRError(
      f'{workdir}: its last checkpoint is of step {start}, beyond train.steps={train.steps}; name another --workdir, '
      'or take its weights with `ssr export`'
    )
  frozen = {}
  if stage.needs:
    frozen = dict(load_model(config.parts_from, parts=stage.needs).variables)
  # What stage.export measures of new weights, those that it starts from bring along: an autoencoder's scaling is what
  # the UNet was trained on, and stays however its decoder is trained on.
  brought, earlier, parent = {}, {}, stage.origin
  if start is not None:
    origin = f'checkpoint {workdir}/checkpoints/{start}'
  elif config.init_from:
    origin, variables, about = _initial_weights(config.init_from, stage.parts)
    brought, earlier, parent = _check_same_meaning(config, stage, about), about['steps'], about['name']
    for part in stage.parts:
      for name, tree in (('params', params), ('batch_stats', stats), ('constants', constants)):
        loaded = variables[part].get(name, {})
        _check_same_shapes(f'{config.init_from}: {part}/{name}', tree[part], loaded)
        tree[part] = loaded
  else:
    origin = stage.origin
    # Every process prepares from the whole first batch, so that all come to the same.
    first = dataclasses.replace(data, process_index=0, process_count=1)[0]
    params, stats = stage.prepare(params, stats, frozen | {'constants': constants}, first)
  params, stats, constants = jax.tree.map(np.asarray, (params, stats, constants))

  frozen |= {'constants': constants}
  program = state_lib.program(stage, config, mesh, params, stats, frozen)
  state, position = jax.jit(program.create, out_shardings=program.places)(params, stats), None
  if start is not None:
    state, constants, position, facts = store.restore(start, state, constants)
    recorded = facts['export']['training']
    brought, earlier, parent = facts['brought'], recorded.get('earlier_steps', {}), recorded['started_from']
  resumed, start = start is not None, start or 0
  frozen = sharding.put(frozen | {'constants': constants}, program.frozen_places)
  if lead:
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / 'config.json').write_text(config.to_json_best_effort(indent=2) + '\n')
    count = sum(x.size for part in stage.parts for x in jax.tree.leaves(params[part]))
    print(f'{config.stage}: {count:,} parameters from {origin}; {len(photos)} photos; step {start}', flush=True)
    print(f'{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}', flush=True)

  # -- Step ------------------------------------------------------------------------------------------------------------
  step_fn = program.step
  validate_fn = xla.jit(state_lib.knowing(mesh, stage.validate), out_shardings=whole)
  figures_fn = xla.jit(state_lib.knowing(mesh, stage.figures), out_shardings=whole)
  export_fn = xla.jit(state_lib.knowing(mesh, stage.export), out_shardings=whole)
  everywhere = jax.jit(lambda tree: tree, out_shardings=whole)
  # What steps read beside the state goes to the devices once: in the loop a transfer that is not asked for is an error.
  held_batches = [sharding.put_whole(batch, mesh) for batch in held_batches]
  keys = jax.jit(lambda: [jax.random.key(i) for i in range(len(held_batches))], out_shardings=whole)()
  seed = sharding.put(np.int32(train.seed), whole)
  scalars = logging.Scalars(workdir, start) if lead else logging.Nothing()
  progress = logging.Progress(train.steps, start, train.batch_size, _peak_share(config, state, frozen, data, mesh))

  def validate():
    rows = jax.device_get(
      [validate_fn(state.ema, state.stats, frozen, b, k) for b, k in zip(held_batches, keys, strict=True)]
    )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

  def about(step, validation):
    """What an export of the present weights has to know."""
    measured = brought
    if not brought:
      measured = jax.device_get(export_fn(state.ema, state.stats, frozen, held_batches[0]))
      measured = jax.tree.map(lambda x: x.tolist(), measured)
    return {
      'name': config.name,
      'parts': {part: config.model[part].to_dict() | measured.get(part, {}) for part in stage.parts},
      'sections': stage.sections,
      'training': {
        'stage': config.stage,
        'steps': step,
        **({'earlier_steps': earlier} if earlier else {}),  # of the weights that it started from, part by part
        'batch_size': train.batch_size,
        'photos': len(photos),
        'started_from': parent,  # a model's name: what folder it lay in tells nobody else anything
        'machine': f'{mesh.size} x {mesh.devices.flat[0].device_kind}, {platform.machine()}',
        'validation': {name: round(value, 6) for name, value in validation.items()},
      },
    }

  bad_steps = []

  def report(step, values, records):
    """Looks at a step that is done: counts it where it was skipped, writes its scalars where they are due."""
    if not jax.device_get(values['finite']):
      bad_steps.append(step)
      names = ', '.join(source.name(int(i)) if isinstance(source, sources.Source) else f'scene {i}' for i in records)
      if lead:
        scalars.write(step, {'skipped': len(bad_steps)})
        print(f'step {step}: loss or gradient is not finite; skipped. It saw {names}', flush=True)
      if len(bad_steps) > train.max_skipped:
        raise SSRError(
          f'steps {bad_steps}: loss or gradient is not finite, more than train.max_skipped={train.max_skipped} '
          f'times; the last one saw {names}; lower train.learning_rate or look at these records'
        )
    if step % train.log_every == 0 and lead:
      values = {name: float(value) for name, value in jax.device_get(values).items() if name != 'finite'}
      scalars.write(step, values | progress.report(step, values))

  # What the weights it starts from are worth, on the same patches: `tools/improve.py` compares with it.
  before = None
  if config.init_from and not resumed:
    before = validate()
    scalars.write(0, before, 'validation/')
  elif resumed and (workdir / 'before.json').exists():
    before = json.loads((workdir / 'before.json').read_text())
  if before and lead:
    (workdir / 'before.json').write_text(json.dumps(before) + '\n')
    print('before: ' + '  '.join(f'{k} {v:.4f}' for k, v in before.items()), flush=True)

  # -- Loop: evaluate, save, next batch, step, log the step before -----------------------------------------------------
  iterator = pipeline.batches(data, start, settings.threads, settings.prefetch, settings.workers)
  if position:
    iterator.set_state(position)
  result, pending, stopped = {}, None, False
  profile = tuple(config.profile)
  with checkpoint.Preemption() as preemption, jax.transfer_guard('disallow'):
    for step in range(start, train.steps + 1):
      last, fresh = step == train.steps, step == start
      validated = not fresh and (last or step % train.validate_every == 0)
      if validated or (last and not result):
        result = validate()
        scalars.write(step, result, 'validation/')
        if lead:
          print(f'step {step}: validation ' + '  '.join(f'{k} {v:.4f}' for k, v in result.items()), flush=True)
      if not fresh and (last or step % train.figures_every == 0):
        figures = jax.device_get(figures_fn(state.ema, state.stats, frozen, held_batches[0], keys[0]))
        scalars.picture(step, logging.image_grid(figures))
      stopped = preemption.reached(step) and not last
      if not fresh and (last or stopped or step % train.checkpoint_every == 0):
        written = json.loads(config.to_json_best_effort())
        facts = {'config': written, 'export': about(step, result), 'brought': brought}
        store.save(step, state, constants, iterator.get_state(), facts, result if validated else None)
      if last or stopped:
        break
      if profile and step == start + profile[0]:
        jax.profiler.start_trace(workdir / 'profile')
      batch = next(iterator)
      records = batch.pop('record')
      state, values = step_fn(state, frozen, sharding.put_batch(batch, mesh), seed)
      if pending:
        report(*pending)
      pending = step + 1, values, records
      if profile and step + 1 == start + sum(profile):
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
    if pending:
      report(*pending)
  iterator.close()
  store.wait()
  scalars.close()
  if stopped:
    if lead:
      saved = f'saved step {step}' if step > start or resumed else 'nothing was trained yet'
      print(f'asked to stop: {saved}; run the same command again to go on', flush=True)
    return checkpoint.PREEMPTED

  # -- Export: what `ssr export WORKDIR DIR` makes of the last checkpoint ----------------------------------------------
  params, stats = jax.device_get(everywhere((state.ema, state.stats)))
  summary = {
    'stage': config.stage,
    'step': int(jax.device_get(state.step)),
    'skipped': int(jax.device_get(state.skipped)),
    'parts': stage.parts,
    'metric': stage.metric,
    'higher_is_better': stage.higher_is_better,
    'before': before,
    'validation': result,
  }
  known = about(train.steps, result)
  store.close()
  if lead:
    export.write(checkpoint.collect(params, stats, constants, stage.parts), known, workdir / 'model')
    (workdir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
    print(json.dumps(summary))
  return 0


def _initial_weights(place, parts):
  """Where `init_from` leads, in words, {part: variables}, and what is known of them.

  It leads to the workdir of another run or to a model. What is known are 'name', 'parts' and 'sections', as
  `export.write` takes them, and 'steps', {part: how many made it so far}.
  """
  from ssr_jax.training import checkpoint
  from ssr_jax.types import SSRError
  from ssr_jax.weights.store import load_model

  if (pathlib.Path(place) / 'checkpoints').is_dir():
    variables, facts, step = checkpoint.read_weights(pathlib.Path(place))
    missing = [part for part in parts if part not in variables]
    if missing:
      raise SSRError(f'init_from={place}: that run trains {", ".join(variables)}, not {missing[0]}')
    about = facts['export']
    return (
      f'checkpoint {place}/checkpoints/{step}',
      variables,
      about | {'steps': {part: _steps(part, about['training']) for part in parts}},
    )
  model = load_model(place, parts=parts)
  entries = {part: model.config['parts'][part] for part in parts}
  return (
    f'weights {place}',
    model.variables,
    {
      'name': model.config['name'],
      'parts': {part: entry['config'] for part, entry in entries.items()},
      'sections': {'schedule': model.config['schedule']},
      'steps': {part: _steps(part, entry['training']) for part, entry in entries.items()},
    },
  )


def _steps(part, training):
  """Steps that made a part's weights, those before its last run too; imported weights have none that are known."""
  return training.get('steps', 0) + training.get('earlier_steps', {}).get(part, 0)


def _check_same_meaning(config, stage, about):
  """SSRError where the config would read weights otherwise than they were trained; else what they bring along.

  Shapes do not tell: the number of a norm's groups or what a UNet predicts leave none of them different.

  Args:
    config: of this run.
    stage: of this run.
    about: from `_initial_weights`.

  Returns:
    {part: {field: value}} of the fields that are measured, not configured.
  """
  from ssr_jax import systems
  from ssr_jax.diffusion import Schedule
  from ssr_jax.types import SSRError

  how = ('parent', 'name', 'dtype', 'remat')  # it is computed, not what
  brought = {}
  for part in stage.parts:
    ours, theirs = stage.modules[part], systems.build(part, **about['parts'][part])
    for name in (field.name for field in dataclasses.fields(ours) if field.name not in how):
      a, b = getattr(ours, name), getattr(theirs, name, None)
      if name in stage.measures.get(part, ()):
        brought.setdefault(part, {})[name] = b
      elif a != b and name != 'resolution':  # a depth net may go on at another one
        raise SSRError(
          f'init_from={config.init_from}: config.model.{part}.{name} is {a}, the weights were trained with {b}'
        )
  if 'schedule' in stage.sections:
    a, b = (dataclasses.asdict(Schedule(**fields)) for fields in (config.schedule, about['sections']['schedule']))
    for name in a:
      if a[name] != b[name]:
        raise SSRError(
          f'init_from={config.init_from}: config.schedule.{name} is {a[name]!r}, the UNet was trained with '
          f'{b[name]!r}; go on with --config.schedule.{name}={b[name]}, or start from scratch'
        )
  return brought


def _peak_share(config, state, frozen, data, mesh):
  """Seconds that a step's matrix products would take at the peak of all chips; 0 for chips whose peak is not known."""
  import jax

  from ssr_jax.training import flops

  peak = flops.peak(mesh.devices.flat[0])
  if not peak:
    return 0.0
  batch = jax.eval_shape(lambda: dataclasses.replace(data, process_index=0, process_count=1)[0])
  return flops.of_step(config, state.params, state.stats, frozen, batch) / peak / mesh.size


def _check_same_shapes(where, ours, theirs):
  """SSRError unless two trees have the same names and shapes."""
  from flax import traverse_util

  from ssr_jax.types import SSRError

  a, b = (traverse_util.flatten_dict(t, sep='/') for t in (ours, theirs))
  for name in sorted(a.keys() | b.keys()):
    if name not in a or name not in b or a[name].shape != b[name].shape:
      shapes = [str(t[name].shape) if name in t else 'absent' for t in (a, b)]
      raise SSRError(f'{where}/{name}: config says {shapes[0]}, weights say {shapes[1]}; use the config they came from')


if __name__ == '__main__':
  common.run(main, __doc__)
