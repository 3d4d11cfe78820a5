"""Where a run starts: fresh weights, another run's or a model's, if the config reads them as they were trained."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import jax

from ssr_jax import systems
from ssr_jax.systems.base import Stage, Tree
from ssr_jax.training import checkpoint, stages
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store


@dataclasses.dataclass
class Start:
  """Where a run starts.

  Attributes:
    params: {part: parameters} of the trained parts.
    stats: {part: batch statistics}.
    constants: {part: constants}.
    frozen: {part: variables} of the frozen parts, and of the metrics that the loss computes.
    origin: where the weights come from, for people.
    parent: the name of the model that they come from; a local path is meaningless elsewhere.
    inherited: {part: {field: value}}, the measured config fields that loaded weights bring along: an autoencoder's
      scaling is what the UNet was trained on, and stays however its decoder is trained on.
    earlier: {part: steps} that made the weights before this run.
    frozen_files: {part: sha256} of the files of the frozen parts.
    learned_files: {metric: sha256} of the weights of the metrics that the loss computes.
  """

  params: Tree
  stats: Tree
  constants: Tree
  frozen: Tree
  origin: str
  parent: str
  inherited: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  earlier: dict[str, int] = dataclasses.field(default_factory=dict)
  frozen_files: dict[str, str] = dataclasses.field(default_factory=dict)
  learned_files: dict[str, str] = dataclasses.field(default_factory=dict)


def start_from(config: Any, stage: Stage, first: Callable[[], Tree], resumed: bool) -> Start:
  """The variables that a run starts with: of `config.init_from`, or fresh; a resumed run needs only their shapes.

  Args:
    config: of the run.
    stage: of the run.
    first: reads the whole first batch.
    resumed: whether a checkpoint will replace them.
  """
  params, stats, constants = stage.init(jax.random.key(config.train.seed))
  start = Start(params, stats, constants, {}, stage.origin, stage.origin)
  if stage.needs:
    model = store.load_model(config.parts_from, parts=stage.needs)
    start.frozen = dict(model.variables)
    start.frozen_files = {part: model.config['parts'][part]['sha256'] for part in stage.needs}
  for name, path in stages.learned_files(stage).items():
    weights = stages.learned(name).load(path).loaded
    start.frozen[name], start.learned_files[name] = weights.variables, weights.digest
  if resumed:
    return start
  if config.init_from:
    start.origin, variables, about = read_initial(config.init_from, config.system, stage.trains)
    start.inherited = check_same_meaning(f'init_from={config.init_from}', config, stage, about)
    start.earlier, start.parent = about['steps'], about['name']
    for part in stage.trains:
      for name, tree in (('params', params), ('batch_stats', stats), ('constants', constants)):
        loaded = variables[part].get(name, {})
        _check_same_shapes(f'{config.init_from}: {part}/{name}', tree[part], loaded)
        tree[part] = loaded
  # Every process prepares from the whole first batch, so that all come to the same.
  ctx = stages.context(params, stats, start.frozen | {'constants': constants})
  start.params, start.stats = stage.prepare(ctx, first(), bool(config.init_from))
  return start


def read_initial(place: str, system: str, parts: Sequence[str]) -> tuple[str, dict[str, Tree], dict[str, Any]]:
  """Weights of a system to start from: of another run's workdir, or of a model.

  Returns:
    where they come from, for people; {part: variables}; and about them 'name', 'parts' and 'sections', as
    `export.write` takes them, and 'steps', {part: how many made it so far}.
  """
  if (pathlib.Path(place) / 'checkpoints').is_dir():
    variables, facts, step = checkpoint.read_weights(pathlib.Path(place))
    recorded = facts['export'].get('system', systems.DEFAULT)  # runs before 0.2 did not record it
    stages.check_system(f'init_from={place}', {'system': recorded}, system)
    missing = [part for part in parts if part not in variables]
    if missing:
      raise SSRError(f'init_from={place}: that run trains {", ".join(variables)}, not {missing[0]}')
    about = facts['export']
    steps = {part: _steps(part, about['training']) for part in parts}
    return f'checkpoint {place}/checkpoints/{step}', variables, about | {'steps': steps}
  stages.check_system(f'init_from={place}', format.read_config(store.resolve(place)), system)
  model = store.load_model(place, parts=parts)
  entries = {part: model.config['parts'][part] for part in parts}
  about = {
    'name': model.config['name'],
    'parts': {part: entry['config'] for part, entry in entries.items()},
    'sections': {section: model.config[section] for section in systems.get(system).sections},
    'steps': {part: _steps(part, entry['training']) for part, entry in entries.items()},
  }
  return f'weights {place}', model.variables, about


def _steps(part: str, training: Mapping[str, Any]) -> int:
  """Steps that made a part's weights, those of earlier runs too; 0 for imported weights."""
  return training.get('steps', 0) + training.get('earlier_steps', {}).get(part, 0)


def check_same_meaning(place: str, config: Any, stage: Stage, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """SSRError where the config would read weights otherwise than they were trained.

  Shapes do not tell: the number of a norm's groups or what a UNet predicts leave none of them different.

  Args:
    place: where the weights come from, for messages.
    config: of this run.
    stage: of this run.
    about: has 'parts' and 'sections' as from `read_initial`.

  Returns:
    {part: {field: value}} of the fields that are measured, not configured.
  """
  how = ('parent', 'name', 'dtype', 'remat')  # of the computation, not of its meaning
  inherited: dict[str, dict[str, Any]] = {}
  for part in stage.trains:
    ours, theirs = stage.modules[part], systems.build(part, system=config.system, **about['parts'][part])
    for name in (field.name for field in dataclasses.fields(ours) if field.name not in how):
      a, b = getattr(ours, name), getattr(theirs, name, None)
      if name in stage.measures.get(part, ()):
        inherited.setdefault(part, {})[name] = b
      elif a != b and name not in systems.get(config.system).parts[part].adjustable:
        raise SSRError(f'{place}: config.model.{part}.{name} is {a}, the weights were trained with {b}')
  try:
    stage.check_sections(about['sections'])
  except SSRError as error:
    raise SSRError(f'{place}: {error}') from error
  return inherited


def _check_same_shapes(where: str, ours: Tree, theirs: Tree) -> None:
  """SSRError unless two trees have the same names and shapes."""
  a, b = (format.flatten_shapes(t) for t in (ours, theirs))
  for name in sorted(a.keys() | b.keys()):
    if name not in a or name not in b or a[name].shape != b[name].shape:
      shapes = [str(t[name].shape) if name in t else 'absent' for t in (a, b)]
      raise SSRError(f'{where}/{name}: config says {shapes[0]}, weights say {shapes[1]}; use the config they came from')
