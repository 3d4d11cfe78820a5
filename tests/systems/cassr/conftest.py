"""A tiny random model of CasSR; its prior and what steers it have no zeros."""

import jax
import numpy as np
import pytest

from configs.cassr import tiny
from ssr_jax import systems
from ssr_jax.systems.cassr.sizes import SIZES
from ssr_jax.weights import format


def drawn(part, seed=0, **fields):
  """The module of a part of the tiny size, and random variables of it."""
  module = systems.build(part, system='cassr', **{**SIZES['tiny'][part], **fields})
  inputs = systems.get('cassr').parts[part].example(module)
  rng = np.random.default_rng(seed)

  def draw(path, shape):
    if len(shape.shape) < 2:
      return rng.normal(1.0 if path[-1].key == 'scale' else 0.0, 0.2, shape.shape).astype(np.float32)
    fan = 1 if path[-1].key == 'prompts' else np.prod(shape.shape[:-1])
    return (rng.standard_normal(shape.shape) * fan**-0.5).astype(np.float32)

  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return module, jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope='session')
def networks():
  """Modules and variables of prior, activation and cassr: ({part: module}, {part: variables})."""
  found = {part: drawn(part, seed) for seed, part in enumerate(('prior', 'activation', 'cassr'))}
  return {part: pair[0] for part, pair in found.items()}, {part: pair[1] for part, pair in found.items()}


@pytest.fixture(scope='session')
def model_dir(tmp_path_factory, tiny_model_dir, networks):
  """A model directory with every part; those of SSR are a tiny SSR model's."""
  directory = tmp_path_factory.mktemp('models') / 'cassr'
  for part in ('depth', 'dkenet', 'nbsr', 'vae'):
    format.copy_part(tiny_model_dir, part, directory, system='cassr')
  for part, variables in networks[1].items():
    format.save_part(directory, part, SIZES['tiny'][part], variables, system='cassr')
  config = tiny.get_config('cassr')
  format.update(directory, **{name: config[name].to_dict() for name in ('svkr', 'schedule', 'sampling')})
  return directory
