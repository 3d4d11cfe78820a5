"""Makes a config's stage, with the model that its frozen parts come from."""

from collections.abc import Mapping
from typing import Any

from ssr_jax import systems
from ssr_jax.systems.base import Inherited, Stage, StepContext, Tree
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store


def build(config: Any) -> Stage:
  """The stage of a config.

  Raises:
    SSRError: an unknown system or stage, or an invalid field.
  """
  known = systems.get(config.system).stages
  if config.stage not in known:
    raise SSRError(f'config.stage is {config.stage!r}; name one after the colon of --config: {", ".join(known)}')
  stage = known[config.stage]
  return stage(config, inherited(config) if stage.needed(config) else Inherited(None, {}))


def inherited(config: Any) -> Inherited:
  """The config fields of the frozen parts, from the model `config.parts_from`.

  If that is '', the parts are the config's and have no weights, which is enough to compile a program.
  """
  if not config.parts_from:
    return Inherited(None, config.model.to_dict())
  model = format.read_config(store.resolve(config.parts_from))
  check_system(f'parts_from={config.parts_from}', model, config.system)
  parts = {part: entry['config'] for part, entry in model['parts'].items()}
  return Inherited(config.parts_from, parts, model)


def check_system(where: str, model: Mapping[str, Any], system: str) -> None:
  """SSRError unless the content of a model.json is that of a model of the system."""
  if model['system'] != system:
    raise SSRError(f'{where}: a model of the system {model["system"]!r}, not {system!r}; name another one')


def context(params: Tree, stats: Tree, frozen: Tree, key: Any = None, step: Any = 0) -> StepContext:
  """A stage's context; `frozen` also holds the trained parts' constants, under 'constants'."""
  frozen = dict(frozen)
  return StepContext(params, stats, frozen, frozen.pop('constants', {}), key, step)
