"""Files of a model directory: atomic writes, one writer at a time, and reads that check the sha256."""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import stat
import tempfile
from typing import Any

from ssr_jax.types import SSRError

JSON_BYTES = 2**22
"""Largest JSON file that is read; a model.json has some kilobytes, an index of shards some hundred."""


def sha256(data: bytes) -> str:
  """The sha256 of some bytes, in hexadecimal."""
  return hashlib.sha256(data).hexdigest()


def read_verified(path: pathlib.Path, expected: str, size: int) -> bytes:
  """The content of a file.

  Args:
    path: the file.
    expected: its sha256.
    size: its number of bytes.

  Raises:
    SSRError: it cannot be read, is no regular file, or its size or sha256 is another one.
  """
  try:
    _check_regular(path)
    found = path.stat().st_size
    data = path.read_bytes() if found == size else b''  # of any other size it is not the file
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror}); restore it or install the package again') from error
  if found != size:
    raise SSRError(f'{path}: corrupted: {found} bytes, expected {size}; restore the file or install the package again')
  actual = sha256(data)
  if actual != expected:
    raise SSRError(
      f'{path}: corrupted: sha256 is {actual[:12]}, expected {expected[:12]} ({len(data)} bytes of {size}); '
      'restore the file or install the package again'
    )
  return data


def read_json(path: pathlib.Path, *, missing: str, invalid: str) -> Any:
  """The content of a JSON file of at most `JSON_BYTES`; strict: no NaN, no infinity, no field twice.

  Args:
    path: the file.
    missing: what to do if it cannot be read, for the message.
    invalid: what to do if it is not JSON, for the message.

  Raises:
    SSRError: it cannot be read, is no regular file, is too large or is not JSON.
  """
  try:
    _check_regular(path)
    with path.open('rb') as file:
      data = file.read(JSON_BYTES + 1)
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror}); {missing}') from error
  if len(data) > JSON_BYTES:
    raise SSRError(f'{path}: larger than {JSON_BYTES >> 20} MiB; {invalid}')
  try:
    content = json.loads(data.decode('utf-8'), object_pairs_hook=_unique, parse_constant=_no_constant)
    json.dumps(content, ensure_ascii=False).encode('utf-8')  # half a surrogate pair is no text
  except RecursionError as error:
    raise SSRError(f'{path}: nested too deeply; {invalid}') from error
  except ValueError as error:
    raise SSRError(f'{path}: not valid JSON ({error}); {invalid}') from error
  return content


def _check_regular(path: pathlib.Path) -> None:
  """OSError unless it is a regular file: reading a pipe or a device can wait forever."""
  if not stat.S_ISREG(path.stat().st_mode):
    raise OSError(errno.EINVAL, 'not a regular file')


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    raise ValueError(f"field '{next(n for n in names if names.count(n) > 1)}' twice in one object")
  return found


def _no_constant(name: str) -> None:
  raise ValueError(f'{name} is no number of JSON')


def write(path: pathlib.Path, data: bytes) -> None:
  """Writes a temporary file in the same directory and renames it: a reader sees the old file or the new one."""
  descriptor, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
  try:
    with os.fdopen(descriptor, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    raise


@contextlib.contextmanager
def locked(directory: pathlib.Path, *, create: bool = False) -> Iterator[None]:
  """Holds the lock on a directory: two training stages may export into the same model at once.

  Args:
    directory: the directory to lock.
    create: whether to create it if absent.

  Raises:
    SSRError: an OSError in the body of the `with`, or in taking the lock; the message names the directory.
  """
  try:
    if create:
      directory.mkdir(parents=True, exist_ok=True)
    with _flock(directory):
      yield
  except OSError as error:
    raise SSRError(f'{directory}: cannot be written ({error.strerror}); choose another directory') from error


@contextlib.contextmanager
def _flock(directory: pathlib.Path) -> Iterator[None]:
  try:
    import fcntl
  except ImportError:  # not a POSIX system
    yield
    return
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
  finally:
    os.close(descriptor)
