"""Trains one stage of SSR.

  python train.py --config=configs/compact.py:STAGE --workdir=DIR [--config.path.to.field=value ...]

Stages: depth, kernel, nbsr, svkr, vae, diffusion. Running the same command again goes on from the last checkpoint in
the workdir. The trained part's weights (the moving average) are written to DIR/model, in the format that
`ssr_jax.load` reads; scalars to DIR/scalars.jsonl, pictures to DIR/pictures.
"""

import json
import pathlib
import platform

from configs import common


def main(config, workdir: str) -> int:
  """Runs one stage; returns the exit code."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  from ssr_jax import xla
  from ssr_jax.data import pipeline, sources
  from ssr_jax.training import logging, stages
  from ssr_jax.training import state as state_lib
  from ssr_jax.types import SSRError
  from ssr_jax.weights import registry

  train = config.train
  workdir = pathlib.Path(workdir).absolute()
  (workdir / 'pictures').mkdir(parents=True, exist_ok=True)
  xla.keep_freed_memory()
  xla.enable_compilation_cache()
  stage = stages.build(config)

  # -- Data ------------------------------------------------------------------------------------------------------------
  settings = config.data
  # Scenes are drawn from photos alone, unless every part of the source brings depth of its own.
  everything = sources.from_spec(settings.train, ('hr',), optional=('depth',) if stage.scenes else ())
  scenes = stage.scenes and 'depth' not in everything.keys
  photos, held_photos = sources.split(everything, settings.holdout)
  held_photos = held_photos if len(held_photos) else photos
  cache = settings.cache_mb << 20
  if scenes:
    # A scene draws its photos itself, so each worker keeps those it drew.
    textures = [sources.Cached(p, cache // max(1, settings.workers)) for p in (photos, held_photos)]
    record, held_record = (pipeline.scene_record(p, settings.patch, settings.patch) for p in textures)
    source, held_source = range(len(photos) * 16), range(64)
  else:
    record = held_record = pipeline.photo_record(settings.patch)
    source, held_source = photos, held_photos
  options = dict(max_bad_records=settings.max_bad_records, cache_bytes=cache)
  data = pipeline.dataset(source, record, train.batch_size, train.seed, **options)
  # Validation crops and their degradation are fixed: always the same seed, whatever the run's.
  held = pipeline.dataset(held_source, held_record, 8, seed=0, **options)
  held_batches = [held[i] for i in range(train.validation_batches)]

  # -- State: own workdir, then init_from, then scratch ----------------------------------------------------------------
  params, stats, constants = stage.init(jax.random.key(train.seed))
  mask = state_lib.trainable(params, train.frozen)
  optimizer = state_lib.make_optimizer(train, mask)
  manager = ocp.CheckpointManager(
      workdir / 'checkpoints', options=ocp.CheckpointManagerOptions(max_to_keep=train.keep, enable_async_checkpointing=True)
  )
  frozen = {}
  if stage.needs:
    frozen = dict(registry.load_model(config.parts_from, parts=stage.needs).variables)
  if manager.latest_step() is None and config.init_from:
    model = registry.load_model(config.init_from, parts=stage.parts)
    for part in stage.parts:
      for name, tree in (('params', params), ('batch_stats', stats), ('constants', constants)):
        loaded = model.variables[part].get(name, {})
        _check_same_shapes(f'{config.init_from}: {part}/{name}', tree[part], loaded)
        tree[part] = jax.tree.map(jax.numpy.asarray, loaded)
  frozen = jax.tree.map(jax.numpy.asarray, frozen | {'constants': constants})
  if manager.latest_step() is None and not config.init_from:
    params, stats = stage.prepare(params, stats, frozen, data[0])
  state = state_lib.create(params, stats, optimizer)
  if manager.latest_step() is not None:
    target = {'state': jax.tree.map(ocp.utils.to_shape_dtype_struct, state), 'constants': constants}
    restored = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(target))
    state, frozen['constants'] = restored['state'], restored['constants']
    origin = f'checkpoint {workdir}/checkpoints/{manager.latest_step()}'
  else:
    origin = f'weights {config.init_from}' if config.init_from else 'scratch'
  start = int(state.step)
  count = sum(x.size for part in stage.parts for x in jax.tree.leaves(state.params[part]))
  print(f'{config.stage}: {count:,} parameters from {origin}; {len(photos)} photos; step {start}', flush=True)
  (workdir / 'config.json').write_text(config.to_json_best_effort(indent=2) + '\n')

  # -- Step ------------------------------------------------------------------------------------------------------------
  step_fn = state_lib.make_step(stage.loss, optimizer, train.ema, mask=mask)
  validate_fn = xla.jit(stage.validate)
  figures_fn = xla.jit(stage.figures)
  scalars = logging.Scalars(workdir / 'scalars.jsonl')

  def validate():
    rows = [validate_fn(state.ema, state.stats, frozen, b, jax.random.key(i)) for i, b in enumerate(held_batches)]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

  def save():
    manager.save(int(state.step), args=ocp.args.StandardSave({'state': state, 'constants': frozen['constants']}))

  # What the weights it starts from are worth, on the same patches: `tools/improve.py` compares with it.
  before = validate() if start == 0 and config.init_from else None
  if before:
    scalars.write(0, before, 'validation/')
    print('before: ' + '  '.join(f'{k} {v:.4f}' for k, v in before.items()), flush=True)

  # -- Loop: evaluate, save, next batch, step, log ---------------------------------------------------------------------
  progress = logging.Progress(train.steps, start)
  iterator = pipeline.batches(data, start, settings.threads, settings.prefetch, settings.workers)
  figures = None
  for step in range(start, train.steps + 1):
    last = step == train.steps
    if step > start and (last or step % train.validate_every == 0):
      result = validate()
      scalars.write(step, result, 'validation/')
      print(f'step {step}: validation ' + '  '.join(f'{k} {v:.4f}' for k, v in result.items()), flush=True)
    if step > start and (last or step % train.figures_every == 0):
      figures = figures_fn(state.ema, state.stats, frozen, held_batches[0], jax.random.key(0))
      logging.image_grid(figures).save(workdir / 'pictures' / f'{step:07d}.png')
    if step > start and (last or step % train.checkpoint_every == 0) and manager.latest_step() != step:
      save()
    if last:
      break
    batch = next(iterator)
    state, values = step_fn(state, frozen, batch, train.seed)
    if (step + 1) % train.log_every == 0:
      values = {name: float(value) for name, value in values.items()}
      if not np.isfinite(values['loss']):
        raise SSRError(f'loss is {values["loss"]} at step {step + 1}; lower train.learning_rate and run the command again')
      scalars.write(step + 1, values)
      progress.report(step + 1, values)
  manager.wait_until_finished()

  # -- Export ----------------------------------------------------------------------------------------------------------
  result = validate()
  changes = stage.export(state.ema, state.stats, frozen, held_batches[0])
  for part in stage.parts:
    variables = {'params': state.ema[part], 'batch_stats': state.stats[part], 'constants': frozen['constants'][part]}
    registry.save_part(
        workdir / 'model',
        part,
        config.model[part].to_dict() | changes.get(part, {}),
        {name: tree for name, tree in variables.items() if tree},
        training={
            'stage': config.stage,
            'steps': int(state.step),
            'batch_size': train.batch_size,
            'photos': len(photos),
            'started_from': 'scratch' if not config.init_from else config.init_from,
            'machine': f'{jax.default_backend()} x{jax.device_count()}, {platform.machine()}',
            'validation': {name: round(value, 6) for name, value in result.items()},
        },
        name='compact',
    )
  summary = {
      'stage': config.stage,
      'step': int(state.step),
      'parts': stage.parts,
      'metric': stage.metric,
      'higher_is_better': stage.higher_is_better,
      'before': before,
      'validation': result,
  }
  (workdir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
  print(json.dumps(summary))
  return 0


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
