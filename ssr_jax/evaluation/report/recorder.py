"""Keeps what a restorer finds on the way to its image."""

from typing import Any, cast

import numpy as np

from ssr_jax.evaluation.report import views
from ssr_jax.runtime import Restorer, Result
from ssr_jax.systems.base import Output


class Recorder:
  """Keeps what a restorer finds besides images, for the figures.

  Attributes:
    restorer: calls the one given, which may be None, and so does all else that one asks of it.
  """

  def __init__(self, restorer: Restorer | None):
    self._recorded = None if restorer is None else _Recorded(restorer)
    self.restorer = cast('Restorer | None', self._recorded)

  def start(self, keep_kernels: bool) -> None:
    """Forgets what was kept; from now on kernels are kept as well, or only where a metric needs them."""
    if self._recorded is not None:
      self._recorded.keep_kernels, self._recorded.last = keep_kernels, None

  def take(self) -> list[tuple[Output, np.ndarray]]:
    """What the last call found, with its outputs' descriptions; [] where none was made since `start` or `take`."""
    if self._recorded is None or self._recorded.last is None:
      return []
    result, self._recorded.last = self._recorded.last, None
    return views.found(self._recorded.system.outputs, result.outputs)


class _Recorded:
  """A restorer that remembers its last result."""

  def __init__(self, restorer: Restorer):
    self.keep_kernels, self.last = False, None
    self._restorer = restorer

  def __getattr__(self, name: str) -> Any:
    return getattr(self._restorer, name)

  def sample(self, lr: np.ndarray, *, keep_kernels: bool, **options: Any) -> Result:
    self.last = self._restorer.sample(lr, keep_kernels=keep_kernels or self.keep_kernels, **options)
    return self.last
