"""Dimension letters, array aliases and the error that users see.

Letters used in shapes throughout: b batch, h w LR size, H W = s*h, s*w HR size, s scale, k kernel side (21), t number
of PCA components or time, c channels. Arrays are NHWC; images are float in [0, 1] at every public boundary.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import jax
  import numpy as np

  Array = jax.Array
  ArrayLike = jax.Array | np.ndarray


class SSRError(ValueError):
  """Something the caller can put right: one line that names the file or field and says what to do."""


def __getattr__(name: str) -> Any:
  # Array and ArrayLike are made when they are asked for: the command line shows its help without importing JAX.
  if name not in ('Array', 'ArrayLike'):
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  import jax
  import numpy as np

  return jax.Array if name == 'Array' else jax.Array | np.ndarray
