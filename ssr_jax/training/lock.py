"""One run in a workdir at a time, and a workdir that cannot be written in one line."""

from collections.abc import Iterator
import contextlib
import datetime
import errno
import os
import pathlib
import socket
import sys

from ssr_jax.training import distributed
from ssr_jax.types import SSRError, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
FILES = ('config.json', 'scalars.jsonl', 'before.json', 'summary.json')
FOLDERS = ('checkpoints', 'pictures', 'tensorboard', 'model')
"""What a run writes into its workdir, besides the lock."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What flock says on a file system that has no locks, or whose server for them is away."""


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
  """Creates a workdir and holds its lock, on process 0 for all processes of a run.

  The lock is the kernel's, on the open file WORKDIR/lock: it ends with the process that holds it, however that ends.
  The file stays and names the last holder. On a file system without locks a run goes on with a warning: it could not
  train there at all otherwise, and the file still says who was there last.

  Raises:
    SSRError: another process trains there, the workdir cannot be written, something that is no file of a run lies where
      one should be, or the disk is full in the body of the `with`.
  """
  opened: list[int] = []
  try:
    distributed.agreed(lambda: opened.append(_take(workdir)))
    distributed.agreed(lambda: _check_kinds(workdir))
    yield
  except OSError as error:
    if error.errno not in _FULL:
      raise
    raise SSRError(f'{workdir}: {error.strerror}: {error.filename or "a file of the run"}; make room') from error
  finally:
    for descriptor in opened:
      os.close(descriptor)


def _check_kinds(workdir: pathlib.Path) -> None:
  """SSRError where a folder, a pipe or a device has the name of a file of a run: a pipe would be waited for."""
  for names, fits, what in ((FILES, pathlib.Path.is_file, 'file'), (FOLDERS, pathlib.Path.is_dir, 'folder')):
    for path in (workdir / name for name in names):
      if os.path.lexists(path) and not fits(path):
        raise SSRError(f'{path}: not a {what}, which a run writes there; move it away, or name another --workdir')


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
  """Takes the lock; where there is none to take, says so and who was there last, and the run goes on."""
  try:
    import fcntl
  except ImportError:
    reason = 'this system has none'
  else:
    try:
      return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      holder = _holder(descriptor) or 'another process'
      raise SSRError(f'--workdir={workdir}: {holder} trains there; wait for it, or name another one') from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise SSRError(
          f'--workdir={workdir}: its lock cannot be taken ({error.strerror}); look at its disk, or name another one'
        ) from error
      reason = error.strerror
  last = _holder(descriptor)
  ended = f'; see that {last} has ended' if last else ''
  print(
    f'--workdir={workdir}: cannot be locked ({reason}): nothing keeps a second run out of there{ended}',
    file=sys.stderr,
    flush=True,
  )


def _holder(descriptor: int) -> str:
  """What the lock's file says of the last process that held it; '' for a new file."""
  return one_line(os.pread(descriptor, 200, 0).decode(errors='replace'))
