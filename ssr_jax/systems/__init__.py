"""The registry of systems. A new system is a folder here and a line in `SYSTEMS`."""

import importlib
from typing import TYPE_CHECKING, Any

from ssr_jax.types import SSRError

if TYPE_CHECKING:
  from ssr_jax.systems.base import System

SYSTEMS = {
  'ssr': 'ssr_jax.systems.ssr',
}
"""{name: package}. A package's module `system` has the object SYSTEM, its module `options` the class Options."""

DEFAULT = 'ssr'
"""System of a model.json without the field 'system'."""


def get(name: str) -> 'System':
  """The system of that name.

  Raises:
    SSRError: an unknown name; the message lists the known ones.
  """
  return importlib.import_module(f'{_package(name)}.system').SYSTEM


def options(name: str) -> type:
  """The system's `Options`, imported without the system: the command line needs no networks to show its help."""
  return importlib.import_module(f'{_package(name)}.options').Options


def _package(name: str) -> str:
  if name not in SYSTEMS:
    raise SSRError(f'unknown system {name!r}; known: {", ".join(SYSTEMS)}')
  return SYSTEMS[name]


def build(part: str, *, system: str = DEFAULT, family: str | None = None, **config: Any) -> Any:
  """The Flax module of a part of a system, from plain keyword arguments as configs and model files hold them.

  Raises:
    SSRError: an unknown system, part, family or attribute; the message lists the known ones.
  """
  parts = get(system).parts
  if part not in parts:
    raise SSRError(f'unknown part {part!r}; known: {", ".join(parts)}')
  return parts[part].build(part, family, **config)
