"""Dimension letters, array aliases and the error that users see.

Letters used in shapes throughout: b batch, h w LR size, H W = s*h, s*w HR size, s scale, k kernel side (21), t number
of PCA components or time, c channels. Arrays are NHWC; images are float in [0, 1] at every public boundary.
"""

import jax
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray


class SSRError(ValueError):
  """Something the caller can put right: one line that names the file or field and says what to do."""
