"""Types and bounds of the values in a model.json, checked with msgspec.

A system states the types of its sections and the limits of its networks' attributes with what is here; `weights.format`
states those of the envelope. Nothing is computed or allocated before they are checked.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import types
import typing
from typing import Annotated, Any, Union

import msgspec
from msgspec import Meta

from ssr_jax.types import SSRError

Limits = Mapping[str, tuple[float, float]]
Fraction = Annotated[float, Meta(ge=0, le=1)]
PositiveFraction = Annotated[float, Meta(gt=0, le=1)]

_INTEGER = (0, 8192)  # of an attribute without limits of its own: a width; the largest published one is 4096
_NUMBER = (-1e6, 1e6)
_ENTRIES = 64  # of a list: one number per level, or per channel of a latent
_GIVEN = ('parent', 'name', 'dtype', 'remat')  # of a module, set by the program that runs it


class Section(msgspec.Struct, forbid_unknown_fields=True):
  """Base of the types of sections: a field without a default is required, an unknown one is an error."""


def check(value: Any, kind: Any, where: str) -> None:
  """Checks a value from a JSON file.

  Args:
    value: plain JSON values; tuples count as lists.
    kind: a type that msgspec knows, such as a `Section` or Annotated[int, Meta(ge=1)].
    where: name of the field, for the message; '' if the value is the whole.

  Raises:
    SSRError: a wrong type, a number out of its bounds, or an unknown or a missing field; the message names the field.
  """
  if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
    known = kind.__struct_fields__
    for field in value:
      if field not in known:
        raise SSRError(f"unknown field '{_join(where, str(field))}'; known: {', '.join(known)}")
  try:
    msgspec.convert(value, kind)
  except (msgspec.ValidationError, OverflowError) as error:  # OverflowError: an integer too large for a float
    message, _, path = str(error).partition(' - at `')
    inside = path.removesuffix('`').removeprefix('$').removeprefix('.')
    raise SSRError(f"field '{_join(where, inside)}': {_plain(message)}") from error


def check_module(cls: type, config: Mapping[str, Any], limits: Limits, where: str) -> None:
  """Checks the attributes of a Flax module against their annotations and limits; as `check`.

  Args:
    cls: the module's class.
    config: {attribute: value}.
    limits: {attribute: (lowest, highest)} of its numbers, and of the numbers in its lists.
    where: name of the field that holds `config`, for the message.
  """
  check(config, _struct(cls, tuple(sorted(limits.items()))), where)


@functools.lru_cache(maxsize=64)
def _struct(cls: type, limits: tuple[tuple[str, tuple[float, float]], ...]) -> type[msgspec.Struct]:
  hints, bounds = typing.get_type_hints(cls), dict(limits)
  members = [
    (field.name, _bounded(hints[field.name], bounds.get(field.name)), None)
    for field in dataclasses.fields(cls)
    if field.name not in _GIVEN
  ]
  return msgspec.defstruct(cls.__name__, members, forbid_unknown_fields=True)


def _bounded(hint: Any, limits: tuple[float, float] | None) -> Any:
  """An annotation of a module as a type of msgspec, with limits for its numbers."""
  if hint in (int, float):
    low, high = limits or (_INTEGER if hint is int else _NUMBER)
    return Annotated[hint, Meta(ge=low, le=high)]
  if hint is str:
    return Annotated[str, Meta(max_length=64)]
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin in (Union, types.UnionType):
    return Union[tuple(_bounded(kind, limits) for kind in inner)]  # noqa: UP007, the number of kinds varies
  if origin is tuple and Ellipsis not in inner:
    return tuple[tuple(_bounded(kind, limits) for kind in inner)]
  if origin in (tuple, list, Sequence):
    return Annotated[list[_bounded(inner[0], limits)], Meta(min_length=1, max_length=_ENTRIES)]
  return hint


def _join(where: str, inside: str) -> str:
  return f'{where}{"" if inside.startswith("[") else "."}{inside}' if where and inside else where or inside


def _plain(message: str) -> str:
  return message[:1].lower() + message[1:].replace('`', "'")
