"""WORKDIR/rows.jsonl: the rows of the images that are done, so that a run that was stopped goes on where it was.

The first line holds the settings; each later one the rows of one case (an image and a recipe), written when the case is
done. A process that is killed leaves at most a last line without its end, which the next run drops.
"""

from collections.abc import Mapping, Sequence
import json
import math
import os
import pathlib
from typing import Any, Self

from ssr_jax.types import SSRError

FILE = 'rows.jsonl'

Key = tuple[int, str]
Row = Mapping[str, Any]


class Ledger:
  """The rows of a run, in memory and, with a workdir, on disk.

  Attributes:
    rows: {(index of the photo, recipe): its rows}.
  """

  def __init__(self, workdir: pathlib.Path | None, settings: Mapping[str, str]):
    """Opens the file of a workdir, or makes it.

    Args:
      workdir: an existing folder; None keeps the rows in memory only.
      settings: what rows depend on, {what: text}.

    Raises:
      SSRError: the file holds rows of other settings, is damaged or cannot be written, or another run writes to it.
    """
    self.rows: dict[Key, list[dict[str, Any]]] = {}
    self._path, self._file = None if workdir is None else workdir / FILE, None
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
    if not lines:
      self._append({'settings': dict(settings)})
    for number, line in enumerate(lines):
      self._take(number, line, settings)

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

  def _take(self, number: int, line: bytes, settings: Mapping[str, str]) -> None:
    try:
      content = json.loads(line)
      found = dict(content['settings']) if number == 0 else None
      if number:
        index, recipe = content['case']
        rows = [{name: _decoded(name, value) for name, value in row.items()} for row in content['rows']]
        self.rows[int(index), str(recipe)] = rows
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
      raise SSRError(f'{self._path}: line {number + 1} is damaged; remove the file to start anew') from error
    if found is not None and found != settings:
      names = [name for name in {**settings, **found} if found.get(name) != settings.get(name)]
      raise SSRError(
        f'{self._path}: holds rows of other settings ({", ".join(names)}); give another --workdir, or remove the file '
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
