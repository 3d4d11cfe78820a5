"""Training batches with grain: random access, one generator per record, so record i is the same bytes on any machine.

Batch i is a function of (source, seed, i) alone. Whatever reads it (threads, worker processes, several hosts that take
a part each, a run that starts in the middle) gets the same bytes, and where a run stands is one number.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import itertools
import logging
import math
import sys
from typing import Any

import grain
import numpy as np
from PIL import Image

from ssr_jax.data import scenes, sources
from ssr_jax.types import SSRError

Batch = dict[str, np.ndarray]

_log = logging.getLogger(__name__)
_BAD = 'bad records'  # key under which a batch carries, to the process that counts them, what could not be used
_CACHE = 2 << 30
_RELIEF = 0.02  # inverse depth that a patch should span, out of the picture's 1; a flat one teaches nothing
_TRIES = 4
_TEXTURE = 24  # smallest side of a photo that scenes take


# ---- records ---------------------------------------------------------------------------------------------------------


def crop_patch(image: np.ndarray, patch: int, rng: np.random.Generator) -> np.ndarray:
  """A random patch with a random one of the eight flips and rotations: [H, W, 3] -> [patch, patch, 3]."""
  return _crop({'hr': image}, patch, rng)['hr']


def _crop(record: sources.Record, patch: int, rng: np.random.Generator) -> sources.Record:
  """The same random patch, flip and rotation of everything in a record; `patch` is the side of HR's.

  A record with depth is only mirrored left to right: which way is down is the strongest cue to depth that there is.
  """
  H, W, _ = record['hr'].shape
  if min(H, W) < patch:
    raise sources.BadRecord(
      f'a training image is {H}x{W}, smaller than data.patch={patch}; remove it or lower data.patch'
    )
  scale = H // record['lr'].shape[0] if 'lr' in record else 1
  if patch % scale:
    raise SSRError(f'data.patch={patch} is no multiple of {scale}, the scale of the LR images; change it')
  for _ in range(_TRIES):
    y, x = (scale * int(rng.integers((side - patch) // scale + 1)) for side in (H, W))
    if 'depth' not in record or np.ptp(record['depth'][y : y + patch, x : x + patch]) >= _RELIEF:
      break
  turns = 0 if 'depth' in record else rng.integers(4)
  flip = rng.integers(2)
  out = {}
  for name, image in record.items():
    factor = scale if name == 'lr' else 1
    top, left, side = y // factor, x // factor, patch // factor
    crop = np.rot90(image[top : top + side, left : left + side], turns)
    out[name] = crop[:, ::-1] if flip else crop
  return out


def photo_record(
  patch: int, shrink: tuple[float, float] = (1.0, 1.0)
) -> Callable[[sources.Record, np.random.Generator], Batch]:
  """Record of the photo stages: 'hr' uint8 [patch, patch, 3] and 'seed' uint32, from which the device draws.

  Where the source has them also 'lr' uint8 [patch/s, patch/s, 3] and 'depth' float32 [patch, patch], which stays
  relative to the whole photo.

  Args:
    patch: side of the patch.
    shrink: the photo is reduced by a factor drawn for each record between these two, and never below what leaves a
      patch; (1, 1) leaves it as it is. A reduced photo is sharp and has lost its noise and JPEG's blocks, which a
      critic would ask for.

  Raises:
    SSRError: shrink is no such pair; other than (1, 1), from the record, the source has LR images of its own.
  """
  low, high = shrink
  if not 0 < low <= high <= 1:
    raise SSRError(f'data.shrink={shrink}: must be two factors above 0 and up to 1, the smaller first; (1, 1) is none')

  def record(whole: sources.Record, rng: np.random.Generator) -> Batch:
    side = patch
    if low < 1:
      if 'lr' in whole:
        raise SSRError(f'data.shrink={shrink}: not for pairs, whose LR images are as they are; set it to (1, 1)')
      smallest = min(whole['hr'].shape[:2])
      least = min(patch / smallest, 1)
      side = max(patch, min(round(patch / rng.uniform(max(low, least), max(high, least))), smallest))
    crops = _crop(whole, side, rng)
    if side != patch:
      crops = {name: _resized(crop, patch) for name, crop in crops.items()}
    batch = {name: np.ascontiguousarray(crop) for name, crop in crops.items()}
    return batch | {'seed': rng.integers(2**32, dtype=np.uint32)}

  return record


def _resized(image: np.ndarray, side: int) -> np.ndarray:
  """A square image uint8 [s, s, 3] by Lanczos, or a map float32 [s, s] by the area's mean, with another side."""
  how = Image.Resampling.BOX if image.ndim == 2 else Image.Resampling.LANCZOS
  return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((side, side), how))


def scene_record(photos: sources.Source, height: int, width: int) -> Callable[[Any, np.random.Generator], Batch]:
  """Record of the depth stage: a rendered scene 'hr' uint8 [H, W, 3], its inverse 'depth' [H, W], and 'seed'.

  Its photos are drawn by the source's weights where it has some.
  """
  groups = photos.groups()
  shares = groups and np.divide([weight for weight, _ in groups], sum(weight for weight, _ in groups))

  def record(unused, rng: np.random.Generator) -> Batch:
    del unused
    if groups is None:
      chosen = [int(i) for i in rng.integers(len(photos), size=6)]
    else:
      chosen = [int(rng.choice(groups[k][1])) for k in rng.choice(len(groups), size=6, p=shares)]
    textures = [photos[i]['hr'] for i in chosen]
    for i, photo in zip(chosen, textures, strict=True):
      if min(photo.shape[:2]) < _TEXTURE:
        size = f'{photo.shape[0]}x{photo.shape[1]}'
        raise sources.BadRecord(f'{photos.name(i)}: {size}, too small for a texture; remove it or use larger ones')
    image, depth = scenes.render_scene(rng, textures, height, width)
    return {
      'hr': np.round(image * 255).astype(np.uint8),
      'depth': depth.astype(np.float32),
      'seed': rng.integers(2**32, dtype=np.uint32),
    }

  return record


def partly(share: float, scene: Callable[[Any, np.random.Generator], Batch], patch: int, shrink=(1.0, 1.0)):
  """Record that is a rendered scene with this probability, else a patch of the photo.

  Besides what both have: 'has_depth' bool, and 'depth', which means nothing where that is False.
  """
  photo = photo_record(patch, shrink)

  def record(whole: sources.Record, rng: np.random.Generator) -> Batch:
    if rng.random() < share:
      return scene(None, rng) | {'has_depth': np.bool_(True)}
    return photo(whole, rng) | {'depth': np.zeros((patch, patch), np.float32), 'has_depth': np.bool_(False)}

  return record


# ---- batches ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Dataset:
  """An endless sequence of batches; `dataset[i]` is batch i (this process's part of it), made on the spot.

  Beside what `record` makes, a batch has 'record' int32 [b]: the indices in the source that its records came from.

  Attributes:
    source: records by index; a `Source`, or a range where `record` makes everything itself.
    record: (what the source holds at an index, generator) to one record of a batch.
    batch_size: of the whole batch, over all processes.
    seed: of order and records.
    max_bad_records: how many different records may prove unusable before it is an error. Each process counts those
      it comes across itself.
    process_index, process_count: which part of each batch is this process's: the process_index-th of process_count
      equal pieces. Their concatenation in order is the batch of a single process.
    cache_bytes: decoded records kept in memory, over all workers of this process.
  """

  source: sources.Source | Sequence[Any]
  record: Callable[[Any, np.random.Generator], Batch]
  batch_size: int
  seed: int
  max_bad_records: int = 0
  process_index: int = 0
  process_count: int = 1
  cache_bytes: int = _CACHE

  def __post_init__(self):
    if not len(self.source):
      raise SSRError('data: there is nothing to read')
    if self.batch_size % self.process_count:
      raise SSRError(
        f'train.batch_size={self.batch_size} is no multiple of the {self.process_count} processes; change it'
      )

  def __getitem__(self, index: int) -> Batch:
    batch = dict(self._here[index])
    _note(batch.pop(_BAD), [], self.max_bad_records)
    return batch

  @functools.cached_property
  def _here(self) -> grain.MapDataset:
    return self.graph()

  def graph(self, workers: int = 0) -> grain.MapDataset:
    """The grain dataset of this process's batches, with a cache for one of so many workers."""
    source = self.source
    if isinstance(source, sources.Source) and self.cache_bytes:
      source = sources.Cached(source, self.cache_bytes // max(workers, 1))
    groups = source.groups() if isinstance(source, sources.Source) else None
    load = _Load(source, groups, self.record, self.max_bad_records)
    if groups is None:
      data = grain.MapDataset.source(range(len(source))).seed(self.seed).shuffle().repeat().random_map(load)
    else:
      data = grain.MapDataset.source(_Mixture(groups, self.seed)).seed(self.seed).random_map(load)
    # Batches of one process's size: its own are every process_count-th.
    data = data.batch(self.batch_size // self.process_count, batch_fn=_stack)
    return data.slice(slice(self.process_index, None, self.process_count)) if self.process_count > 1 else data


def dataset(source, record: Callable, batch_size: int, seed: int, **options) -> Dataset:
  """`Dataset` with these fields: shuffled anew each epoch, endless."""
  return Dataset(source, record, batch_size, seed, **options)


def batches(data: Dataset, start: int = 0, threads: int = 2, prefetch: int = 4, workers: int = 0) -> 'Batches':
  """Iterates from batch `start` on, read ahead; the order and the bytes do not depend on who reads.

  Args:
    data: what to iterate over.
    start: the first batch.
    threads: that decode in this process where workers = 0. They share one cache: best for a set that fits in memory.
    prefetch: batches read ahead.
    workers: processes that decode instead, for a set that does not. The program's main module must be guarded by
      `if __name__ == '__main__'`, for each of them imports it.
  """
  return Batches(data, start, threads, prefetch, workers)


class Batches(grain.DatasetIterator):
  """Iterator over batches, whose state is JSON and does not depend on workers or processes.

  It is a grain iterator, so that orbax saves it by `grain.checkpoint.CheckpointSave`.
  """

  def __init__(self, data: Dataset, start: int, threads: int, prefetch: int, workers: int):
    super().__init__()
    self._data, self._threads, self._prefetch, self._workers = data, threads, prefetch, workers
    self._next = start
    self._bad: list[str] = []
    self._reader: Iterator[Batch] | None = None

  def __next__(self) -> Batch:
    self.start_prefetch()
    try:
      batch = dict(next(self._reader))
    except RuntimeError as error:
      if 'terminated unexpectedly' not in str(error):  # grain's words
        raise
      raise SSRError(
        'a worker process died, most likely for want of memory; lower data.workers or data.cache_mb'
      ) from error
    _note(batch.pop(_BAD), self._bad, self._data.max_bad_records)
    self._next += 1
    return batch

  @property
  def bad_records(self) -> tuple[str, ...]:
    """What could not be used so far, a line each."""
    return tuple(self._bad)

  def get_state(self) -> dict[str, Any]:
    return {'next_batch': self._next, 'bad_records': list(self._bad)}

  def set_state(self, state: dict[str, Any]) -> None:
    self._stop()
    self._next, self._bad = int(state['next_batch']), list(state['bad_records'])

  def start_prefetch(self) -> None:
    """Starts the threads or workers; `next` does it otherwise."""
    if self._closed:
      raise ValueError('a closed iterator of batches cannot go on; make another')
    if self._reader is not None:
      return
    if not self._workers:
      options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._prefetch)
      # `graph` anew only where it has to be: `data[i]` and every iterator share one cache.
      self._reader = iter(self._data._here[self._next :].to_iter_dataset(options))
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
    """Ends the threads or workers; the iterator cannot be used after."""
    self._stop()
    super().close()

  def _stop(self) -> None:
    if self._reader is not None:
      self._reader.close()
      self._reader = None

  def __str__(self) -> str:
    return f'Batches(next={self._next}, workers={self._workers})'


class _Load:
  """Index and generator to a record; one that cannot be used gives way to another, drawn by the same generator."""

  def __init__(self, source, groups, record, limit: int):
    self.source, self.groups, self.record, self.limit = source, groups, record, limit

  def __call__(self, index: int, rng: np.random.Generator) -> Batch:
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
          candidates = next((members for _, members in self.groups or () if index in members), range(len(self.source)))
        if len(bad) > self.limit or len(tried) == len(candidates):
          raise SSRError(_too_many(bad, self.limit)) from error
        index = int(candidates[rng.integers(len(candidates))])


class _Mixture:
  """Source indices in the order of a weighted mixture; each part is shuffled anew in each of its own epochs.

  Random access, as grain wants it, and even: of any first n positions part 0 has floor(n w_0), of the rest part 1 its
  floor, and so on. Weights count in whole ten-thousandths of their sum.
  """

  _WHOLE = 10_000

  def __init__(self, groups: Sequence[tuple[float, np.ndarray]], seed: int):
    total = sum(weight for weight, _ in groups)
    ends = [round(self._WHOLE * end / total) for end in np.cumsum([weight for weight, _ in groups])]
    self._weights = [b - a for a, b in itertools.pairwise([0, *ends])]
    if min(self._weights) < 1:
      raise SSRError(f'data: a weight is less than 1/{self._WHOLE} of the sum of all; leave that source out')
    if not all(len(members) for _, members in groups):
      raise SSRError('data: a weighted source is empty after data.holdout; give it more records or set data.holdout=0')
    self._orders = []
    for k, (_, members) in enumerate(groups):
      order = grain.MapDataset.source(members).seed(int(np.random.SeedSequence((seed, k)).generate_state(1)[0]))
      self._orders.append(order.shuffle().repeat())

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> int:
    n, whole = int(position), self._WHOLE
    for weight, order in zip(self._weights, self._orders, strict=True):
      count = n * weight // whole
      if (n + 1) * weight // whole > count:
        return int(order[count])
      n, whole = n - count, whole - weight
    raise AssertionError('the last part takes what is left')


def _stack(records: Sequence[Batch]) -> dict[str, Any]:
  batch = {name: np.stack([record[name] for record in records]) for name in records[0] if name != _BAD}
  return batch | {_BAD: tuple(line for record in records for line in record[_BAD])}


def _note(found: Sequence[str], known: list[str], limit: int) -> None:
  """Logs and remembers what is new; SSRError above the limit. Counted where batches are used, not where they are made,
  so that neither the number of workers nor what they read ahead matters.
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
  """Grain's workers read absl flags, which a program without absl's app.run never parses."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
