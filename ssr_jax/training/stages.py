"""From a config to its stage: which system, which class, and the model that the frozen parts come from."""

from collections.abc import Mapping
from typing import Any

from ssr_jax import systems
from ssr_jax.systems.base import Inherited, Stage, StepContext, Tree
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store


def build(config: Any) -> Stage:
  """The stage that a config names.

  Raises:
    SSRError: an unknown system or stage, or a field that the stage cannot use.
  """
  known = systems.get(config.system).stages
  if config.stage not in known:
    raise SSRError(f'config.stage is {config.stage!r}; name one after the colon of --config: {", ".join(known)}')
  stage = known[config.stage]
  return stage(config, inherited(config) if stage.needs else Inherited(None, {}))


def inherited(config: Any) -> Inherited:
  """What the frozen parts are, by the model `config.parts_from`.

  Where that is '' there are no weights, and the parts are the config's: enough for a program that is only compiled.
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
