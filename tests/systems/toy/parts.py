"""The toy's networks, by the names that configs and model files give them."""

from typing import Any

from ssr_jax.systems.base import Part


def _image(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  del module
  return (jnp.zeros((1, 16, 16, 3)),)


PARTS = {
  'residual': Part({'compact': 'tests.systems.toy.network:Residual'}, _image, limits={'features': (1, 512)}),
}
