"""What tools/fuzz.py attacks with: a module for each kind, with `run(count, rng) -> {outcome: how often}`.

A module's `BAD` names the outcomes that must not happen; the first line of its docstring says what it does. `count`
here runs cases in a process of its own, which may crash, hang or fill memory.
"""

from collections.abc import Callable, Iterable, Sequence
import contextlib
import multiprocessing
from multiprocessing.connection import Connection
import os
import resource
import sys
import tempfile
import traceback
from typing import Any
import warnings

BROKEN = ('unnamed', 'internal error', 'noisy', 'memory', 'hang', 'crash')
"""What must not come of any case: a refusal that does not name the file in one line; another error than an SSRError;
something printed past the program's own lines; more memory or time than a case may take; the end of the process."""


def count(
  attempt: Callable[..., tuple[str, str]],
  cases: Iterable[Sequence[Any]],
  good: Sequence[str],
  seconds: float,
  gigabytes: float,
  bad: Sequence[str] = BROKEN,
) -> dict[str, int]:
  """Runs cases one after the other in a process that is started again where it ends; {outcome: how often}.

  Args:
    attempt: of a module, called there with a case; returns one of `good` and `bad`, and what was said. An exception is
      an internal error.
    cases: arguments; reported by number where something bad comes of them.
    good: the outcomes that may happen.
    seconds: that a case may take.
    gigabytes: of memory that the process may come to; it gets four times that of address space.
    bad: the outcomes that must not happen, those of `BROKEN` among them.
  """
  counts = dict.fromkeys((*good, *bad), 0)
  worker = _Worker(attempt, gigabytes)
  try:
    for number, case in enumerate(cases):
      outcome, said = worker.ask(case, seconds)
      counts[outcome] += 1
      if outcome in bad:
        print(f'case {number}: {outcome}: {said}', file=sys.stderr, flush=True)
        if outcome in ('hang', 'crash', 'memory'):
          worker.end()
          worker = _Worker(attempt, gigabytes)
  finally:
    worker.end()
  return counts


class _Worker:
  """The process that runs cases."""

  def __init__(self, attempt: Callable[..., tuple[str, str]], gigabytes: float):
    context = multiprocessing.get_context('spawn')
    self._connection, theirs = context.Pipe()
    self._process = context.Process(target=_serve, args=(theirs, attempt, gigabytes), daemon=True)
    self._process.start()
    theirs.close()
    self._connection.recv()  # it has imported what it needs

  def ask(self, case: Sequence[Any], seconds: float) -> tuple[str, str]:
    """The outcome of a case, and what was said."""
    try:
      self._connection.send(case)
      if not self._connection.poll(seconds):
        return 'hang', f'more than {seconds} s'
      return self._connection.recv()
    except (EOFError, OSError):
      self._process.join(10)
      return 'crash', f'exit code {self._process.exitcode}'

  def end(self) -> None:
    """Ends the process, which may no longer answer."""
    with contextlib.suppress(OSError):
      self._connection.send(None)
      self._process.join(2)
    self._process.kill()
    self._process.join()
    self._connection.close()


def _serve(connection: Connection, attempt: Callable[..., tuple[str, str]], gigabytes: float) -> None:
  limit = int(gigabytes * 2**30)
  resource.setrlimit(resource.RLIMIT_AS, (4 * limit, 4 * limit))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  with tempfile.TemporaryFile() as printed, warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    for descriptor in (1, 2):  # what C libraries print, too
      os.dup2(printed.fileno(), descriptor)
    connection.send(None)
    while True:
      try:
        case = connection.recv()
      except EOFError:
        case = None
      if case is None:
        return
      del warned[:]
      printed.truncate(0)
      printed.seek(0)
      try:
        outcome, said = attempt(*case)
      except Exception as error:
        outcome, said = 'internal error', ' | '.join(traceback.format_exception(error)[-2:])
      sys.stdout.flush()
      sys.stderr.flush()
      text = os.pread(printed.fileno(), 500, 0).decode(errors='replace')
      if outcome not in BROKEN and (text or warned):
        outcome, said = 'noisy', text or str(warned[0])
      if _peak() > limit:
        outcome, said = 'memory', f'more than {gigabytes} GiB'
      connection.send((outcome, said))


def _peak() -> int:
  """The most memory that this process has had, in bytes. getrusage's number begins with that of the parent."""
  try:
    with open('/proc/self/status') as status:
      return next(1024 * int(line.split()[1]) for line in status if line.startswith('VmHWM:'))
  except (OSError, StopIteration):
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
