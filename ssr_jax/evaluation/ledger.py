"""WORKDIR/rows.jsonl: the rows of the images that are done, so that a run that was stopped goes on where it was.

The first line holds the settings; each later one the rows of one case (an image and a recipe), written when the case is
done. A process that is killed leaves at most a last line without its end, which the next run drops.

Several processes, on as many hosts, can share a workdir: each does a part of the images and has a file of its own,
rows-0-of-4.jsonl, and all files are read.
"""

from collections.abc import Mapping, Sequence
import json
import math
import os
import pathlib
from typing import Any, Self

from ssr_jax.types import SSRError

FILE = 'rows.jsonl'
FILES = 'rows*.jsonl'

Key = tuple[int, str]
Row = Mapping[str, Any]


class Ledger:
  """The rows of a run, in memory and, with a workdir, on disk.

  Attributes:
    rows: {(index of the photo, recipe): its rows}.
  """

  def __init__(self, workdir: pathlib.Path | None, settings: Mapping[str, str], part: tuple[int, int] | None = None):
    """Opens the file of a workdir, or makes it, and reads those of other processes.

    Args:
      workdir: an existing folder; None keeps the rows in memory only.
      settings: what rows depend on, {what: text}.
      part: (which, of how many) processes this one is; None for a run of one.

    Raises:
      SSRError: the file holds rows of other settings, is damaged or cannot be written, or another run writes to it.
    """
    self.rows: dict[Key, list[dict[str, Any]]] = {}
    own = FILE if part is None else 'rows-{}-of-{}.jsonl'.format(*part)
    self._path, self._file, self._settings = None if workdir is None else workdir / own, None, dict(settings)
    if self._path is None:
      return
    try:
      self._file = open(self._path, 'a+b', buffering=0)  # noqa: SIM115, closed by __exit__
      self._lock()
      self._file.seek(0)
      *lines, rest = self._file.read().split(b'\n')
      if rest:
        self._file.truncate(self._file.tell() - len(rest))
    except OSError as error:
      raise SSRError(f'{self._path}: cannot be written ({error.strerror}); choose another --workdir') from error
    self.read_others()
    if not lines:
      self._append({'settings': self._settings})
    for number, line in enumerate(lines):
      self._take(self._path, number, line)

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    if self._file is not None:
      self._file.close()

  def add(self, key: Key, rows: Sequence[Row]) -> None:
    """Keeps the rows of a case; they are on disk when this returns.

    Raises:
      SSRError: the file cannot be written.
    """
    self.rows[key] = [dict(row) for row in rows]
    self._append({'case': list(key), 'rows': [{name: _coded(value) for name, value in row.items()} for row in rows]})

  def read_others(self) -> None:
    """Takes what other processes have written by now.

    Raises:
      SSRError: a file of theirs holds rows of other settings, is damaged or cannot be read.
    """
    if self._path is None:
      return
    for path in sorted(self._path.parent.glob(FILES)):
      if path == self._path:
        continue
      try:
        *lines, _ = path.read_bytes().split(b'\n')  # the last line may still be written
      except OSError as error:
        raise SSRError(f'{path}: cannot be read ({error.strerror})') from error
      for number, line in enumerate(lines):
        self._take(path, number, line)

  def _append(self, content: Mapping[str, Any]) -> None:
    if self._file is None:
      return
    line = json.dumps(content, allow_nan=False).encode() + b'\n'
    start = os.fstat(self._file.fileno()).st_size
    try:
      written = self._file.write(line)
      os.fsync(self._file.fileno())
      if written != len(line):
        raise OSError(0, 'the disk is full')
    except OSError as error:
      self._file.truncate(start)
      raise SSRError(f'{self._path}: cannot be written ({error.strerror}); make room and run it again') from error

  def _take(self, path: pathlib.Path, number: int, line: bytes) -> None:
    try:
      content = json.loads(line)
      found = dict(content['settings']) if number == 0 else None
      if number:
        index, recipe = content['case']
        rows = [{name: _decoded(name, value) for name, value in row.items()} for row in content['rows']]
        self.rows[int(index), str(recipe)] = rows
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
      raise SSRError(f'{path}: line {number + 1} is damaged; remove the file to start anew') from error
    if found is not None and found != self._settings:
      names = [name for name in {**self._settings, **found} if found.get(name) != self._settings.get(name)]
      raise SSRError(
        f'{path}: holds rows of other settings ({", ".join(names)}); give another --workdir, or remove the file '
        'to start anew'
      )

  def _lock(self) -> None:
    try:
      import fcntl
    except ImportError:  # not a POSIX system
      return
    assert self._file is not None
    try:
      fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise SSRError(f'{self._path}: another run writes to it; wait for it, or give another --workdir') from None


_NO_NUMBERS = ('image', 'recipe', 'model', 'seed')


def _coded(value: Any) -> Any:
  """JSON has no numbers that are not finite: NaN is null, an infinity its name."""
  if isinstance(value, float) and not math.isfinite(value):
    return None if math.isnan(value) else str(value)
  return value


def _decoded(name: str, value: Any) -> Any:
  if name in _NO_NUMBERS or isinstance(value, int):
    return value
  return math.nan if value is None else float(value)
