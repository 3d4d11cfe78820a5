"""Packs a source into ArrayRecord shards.

A shard holds serialised tf.train.Examples: the encoded bytes of the image files by key ('hr', 'lr', 'taught',
'depth' with 'depth_kind') and the record's 'name'. With a tfds name, the shards get tfds' file names and metadata, so
that 'tfds:NAME' and `tfds.data_source` read them. Neither writing nor reading needs TensorFlow.

Packing can be killed at any moment and started again. A shard gets its final name only when it is complete and has been
read back; the next run keeps the shards whose sha256 is right and writes the others. The shards are the same bytes as
those of an uninterrupted run.
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

from PIL import Image

from ssr_jax.data import sources
from ssr_jax.data.sources import array_record
from ssr_jax.image import io as image_io
from ssr_jax.image import opening
from ssr_jax.types import SSRError

FORMAT = 1
_OPTIONS = 'group_size:1,uncompressed'  # each record can be read alone; image files are compressed already
_VERSION = '1.0.0'  # of a tfds set
Progress = Callable[[int, int], object]
"""Called with the number of records done and their total; from any thread, but one call at a time."""


class WriteError(SSRError):
  """A shard could not be written, for example because the disk is full; complete shards stay for the next run."""


@dataclasses.dataclass(frozen=True)
class Packed:
  """Result of `pack`.

  Attributes:
    directory: of the shards.
    spec: of the source that reads them.
    records: number of records in the shards.
    shards: number of shards.
    size: of all shards, in bytes.
    kept: number of shards that an earlier run had written.
    recoded: number of images stored as PNG instead of their own bytes.
    left_out: one line for each record that could not be used.
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

  Image files are stored as they are. For tfds, whose readers ignore orientation and do not expect transparency or 16
  bits, anything but an upright 8-bit RGB JPEG or PNG is stored as PNG. Every image is decoded once; a record that fails
  is left out and listed in the result.

  Args:
    spec: of the source; without weights.
    dest: a directory, created if needed; with a tfds name the tfds data directory, in which NAME/1.0.0 is created.
    tfds_name: name of the set in tfds; None packs for 'array_record:'.
    split: of the tfds set. Several can be packed into one set, one after the other.
    shard_records: number of records in each shard.
    workers: number of threads; None uses one for each core.
    progress: called after each record.

  Raises:
    SSRError: the source cannot be packed, or the destination holds other shards of this name.
    WriteError: a shard cannot be written.
  """
  source = sources.from_spec(spec)
  if source.groups() is not None:
    raise SSRError(f'source {spec!r}: weights mean nothing here, where every record is stored once; remove them')
  if shard_records < 1:
    raise SSRError(f'{shard_records} records per shard: must be 1 or more')
  dest = pathlib.Path(dest).expanduser()
  if tfds_name is not None:
    for what, word in (('tfds name', tfds_name), ('split', split)):
      if not re.fullmatch(r'[a-z][a-z0-9_]*', word):
        raise SSRError(f'{what} {word!r}: must consist of a-z, 0-9 and _ and start with a letter')
    dest = dest / tfds_name / _VERSION
  prefix = f'{tfds_name}-{split}' if tfds_name else 'images'
  job = _Job(source, spec, dest, prefix, bool(tfds_name), shard_records, progress)
  try:
    dest.mkdir(parents=True, exist_ok=True)
    packed = job.run(workers or os.cpu_count() or 1)
  except OSError as error:
    reason = error.strerror or error
    raise SSRError(f'{dest}: cannot be written ({reason}); fix that and run the same command again') from error
  if tfds_name is None:
    return packed
  _describe(dest, tfds_name, source.keys)
  return dataclasses.replace(packed, spec=f'tfds:{tfds_name}:{split}')


class _Job:
  """One run of `pack`: files are called PREFIX.array_record-* and PREFIX.manifest.json."""

  def __init__(
    self,
    source: sources.Source,
    spec: str,
    dest: pathlib.Path,
    prefix: str,
    plain: bool,
    shard_records: int,
    progress: Progress | None,
  ):
    self.source, self.spec, self.dest, self.prefix = source, spec, dest, prefix
    self.plain = plain  # store only images that every reader decodes as we do
    self.shard_records = shard_records
    self.count = -(-len(source) // shard_records)  # of shards
    self.plan = self._fingerprint()
    self.base = self._base()
    self._progress, self._done, self._lock = progress, 0, threading.Lock()
    self._stop = threading.Event()

  def path(self, k: int) -> pathlib.Path:
    """Final path of shard k."""
    return self.dest / f'{self.prefix}.array_record-{k:05d}-of-{self.count:05d}'

  def note(self, k: int) -> pathlib.Path:
    """A file beside shard k with its entry of the manifest, until the manifest is written."""
    return self.dest / f'.{self.path(k).name}.json'

  @property
  def manifest(self) -> pathlib.Path:
    """The file that lists the shards with their sha256; written last."""
    return self.dest / f'{self.prefix}.manifest.json'

  def run(self, workers: int) -> Packed:
    """Writes the shards that no earlier run has written, then the manifest."""
    notes = self._earlier()
    kept = len(notes)
    self._advance(sum(entry['taken'] for entry in notes.values()))
    # Unfinished shards and notes of a run that was killed.
    for leftover in (*self.dest.glob(f'.{self.prefix}.array_record-*.tmp'), *self.dest.glob('.ssr-*.tmp')):
      leftover.unlink()
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
      raise SSRError(f'source {self.spec!r}: no record can be read; the first problem is: {entries[0]["left_out"][0]}')
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
    """A hash of all that the shards depend on, with sizes and modification times in place of the files' contents."""
    digest = hashlib.sha256(f'{FORMAT} {self.prefix} {self.plain} {self.shard_records} {self.source.keys}'.encode())
    for i in range(len(self.source)):
      files = self.source.files(i)
      for file in files:
        try:
          stat = file.stat()
          digest.update(os.fsencode(f'{file} {stat.st_size} {stat.st_mtime_ns}\n'))
        except OSError:
          digest.update(os.fsencode(f'{file} unreadable\n'))
      if not files:
        digest.update(os.fsencode(f'{self.source.name(i)}\n'))
    return digest.hexdigest()

  def _base(self) -> str | None:
    """The folder that records' names are relative to, so that shards do not depend on where the source is."""
    folders = {str(file.parent.absolute()) for i in range(len(self.source)) for file in self.source.files(i)[:1]}
    return os.path.commonpath(folders) if folders else None

  def _earlier(self) -> dict[int, dict[str, Any]]:
    """Notes of the shards that earlier runs completed; SSRError where the folder holds other shards of this name."""
    found: dict[int, dict[str, Any]] = {}
    others = [p.name for p in self.dest.glob(f'{self.prefix}.array_record-*')]
    others = [name for name in others if not name.endswith(f'-of-{self.count:05d}')]
    if self.manifest.exists():
      manifest = _load(self.manifest)
      if manifest is None or manifest.get('plan') != self.plan:
        others.append(self.manifest.name)
      else:
        found = dict(enumerate(manifest['shards']))
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
    """Writes shard k under a temporary name, reads it back, and renames it; returns its note."""
    array_record_module, _ = array_record.modules()
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
        raise OSError(f'{reader.num_records()} of {len(digests)} records can be read back')
      for i, digest in enumerate(digests):
        if hashlib.sha256(reader.read([i])[0]).digest() != digest:
          raise OSError(f'record {i} reads back with other bytes')
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
    except (OSError, RuntimeError, ValueError) as error:  # array_record raises the last two
      if isinstance(error, SSRError):
        raise
      reason = getattr(error, 'strerror', None) or (str(error).splitlines() or [''])[0]
      raise WriteError(f'{target}: cannot be written ({reason}); fix that and run the same command again') from error
    finally:
      temporary.unlink(missing_ok=True)
    _save(self.note(k), note)
    return note

  def _example(self, i: int) -> tuple[bytes, int]:
    """Record i as it is stored, and how many of its images were recoded."""
    stored = self.source.read(i)
    decoded = self.source.decode(i, stored)
    kept = {key: stored[key] for key in self.source.keys}
    if 'depth' in kept:
      kept['depth_kind'] = stored['depth_kind']
    recoded = 0
    if self.plain:
      for key in ('hr', 'lr', 'taught'):
        if key in kept and not _is_plain(kept[key]):
          buffer = io.BytesIO()
          Image.fromarray(decoded[key]).save(buffer, 'PNG')
          kept[key] = buffer.getvalue()
          recoded += 1
    files = self.source.files(i)
    name = (
      os.path.relpath(files[0].absolute(), self.base) if files else os.fsdecode(stored.get('name', b'')) or f'{i:08d}'
    )
    return array_record.make_example(kept | {'name': os.fsencode(pathlib.PurePath(name).as_posix())}), recoded

  def _advance(self, n: int) -> None:
    with self._lock:
      self._done += n
      if self._progress:
        self._progress(self._done, len(self.source))

  def _verify(self, entries: list[dict[str, Any]]) -> None:
    """Checks the sha256 of all shards; WriteError where one is wrong."""
    for entry in entries:
      if _sha256(self.dest / entry['file']) != entry['sha256']:
        raise WriteError(f'{self.dest / entry["file"]}: changed since it was written; run the same command again')


class _Stopped(Exception):
  """Ends the writing of a shard after another shard failed or after Ctrl-C."""


def _is_plain(data: bytes) -> bool:
  """Whether every image reader decodes these bytes as `sources.decode_image` does."""
  with opening.opened(data, 'image') as image:  # it has been decoded before
    upright = image.getexif().get(0x0112, 1) == 1
    return image.format in ('JPEG', 'PNG') and image.mode == 'RGB' and 'transparency' not in image.info and upright


def _describe(directory: pathlib.Path, name: str, keys: tuple[str, ...]) -> None:
  """Writes tfds' metadata for all splits in a directory."""
  import tensorflow_datasets as tfds

  split_of = lambda path: path.name.split('.')[0].rpartition('-')[2]
  loaded = {split_of(p): _load(p) for p in directory.glob(f'{name}-*.manifest.json')}
  manifests = {split: manifest for split, manifest in loaded.items() if manifest}
  unfinished = {split_of(p) for p in directory.glob(f'{name}-*.array_record-*')} - manifests.keys()
  if unfinished:
    raise SSRError(f"{directory}: split '{min(unfinished)}' is not finished; pack it again, then this one")
  if any(tuple(m['keys']) != keys for m in manifests.values()):
    raise SSRError(f'{directory}: its splits have different keys; pack the same kind of source for all splits of a set')
  features: dict[str, Any] = {key: tfds.features.Image(shape=(None, None, 3)) for key in keys if key != 'depth'}
  features['name'] = tfds.features.Text()
  if 'depth' in keys:  # the bytes of a PNG, PFM or NPY file, which tfds' Image cannot hold
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
  """The content of a JSON file; None where there is none, or a damaged one."""
  try:
    found = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError):
    return None
  return found if isinstance(found, dict) else None


def _sha256(path: pathlib.Path) -> str | None:
  """The file's sha256 in hexadecimal; None where there is no file."""
  try:
    with open(path, 'rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
  except FileNotFoundError:
    return None
