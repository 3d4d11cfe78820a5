"""Options of the systems as arguments of a command."""

import argparse
from collections.abc import Mapping
import dataclasses
from typing import Any

from ssr_jax import systems
from ssr_jax.types import SSRError


def add(parser: argparse.ArgumentParser) -> None:
  """Adds the options of all systems, and the flags that stand for a value of one, to a command's parser."""
  for option in of_systems().values():
    how: dict[str, Any] = {name: option.metadata.get(name) for name in ('metavar', 'choices', 'help')}
    if option.kind is bool:
      parser.add_argument(option.flag, action=argparse.BooleanOptionalAction, default=None, help=how['help'])
    else:
      earlier = [f'--{option.metadata["alias"]}'] if 'alias' in option.metadata else []
      parser.add_argument(option.flag, *earlier, type=option.kind, **how)
  for name, (_, _, text) in _flags_of_systems().items():
    parser.add_argument(f'--{name}', action='store_true', help=text)


def given(arguments: argparse.Namespace) -> dict[str, Any]:
  """{option: value} of those that were given.

  Raises:
    SSRError: a flag, and its option with another value.
  """
  values = {name: getattr(arguments, name) for name in of_systems()}
  found = {name: value for name, value in values.items() if value is not None}
  for flag, (option, value, _) in _flags_of_systems().items():
    if getattr(arguments, flag.replace('-', '_')):
      if found.get(option.name, value) != value:
        raise SSRError(f'--{flag} and {option.flag} exclude each other; give one')
      found[option.name] = value
  return found


@dataclasses.dataclass(frozen=True)
class Option:
  """An option of a system: its name, the type of its values, and the metadata of its field."""

  name: str
  kind: type
  metadata: Mapping[str, Any]

  @property
  def flag(self) -> str:
    """Its name on the command line."""
    return f'--{self.name.replace("_", "-")}'


def of_systems() -> dict[str, Option]:
  """The options of all systems, by name; the help says whose an option is, and what it is in each if that differs."""
  found: dict[str, Option] = {}
  said: dict[str, dict[str, list[str]]] = {}  # {option: {help: systems}}
  units: dict[str, set[str | None]] = {}
  for system in systems.SYSTEMS:
    kinds = systems.option_kinds(system)
    for field in dataclasses.fields(systems.options(system)):
      found.setdefault(field.name, Option(field.name, kinds[field.name], field.metadata))
      units.setdefault(field.name, set()).add(field.metadata.get('metavar'))
      said.setdefault(field.name, {}).setdefault(field.metadata['help'], []).append(system)
  for name, texts in said.items():
    if len(texts) > 1 or systems.DEFAULT not in next(iter(texts.values())):
      text = '; '.join(f'{", ".join(whose)}: {what}' for what, whose in texts.items())
      metavar = next(iter(units[name])) if len(units[name]) == 1 else None
      found[name] = dataclasses.replace(
        found[name], metadata={**found[name].metadata, 'help': text, 'metavar': metavar}
      )
  return found


def _flags_of_systems() -> dict[str, tuple[Option, Any, str]]:
  """Flags that stand for a value of an option: {flag: (option, value, help)}."""
  options = of_systems().values()
  return {flag: (o, *said) for o in options for flag, said in o.metadata.get('flags', {}).items()}
