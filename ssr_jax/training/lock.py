"""One run in a workdir at a time, and a workdir that cannot be written in one line."""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import os
import pathlib
import socket

from ssr_jax.training import distributed
from ssr_jax.types import SSRError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
  """Creates a workdir and holds its lock, on process 0 for all processes of a run.

  The lock is the kernel's, on the open file WORKDIR/lock: it ends with the process that holds it, however that ends.
  The file stays and names the last holder.

  Raises:
    SSRError: another process trains there, the workdir cannot be written, or its disk is full in the body of the
      `with`.
  """
  opened: list[int] = []
  try:
    distributed.agreed(lambda: opened.append(_take(workdir)))
    yield
  except OSError as error:
    if error.errno not in _FULL:
      raise
    raise SSRError(f'{workdir}: {error.strerror}: {error.filename or "a file of the run"}; make room') from error
  finally:
    for descriptor in opened:
      os.close(descriptor)


def _take(workdir: pathlib.Path) -> int:
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workdir / 'lock', os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise SSRError(f'--workdir={workdir}: cannot be written ({error.strerror}); name another one') from error
  try:
    _flock(descriptor, workdir)
    os.ftruncate(descriptor, 0)
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    os.pwrite(descriptor, f'process {os.getpid()} on {socket.gethostname()} since {since}'.encode(), 0)
  except OSError as error:
    os.close(descriptor)
    raise SSRError(f'--workdir={workdir}: cannot be written ({error.strerror}); name another one') from error
  except SSRError:
    os.close(descriptor)
    raise
  return descriptor


def _flock(descriptor: int, workdir: pathlib.Path) -> None:
  try:
    import fcntl
  except ImportError:  # not a POSIX system
    return
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    holder = os.pread(descriptor, 200, 0).decode(errors='replace') or 'another process'
    raise SSRError(f'--workdir={workdir}: {holder} trains there; wait for it, or name another one') from None
