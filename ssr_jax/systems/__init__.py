"""The registry of systems. A new system is a folder here and a line in `SYSTEMS`: docs/add-a-system.md."""

from collections.abc import Mapping
import dataclasses
import importlib
import typing
from typing import TYPE_CHECKING, Any

from ssr_jax.types import SSRError

if TYPE_CHECKING:
  from ssr_jax.systems.base import System

SYSTEMS = {
  'ssr': 'ssr_jax.systems.ssr',
  'blinddiff': 'ssr_jax.systems.blinddiff',
  'cassr': 'ssr_jax.systems.cassr',
  'esrgan': 'ssr_jax.systems.esrgan',
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


def shared(one: str, other: str) -> tuple[str, ...]:
  """The parts that two systems have in common: the same `Part`, not only the same name."""
  theirs = get(other).parts
  return tuple(part for part, entry in get(one).parts.items() if theirs.get(part) is entry)


def options(name: str) -> type:
  """The system's `Options`, imported without the system: the command line needs no networks to show its help."""
  return importlib.import_module(f'{_package(name)}.options').Options


def option_kinds(name: str) -> dict[str, type]:
  """{option: bool, int, float or str}: what each of the system's options is, read from its annotation.

  Raises:
    SSRError: an unknown system.
    TypeError: an option that is none of these.
  """
  return kinds_of(options(name))


def kinds_of(cls: type) -> dict[str, type]:
  """`option_kinds` of a dataclass of options."""
  found = {}
  hints = typing.get_type_hints(cls)
  for field in dataclasses.fields(cls):
    kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
    found[field.name] = next((kind for kind in (bool, int, float, str) if kind in kinds), None)
    if found[field.name] is None:
      raise TypeError(f'{cls.__name__}.{field.name} is {field.type}; an option is a bool, int, float or str')
  return found


def accepted(cls: type) -> dict[str, type]:
  """`kinds_of`, also of the options' earlier names."""
  kinds = kinds_of(cls)
  return {**kinds, **{old: kinds[new] for old, new in earlier_names(cls).items()}}


def chosen(cls: type, plan: Any) -> dict[str, Any]:
  """{option: its value in a plan}; options that only choose the values of others are left out."""
  return {field.name: getattr(plan, field.name) for field in dataclasses.fields(cls) if hasattr(plan, field.name)}


def renamed(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
  """Options by their present names, where some are given by an earlier one.

  Raises:
    SSRError: an option is given by both.
  """
  now, found = earlier_names(cls), {}
  for name, value in given.items():
    found[now.get(name, name)] = value
  if len(found) < len(given):
    twice = next(f'{old} and {new}' for old, new in now.items() if {old, new} <= given.keys())
    raise SSRError(f'{twice} are the same option; give one')
  return found


def earlier_names(cls: type) -> dict[str, str]:
  """{earlier name of an option: its name}."""
  fields = dataclasses.fields(cls)
  return {field.metadata['alias']: field.name for field in fields if field.metadata.get('alias')}


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
