"""The systems of the house. A new one is a folder here and a line in `SYSTEMS`."""

import importlib
from typing import Any

from ssr_jax.types import SSRError

SYSTEMS = {
  'ssr': 'ssr_jax.systems.ssr:SSR',
}
"""{name: 'module:object'}, imported when it is asked for."""

DEFAULT = 'ssr'
"""What a model.json without the field 'system' is of."""


def get(name: str) -> Any:
  """The system of that name.

  Raises:
    SSRError: there is none; the message lists the known ones.
  """
  if name not in SYSTEMS:
    raise SSRError(f'unknown system {name!r}; known: {", ".join(SYSTEMS)}')
  module, _, attribute = SYSTEMS[name].partition(':')
  return getattr(importlib.import_module(module), attribute)


def build(part: str, *, system: str = DEFAULT, family: str | None = None, **config: Any) -> Any:
  """The Flax module of a part of a system, from plain keyword arguments as configs and model files hold them.

  Raises:
    SSRError: an unknown system, part, family or attribute; the message lists the known ones.
  """
  parts = get(system).parts
  if part not in parts:
    raise SSRError(f'unknown part {part!r}; known: {", ".join(parts)}')
  return parts[part].build(part, family, **config)
