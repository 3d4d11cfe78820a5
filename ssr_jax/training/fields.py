"""Checks of the config fields that all systems share, before anything is read or compiled."""

from collections.abc import Callable, Iterator, Mapping
import math
import re
from typing import Any

from ssr_jax.types import SSRError

_Check = tuple[Callable[[Any], bool], str]


def _at_least(low: float) -> _Check:
  return lambda x: x >= low, f'must be at least {low}'


def _within(low: float, high: float) -> _Check:
  return lambda x: low <= x <= high, f'must be from {low} to {high}'


def _pair(x: Any) -> bool:
  return len(x) == 2 and all(isinstance(v, int | float) for v in x)


_FIELDS: dict[str, _Check] = {
  'profile': (
    lambda x: len(x) == 0 or (_pair(x) and all(isinstance(v, int) for v in x) and x[0] >= 0 and x[1] >= 1),
    'must be () or (steps to wait, steps to record), at least (0, 1)',
  ),
  'data.holdout': _at_least(0),
  'data.patch': _at_least(1),
  'data.shrink': (lambda x: _pair(x) and 0 < x[0] <= x[1] <= 1, 'must be (low, high) with 0 < low <= high <= 1'),
  'data.places': _at_least(1),
  'data.scenes': _within(0, 1),
  'data.threads': _at_least(1),
  'data.workers': _at_least(0),
  'data.prefetch': _at_least(1),
  'data.cache_mb': _at_least(0),
  'data.max_bad_records': _at_least(0),
  'train.seed': _within(0, 2**31 - 1),
  'train.steps': _at_least(0),
  'train.batch_size': _at_least(1),
  'train.accumulate': _at_least(1),
  'train.learning_rate': _at_least(0),
  'train.warmup': _at_least(0),
  'train.final_rate': _within(0, 1),
  'train.weight_decay': _at_least(0),
  'train.clip': (lambda x: x > 0, 'must be above 0'),
  'train.ema': _within(0, 1),
  'train.log_every': _at_least(1),
  'train.checkpoint_every': _at_least(1),
  'train.validate_every': _at_least(1),
  'train.validation_batches': _at_least(1),
  'train.figures_every': _at_least(1),
  'train.keep': _at_least(1),
  'train.max_skipped': _at_least(0),
  'mesh.data': (lambda x: x == -1 or x >= 1, 'must be at least 1, or -1 for the remaining devices'),
  'mesh.fsdp': (lambda x: x == -1 or x >= 1, 'must be at least 1, or -1 for the remaining devices'),
  'mesh.tensor': (lambda x: x == -1 or x >= 1, 'must be at least 1, or -1 for the remaining devices'),
  'mesh.min_size': _at_least(0),
  'distributed.coordinator': (
    lambda x: not x or re.fullmatch(r'.+:\d{1,5}', x) is not None,
    "must be 'host:port' of process 0",
  ),
  'distributed.processes': _at_least(0),
  'distributed.index': _at_least(0),
}


def check(config: Any) -> None:
  """Checks the fields of `configs.common.base`, and that no number anywhere is NaN or infinite.

  Raises:
    SSRError: names the first field that cannot be used.
  """
  for path, value in _numbers('', config.to_dict()):
    if not math.isfinite(value):
      raise SSRError(f'config.{path} is {value}: must be a finite number')
  for path, (fits, words) in _FIELDS.items():
    value = config
    for name in path.split('.'):
      value = value[name]
    if not fits(value):
      raise SSRError(f'config.{path} is {value!r}: {words}')
  for path, value in _numbers('loss', config.to_dict().get('loss', {})):
    if value < 0:
      raise SSRError(f'config.{path} is {value}: must be at least 0')


def _numbers(path: str, value: Any) -> Iterator[tuple[str, float]]:
  if isinstance(value, Mapping):
    for name, inner in value.items():
      yield from _numbers(f'{path}.{name}' if path else str(name), inner)
  elif isinstance(value, list | tuple):
    for inner in value:
      yield from _numbers(path, inner)
  elif isinstance(value, int | float):
    yield path, value
