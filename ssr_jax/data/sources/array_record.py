"""`array_record:`, records in ArrayRecord shards, and the encoding of one record in a shard."""

from collections.abc import Mapping, Sequence
import glob
import os
from typing import Any

from ssr_jax.data.sources.base import KEYS, Source
from ssr_jax.data.sources.decode import BadRecord
from ssr_jax.image.opening import first_line
from ssr_jax.types import SSRError


class ArrayRecord(Source):
  """Records in ArrayRecord shards; each entry is a tf.train.Example of encoded files by key, or one image file."""

  def __init__(self, store: Any, where: str):
    """Takes an opened data source of entries.

    Args:
      store: the bytes of entry i are store[i].
      where: the name of the shards, for names of records and error messages.

    Raises:
      SSRError: there are no entries, or the first one lacks an image or the kind of its depth.
    """
    self._store, self._where = store, where
    self.keys, self._aliases = _layout(store, where)

  @classmethod
  def open(cls, pattern: str) -> 'ArrayRecord':
    """Shards that match a glob pattern, or all *.array_record* files in a folder; SSRError where there is none."""
    place = os.path.expanduser(pattern)
    if os.path.isdir(place):
      place = os.path.join(glob.escape(place), '*.array_record*')
    paths = sorted(path for path in glob.glob(place, recursive=True) if os.path.isfile(path))
    if not paths:
      raise SSRError(f"array_record:{pattern}: no such file; make shards with 'ssr data pack SRC DEST'")
    return cls(_open_shards(paths), pattern)

  def __len__(self) -> int:
    return len(self._store)

  def name(self, index: int, key: str = 'hr') -> str:
    """See `Source.name`."""
    try:
      inner = parse_example(self._store[index]).get('name', b'').decode(errors='surrogateescape')
    except Exception:  # error messages need a name also where the entry itself is damaged
      inner = ''
    return f'{self._where}[{index}]' + (f' {inner}' if inner else '')

  def encoded(self, index: int) -> dict[str, bytes]:
    """See `Source.encoded`; also has 'name' where the entry has one. BadRecord for a damaged or incomplete entry."""
    try:
      data = self._store[index]
      entry = parse_example(data) if _is_example(data) else {'hr': data}
    except Exception as error:  # the reader raises many types for a damaged shard
      raise BadRecord(f'{self._where}[{index}]: cannot be read ({first_line(error)}); pack it again') from error
    stored_as = {key: self._aliases.get(key, key) for key in (*self.keys, 'depth_kind', 'name')}
    stored = {key: entry[alias] for key, alias in stored_as.items() if alias in entry}
    missing = [key for key in self.keys if key not in stored]
    if missing:
      raise BadRecord(f"{self._where}[{index}]: has no '{missing[0]}'")
    return stored


def modules() -> tuple[Any, Any]:
  """The package array_record's modules (reader and writer, data source); SSRError where it is not installed."""
  try:
    from array_record.python import array_record_data_source, array_record_module  # pyright: ignore[reportAttributeAccessIssue]
  except ImportError as error:
    raise SSRError('ArrayRecord files need the package array_record, which this system lacks') from error
  return array_record_module, array_record_data_source


def _open_shards(paths: Sequence[str]) -> Any:
  _, array_record_data_source = modules()
  try:
    return array_record_data_source.ArrayRecordDataSource(list(paths))
  except Exception as error:  # the reader raises many types
    raise SSRError(
      f'{paths[0]} and {len(paths) - 1} more: not complete ArrayRecord files ({first_line(error)}); pack them again'
    ) from error


def _layout(store: Any, where: str) -> tuple[tuple[str, ...], dict[str, str]]:
  """Keys of the records, and the names in the entries of those keys that have another; by the first entry."""
  if not len(store):
    raise SSRError(f'{where}: holds no records')
  first = parse_example(store[0]) if _is_example(store[0]) else {'hr': b''}
  if 'depth' in first and 'depth_kind' not in first:
    raise SSRError(f"{where}: its records have 'depth' without 'depth_kind' (depth or inverse); pack them again")
  aliases = {} if 'hr' in first else {'hr': 'image'}
  keys = tuple(key for key in KEYS if aliases.get(key, key) in first)
  if 'hr' not in keys:
    raise SSRError(f"{where}: its records have {', '.join(sorted(first))}; an image must be called 'hr' or 'image'")
  return keys, aliases


def _is_example(data: bytes) -> bool:
  return data[:1] == b'\n'  # the tag of the message's field 1; the image formats in use do not start with it


def parse_example(data: bytes) -> dict[str, bytes]:
  """The bytes features of a serialised tf.train.Example by name."""
  features = _example_class().FromString(data).features.feature
  return {name: value.bytes_list.value[0] for name, value in features.items() if len(value.bytes_list.value) == 1}


def make_example(stored: Mapping[str, bytes]) -> bytes:
  """Serialises bytes features to a tf.train.Example, the inverse of `parse_example`; deterministic."""
  example = _example_class()()
  for name in sorted(stored):
    example.features.feature[name].bytes_list.value.append(stored[name])
  return example.SerializeToString(deterministic=True)


def _example_class() -> Any:
  """The class of the message tf.train.Example, without TensorFlow."""
  from tensorflow_datasets.proto import tf_example_pb2

  return tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
