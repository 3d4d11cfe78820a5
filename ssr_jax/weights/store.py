"""Models by name: where the bundled and the imported ones are on this machine, and how to load or verify one."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import platformdirs

from ssr_jax.types import SSRError
from ssr_jax.weights import format, hub

BUNDLED = {'compact': format.BUNDLED}
"""{name: model directory} of the models that the package ships."""


@dataclasses.dataclass(frozen=True)
class Model:
  """A model read from disk.

  Attributes:
    config: the content of model.json.
    variables: {part: Flax variables}, floats as float32 NumPy arrays.
    directory: the model directory it was read from.
  """

  config: dict[str, Any]
  variables: dict[str, dict[str, Any]]
  directory: pathlib.Path


def home() -> pathlib.Path:
  """The folder of imported models: $SSR_WEIGHTS, or `ssr_jax` in the user's data directory."""
  if 'SSR_WEIGHTS' in os.environ:
    return pathlib.Path(os.environ['SSR_WEIGHTS'])
  return platformdirs.user_data_path('ssr_jax', appauthor=False)


def known() -> list[str]:
  """The names that `resolve` accepts: bundled and imported models, sorted."""
  imported = (path.parent.name for path in home().glob(f'*/{format.MODEL_FILE}'))
  return sorted({*BUNDLED, *imported})


def resolve(name_or_path: str | os.PathLike) -> pathlib.Path:
  """The directory of a model.

  Args:
    name_or_path: a name in `known()`, a model directory, its model.json, or a repository of the Hugging Face hub,
      'org/model' or 'org/model@revision', which is downloaded unless it is in the cache. A directory of that path
      takes precedence.

  Raises:
    SSRError: not a known name, and no directory with a model.json; for the hub see `hub.fetch`.
  """
  if str(name_or_path) in BUNDLED:
    directory = BUNDLED[str(name_or_path)]
    if not (directory / format.MODEL_FILE).is_file():
      raise SSRError(f"model '{name_or_path}': {directory / format.MODEL_FILE} is missing; install the package again")
    return directory
  directory = pathlib.Path(name_or_path)
  if directory.name == format.MODEL_FILE:
    directory = directory.parent
  if (directory / format.MODEL_FILE).is_file():
    return directory
  if len(directory.parts) == 1 and (home() / directory / format.MODEL_FILE).is_file():
    return home() / directory
  if not directory.exists() and hub.is_name(str(name_or_path)):
    return hub.fetch(str(name_or_path))
  what = f'the directory has no {format.MODEL_FILE}' if directory.is_dir() else 'unknown model'
  raise SSRError(f"model '{name_or_path}': {what}; known: {', '.join(known())}, or the path of a model directory")


def load_model(name_or_path: str | os.PathLike, parts: Sequence[str] | None = None) -> Model:
  """Reads a model.

  Args:
    name_or_path: see `resolve`.
    parts: the parts to read; default all that the model has, which need not be all that its system has.

  Raises:
    SSRError: see `resolve`, `format.read_config` and `format.load_part`.
  """
  directory = resolve(name_or_path)
  config = format.read_config(directory)
  wanted = list(config['parts']) if parts is None else parts
  for part in wanted:  # before the first file is read, which may be gigabytes
    format.part_entry(directory, config, part)
  variables = {part: format.load_part(directory, part, model=config) for part in wanted}
  return Model(config=config, variables=variables, directory=directory)


def verify(name_or_path: str | os.PathLike) -> dict[str, str | None]:
  """Reads and checks every part of a model.

  Returns:
    {part: None if it is intact, else one line that says what is wrong}.

  Raises:
    SSRError: see `resolve` and `format.read_config`.
  """
  directory = resolve(name_or_path)
  config = format.read_config(directory)
  found: dict[str, str | None] = {}
  for part in config['parts']:
    try:
      format.load_part(directory, part, model=config)
      found[part] = None
    except SSRError as error:
      found[part] = str(error)
  return found
