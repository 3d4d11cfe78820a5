"""Signals during a run: SIGTERM before a preemption, and Ctrl-C while a checkpoint is begun."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import threading
from typing import Any

import jax

PREEMPTED = 75
"""Exit code of a run that was stopped and saved its state (EX_TEMPFAIL): run the same command again."""


class Preemption:
  """Detects preemption: SIGTERM on this process or on any process of the run.

  Use as a context. The signal only sets a flag; the loop asks `reached` between steps, saves and exits with
  `PREEMPTED`.
  """

  def __init__(self):
    self._asked = False
    self._former: Callable | int | None = None

  def __enter__(self) -> 'Preemption':
    # With several processes jax's coordination service handles the signal and agrees on a step for all of them.
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
      self._former = signal.signal(signal.SIGTERM, self._mark)
    return self

  def __exit__(self, *unused) -> None:
    if self._former is not None:
      signal.signal(signal.SIGTERM, self._former)

  def _mark(self, *unused) -> None:
    self._asked = True

  def reached(self, step: int) -> bool:
    """Whether to save and stop before this step; the same on all processes."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
  """Ctrl-C takes effect when the context is left.

  Inside of the writer's own code it would leave half of a checkpoint, and a thread that waits for the other half.
  """
  before = signal.getsignal(signal.SIGINT)
  if threading.current_thread() is not threading.main_thread() or not callable(before):
    yield
    return
  pressed: list[tuple[Any, ...]] = []
  signal.signal(signal.SIGINT, lambda *how: pressed.append(how))
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)
    if pressed:
      before(*pressed[0])
