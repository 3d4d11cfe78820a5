"""Files of a model directory: atomic writes, one writer at a time, and reads that check the sha256."""

from collections.abc import Iterator
import contextlib
import hashlib
import os
import pathlib
import tempfile

from ssr_jax.types import SSRError


def sha256(data: bytes) -> str:
  """The sha256 of some bytes, in hexadecimal."""
  return hashlib.sha256(data).hexdigest()


def read_verified(path: pathlib.Path, expected: str, size: int) -> bytes:
  """The content of a file.

  Args:
    path: the file.
    expected: its sha256.
    size: its number of bytes, for the message.

  Raises:
    SSRError: it cannot be read, or its sha256 is another one.
  """
  try:
    data = path.read_bytes()
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror}); restore it or install the package again') from error
  actual = sha256(data)
  if actual != expected:
    raise SSRError(
      f'{path}: corrupted: sha256 is {actual[:12]}, expected {expected[:12]} ({len(data)} bytes of {size}); '
      'restore the file or install the package again'
    )
  return data


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
