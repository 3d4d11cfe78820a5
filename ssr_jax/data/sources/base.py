"""`Source`, random access to records, and the sources that combine or wrap others: `Joined`, `Subset`, `Cached`."""

import abc
import collections
from collections.abc import Iterator, Mapping, Sequence
import pathlib
import threading
from typing import Any

import numpy as np

from ssr_jax.data.sources import decode
from ssr_jax.data.sources.decode import BadRecord

Record = dict[str, np.ndarray]
"""'hr' uint8 [H, W, 3]; where the source has them also 'lr' uint8 [h, w, 3], 'taught' uint8 [H, W, 3], which a teacher
made of 'lr', and 'depth' float32 [H, W] in [0, 1]."""

KEYS = ('hr', 'lr', 'taught', 'depth')

Groups = list[tuple[float, np.ndarray]]
"""(weight, indices) of each part of a weighted source."""


class Source(abc.ABC):
  """A sequence of records that is read by index and decoded on demand.

  Attributes:
    keys: what a record holds, of `KEYS`; `select` narrows it.
  """

  keys: tuple[str, ...] = ('hr',)

  @abc.abstractmethod
  def __len__(self) -> int:
    """Number of records."""

  @abc.abstractmethod
  def name(self, index: int, key: str = 'hr') -> str:
    """The file, or the shard and the entry in it, that `key` of record `index` comes from."""

  @abc.abstractmethod
  def encoded(self, index: int) -> dict[str, bytes]:
    """Record `index` as it is stored: the bytes of its files by key.

    A record with 'depth' also has 'depth_kind', b'depth' or b'inverse', the `kind` of `decode_depth`.
    """

  def __getitem__(self, index: int) -> Record:
    """Record `index`, decoded; `BadRecord` where that fails."""
    return self.decode(index, self.read(index))

  def read(self, index: int) -> dict[str, bytes]:
    """`encoded`, but raises `BadRecord` for a file that cannot be opened."""
    try:
      return self.encoded(index)
    except OSError as error:
      raise BadRecord(f'{self.name(index)}: cannot be read ({error.strerror})') from error

  def decode(self, index: int, stored: Mapping[str, bytes]) -> Record:
    """Decodes what `encoded` returned for record `index`.

    HR is cropped to a multiple of LR's size; depth is resized to HR's size.

    Raises:
      BadRecord: a file is damaged, or the files of the record do not match.
    """
    record = {}
    for key in self.keys:
      if key == 'depth':
        record[key] = decode.decode_depth(stored[key], stored['depth_kind'].decode(), self.name(index, key))
      else:
        record[key] = decode.decode_image(stored[key], self.name(index, key))
    if 'lr' in record:
      h, w, _ = record['lr'].shape
      scale = decode.pair_scale(record['hr'].shape[:2], (h, w), self.name(index, 'lr'))
      record['hr'] = record['hr'][: scale * h, : scale * w]
    if 'taught' in record and record['taught'].shape != record['hr'].shape:
      made, photo = (f'{record[key].shape[1]}x{record[key].shape[0]}' for key in ('taught', 'hr'))
      raise BadRecord(f'{self.name(index, "taught")}: {made}, but its HR image is {photo}')
    if 'depth' in record:
      record['depth'] = decode.fit_depth(record['depth'], record['hr'].shape[:2], self.name(index, 'depth'))
    return record

  def select(self, keys: tuple[str, ...]) -> None:
    """Restricts records to these keys; the others are no longer decoded."""
    self.keys = keys

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    """The files of record `index`, that of 'hr' first; empty for a record in a shard."""
    del index
    return ()

  def __iter__(self) -> Iterator[Record]:
    return (self[i] for i in range(len(self)))

  def groups(self) -> Groups | None:
    """(weight, indices) of each part of a weighted source; None for a source without weights."""
    return None


class Joined(Source):
  """The records of several sources, one source after the other."""

  def __init__(self, parts: Sequence[Source], weights: Sequence[float] | None = None):
    """Joins sources that have the same keys.

    Args:
      parts: the sources.
      weights: one for each part, for `groups`; None for a source without weights.
    """
    self.parts, self.weights, self.keys = list(parts), weights, parts[0].keys
    self._ends = np.cumsum([len(part) for part in self.parts])

  def _locate(self, index: int) -> tuple[Source, int]:
    part = int(np.searchsorted(self._ends, index, side='right'))
    return self.parts[part], int(index - (self._ends[part - 1] if part else 0))

  def __len__(self) -> int:
    return int(self._ends[-1])

  def name(self, index: int, key: str = 'hr') -> str:
    """See `Source.name`."""
    part, inner = self._locate(index)
    return part.name(inner, key)

  def encoded(self, index: int) -> dict[str, bytes]:
    """See `Source.encoded`."""
    part, inner = self._locate(index)
    return part.encoded(inner)

  def select(self, keys: tuple[str, ...]) -> None:
    """Restricts the records of all parts to these keys."""
    self.keys = keys
    for part in self.parts:
      part.select(keys)

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    """See `Source.files`."""
    part, inner = self._locate(index)
    return part.files(inner)

  def __getitem__(self, index: int) -> Record:
    part, inner = self._locate(index)
    return part[inner]

  def groups(self) -> Groups | None:
    """See `Source.groups`."""
    if self.weights is None:
      return None
    starts = [0, *self._ends[:-1]]
    return [(weight, np.arange(a, b)) for weight, a, b in zip(self.weights, starts, self._ends, strict=True)]


class Subset(Source):
  """The records of a source that have the given indices."""

  def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
    self.source, self.indices, self.keys = source, np.asarray(indices, np.int64), source.keys

  def __len__(self) -> int:
    return len(self.indices)

  def name(self, index: int, key: str = 'hr') -> str:
    """See `Source.name`."""
    return self.source.name(int(self.indices[index]), key)

  def encoded(self, index: int) -> dict[str, bytes]:
    """See `Source.encoded`."""
    return self.source.encoded(int(self.indices[index]))

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    """See `Source.files`."""
    return self.source.files(int(self.indices[index]))

  def __getitem__(self, index: int) -> Record:
    return self.source[int(self.indices[index])]

  def groups(self) -> Groups | None:
    """See `Source.groups`."""
    groups = self.source.groups()
    return groups and [(weight, np.flatnonzero(np.isin(self.indices, members))) for weight, members in groups]


class Cached(Source):
  """A source whose decoded records stay in memory up to a limit; the least recently used record is dropped first."""

  def __init__(self, source: Source, limit: int):
    """Wraps a source.

    Args:
      source: where the records come from.
      limit: of the memory, in bytes.
    """
    self.source, self.limit, self.keys = source, limit, source.keys
    self._clear()

  def _clear(self) -> None:
    self._held = 0
    self._records: collections.OrderedDict[int, Record] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.source)

  def name(self, index: int, key: str = 'hr') -> str:
    """See `Source.name`."""
    return self.source.name(index, key)

  def encoded(self, index: int) -> dict[str, bytes]:
    """See `Source.encoded`."""
    return self.source.encoded(index)

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    """See `Source.files`."""
    return self.source.files(index)

  def groups(self) -> Groups | None:
    """See `Source.groups`."""
    return self.source.groups()

  def __getitem__(self, index: int) -> Record:
    with self._lock:
      if index in self._records:
        self._records.move_to_end(index)
        return self._records[index]
    record = self.source[index]
    size = sum(a.nbytes for a in record.values())
    with self._lock:
      if index not in self._records and size <= self.limit:
        self._records[index] = record
        self._held += size
        while self._held > self.limit:
          self._held -= sum(a.nbytes for a in self._records.popitem(last=False)[1].values())
    return record

  def __getstate__(self) -> dict[str, Any]:
    # Without the records: each worker process fills its own cache.
    return {'source': self.source, 'limit': self.limit, 'keys': self.keys}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.source, self.limit, self.keys = state['source'], state['limit'], state['keys']
    self._clear()


def split(source: Source, every: int) -> tuple[Source, Source]:
  """Splits a source into (training, validation); every n-th record goes to validation, none where every = 0."""
  held = np.arange(len(source)) % every == every - 1 if every else np.zeros(len(source), bool)
  return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))
