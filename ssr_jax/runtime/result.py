"""What a model returns for an image."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class Result:
  """Outputs of a system for an image, or for a batch, with a leading b axis.

  Attributes:
    image: [H, W, 3], the super-resolved image, dtype of the input.
    outputs: {name: array} of the system's other outputs; each is also an attribute. SSR's are `depth` [H, W, 1]
      float32, relative inverse depth in [0, 1] with 1 nearest; `kernels` [h, w, k*k] float32, one blur kernel per LR
      pixel, None without `keep_kernels`; `restored` [H, W, 3], the image before diffusion, dtype of the input. If it
      was asked for, `trust` [h, w, 3] float32 is there too: see `runtime.trust.CHANNELS`.
  """

  def __init__(self, image: np.ndarray, outputs: Mapping[str, np.ndarray | None]):
    """Stores the arrays without a copy."""
    self.image, self.outputs = image, dict(outputs)

  def __getattr__(self, name: str) -> Any:
    outputs = self.__dict__.get('outputs', {})
    if name in outputs:
      return outputs[name]
    raise AttributeError(f'this result has no {name!r}; it has image, {", ".join(outputs)}')

  def __repr__(self) -> str:
    shapes = {name: None if x is None else x.shape for name, x in {'image': self.image, **self.outputs}.items()}
    return f'Result({", ".join(f"{name} {shape}" for name, shape in shapes.items())})'
