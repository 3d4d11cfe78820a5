"""Whether a run that goes on is still the run that its log describes.

A field that is not named here is one that the result depends on: a run is not continued with another value.
"""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

from ssr_jax.data import sources
from ssr_jax.types import SSRError

# How and where a run computes, what it writes and when: the weights are the same, apart from rounding.
_FREE = [
  'data.threads',
  'data.workers',
  'data.prefetch',
  'data.cache_mb',
  'data.max_bad_records',
  'debug',
  'distributed',
  'eval',
  'mesh',
  'profile',
  'train.checkpoint_every',
  'train.figures_every',
  'train.keep',
  'train.log_every',
  'train.max_skipped',
  'train.remat',
  'train.validate_every',
]

# Changes that one makes in the middle of a run: longer, slower, on other hardware. Data and loss stay what they were.
_SAID = [
  'name',
  'train.accumulate',
  'train.clip',
  'train.dtype',
  'train.ema',
  'train.final_rate',
  'train.learning_rate',
  'train.steps',
  'train.warmup',
  'train.weight_decay',
]

_ABSENT = object()

# Places. What lies there counts, and `check_content` compares it.
_PLACES = ('data.train', 'init_from', 'parts_from')


def changes(workdir: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  """Compares the config of a checkpoint with that of the run that goes on from it.

  A field that the checkpoint's config lacks is said, not refused: a newer version of the program brings fields, and
  what there was before it has no value to compare. One that only the checkpoint's config has did have a value.

  Args:
    workdir: of the run, for messages.
    before: the checkpoint's config, from JSON.
    now: the config, from JSON.

  Returns:
    what has changed, 'field=new (was old)', of fields that may change but should be known.

  Raises:
    SSRError: a field has changed or is gone that the result depends on.
  """
  old, new = _flat(before), _flat(now)
  differ = [name for name in sorted(old | new) if not _free(name) and old.get(name, _ABSENT) != new.get(name, _ABSENT)]
  bad = [name for name in differ if name in old and name not in _SAID and name not in _PLACES]
  if bad:
    words = ', '.join(_words(name, old, new) for name in bad)
    raise SSRError(
      f'{workdir}: its checkpoint was made with another config: {words}; go on with the old value, or start a new run '
      f'from its weights with --config.init_from={workdir} and another --workdir'
    )
  return [_words(name, old, new) for name in differ]


def check_content(workdir: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """SSRError unless photos and frozen parts are those that the run began with.

  Args:
    workdir: of the run, for messages.
    before: {'photos': fingerprint, 'frozen': {part: sha256}, 'learned': {metric: sha256}} from the checkpoint; a field
      may be missing in old ones.
    now: the same of this run.
  """
  what = {
    'photos': 'the photos of data.train',
    'frozen': 'the weights of parts_from',
    'learned': 'the weights of loss.lpips',
  }
  for name, words in what.items():
    if name in before and before[name] != now[name]:
      raise SSRError(
        f'{workdir}: {words} are not those that its checkpoint was made with; put them back, or start a new run from '
        f'its weights with --config.init_from={workdir} and another --workdir'
      )


def fingerprint(source: sources.Source) -> dict[str, Any]:
  """What tells whether a source is the same as before, wherever its folder lies: number and names of its records."""
  names = [[path.name for path in source.files(i)] for i in range(len(source))]
  groups = [[float(weight), len(members)] for weight, members in source.groups() or ()]
  content = json.dumps([list(source.keys), names, groups])
  return {'count': len(source), 'sha256': hashlib.sha256(content.encode()).hexdigest()}


def _free(name: str) -> bool:
  return any(name == field or name.startswith(f'{field}.') for field in _FREE)


def _words(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
  value = f'{name}={new[name]}' if name in new else f'no {name}'
  return f'{value} (was {old[name]})' if name in old else f'{value} (its checkpoint has no such field)'


def _flat(tree: Mapping[str, Any], path: str = '') -> dict[str, Any]:
  """{path joined by '.': value}; an empty section has none."""
  found: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      found |= _flat(value, f'{path}{name}.')
    else:
      found[f'{path}{name}'] = value
  return found
