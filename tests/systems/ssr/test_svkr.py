"""Algorithm 1 against a plain Python loop, both rules, T = 0, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.image.resize import resize, upscale
from ssr_jax.nn.rrdb import NBSR
from ssr_jax.systems.ssr.dkenet import DKENet
from ssr_jax.systems.ssr.svkr import svkr


@pytest.fixture(scope='module')
def parts():
  lr = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))
  dkenet, nbsr = DKENet(features=4, depth_features=4), NBSR(blocks=1, features=4, growth=4, global_skip=True)
  vk = jax.jit(dkenet.init)(jax.random.key(1), lr, lr[..., :1])
  vn = jax.jit(nbsr.init)(jax.random.key(2), lr, jnp.zeros((1, 8, 8, 441)))
  vn['constants']['pca'] = jax.random.normal(jax.random.key(3), (441, 15))

  def depth(image):  # smooth and bounded, as a normalised depth is
    return jax.nn.sigmoid(3 * image.mean(-1, keepdims=True))

  return lr, depth, lambda lr, d: dkenet.apply(vk, lr, resize(d, (8, 8), 'area')), lambda lr, k: nbsr.apply(vn, lr, k)


def _python_loop(lr, DE, KE, NBSR, T, gamma, rule):
  I = upscale(lr, 4)
  D = DE(I)
  K = KE(lr, D)
  estimates = [K, K]  # E^{-1}, E^0
  for t in range(T):
    D = DE(I)
    E = KE(lr, D)
    estimates.append(E)
    K = gamma * E + (1 - gamma) * K if rule == 'algorithm1' else gamma * estimates[t + 1] + (1 - gamma) * estimates[t]
    I = NBSR(lr, K)
  return D, K, I


@pytest.mark.parametrize(
  'rule,iterations',
  [
    pytest.param(rule, iterations, marks=() if (rule, iterations) == ('algorithm1', 3) else pytest.mark.slow)
    for rule in ('algorithm1', 'eq2')
    for iterations in (0, 1, 3)
  ],
)
def test_equals_a_python_loop(parts, rule, iterations):
  lr, *functions = parts
  out = jax.jit(lambda x: svkr(*functions, x, iterations=iterations, gamma=0.7, rule=rule))(lr)
  D, K, I = jax.jit(lambda x: _python_loop(x, *functions, iterations, 0.7, rule))(lr)
  np.testing.assert_allclose(out.depth, D, atol=1e-6)
  np.testing.assert_allclose(out.kernels, K, atol=1e-6)
  np.testing.assert_allclose(out.image, I, atol=2e-6)
  np.testing.assert_allclose(out.kernels.sum(-1), 1, atol=1e-5)


@pytest.mark.slow
def test_rules_and_iterations_matter(parts):
  lr, depth, estimate, restore = parts

  def sharper(lr, d):  # where it is near, so that another depth makes clearly another kernel
    return jax.nn.softmax(40 * resize(d, (8, 8), 'area') * jnp.log(estimate(lr, d)), -1)

  run = lambda **kw: jax.jit(lambda x: svkr(depth, sharper, restore, x, gamma=0.5, **kw).kernels)(lr)
  refined = run(iterations=3)
  expected = jax.jit(lambda x: _python_loop(x, depth, sharper, restore, 3, 0.5, 'algorithm1')[1])(lr)
  np.testing.assert_allclose(refined, expected, atol=1e-5)  # up to 1, while those of the test above are near 1/441
  for other in (run(iterations=3, rule='eq2'), run(iterations=1)):
    assert float(jnp.abs(refined - other).max()) > 0.01 * float(refined.max())


@pytest.mark.slow
def test_gradient_equals_the_python_loops_whether_unrolled_or_not(parts):
  lr, *functions = parts
  reference = jax.jit(jax.grad(lambda x: (_python_loop(x, *functions, 2, 0.9, 'algorithm1')[2] ** 2).sum()))(lr)
  assert float(jnp.abs(reference).max()) > 1e-3
  for unroll in (1, True):
    gradient = jax.jit(jax.grad(lambda x: (svkr(*functions, x, iterations=2, unroll=unroll).image ** 2).sum()))(lr)
    np.testing.assert_allclose(gradient, reference, rtol=1e-3, atol=1e-4 * float(jnp.abs(reference).max()))


def test_wrong_arguments_are_named(parts):
  lr, *functions = parts
  with pytest.raises(ValueError, match='unknown SVKR rule'):
    svkr(*functions, lr, rule='eq3')
  with pytest.raises(ValueError, match='0 or more'):
    svkr(*functions, lr, iterations=-1)


@pytest.mark.parametrize('rule', ['algorithm1', 'eq2'])
def test_four_rounds_told_by_numbers(rule):
  """Depth is the image's mean plus one; estimates, kernels and images are numbers worked out by hand."""
  lr, seen = jnp.full((1, 2, 2, 3), 0.5), []
  out = svkr(
    lambda image: image.mean() + 1,
    lambda lr, depth: 10 * depth,
    lambda lr, kernels: seen.append(kernels) or jnp.full((1, 8, 8, 3), kernels),
    lr,
    iterations=4,  # of eq2's estimates the first two are equal: three rounds would not tell them apart
    gamma=0.75,
    rule=rule,
    unroll=True,
  )
  image, estimates, kernels = 0.5, [15.0, 15.0], 15.0
  for t in range(4):
    depth = image + 1
    estimates.append(10 * depth)
    new, old = (estimates[t + 2], kernels) if rule == 'algorithm1' else (estimates[t + 1], estimates[t])
    image = kernels = 0.75 * new + 0.25 * old
    assert seen[t] == pytest.approx(kernels, rel=1e-5)
  assert (out.depth, out.kernels) == (pytest.approx(depth, rel=1e-5), pytest.approx(kernels, rel=1e-5))
  np.testing.assert_allclose(out.image, image, rtol=1e-5)
