"""What surrounds a program, `ssr` or a script: output that cannot be written, Ctrl-C, warnings of libraries.

Imports nothing heavy, because Ctrl-C is handled only once this is imported.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import select
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn, TextIO
import warnings

GRACE = 2.0
"""Seconds from Ctrl-C to the end of the process, if the command has not ended by itself."""


def run(program: str, command: Callable[[], int]) -> int:
  """Runs a program's command with `outputs`, `stoppable`.

  Args:
    program: its name, for messages.
    command: returns the exit code.

  Returns:
    the exit code; 130 after Ctrl-C, and never 0 where the output could not be written.
  """
  with outputs() as made:
    try:
      with stoppable(program):
        try:
          code = command()
        except Exception:
          check_stopped()
          raise
        if code != 130:
          check_stopped()
    except KeyboardInterrupt:
      code = 130
      print(f'{program}: stopped', file=sys.stderr)
    for output in made:
      output.flush()
      # Whoever closes a pipe, as `| head` does, has seen enough; a full disk loses what was asked for.
      if output.error is not None and not isinstance(output.error, BrokenPipeError):
        print(f'{program}: output cannot be written ({output.error})', file=sys.stderr)
        code = code or 1
  return code


def leave(code: int) -> NoReturn:
  """Ends the process; after Ctrl-C at once, because Python's cleaning up waits for what the devices still compute."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own cleaning up would answer Ctrl-C with a traceback
  if code == 130:
    for stream in (sys.stdout, sys.stderr):
      if stream is not None:
        Output(stream).flush()
    os._exit(code)
  sys.exit(code)


class Output:
  """Standard output or error whose reader may have left, whose disk may be full, or that cannot hold a character.

  Attributes:
    error: why it cannot be written; None if it can. What is written afterwards is dropped.
  """

  def __init__(self, stream: TextIO):
    self._stream, self.error = stream, None

  def write(self, text: str) -> int:
    """Writes; never raises."""
    try:
      if self.error is None:
        self._stream.write(text)
    except UnicodeEncodeError:
      encoding = self._stream.encoding
      return self.write(text.encode(encoding, 'backslashreplace').decode(encoding))
    except (OSError, ValueError) as error:  # ValueError: the stream is closed
      self._lose(error)
    return len(text)

  def flush(self) -> None:
    """Flushes; never raises."""
    try:
      if self.error is None:
        self._stream.flush()
    except (OSError, ValueError) as error:
      self._lose(error)

  def _lose(self, error: Exception) -> None:
    self.error = error
    with contextlib.suppress(OSError, ValueError):  # what is buffered would fail again when Python exits
      null = os.open(os.devnull, os.O_WRONLY)
      os.dup2(null, self._stream.fileno())
      os.close(null)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


@contextlib.contextmanager
def outputs() -> Iterator[list[Output]]:
  """A context in which sys.stdout and sys.stderr are `Output`s; its value are those that exist, stdout first."""
  before = sys.stdout, sys.stderr
  made = [stream and Output(stream) for stream in before]  # a stream is None if its descriptor was closed at the start
  sys.stdout, sys.stderr = made
  try:
    yield [output for output in made if output]
  finally:
    for output in made:
      if output:
        output.flush()
    sys.stdout, sys.stderr = before


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
  """A context in which warnings are not printed: those of a library name no file that a user could do something about.

  Filters stay as they are, so that a warning that is an error remains one.
  """
  with warnings.catch_warnings():
    warnings.showwarning = lambda *_, **__: None
    yield


class _Stop:
  """Whether Ctrl-C was pressed during the present command."""

  pressed = False


def check_stopped() -> None:
  """Raises KeyboardInterrupt if Ctrl-C was pressed; a library may have turned it into an error of its own."""
  if _Stop.pressed:
    raise KeyboardInterrupt


@contextlib.contextmanager
def stoppable(program: str = 'ssr', grace: float = GRACE) -> Iterator[None]:
  """A context that Ctrl-C leaves by KeyboardInterrupt; if it is not left in time, the process ends with exit code 130.

  Python's own handler runs only when the main thread returns from native code, which takes as long as a compilation;
  and its exception is lost where native code has called back into Python. The signal is therefore also watched by a
  thread. Does nothing outside of the main thread, or where the program handles or ignores SIGINT itself.

  A training run may take longer than that to finish a checkpoint that it is writing: it is waited for, until Ctrl-C is
  pressed once more.

  Args:
    program: its name, for messages.
    grace: seconds.
  """
  _Stop.pressed = False
  in_main = threading.current_thread() is threading.main_thread()
  if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
    yield
    return

  def stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    if not _Stop.pressed:  # a second one must not disturb what the first one's exception unwinds
      _Stop.pressed = True
      raise KeyboardInterrupt

  left = threading.Event()
  reader, writer = os.pipe()
  if hasattr(os, 'set_blocking'):  # Windows has it from Python 3.12 on, and does not need it
    os.set_blocking(writer, False)

  def watch() -> None:
    while number := os.read(reader, 1):
      if number == b'\0':
        return
      if number[0] == signal.SIGINT and not left.wait(grace):
        _wait_for_checkpoint(program, reader, left)
        if not left.is_set():
          _end(program)

  thread = threading.Thread(target=watch, name='ssr-stop', daemon=True)
  thread.start()
  signal.signal(signal.SIGINT, stop)
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # written to even while native code runs
  try:
    yield
  finally:
    left.set()
    signal.set_wakeup_fd(before)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.suppress(BlockingIOError):
      os.write(writer, b'\0')
    thread.join(1)
    for descriptor in (reader, writer):
      os.close(descriptor)


def _wait_for_checkpoint(program: str, reader: int, left: threading.Event) -> None:
  """Waits while a training run writes a checkpoint, until the context is left or Ctrl-C is pressed again."""
  # Where the module is not there, or only half imported, nothing is being written.
  busy = getattr(sys.modules.get('ssr_jax.training.checkpoint'), 'busy', lambda: False)
  if not busy():
    return
  while select.select([reader], [], [], 0)[0]:  # pressed during the grace: before it was said what for
    os.read(reader, 1)
  _write(f'{program}: finishing a checkpoint; Ctrl-C again leaves it unfinished')
  while busy() and not left.wait(0.1):
    if select.select([reader], [], [], 0)[0] and os.read(reader, 1)[0] == signal.SIGINT:
      return


def _end(program: str) -> None:
  getattr(sys.modules.get('ssr_jax.image.io'), 'remove_unfinished', lambda: None)()
  _write(f'{program}: stopped')
  os._exit(130)


def _write(line: str) -> None:
  """Writes a line to stderr from another thread than the main one, which may be within a line of its own."""
  with contextlib.suppress(OSError):
    os.write(2, f'\n{line}\n'.encode() if os.isatty(2) else f'{line}\n'.encode())
