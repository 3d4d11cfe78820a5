"""Writes files under another name in the same folder and renames them when they are whole."""

import contextlib
import errno
import os
import pathlib
import secrets
from typing import Any

from ssr_jax.types import SSRError

_unfinished: set[pathlib.Path] = set()


class NewFile:
  """A file that has its name once it is whole: nobody sees half of it, and an error leaves nothing.

  A context: left without an error the file is flushed to the disk and renamed, else it is removed.

  Raises:
    SSRError: it cannot be written, or exists.
  """

  def __init__(self, path: str | os.PathLike, replace: bool = True):
    """Opens a file beside `path`.

    Args:
      path: the folder must exist.
      replace: False refuses to replace a file, also one that another program writes meanwhile.
    """
    self.path, self._replace = pathlib.Path(path), replace
    self._temporary = unfinished(self.path)
    try:
      self._file = open(self._temporary, 'xb')  # noqa: SIM115  # closed by __exit__
    except OSError as error:
      forget(self._temporary)
      raise self._refused(error) from error

  def write(self, data: Any) -> int:
    """Appends bytes."""
    try:
      return self._file.write(data)
    except OSError as error:
      raise self._refused(error) from error

  def tell(self) -> int:
    """The place that is written next."""
    return self._file.tell()

  def seek(self, place: int) -> int:
    """Goes to a place."""
    return self._file.seek(place)

  def __enter__(self) -> 'NewFile':
    return self

  def __exit__(self, kind: type | None = None, *_: object) -> None:
    try:
      if kind is None:
        self._file.flush()
        os.fsync(self._file.fileno())  # else a crash of the machine could leave the new name with half of the content
      self._file.close()
      if kind is None and self._replace:
        os.replace(self._temporary, self.path)
      elif kind is None:
        _rename_to_new(self._temporary, self.path)
    except OSError as error:
      raise self._refused(error) from error
    finally:
      with contextlib.suppress(OSError):
        self._file.close()
      forget(self._temporary)

  def _refused(self, error: OSError) -> SSRError:
    if isinstance(error, FileExistsError):
      return SSRError(f'{self.path}: exists; use --overwrite or choose another name')
    return SSRError(f'{self.path}: cannot be written ({error.strerror}); choose another place')


def write_bytes(path: str | os.PathLike, data: bytes, replace: bool = True) -> None:
  """Writes a whole file; arguments and errors as of `NewFile`."""
  with NewFile(path, replace) as file:
    file.write(data)


def unfinished(path: pathlib.Path) -> pathlib.Path:
  """A name beside `path` for a file that is not whole, which `remove_unfinished` removes until it is forgotten."""
  temporary = path.with_name(f'.ssr-{secrets.token_hex(8)}.tmp')
  _unfinished.add(temporary)
  return temporary


def forget(temporary: pathlib.Path) -> None:
  """Removes a file of `unfinished`, where it has not been renamed."""
  with contextlib.suppress(OSError):
    temporary.unlink(missing_ok=True)
  _unfinished.discard(temporary)


def remove_unfinished() -> None:
  """Removes the files that are not whole, for a process that ends at once."""
  for path in tuple(_unfinished):
    with contextlib.suppress(OSError):
      path.unlink(missing_ok=True)


def _rename_to_new(old: pathlib.Path, new: pathlib.Path) -> None:
  """Renames a file; FileExistsError where the new name is taken."""
  try:
    os.link(old, new)  # unlike rename, it fails where the name is taken
  except FileExistsError:
    raise
  except OSError:  # a file system without hard links
    if os.path.lexists(new):
      raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
    os.replace(old, new)
