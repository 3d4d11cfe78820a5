"""Reads JSON files of public checkpoints and checks the fields of a config.json against what our networks have."""

from collections.abc import Mapping
import pathlib
from typing import Any

from ssr_jax.types import SSRError
from ssr_jax.weights import files

Config = dict[str, Any]


def read_json(path: pathlib.Path) -> Config:
  """The object in a JSON file.

  Raises:
    SSRError: the file cannot be read or does not hold an object.
  """
  content = files.read_json(path, missing='fetch it and put it there', invalid='fetch it again')
  if not isinstance(content, dict):
    raise SSRError(f'{path}: not a JSON object; fetch it again')
  return content


def require(config: Mapping[str, Any], where: str, values: Mapping[str, Any]) -> None:
  """Checks fields for which our network supports one value only; a field that is absent passes.

  Raises:
    SSRError: a field has another value; the message starts with `where`.
  """
  for field, value in values.items():
    if config.get(field, value) != value:
      raise SSRError(f'{where}: {field} is {config[field]!r}; our network has {value!r} only')


def get(config: Mapping[str, Any], where: str, field: str) -> Any:
  """The value of a field that must be present.

  Raises:
    SSRError: it is absent; the message starts with `where`.
  """
  if field not in config:
    raise SSRError(f"{where}: field '{field}' is missing; fetch the file again")
  return config[field]
