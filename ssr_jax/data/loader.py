"""Training batches with grain: random access, with one random generator for each record.

Batch i is a function of (source, seed, i) alone. Threads, worker processes, several hosts that each read a part, and a
run that starts in the middle all get the same bytes, and the position of a run is a single number.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import logging
import math
import sys
from typing import Any

import grain
import numpy as np

from ssr_jax.data import sources
from ssr_jax.data.records import RecordFunction, TrainingRecord
from ssr_jax.types import SSRError

Batch = dict[str, np.ndarray]

_log = logging.getLogger(__name__)
_BAD = 'bad records'  # key of a batch with messages about unusable records, for the process that counts them
_CACHE = 2 << 30  # bytes


@dataclasses.dataclass(frozen=True)
class Dataset:
  """An endless sequence of batches; `dataset[i]` makes this process's part of batch i.

  Besides what `record` makes, a batch has 'record' int32 [b], the indices of its records in the source.

  Attributes:
    source: the records; a `Source`, or a range where `record` ignores the source's record.
    record: makes one training record; see `ssr_jax.data.records`.
    batch_size: of the whole batch, over all processes.
    seed: of the order of records and of their random generators.
    max_bad_records: number of different unusable records that are skipped before it is an error. Each process counts
      those that it reads.
    process_index, process_count: this process reads the process_index-th of process_count equal parts of each batch.
      The parts in order make up the batch of a single process.
    cache_bytes: memory for decoded records, over all workers of this process.
  """

  source: sources.Source | Sequence[Any]
  record: RecordFunction
  batch_size: int
  seed: int
  max_bad_records: int = 0
  process_index: int = 0
  process_count: int = 1
  cache_bytes: int = _CACHE

  def __post_init__(self):
    if not len(self.source):
      raise SSRError('data: the source has no records')
    if self.batch_size % self.process_count:
      raise SSRError(
        f'train.batch_size={self.batch_size} is not a multiple of the {self.process_count} processes; change it'
      )

  def __getitem__(self, index: int) -> Batch:
    made: Any = self.cached_graph[index]
    batch = dict(made)
    _note(batch.pop(_BAD), [], self.max_bad_records)
    return batch

  @functools.cached_property
  def cached_graph(self) -> grain.MapDataset:
    """`graph` for this process; `dataset[i]` and all iterators without workers share its cache."""
    return self.graph()

  def graph(self, workers: int = 0) -> grain.MapDataset:
    """The grain dataset of this process's batches, with its share of the cache where there are several workers."""
    source = self.source
    if isinstance(source, sources.Source) and self.cache_bytes:
      source = sources.Cached(source, self.cache_bytes // max(workers, 1))
    groups = source.groups() if isinstance(source, sources.Source) else None
    load = _Load(source, groups, self.record, self.max_bad_records)
    if groups is None:
      data = grain.MapDataset.source(range(len(source))).seed(self.seed).shuffle().repeat().random_map(load)
    else:
      data = grain.MapDataset.source(_Mixture(groups, self.seed)).seed(self.seed).random_map(load)
    # Consecutive batches of this size are the parts of a batch, so a process reads every process_count-th.
    data = data.batch(self.batch_size // self.process_count, batch_fn=_stack)
    return data.slice(slice(self.process_index, None, self.process_count)) if self.process_count > 1 else data


def dataset(
  source: sources.Source | Sequence[Any], record: RecordFunction, batch_size: int, seed: int, **options: Any
) -> Dataset:
  """A `Dataset` with these fields: endless, with a new order in each epoch."""
  return Dataset(source, record, batch_size, seed, **options)


def batches(data: Dataset, start: int = 0, threads: int = 2, prefetch: int = 4, workers: int = 0) -> 'Batches':
  """Iterates over batches and reads ahead; order and bytes do not depend on the number of threads or workers.

  Args:
    data: what to iterate over.
    start: index of the first batch.
    threads: number of decoding threads where workers = 0. They share one cache, which is best for a set that fits in
      memory.
    prefetch: number of batches to read ahead.
    workers: number of decoding processes, for a set that does not fit in memory. They import the program's main module,
      which must therefore be guarded by `if __name__ == '__main__'`.
  """
  return Batches(data, start, threads, prefetch, workers)


class Batches(grain.DatasetIterator):
  """Iterator over batches; its state is JSON and does not depend on the number of workers or processes.

  It is a grain iterator, so that orbax can save it with `grain.checkpoint.CheckpointSave`.
  """

  def __init__(self, data: Dataset, start: int, threads: int, prefetch: int, workers: int):
    super().__init__()
    self._data, self._threads, self._prefetch, self._workers = data, threads, prefetch, workers
    self._next = start
    self._bad: list[str] = []
    self._reader: Any = None  # a grain iterator, once reading has started

  def __next__(self) -> Batch:
    self.start_prefetch()
    try:
      batch = dict(next(self._reader))
    except RuntimeError as error:
      if 'terminated unexpectedly' not in str(error):  # from grain's message
        raise
      raise SSRError(
        'a worker process died, probably because memory ran out; lower data.workers or data.cache_mb'
      ) from error
    _note(batch.pop(_BAD), self._bad, self._data.max_bad_records)
    self._next += 1
    return batch

  @property
  def bad_records(self) -> tuple[str, ...]:
    """One line for each record that was skipped so far."""
    return tuple(self._bad)

  def get_state(self) -> dict[str, Any]:
    """The index of the next batch and the records skipped so far, as JSON values."""
    return {'next_batch': self._next, 'bad_records': list(self._bad)}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from a state of `get_state`."""
    self._stop()
    self._next, self._bad = int(state['next_batch']), list(state['bad_records'])

  def start_prefetch(self) -> None:
    """Starts the threads or workers; otherwise the first `next` does."""
    if self._closed:
      raise ValueError('this iterator of batches is closed; make another')
    if self._reader is not None:
      return
    if not self._workers:
      options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._prefetch)
      self._reader = iter(self._data.cached_graph[self._next :].to_iter_dataset(options))
      return
    _parse_flags()
    ahead = max(1, math.ceil(self._prefetch / self._workers))
    read = self._data.graph(self._workers)[self._next :].to_iter_dataset(
      grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    )
    options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=ahead)
    self._reader = iter(read.mp_prefetch(options))
    self._reader.start_prefetch()

  def close(self) -> None:
    """Ends the threads or workers; the iterator cannot be used afterwards."""
    self._stop()
    super().close()

  def _stop(self) -> None:
    if self._reader is not None:
      self._reader.close()
      self._reader = None

  def __str__(self) -> str:
    return f'Batches(next={self._next}, workers={self._workers})'


class _Load:
  """Makes the training record of an index; an unusable one is replaced by another, drawn with the same generator."""

  def __init__(
    self, source: sources.Source | Sequence[Any], groups: sources.Groups | None, record: RecordFunction, limit: int
  ):
    self.source, self.groups, self.record, self.limit = source, groups, record, limit

  def __call__(self, index: int, rng: np.random.Generator) -> TrainingRecord:
    bad, tried, index = [], set(), int(index)
    candidates = None
    while True:
      try:
        return self.record(self.source[index], rng) | {'record': np.int32(index), _BAD: tuple(bad)}
      except sources.BadRecord as error:
        name = self.source.name(index) if isinstance(self.source, sources.Source) else ''
        line = str(error) if name in str(error) else f'{name}: {error}'
        bad += [line] if line not in bad else []
        tried.add(index)
        if candidates is None:
          # From the same part of a weighted source, which keeps the proportions.
          candidates = next((members for _, members in self.groups or () if index in members), range(len(self.source)))
        if len(bad) > self.limit or len(tried) == len(candidates):
          raise SSRError(_too_many(bad, self.limit)) from error
        index = int(candidates[rng.integers(len(candidates))])


class _Mixture:
  """Source indices in the order of a weighted mixture; each part is shuffled anew in each of its own epochs.

  It has random access, as grain requires, and is even: the first n positions have floor(n w_0) of part 0, the rest of
  them in the same way floor(...) of part 1, and so on. Weights are rounded to 1/10000 of their sum.
  """

  _WHOLE = 10_000

  def __init__(self, groups: sources.Groups, seed: int):
    total = sum(weight for weight, _ in groups)
    ends = [round(self._WHOLE * end / total) for end in np.cumsum([weight for weight, _ in groups])]
    self._weights = [b - a for a, b in itertools.pairwise([0, *ends])]
    if min(self._weights) < 1:
      raise SSRError(f'data: a weight is less than 1/{self._WHOLE} of the sum of all; leave that source out')
    if not all(len(members) for _, members in groups):
      raise SSRError('data: a weighted source is empty after data.holdout; give it more records or set data.holdout=0')
    self._orders = []
    for k, (_, members) in enumerate(groups):
      order = grain.MapDataset.source(members.tolist()).seed(
        int(np.random.SeedSequence((seed, k)).generate_state(1)[0])
      )
      self._orders.append(order.shuffle().repeat())

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> int:
    n, whole = int(index), self._WHOLE
    for weight, order in zip(self._weights, self._orders, strict=True):
      count = n * weight // whole  # of this part among the first n positions
      if (n + 1) * weight // whole > count:
        return int(order[count])
      n, whole = n - count, whole - weight
    raise AssertionError('the last part takes every position that is left')


def _stack(records: Sequence[TrainingRecord]) -> dict[str, Any]:
  batch = {name: np.stack([record[name] for record in records]) for name in records[0] if name != _BAD}
  return batch | {_BAD: tuple(line for record in records for line in record[_BAD])}


def _note(found: Sequence[str], known: list[str], limit: int) -> None:
  """Adds new messages about unusable records to `known` and logs them; SSRError where there are more than `limit`.

  Batches are counted when they are used, not when they are made, so that neither the number of workers nor the number
  of batches they read ahead matters.
  """
  for line in found:
    if line not in known:
      known.append(line)
      _log.warning('skipped %s (%d of at most %d)', line, len(known), limit)
  if len(known) > limit:
    raise SSRError(_too_many(known, limit))


def _too_many(bad: Sequence[str], limit: int) -> str:
  if len(bad) <= limit:
    return f'no record can be used: {"; ".join(bad)}'
  if limit == 0:
    return bad[0]
  return f'{len(bad)} records cannot be used, more than data.max_bad_records={limit}: {"; ".join(bad)}'


def _parse_flags() -> None:
  """Marks absl's flags as parsed: grain's workers read them, and only programs that use absl's app.run parse them."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
