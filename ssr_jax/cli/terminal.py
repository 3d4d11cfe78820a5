"""What surrounds a command: output that cannot be written, Ctrl-C at any moment, warnings of libraries.

Imports nothing heavy, because Ctrl-C is handled only once this is imported.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, TextIO
import warnings

GRACE = 2.0
"""Seconds from Ctrl-C to the end of the process, if the command has not ended by itself."""


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
def stoppable(grace: float = GRACE) -> Iterator[None]:
  """A context that Ctrl-C leaves by KeyboardInterrupt; if it is not left in time, the process ends with exit code 130.

  Python's own handler runs only when the main thread returns from native code, which takes as long as a compilation;
  and its exception is lost where native code has called back into Python. The signal is therefore also watched by a
  thread. Does nothing outside of the main thread, or where the program handles or ignores SIGINT itself.

  Args:
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
        _end()

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


def _end() -> None:
  io = sys.modules.get('ssr_jax.image.io')
  if io is not None:
    io.remove_unfinished()
  with contextlib.suppress(OSError):
    os.write(2, b'\nssr: stopped\n' if os.isatty(2) else b'ssr: stopped\n')
  os._exit(130)
