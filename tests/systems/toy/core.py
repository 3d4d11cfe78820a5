"""The method, which sampling and training call alike."""

from collections.abc import Mapping
from typing import Any

from ssr_jax.image.resize import upscale
from ssr_jax.types import Array


def enlarge(
  modules: Mapping[str, Any], variables: Mapping[str, Any], lr: Array, scale: int, amount: float = 1.0
) -> tuple[Array, Array]:
  """LR [b, h, w, 3] in [0, 1] -> bicubic enlargement and result, [b, H, W, 3], not clipped."""
  bicubic = upscale(lr, scale)
  return bicubic, bicubic + amount * modules['residual'].apply(variables['residual'], bicubic)
