"""Makes a config's stage, with the model that its frozen parts come from."""

from collections.abc import Mapping
import pathlib
from typing import Any

from ssr_jax import metrics, systems
from ssr_jax.metrics import lpips
from ssr_jax.systems.base import Inherited, Stage, StepContext, Tree
from ssr_jax.types import SSRError
from ssr_jax.weights import format, published, store


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


def learned(name: str) -> type[lpips.LPIPS]:
  """The class of a metric that a stage's loss computes, see `Stage.learned`."""
  metric = metrics.METRICS[name]
  assert issubclass(metric, lpips.LPIPS)
  return metric


def learned_files(stage: Stage) -> dict[str, pathlib.Path]:
  """{metric: file of its weights} of the metrics that a stage's loss computes.

  Raises:
    SSRError: there is no such file.
  """
  found = {}
  for name in stage.learned:
    path = published.of_metric(name)
    if path is None:
      raise SSRError(f'config.loss.lpips: there are no {metrics.METRICS[name].weights}, or set it to 0')
    found[name] = path
  return found


def check_system(where: str, model: Mapping[str, Any], system: str) -> None:
  """SSRError unless the content of a model.json is that of a model of the system."""
  if model['system'] != system:
    raise SSRError(f'{where}: a model of the system {model["system"]!r}, not {system!r}; name another one')


def context(params: Tree, stats: Tree, frozen: Tree, key: Any = None, step: Any = 0) -> StepContext:
  """A stage's context; `frozen` also holds the trained parts' constants, under 'constants'."""
  frozen = dict(frozen)
  return StepContext(params, stats, frozen, frozen.pop('constants', {}), key, step)
