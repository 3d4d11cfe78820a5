"""The depthwise convolution against XLA's grouped one, in values and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.nn import depthwise as lib
from ssr_jax.nn.depthwise import Depthwise, depthwise


def _grouped(x, kernel):
  return jax.lax.conv_general_dilated(
    x,
    kernel[:, :, None],
    (1, 1),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1],
    precision='highest',
  )


@pytest.mark.parametrize('k,shape', [(3, (2, 9, 7, 5)), (5, (1, 6, 8, 3)), (1, (2, 4, 4, 2)), (3, (1, 1, 2, 4))])
def test_values_and_gradients_are_those_of_a_grouped_convolution(k, shape):
  rng = np.random.default_rng(k)
  x, weight = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(2))
  kernel = jnp.asarray(rng.standard_normal((k, k, shape[-1])), jnp.float32)
  loss = lambda f: lambda x, kernel: (weight * f(x, kernel)).sum()
  np.testing.assert_allclose(jax.jit(depthwise)(x, kernel), _grouped(x, kernel), atol=2e-6)
  ours, theirs = (jax.jit(jax.grad(loss(f), (0, 1)))(x, kernel) for f in (depthwise, _grouped))
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  np.testing.assert_allclose(lib._taps(x, weight, k), lib._taps_by_rows(x, weight, k), atol=1e-5)


def test_the_gradient_of_the_gradient():
  """Twice reverse: the directional derivative of a gradient against a difference of gradients."""
  rng = np.random.default_rng(0)
  x, v = (jnp.asarray(rng.standard_normal((1, 5, 6, 3)), jnp.float32) for _ in range(2))
  kernel = jnp.asarray(rng.standard_normal((3, 3, 3)), jnp.float32)
  gradient = jax.grad(lambda x: jnp.tanh(depthwise(x, kernel)).sum())
  found = jax.jit(jax.grad(lambda x: (gradient(x) * v).sum()))(x)
  reference = jax.grad(lambda x: (jax.grad(lambda x: jnp.tanh(_grouped(x, kernel)).sum())(x) * v).sum())(x)
  np.testing.assert_allclose(found, reference, atol=1e-5)


def test_the_kernels_gradient_is_summed_in_float32():
  """In bfloat16 a sum of ones would stop at 256."""
  x = jnp.ones((1, 64, 64, 2), jnp.bfloat16)
  for taps in (lib._taps, lib._taps_by_rows):
    np.testing.assert_array_equal(taps(x, x, 3)[4], [4096, 4096])


def test_the_module_has_the_parameters_of_a_grouped_convolution():
  x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 6, 5, 4)), jnp.float32)
  variables = Depthwise().init(jax.random.key(0), x)
  kernel = variables['params']['kernel']
  assert kernel.shape == (3, 3, 1, 4) and 0.2 < float(kernel.std()) < 0.5  # 1/3, a ninth of unit variance
  np.testing.assert_allclose(Depthwise().apply(variables, x), _grouped(x, kernel[:, :, 0]), atol=2e-6)
  low = Depthwise(dtype=jnp.bfloat16).apply(variables, x)
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(low.astype(jnp.float32), _grouped(x, kernel[:, :, 0]), atol=0.05)


@pytest.mark.parametrize('shape', [(2, 2, 3), (3, 5, 3), (3, 3, 4)])
def test_kernels_that_do_not_fit_are_refused(shape):
  with pytest.raises(ValueError, match='kernel must be'):
    depthwise(jnp.zeros((1, 4, 4, 3)), jnp.zeros(shape))
