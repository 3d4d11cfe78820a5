"""A model in bfloat16: what is computed in it, what it saves, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

import ssr_jax

PHOTO = data.chelsea()[100:120, 100:128]


@pytest.fixture(scope='module')
def model(tiny_model_dir):
  return ssr_jax.load(tiny_model_dir)


@pytest.mark.slow
def test_bfloat16_is_what_the_networks_compute_in_and_nothing_else(model, tiny_model_dir):
  small = ssr_jax.load(tiny_model_dir, dtype='bfloat16')
  assert small.dtype == 'bfloat16' and all(jnp.dtype(net.dtype).name == 'bfloat16' for net in small.modules.values())
  lr = PHOTO / np.float32(255)
  ours, wanted = (ssr.sample(lr, steps=2) for ssr in (small, model))
  for name in ('image', 'restored', 'depth', 'kernels'):
    a, b = getattr(ours, name), getattr(wanted, name)
    assert a.dtype == np.float32
    assert 0 < np.sqrt(((a - b) ** 2).mean()) < 0.05 * b.std(), name  # random weights carry roundings far
  np.testing.assert_allclose(ours.kernels.sum(-1), 1, atol=1e-5)  # their eighth digit would be lost in bfloat16
  for image in (ours.restored, small.sample(lr, steps=2, colour_fix='none').image):
    inside = image[(image > 0.1) & (image < 1)]  # where bfloat16 has 8 bits of mantissa, and some 400 numbers
    assert len(np.unique(inside)) > 2000 and len(inside) > 5000


@pytest.mark.slow
def test_bfloat16_halves_the_memory_of_the_parameters_and_changes_no_result(model, tiny_model_dir):
  """Kept in bfloat16 is what the networks round to it anyway: results are those of float32 parameters, bit for bit."""
  small = ssr_jax.load(tiny_model_dir, dtype='bfloat16')
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  for part in small.variables:
    assert size(small.variables[part]['params']) < 0.62 * size(model.variables[part]['params']), part
  lr = PHOTO / np.float32(255)
  ours, wanted = (ssr.sample(lr, steps=2) for ssr in (small, dataclasses.replace(small, variables=model.variables)))
  for name in ('image', 'restored', 'depth', 'kernels'):
    np.testing.assert_array_equal(getattr(ours, name), getattr(wanted, name))


def test_a_dtype_that_cannot_be_is_refused(model, tiny_model_dir):
  with pytest.raises(ssr_jax.SSRError, match="dtype is 'float16'; known: float32, bfloat16"):
    ssr_jax.load(tiny_model_dir, dtype='float16')
  with pytest.raises(ssr_jax.SSRError, match="dtype is 'bfloat16', but the model was loaded with 'float32'"):
    ssr_jax.sample(PHOTO, model, dtype='bfloat16')
