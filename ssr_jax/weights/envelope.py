"""Reads and checks model.json: what all systems share here, sections and parts' configs by the system's own types."""

from collections.abc import Mapping
import pathlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ssr_jax import systems
from ssr_jax.systems import fields
from ssr_jax.types import SSRError
from ssr_jax.weights import files

FORMAT = 1
MODEL_FILE = 'model.json'

_PART_FIELDS = ('config', 'file', 'sha256', 'bytes')
_Sha256 = Annotated[str, Meta(pattern='^[0-9a-f]{64}$')]
_Count = Annotated[int, Meta(ge=0, le=2**40)]


class _Part(fields.Section):
  config: dict[str, Any]
  file: Annotated[str, Meta(min_length=1, max_length=200, pattern=r'^[^\x00-\x1f\x7f]*$')]
  sha256: _Sha256
  bytes: _Count
  layout: _Sha256 | None = None
  parameters: _Count | None = None
  training: dict[str, Any] | None = None


# Without the fields of `_PART_FIELDS`, whose absence has a message of its own.
class _Envelope(msgspec.Struct):
  format: int
  name: Annotated[str, Meta(max_length=200, pattern=r'^[^\x00-\x1f\x7f]*$')]
  scale: Annotated[int, Meta(ge=1, le=16)]
  parts: dict[str, dict[str, Any]]
  notes: Any = None


def read(path: pathlib.Path) -> dict[str, Any]:
  """The content of a model.json, checked.

  Raises:
    SSRError: the file cannot be read, is not JSON, or `check` finds an error.
  """
  config = files.read_json(path, missing='is this a model directory?', invalid='restore the file')
  check(path, config)
  return config


def check(path: pathlib.Path, config: Any) -> None:
  """Checks the content of a model.json; no network is built.

  Args:
    path: of the file, for messages.
    config: the content; plain JSON values.

  Raises:
    SSRError: another format, an unknown system, part or field, a missing field, a wrong type or a number out of bounds;
      the message names the file and the field.
  """
  if not isinstance(config, dict) or type(config.get('format')) is not int or config['format'] != FORMAT:
    found = config.get('format') if isinstance(config, dict) else type(config).__name__
    raise SSRError(f'{path}: format is {found!r}, this version reads {FORMAT}; get the matching ssr_jax or weights')
  name = config.get('system', systems.DEFAULT)
  if not isinstance(name, str) or name not in systems.SYSTEMS:
    known = ', '.join(systems.SYSTEMS)
    raise SSRError(f'{path}: unknown system {name!r}; known: {known}; a newer ssr_jax may have it')
  system = systems.get(name)
  needed = {'format', 'name', 'scale', 'parts', *system.sections}
  known = sorted({*needed, 'system', 'notes'})
  for field in sorted(needed - config.keys()):
    raise SSRError(f"{path}: field '{field}' is missing; restore the file")
  for field in sorted(config.keys() - set(known)):
    raise SSRError(f"{path}: unknown field '{field}'; known: {', '.join(known)}")
  try:
    fields.check({field: config[field] for field in _Envelope.__struct_fields__ if field in config}, _Envelope, '')
    for section in system.sections:
      fields.check(config[section], system.section_types.get(section, dict[str, Any]), section)
    for part, entry in config['parts'].items():
      _check_part(system, part, entry)
  except SSRError as error:
    raise SSRError(f'{path}: {error}') from error


def _check_part(system: Any, part: str, entry: Mapping[str, Any]) -> None:
  """Checks a part's entry and its config; SSRError without the path."""
  if part not in system.parts:
    raise SSRError(f"unknown part '{part}'; known: {', '.join(system.parts)}")
  for field in _PART_FIELDS:
    if field not in entry:
      raise SSRError(f"field 'parts.{part}.{field}' is missing; restore the file")
  fields.check(entry, _Part, f'parts.{part}')
  if pathlib.PurePath(entry['file']).name != entry['file']:
    raise SSRError(f"field 'parts.{part}.file' must name a file beside it; got {entry['file']!r}")
  try:
    system.parts[part].check(part, entry['config'], '')
  except SSRError as error:
    raise SSRError(f"part '{part}': {error}; correct parts.{part}.config in {MODEL_FILE}") from error
