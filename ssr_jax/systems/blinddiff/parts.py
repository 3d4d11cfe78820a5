"""The network of BlindDiff, by its name in configs and model files."""

from typing import Any

from ssr_jax.systems.base import Part


def _mcformer(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  side = 8 * module.stem
  return jnp.zeros((1, side, side, 3)), jnp.zeros((1,)), jnp.zeros((1, side, side, 3))


# Numbers of blocks, which are traced one by one, and of what is divided by.
_COUNT, _DIVISOR = (0, 64), (1, 1024)

PARTS = {
  'mcformer': Part(
    {'mcformer': 'ssr_jax.systems.blinddiff.mcformer:MCFormer'},
    _mcformer,
    groups={
      'kernel estimator': 'params/estimator/',
      'embeddings': 'params/(time|kernel)_[12]/',
      'transformer': 'params/(?!(estimator|(time|kernel)_[12])/)',
    },
    limits={
      'features': (2, 1024),
      'blocks': _COUNT,
      'heads': _DIVISOR,
      'refinement': _COUNT,
      'expansion': (0.1, 16),
      'stem': (1, 8),
      'taps': (1, 4096),
    },
  ),
}
