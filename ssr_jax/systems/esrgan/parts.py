"""The network of ESRGAN, by its name in model files."""

from typing import Any

from ssr_jax.systems.base import Part


def _restorer(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  return (jnp.zeros((1, 4 * module.unshuffle, 4 * module.unshuffle, 3)),)


PARTS = {
  'restorer': Part(
    {'rrdbnet': 'ssr_jax.nn.rrdb:RRDBNet'},
    _restorer,
    groups={'trunk': 'params/(block_|conv_trunk)', 'enlargement': 'params/(?!block_|conv_trunk)'},
    limits={'blocks': (1, 64), 'features': (1, 1024), 'growth': (1, 1024), 'unshuffle': (1, 4)},
  ),
}
