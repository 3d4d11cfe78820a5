"""The manifest of a checkpoint: checksums of all that it holds, and the check of a checkpoint's files against them.

The sha256 of an array is that of its bytes in C order, of the whole array and not of a shard: it does not depend on the
mesh, so a checkpoint that eight processes wrote is verified by one. Arrays that are split over several processes are
gathered for it, one after the other; for those of one process it is exact without.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Any

from etils import epath  # orbax's paths
import jax
import numpy as np
import orbax.checkpoint as ocp

Tree = Any

NAME = 'manifest'
"""The item of a checkpoint that holds it."""

_FORMAT = 1
_FINITE = ('state/params/', 'state/stats/', 'state/ema/', 'state/ema_stats/', 'constants/')
"""Where a NaN must not be: not in the optimiser's state, which no export holds."""


class Damaged(Exception):
  """A directory that is not a whole checkpoint; the message says why."""


@dataclasses.dataclass(frozen=True)
class Contents:
  """What a checkpoint holds, once all of it has been read and agrees with its manifest.

  Attributes:
    arrays: {name: (shape, dtype)}.
    data: the position in the data.
    about: the run's config and the metadata of an export.
    metrics: validation metrics, if it was validated.
    checksums: {name: sha256} of the arrays; None for a checkpoint from before there were manifests, which is readable,
      but cannot be verified.
  """

  arrays: dict[str, tuple[tuple[int, ...], str]]
  data: dict[str, Any]
  about: dict[str, Any]
  metrics: dict[str, float] | None
  checksums: dict[str, str] | None


def names(tree: Tree) -> dict[str, Any]:
  """{path joined by '/': leaf} of a tree, the same for a dataclass and for the dict that is read back from it."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def checksums(tree: Tree) -> dict[str, str]:
  """{name: sha256} of the arrays of a tree; on all processes, for arrays that are split over them."""
  return {name: _sha256(_on_host(leaf)) for name, leaf in names(tree).items()}


def make(tree: Tree, data: Any, about: Any, metrics: Mapping[str, float] | None) -> dict[str, Any]:
  """The manifest of a checkpoint, for JSON.

  Args:
    tree: {'state': ..., 'constants': ...}.
    data: the position in the data, for JSON.
    about: as for `Checkpoints.save`.
    metrics: finite numbers, or None.
  """
  leaves = names(tree)
  sums = checksums(tree)
  arrays = {
    name: {'shape': list(np.shape(leaf)), 'dtype': str(leaf.dtype), 'sha256': sums[name]}
    for name, leaf in leaves.items()
  }
  body = {
    'format': _FORMAT,
    'arrays': arrays,
    'data': _sha256_of_json(data),
    'about': _sha256_of_json(about),
    'metrics': dict(metrics) if metrics else None,
  }
  return body | {'sha256': _sha256_of_json(body)}


def not_finite(tree: Tree) -> str | None:
  """Name of the first weight, batch statistic, average or constant that is not finite; None if all are."""
  for name, leaf in names(tree).items():
    if name.startswith(_FINITE) and not finite_array(_on_host(leaf)):
      return name
  return None


def read(directory: pathlib.Path) -> Contents:
  """Reads all of a checkpoint and compares it with its manifest, on one process and without a device.

  Args:
    directory: of one step.

  Raises:
    Damaged: something is missing, cannot be read, or is not what was saved.
  """
  facts = read_shapes(directory)
  try:
    for group in _groups(metadata(directory)):
      _check_group(load(directory, group), facts.checksums)
  except _NOT_DAMAGE:
    raise
  except Exception as error:  # whatever orbax and tensorstore raise for a garbled file
    raise Damaged(_line(error)) from error
  return facts


def read_shapes(directory: pathlib.Path) -> Contents:
  """`read` without the arrays' data, with the shapes and types that the arrays have.

  Raises:
    Damaged: as `read`; also where the manifest says other shapes than the arrays have.
  """
  facts = read_facts(directory)
  try:
    found = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in names(metadata(directory)).items()}
  except _NOT_DAMAGE:
    raise
  except Exception as error:
    raise Damaged(_line(error)) from error
  if facts.checksums is not None and found != facts.arrays:
    name = next(n for n in sorted(found.keys() | facts.arrays.keys()) if found.get(n) != facts.arrays.get(n))
    raise Damaged(f'array {name} is {found.get(name)}, the manifest says {facts.arrays.get(name)}')
  return dataclasses.replace(facts, arrays=found)


def read_facts(directory: pathlib.Path) -> Contents:
  """`read` without the arrays: the JSON items, which are small. The shapes are what the manifest says, unchecked.

  Raises:
    Damaged: as `read`.
  """
  try:
    if not any(directory.iterdir()):
      raise Damaged('the directory is empty')
    data, about = (_read_json(directory, item) for item in ('data', 'about'))
    items = directory / '_CHECKPOINT_METADATA'
    listed = json.loads(items.read_text()).get('item_handlers') or {} if items.exists() else {}
    if not (directory / NAME).exists() and NAME not in listed:
      return Contents({}, data, about, None, None)
    body = _read_json(directory, NAME)
    if body.pop('sha256', None) != _sha256_of_json(body):
      raise Damaged('its manifest is damaged')
    for item, value in (('data', data), ('about', about)):
      if _sha256_of_json(value) != body[item]:
        raise Damaged(f'{item} is not what was saved: its sha256 differs')
    arrays = {name: (tuple(x['shape']), x['dtype']) for name, x in body['arrays'].items()}
    sums = {name: x['sha256'] for name, x in body['arrays'].items()}
  except _NOT_DAMAGE:
    raise
  except Exception as error:
    raise Damaged(_line(error)) from error
  return Contents(arrays, data, about, body['metrics'], sums)


def metadata(directory: pathlib.Path) -> Tree:
  """Shapes and types of a checkpoint's arrays, as a tree of dicts and lists."""
  return ocp.PyTreeCheckpointHandler().metadata(epath.Path(directory / 'state')).tree


def load(directory: pathlib.Path, wanted: Tree) -> Tree:
  """Reads some of a checkpoint's arrays into memory of the host; `wanted` is a part of its `metadata`."""
  return ocp.PyTreeCheckpointHandler().restore(
    epath.Path(directory / 'state'),
    args=ocp.args.PyTreeRestore(
      wanted,
      restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
      partial_restore=True,
    ),
  )


_NOT_DAMAGE = (Damaged, PermissionError, MemoryError, jax.errors.JaxRuntimeError)
"""What passes through: it does not say that a file is damaged."""


def _groups(stored: Tree) -> list[Tree]:
  """The parts of a checkpoint that are read one after the other, so that the host never holds all of it."""
  groups = [{'state': {field: tree}} for field, tree in stored['state'].items()]
  return [*groups, {'constants': stored['constants']}] if stored.get('constants') else groups


def _check_group(tree: Tree, expected: Mapping[str, str] | None) -> None:
  bad = not_finite(tree)
  if expected is not None:
    for name, value in names(tree).items():
      if _sha256(value) != expected[name]:
        raise Damaged(f'array {name} is not what was saved: its sha256 differs')
  if bad:
    raise Damaged(f'array {bad} is not finite')


def _read_json(directory: pathlib.Path, item: str) -> Any:
  if not (directory / item).is_dir():
    raise Damaged(f'{item} is missing')
  value = ocp.JsonCheckpointHandler().restore(epath.Path(directory / item))
  if not isinstance(value, dict):
    raise Damaged(f'{item} is damaged')
  return value


def _on_host(x: Any) -> np.ndarray:
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    from jax.experimental import multihost_utils

    with jax.transfer_guard('allow'):
      return np.asarray(multihost_utils.process_allgather(x, tiled=True))
  return np.asarray(jax.device_get(x))


def _sha256(value: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).hexdigest()


def _sha256_of_json(value: Any) -> str:
  """Of a JSON value as it is read back: tuples are lists, keys are strings."""
  value = json.loads(json.dumps(value))
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def finite_array(value: np.ndarray) -> bool:
  """Whether all numbers of an array are finite; bfloat16, whose `kind` is not 'f', counts as a float."""
  return not jax.numpy.issubdtype(value.dtype, np.floating) or bool(np.isfinite(value).all())


def finite(metrics: Mapping[str, float]) -> bool:
  """Whether all figures are numbers."""
  return all(math.isfinite(value) for value in metrics.values())


def _line(error: BaseException) -> str:
  return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
