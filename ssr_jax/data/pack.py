"""Packs a source into ArrayRecord shards, and checks one for what should not be trained on.

A shard holds serialised tf.train.Examples: the images' own encoded bytes by key ('hr', 'lr', 'depth' with 'depth_kind')
and the record's 'name'. With a tfds name the shards get tfds' file names and metadata, so that 'tfds:NAME' reads them
and so does anybody else's `tfds.data_source`; no TensorFlow is involved on either side.

Packing can be killed at any moment and started again: a shard appears under its name only when it is whole and read
back, and what is there already, by its sha256, is not done again. What results is the same bytes as in one go.
"""

from collections.abc import Callable
import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import threading
from typing import Any

import numpy as np
from PIL import Image

from ssr_jax.data import sources
from ssr_jax.image import io as image_io
from ssr_jax.types import SSRError

FORMAT = 1
_OPTIONS = 'group_size:1,uncompressed'  # random access one by one; images are compressed already
_VERSION = '1.0.0'  # of a tfds set
Progress = Callable[[int, int], None]
"""Called with the records done so far and all of them, from any thread, one call at a time."""


class WriteError(SSRError):
  """A shard could not be written, for want of space or the like; what is whole stays, and another run goes on."""


@dataclasses.dataclass(frozen=True)
class Packed:
  """What `pack` did.

  Attributes:
    directory: where the shards lie.
    spec: the source that reads them.
    records: packed.
    shards: their number.
    size: their bytes.
    kept: shards that were there already, from a run before.
    recoded: images whose bytes could not be kept.
    left_out: a line for each record that could not be used.
  """

  directory: pathlib.Path
  spec: str
  records: int
  shards: int
  size: int
  kept: int
  recoded: int
  left_out: tuple[str, ...]


def pack(
  spec: str,
  dest: str | os.PathLike,
  *,
  tfds_name: str | None = None,
  split: str = 'train',
  shard_records: int = 128,
  workers: int | None = None,
  progress: Progress | None = None,
) -> Packed:
  """Writes a source's records as ArrayRecord shards with a manifest.

  Encoded bytes are kept as they are; for tfds, whose readers know nothing of orientation, transparency or 16 bits,
  anything but an upright 8-bit RGB JPEG or PNG is stored as PNG instead. Every image is decoded once: one that fails is
  left out and named.

  Args:
    spec: the source, without weights.
    dest: a directory, made if need be; with a tfds name the tfds data directory, in which NAME/1.0.0 is made.
    tfds_name: what tfds calls the set; None packs for 'array_record:'.
    split: of the tfds set. Several may be packed into one set, one after the other.
    shard_records: in each shard.
    workers: threads; None takes the machine's cores.
    progress: told about each record.

  Raises:
    SSRError: a source that cannot be packed, or a destination that holds something else.
    WriteError: a file that cannot be written.
  """
  source = sources.from_spec(spec)
  if source.groups() is not None:
    raise SSRError(f'source {spec!r}: weights mean nothing to a pack, in which every record is once; leave them out')
  if shard_records < 1:
    raise SSRError(f'{shard_records} records a shard: must be 1 or more')
  dest = pathlib.Path(dest).expanduser()
  if tfds_name is not None:
    for what, word in (('tfds name', tfds_name), ('split', split)):
      if not re.fullmatch(r'[a-z][a-z0-9_]*', word):
        raise SSRError(f'{what} {word!r}: must be of a-z, 0-9 and _, a letter first')
    dest = dest / tfds_name / _VERSION
  prefix = f'{tfds_name}-{split}' if tfds_name else 'images'
  job = _Job(source, spec, dest, prefix, bool(tfds_name), shard_records, progress)
  try:
    dest.mkdir(parents=True, exist_ok=True)
    packed = job.run(workers or os.cpu_count() or 1)
  except OSError as error:
    reason = error.strerror or error
    raise SSRError(f'{dest}: cannot be written ({reason}); run the same command again when it can') from error
  if tfds_name is None:
    return packed
  _describe(dest, tfds_name, source.keys)
  return dataclasses.replace(packed, spec=f'tfds:{tfds_name}:{split}')


class _Job:
  """One run of `pack`."""

  def __init__(self, source, spec, dest, prefix, plain, shard_records, progress):
    self.source, self.spec, self.dest, self.prefix = source, spec, dest, prefix
    self.plain = plain  # store only what any reader of images shows rightly
    self.shard_records = shard_records
    self.count = -(-len(source) // shard_records)
    self.plan = self._fingerprint()
    self.base = self._base()
    self._progress, self._done, self._lock = progress, 0, threading.Lock()
    self._stop = threading.Event()

  def path(self, k: int) -> pathlib.Path:
    return self.dest / f'{self.prefix}.array_record-{k:05d}-of-{self.count:05d}'

  def note(self, k: int) -> pathlib.Path:
    """The file beside shard k that says what it holds, until the manifest does."""
    return self.dest / f'.{self.path(k).name}.json'

  @property
  def manifest(self) -> pathlib.Path:
    return self.dest / f'{self.prefix}.manifest.json'

  def run(self, workers: int) -> Packed:
    notes = self._earlier()
    kept = len(notes)
    self._advance(sum(entry['taken'] for entry in notes.values()))
    for stray in (*self.dest.glob(f'.{self.prefix}.array_record-*.tmp'), *self.dest.glob('.ssr-*.tmp')):
      stray.unlink()  # of a run that was killed: shards, and notes beside them
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix='ssr-pack') as pool:
      futures = {pool.submit(self._write, k): k for k in range(self.count) if k not in notes}
      try:
        for future in concurrent.futures.as_completed(futures):
          notes[futures[future]] = future.result()
      except BaseException:
        self._stop.set()
        pool.shutdown(cancel_futures=True)
        raise
    entries = [notes[k] for k in range(self.count)]
    if not sum(entry['records'] for entry in entries):
      raise SSRError(f'source {self.spec!r}: no record can be read, the first because: {entries[0]["left_out"][0]}')
    self._verify(entries)
    records, size, recoded = (sum(entry[name] for entry in entries) for name in ('records', 'bytes', 'recoded'))
    shards = [{name: value for name, value in entry.items() if name != 'plan'} for entry in entries]
    _save(
      self.manifest,
      {
        'format': FORMAT,
        'plan': self.plan,
        'source': self.spec,
        'keys': list(self.source.keys),
        'records': records,
        'bytes': size,
        'shards': shards,
      },
    )
    for k in range(self.count):
      self.note(k).unlink(missing_ok=True)
    left_out = tuple(line for entry in entries for line in entry['left_out'])
    spec = f'array_record:{self.dest / self.prefix}.array_record-*'
    return Packed(self.dest, spec, records, self.count, size, kept, recoded, left_out)

  def _fingerprint(self) -> str:
    """Of everything that the shards depend on; sizes and times stand for the files' contents."""
    digest = hashlib.sha256(f'{FORMAT} {self.prefix} {self.plain} {self.shard_records} {self.source.keys}'.encode())
    for i in range(len(self.source)):
      files = self.source.files(i)
      for file in files:
        try:
          stat = file.stat()
          digest.update(f'{file} {stat.st_size} {stat.st_mtime_ns}\n'.encode())
        except OSError:
          digest.update(f'{file} unreadable\n'.encode())
      if not files:
        digest.update(f'{self.source.name(i)}\n'.encode())
    return digest.hexdigest()

  def _base(self) -> str | None:
    """The directory that records' names are relative to, so that a pack does not depend on where its source lay."""
    folders = {str(file.parent.absolute()) for i in range(len(self.source)) for file in self.source.files(i)[:1]}
    return os.path.commonpath(folders) if folders else None

  def _earlier(self) -> dict[int, dict[str, Any]]:
    """Notes of the shards that are whole; SSRError where the directory holds a different pack of this name."""
    found: dict[int, dict[str, Any]] = {}
    others = [p.name for p in self.dest.glob(f'{self.prefix}.array_record-*')]
    others = [name for name in others if not name.endswith(f'-of-{self.count:05d}')]
    if self.manifest.exists():
      whole = _load(self.manifest)
      if whole is None or whole.get('plan') != self.plan:
        others.append(self.manifest.name)
      else:
        found = dict(enumerate(whole['shards']))
    for k in range(self.count):
      note = _load(self.note(k))
      if note and note.get('plan') != self.plan:
        others.append(self.note(k).name)
      elif note:
        found[k] = note
    if others:
      raise SSRError(
        f'{self.dest}: holds {others[0]} of another source or other options; remove it or choose another DEST'
      )
    return {k: note for k, note in found.items() if _sha256(self.path(k)) == note['sha256']}

  def _write(self, k: int) -> dict[str, Any]:
    """Writes shard k under a name of its own, reads it back, and renames it."""
    array_record_module, _ = sources.array_record()
    target = self.path(k)
    temporary = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
    digests, left_out, recoded = [], [], 0
    indices = range(k * self.shard_records, min(len(self.source), (k + 1) * self.shard_records))
    try:
      writer = array_record_module.ArrayRecordWriter(str(temporary), _OPTIONS)
      for i in indices:
        if self._stop.is_set():
          raise _Stopped
        try:
          data, changed = self._example(i)
        except sources.BadRecord as error:
          left_out.append(str(error))
        else:
          writer.write(data)
          digests.append(hashlib.sha256(data).digest())
          recoded += changed
        self._advance(1)
      writer.close()
      reader = array_record_module.ArrayRecordReader(str(temporary))
      if reader.num_records() != len(digests):
        raise OSError(f'{reader.num_records()} of {len(digests)} records came back')
      for i, digest in enumerate(digests):
        if hashlib.sha256(reader.read([i])[0]).digest() != digest:
          raise OSError(f'record {i} came back changed')
      reader.close()
      with open(temporary, 'rb') as file:
        os.fsync(file.fileno())
      note = {
        'plan': self.plan,
        'file': target.name,
        'records': len(digests),
        'taken': len(indices),
        'bytes': temporary.stat().st_size,
        'sha256': _sha256(temporary),
        'left_out': left_out,
        'recoded': recoded,
      }
      os.replace(temporary, target)
    except (OSError, RuntimeError, ValueError) as error:  # the last two are array_record's
      if isinstance(error, SSRError):
        raise
      reason = getattr(error, 'strerror', None) or (str(error).splitlines() or [''])[0]
      raise WriteError(f'{target}: cannot be written ({reason}); run the same command again when it can') from error
    finally:
      temporary.unlink(missing_ok=True)
    _save(self.note(k), note)
    return note

  def _example(self, i: int) -> tuple[bytes, int]:
    """Record i as it is stored, and how many of its images were encoded anew."""
    stored = self.source.read(i)
    decoded = self.source.decode(i, stored)
    kept = {key: stored[key] for key in self.source.keys}
    if 'depth' in kept:
      kept['depth_kind'] = stored['depth_kind']
    recoded = 0
    if self.plain:
      for key in ('hr', 'lr'):
        if key in kept and not _is_plain(kept[key]):
          buffer = io.BytesIO()
          Image.fromarray(decoded[key]).save(buffer, 'PNG')
          kept[key] = buffer.getvalue()
          recoded += 1
    files = self.source.files(i)
    name = os.path.relpath(files[0].absolute(), self.base) if files else stored.get('name', b'').decode() or f'{i:08d}'
    return sources.make_example(kept | {'name': pathlib.PurePath(name).as_posix().encode()}), recoded

  def _advance(self, n: int) -> None:
    with self._lock:
      self._done += n
      if self._progress:
        self._progress(self._done, len(self.source))

  def _verify(self, entries) -> None:
    for entry in entries:
      if _sha256(self.dest / entry['file']) != entry['sha256']:
        raise WriteError(f'{self.dest / entry["file"]}: changed since it was written; run the same command again')


class _Stopped(Exception):
  """Another shard failed, or Ctrl-C."""


def _is_plain(data: bytes) -> bool:
  """Whether every reader shows these bytes as `sources.decode_image` does."""
  with Image.open(io.BytesIO(data)) as image:
    upright = image.getexif().get(0x0112, 1) == 1
    return image.format in ('JPEG', 'PNG') and image.mode == 'RGB' and 'transparency' not in image.info and upright


def _describe(directory: pathlib.Path, name: str, keys: tuple[str, ...]) -> None:
  """Tfds' metadata for all splits in a directory."""
  import tensorflow_datasets as tfds

  split_of = lambda path: path.name.split('.')[0].rpartition('-')[2]
  manifests = {split_of(p): _load(p) for p in directory.glob(f'{name}-*.manifest.json')}
  unfinished = {split_of(p) for p in directory.glob(f'{name}-*.array_record-*')} - manifests.keys()
  if unfinished:
    raise SSRError(f"{directory}: split '{min(unfinished)}' is not finished; pack it again, then this one")
  if any(tuple(m['keys']) != keys for m in manifests.values()):
    raise SSRError(f'{directory}: its splits hold different things; a set has the same keys in all')
  features = {key: tfds.features.Image(shape=(None, None, 3)) for key in keys if key != 'depth'}
  features['name'] = tfds.features.Text()
  if 'depth' in keys:  # the file's own bytes (PNG, PFM, NPY), and what its numbers mean
    features |= {'depth': tfds.features.Text(), 'depth_kind': tfds.features.Text()}
  tfds.folder_dataset.write_metadata(
    data_dir=directory,
    features=features,
    split_infos=[
      tfds.core.SplitInfo(name=split, shard_lengths=[s['records'] for s in m['shards']], num_bytes=m['bytes'])
      for split, m in sorted(manifests.items())
    ],
    version=_VERSION,
    check_data=False,
    description="Packed by 'ssr data pack'.",
  )


def _save(path: pathlib.Path, values: dict[str, Any]) -> None:
  image_io.write_bytes(path, (json.dumps(values, indent=1) + '\n').encode())


def _load(path: pathlib.Path) -> dict[str, Any] | None:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return None


def _sha256(path: pathlib.Path) -> str | None:
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except FileNotFoundError:
    return None


# ---- checking --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Checked:
  """What `check` found.

  Attributes:
    records: looked at.
    problems: a line each, in the source's order.
    sizes: [n, 2], height and width of the readable ones.
  """

  records: int
  problems: tuple[str, ...]
  sizes: np.ndarray


def check(
  source: sources.Source, min_side: int = 0, workers: int | None = None, progress: Progress | None = None
) -> Checked:
  """Decodes every record and reports unreadable ones, small ones and exact duplicates (by HR's decoded pixels)."""
  lock, done = threading.Lock(), 0

  def look(i: int):
    nonlocal done
    try:
      hr = source[i]['hr']
      return hr.shape[:2], hashlib.sha256(f'{hr.shape}'.encode() + hr.tobytes()).digest()
    except sources.BadRecord as error:
      return str(error)
    finally:
      with lock:
        done += 1
        if progress:
          progress(done, len(source))

  with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix='ssr-check') as pool:
    try:
      found = list(pool.map(look, range(len(source))))
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  problems, sizes, first = [], [], {}
  for i, result in enumerate(found):
    if isinstance(result, str):
      problems.append(result)
      continue
    (height, width), digest = result
    sizes.append((height, width))
    if min(height, width) < min_side:
      problems.append(f'{source.name(i)}: {width}x{height}, a side is shorter than {min_side}')
    if digest in first:
      problems.append(f'{source.name(i)}: the same pixels as {source.name(first[digest])}')
    first.setdefault(digest, i)
  return Checked(len(source), tuple(problems), np.array(sizes, np.int64).reshape(-1, 2))
