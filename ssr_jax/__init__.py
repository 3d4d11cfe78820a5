"""Blind super-resolution of photos whose blur varies from place to place.

    import ssr_jax
    result = ssr_jax.sample(lr)      # lr: uint8, uint16 or float in [0, 1], [h, w, 3], or the path of an image
    result.image                     # four times as large
    model = ssr_jax.load('compact')  # or the path of a model directory; model.sample(lr, steps=8, seed=1)

Names are imported at first use, so that `import ssr_jax` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from ssr_jax.runtime import Restorer, Result, load, sample
  from ssr_jax.types import SSRError

__version__ = '0.2.0'

_LAZY = {
  'Restorer': 'ssr_jax.runtime',
  'Result': 'ssr_jax.runtime',
  'load': 'ssr_jax.runtime',
  'sample': 'ssr_jax.runtime',
  'SSRError': 'ssr_jax.types',
}
__all__ = ['Restorer', 'Result', 'SSRError', 'load', 'sample']


def __getattr__(name: str) -> Any:
  if name in _LAZY:
    return getattr(importlib.import_module(_LAZY[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted([*globals(), *_LAZY])
