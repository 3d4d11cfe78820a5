"""Random variables for tests: no zeros, and without compiling the modules' initialisers."""

import jax
import numpy as np


def drawn(module, *inputs, seed: int = 0, dtype=np.float32):
  """Flax variables of a module: weights of unit gain, biases and scales around their start values."""
  rng = np.random.default_rng(seed)

  def draw(path, shape):
    kind = path[-1].key
    if len(shape.shape) < 2 or kind == 'temperature':
      return (rng.normal(1.0 if kind in ('scale', 'temperature') else 0.0, 0.2, shape.shape)).astype(dtype)
    return (rng.standard_normal(shape.shape) * np.prod(shape.shape[:-1]) ** -0.5).astype(dtype)

  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return jax.tree_util.tree_map_with_path(draw, shapes)
