"""A full disk while checkpoints are written: how it is recognised, and that it is told in one line, by `checkpoint`."""

from collections.abc import Callable
import logging
import sys
from typing import Any

_WORDS = ('no space left', 'disk quota', 'file too large', 'enospc', 'edquot', 'efbig', 'resource_exhausted')


def no_room(error: BaseException | None) -> bool:
  """Whether a full disk, a quota or a size limit caused an error, which the writer wraps several times."""
  while error is not None:
    if any(word in str(error).lower() for word in _WORDS):
      return True
    error = error.__cause__ or error.__context__
  return False


def tell_once() -> None:
  """Keeps the writer from printing, for the rest of the process, what is raised and told anyway."""
  logging.getLogger('absl').addFilter(_not_told)
  if sys.unraisablehook is not _unraisable:
    _unraisable.former, sys.unraisablehook = sys.unraisablehook, _unraisable


def _not_told(record: logging.LogRecord) -> bool:
  """Whether a record of the writer's should be logged: not a full disk or Ctrl-C."""
  error = record.exc_info[1] if record.exc_info else None
  return not (isinstance(error, KeyboardInterrupt) or no_room(error))


class _Unraisable:
  """Python's hook for errors in callbacks, without those of the arrays that are written after the first one failed.

  The writer has left its event loop then, and the callback of every other array finds it closed.
  """

  former: Callable[[Any], Any] = staticmethod(sys.unraisablehook)

  def __call__(self, found: Any) -> None:
    if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == 'Event loop is closed'):
      self.former(found)


_unraisable = _Unraisable()
