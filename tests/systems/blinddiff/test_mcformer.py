"""MCFormer: its size, what modulates it, and that images of a batch and parts of a block do not mix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.systems.blinddiff.mcformer import MDTA, Estimator, MCFormer, Restormer
from ssr_jax.systems.blinddiff.sizes import SIZES
from ssr_jax.training import flops
from tests.systems.blinddiff.drawn import drawn

TINY = dict(features=4, blocks=(1, 0, 1, 1), heads=(1, 2, 2, 4), refinement=0, taps=9)


def _count(module, *shapes):
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return sum(x.size for x in jax.tree.leaves(jax.eval_shape(module.init, jax.random.key(0), *arguments)['params']))


IMAGES = (1, 16, 16, 3), (1,), (1, 16, 16, 3)


@functools.cache
def _shapes(size):
  """A size's module, and the shapes of its inputs and variables."""
  module = MCFormer(**SIZES[size]['mcformer'])
  inputs = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 512, 512, 3), (1,), (1, 512, 512, 3))]
  return module, inputs, jax.eval_shape(module.init, jax.random.key(0), *inputs)


def _count(variables):
  return sum(x.size for x in jax.tree.leaves(variables['params']))


@pytest.mark.slow
def test_parameters_are_those_of_the_paper_and_of_restormer():
  """BlindDiff's 26.51 M (Figure 1), and Restormer's published 26,126,644 with its own depths."""
  for size, count in {'released': 26_509_267, 'full': 26_506_675, 'compact': 4_723_466}.items():
    assert _count(_shapes(size)[2]) == count, size
  restormer = Restormer(blocks=(4, 6, 6, 8), refinement=4)
  assert _count(jax.eval_shape(restormer.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))) == 26_126_644


@pytest.mark.slow
@pytest.mark.parametrize('size,expected', [('full', 450e9 / 512**2), ('compact', 104e3)])
def test_operations_are_those_that_were_counted(size, expected):
  """450 GMAC of an image of 512 x 512, and 104 kMAC for each pixel of the compact size."""
  module, inputs, variables = _shapes(size)
  found = flops.count(module.apply, variables, *inputs) / 2 / 512**2
  # Depthwise convolutions are not among what is counted.
  assert 0.94 * expected < found < 1.01 * expected


def _inputs(b=2, h=16, w=24):
  rng = np.random.default_rng(1)
  x_t, u = (jnp.asarray(rng.standard_normal((b, h, w, 3)), jnp.float32) for _ in range(2))
  return x_t, jnp.arange(b) * 400 + 3, u


@pytest.mark.slow
def test_what_each_input_changes():
  """The kernel comes from x_t and u alone, the image from all; with modulate='time' not from the kernel."""
  x_t, t, u = _inputs()
  module = MCFormer(**TINY)
  variables = drawn(module, x_t, t, u)
  apply = jax.jit(module.apply)
  image, kernel = apply(variables, x_t, t, u)
  assert image.shape == (2, 16, 24, 3) and kernel.shape == (2, 9)
  np.testing.assert_allclose(kernel.sum(-1), 1, rtol=1e-6)
  other, same = apply(variables, x_t, t + 100, u)
  np.testing.assert_array_equal(same, kernel)
  assert float(jnp.abs(other - image).max()) > 1e-2
  for changed in ((x_t + 1, t, u), (x_t, t, u + 1)):
    assert float(jnp.abs(apply(variables, *changed)[1] - kernel).max()) > 1e-4

  # The kernel's way into the blocks: its embedding, which 'time' leaves out.
  params = variables['params']
  moved = {'params': params | {'kernel_1': jax.tree.map(lambda x: x + 1, params['kernel_1'])}}
  assert float(jnp.abs(apply(moved, x_t, t, u)[0] - image).max()) > 1e-2
  alone = MCFormer(**TINY, modulate='time')
  mine = {'params': {name: value for name, value in params.items() if not name.startswith('kernel_')}}
  assert jax.tree.structure(jax.eval_shape(alone.init, jax.random.key(0), x_t, t, u)) == jax.tree.structure(mine)
  no_embedding = {'params': params | {'kernel_2': jax.tree.map(jnp.zeros_like, params['kernel_2'])}}
  np.testing.assert_allclose(jax.jit(alone.apply)(mine, x_t, t, u)[0], apply(no_embedding, x_t, t, u)[0], atol=1e-5)


def test_images_of_a_batch_do_not_mix():
  x_t, t, u = _inputs()
  x_t, u = x_t[:, :16, :16], u[:, :16, :16]
  module = MCFormer(**TINY, stem=2, variance='learned')
  variables = drawn(module, x_t, t, u)
  apply = jax.jit(module.apply)
  both = apply(variables, x_t, t, u)
  twins = [apply(variables, *(jnp.stack([x[i], x[i]]) for x in (x_t, t, u))) for i in range(2)]
  for i in range(2):
    for mine, theirs in zip(twins[i], both, strict=True):
      np.testing.assert_allclose(mine[1], theirs[i], atol=2e-5)
  # And the skip goes to both images.
  without, _ = jax.jit(MCFormer(**TINY, stem=2, variance='learned', skip=False).apply)(variables, x_t, t, u)
  np.testing.assert_allclose(both[0] - without, np.concatenate([x_t, x_t], -1), atol=1e-5)


def test_attention_weighs_channels_by_their_cosines():
  """MDTA against a loop over heads and channels."""
  b, h, w, c, n = 2, 3, 5, 6, 2
  x = jnp.asarray(np.random.default_rng(0).standard_normal((b, h, w, c)), jnp.float32)
  module = MDTA(n)
  variables = drawn(module, x)
  params = jax.tree.map(np.asarray, variables['params'])
  y = np.einsum('bhwc,cd->bhwd', x, params['qkv']['kernel'])
  padded, filtered = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0))), np.zeros_like(y)
  for i in range(3):
    for j in range(3):
      filtered += padded[:, i : i + h, j : j + w] * params['depthwise']['kernel'][i, j, 0]
  q, k, v = np.split(filtered.astype(np.float64), 3, -1)
  expected = np.zeros((b, h, w, c))
  for image in range(b):
    for head in range(n):
      own = range(head * c // n, (head + 1) * c // n)
      for i in own:
        unit = lambda x, at, image=image: x[image, ..., at] / np.linalg.norm(x[image, ..., at])
        cosines = [(unit(q, i) * unit(k, j)).sum() for j in own]
        weights = np.exp(params['temperature'][head, 0, 0] * np.array(cosines))
        for weight, j in zip(weights / weights.sum(), own, strict=True):
          expected[image, ..., i] += weight * v[image, ..., j]
  expected = expected @ params['out']['kernel']
  np.testing.assert_allclose(jax.jit(module.apply)(variables, x), expected, atol=1e-5)
  zeros = jnp.zeros_like(x)  # a map of zeros has no direction; neither value nor gradient is NaN
  assert not jnp.isnan(jax.jit(jax.grad(lambda x: module.apply(variables, x).sum()))(zeros)).any()


def test_the_kernel_does_not_depend_on_where_things_are():
  """A mean over pixels: the image rolled by whole strides has the same kernel, but for its borders."""
  z = jnp.zeros((1, 64, 64, 2)).at[:, 24:40, 24:40].set(np.random.default_rng(2).standard_normal((16, 16, 2)))
  module = Estimator(4, 9)
  variables = drawn(module, z)
  apply = jax.jit(module.apply)
  one = apply(variables, z)
  np.testing.assert_allclose(apply(variables, jnp.roll(z, (4, -6), (1, 2))), one, atol=1e-6)
  assert float(jnp.abs(apply(variables, 2 * z) - one).max()) > 1e-4


@pytest.mark.parametrize(
  'fields,shape,match',
  [
    ({}, (1, 12, 16, 3), 'sides must be multiples of 8'),
    ({'stem': 2}, (1, 24, 16, 3), 'sides must be multiples of 16'),
    ({'variance': 'big'}, (1, 16, 16, 3), 'known: fixed, learned'),
    ({'modulate': 'none'}, (1, 16, 16, 3), 'known: .*both, time'),
    ({'blocks': (1, 1)}, (1, 16, 16, 3), 'four levels'),
    ({'heads': (3, 1, 1, 1)}, (1, 16, 16, 3), '4 channels do not divide into 3 heads'),
  ],
)
def test_what_does_not_fit_is_said(fields, shape, match):
  x = jnp.zeros(shape)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(MCFormer(**(TINY | fields)).init, jax.random.key(0), x, jnp.zeros(1), x)
