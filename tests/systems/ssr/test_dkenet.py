"""DKENet against MANet's published size, MAConv against NumPy, and what the depth branch must do."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from ssr_jax.nn.layers import Downsample2x2, Upsample2x2
from ssr_jax.systems.ssr.dkenet import DKENet, MAConv


def _count(module, *inputs):
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return sum(x.size for x in jax.tree.leaves(shapes['params']))


def test_parameter_counts_are_the_published_ones():
  assert _count(MAConv(), jnp.zeros((1, 8, 8, 128))) == 86_464
  assert _count(DKENet(depth_features=0), jnp.zeros((1, 16, 16, 3))) == 1_810_361


def test_maconv_equals_numpy():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 5, 6, 8)).astype(np.float32)
  module = MAConv()
  params = module.init(jax.random.key(0), jnp.asarray(x))['params']
  params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
  out = np.asarray(module.apply({'params': params}, jnp.asarray(x)))
  p = jax.tree.map(np.asarray, params)
  halves = x[..., :4], x[..., 4:]
  for i in range(2):
    own, other = halves[i], halves[1 - i]
    hidden = np.maximum(other @ p[f'affine_{i}_1']['kernel'] + p[f'affine_{i}_1']['bias'], 0)
    affine = hidden @ p[f'affine_{i}_2']['kernel'] + p[f'affine_{i}_2']['bias']
    y = own / (1 + np.exp(-affine[..., :4])) + affine[..., 4:]
    for o in range(4):
      expected = sum(signal.correlate2d(y[0, :, :, c], p[f'conv_{i}']['kernel'][:, :, c, o], 'same') for c in range(4))
      np.testing.assert_allclose(out[0, :, :, 4 * i + o], expected + p[f'conv_{i}']['bias'][o], atol=1e-4)


def test_down_and_up_are_strided_and_transposed_convolutions():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8, 5)), jnp.float32)
  down = Downsample2x2(7)
  v = down.init(jax.random.key(0), x)
  kernel = v['params']['conv']['kernel'].reshape(2, 2, 5, 7)
  reference = jax.lax.conv_general_dilated(x, kernel, (2, 2), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  np.testing.assert_allclose(down.apply(v, x), reference + v['params']['conv']['bias'], atol=1e-5)
  up = Upsample2x2(3)
  v = up.init(jax.random.key(1), x)
  kernel = v['params']['conv']['kernel'].reshape(5, 3, 2, 2)
  reference = jnp.einsum('bhwc,cfyx->bhywxf', x, kernel).reshape(2, 12, 16, 3)
  np.testing.assert_allclose(up.apply(v, x), reference, atol=1e-5)


@pytest.mark.parametrize('size', [(8, 8), (11, 13)])
@pytest.mark.slow
def test_estimates_are_distributions_at_any_size(size):
  module = DKENet(features=8, depth_features=4)
  lr, depth = jax.random.uniform(jax.random.key(0), (2, *size, 3)), jnp.zeros((2, *size, 1))
  v = jax.jit(module.init)(jax.random.key(1), lr, depth)
  kernels = jax.jit(module.apply)(v, lr, depth)
  assert kernels.shape == (2, *size, 441)
  np.testing.assert_allclose(kernels.sum(-1), 1, atol=1e-5)
  assert float(kernels.min()) >= 0


def _steered_by(variables, levels, depth_features):
  """The variables with the weights of the depth's features at zero in every SFT of the image branch but these."""

  def leaf(path, x):
    names = [entry.key for entry in path]
    if 'sft' not in names or names[-1] != 'kernel' or not any(name in names for name in ('mul_1', 'add_1')):
      return x
    level = int(next(name for name in names if name.startswith('image_block_'))[-1])
    channels = depth_features * (2 if level == 2 else 1)  # the middle level is the coarse one
    return x if level in levels else x.at[:, :, -channels:].set(0)

  return jax.tree_util.tree_map_with_path(leaf, variables)


@pytest.mark.slow
def test_depth_steers_the_estimate_at_each_level_and_far_pixels_do_not_reach_it():
  """Another depth moves the logits by a share of their spread, by each SFT alone; the receptive field is MANet's."""
  module = DKENet(features=8, depth_features=4)
  rng = np.random.default_rng(0)
  lr = jnp.asarray(rng.random((1, 64, 64, 3)), jnp.float32)
  depth = jnp.asarray(rng.random((1, 64, 64, 1)), jnp.float32)
  v = jax.jit(module.init)(jax.random.key(1), lr, depth)
  run = jax.jit(module.apply)

  def moved(levels):
    steered = _steered_by(v, levels, 4)
    one, other = (jnp.log(run(steered, lr, d)) for d in (depth, depth[:, ::-1]))
    return float(jnp.abs(one - other).mean() / one.std((1, 2)).mean())

  assert moved(()) == 0
  shares = {level: moved((level,)) for level in (1, 2, 3)}
  assert min(shares.values()) > 0.02, shares
  base = run(v, lr, depth)
  far = run(v, lr.at[:, :20].set(0.5), depth)
  np.testing.assert_allclose(far[:, 44:], base[:, 44:], atol=1e-7)
  assert float(jnp.abs(jnp.log(far[:, :20]) - jnp.log(base[:, :20])).mean()) > 0.01
  with pytest.raises(ValueError, match='depth must be'):
    module.apply(v, lr, None)


def test_relu_is_between_the_maconvs():
  """A DABlock is x + MAConv(ReLU(MAConv(x))): rebuilt from its parts it gives the same."""
  from ssr_jax.systems.ssr.dkenet import DABlock

  x = jax.random.normal(jax.random.key(0), (1, 6, 6, 8))
  v = DABlock().init(jax.random.key(1), x)
  first = MAConv().apply({'params': v['params']['conv_1']}, x)
  second = MAConv().apply({'params': v['params']['conv_2']}, nn.relu(first))
  np.testing.assert_allclose(DABlock().apply(v, x), x + second, atol=1e-6)
