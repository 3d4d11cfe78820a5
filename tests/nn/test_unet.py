import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.nn.blocks import Attention, ResBlock, Transformer, UpConv, resize_map, timestep_embedding
from ssr_jax.nn.unet import UNet

SMALL = dict(channels=(8, 16), blocks=1, attention=(False, True), heads=2, cross_attention_dim=None, groups=4)
shape = jax.ShapeDtypeStruct


def filled(module, *args, seed=0, scale=0.3):
  """Variables of a module with every entry random, zero-initialised ones too: nothing hides behind a zero."""
  rng = np.random.default_rng(seed)
  tree = jax.eval_shape(module.init, jax.random.key(0), *args)
  return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, scale, a.shape), jnp.float32), tree)


@pytest.mark.slow
@pytest.mark.parametrize(
  'config, width, count',
  [({}, 1024, 865_910_724), (dict(heads=8, cross_attention_dim=768), 768, 859_520_964)],
  ids=['sd21', 'sd15'],
)
def test_full_size_has_the_parameters_of_stable_diffusion(config, width, count):
  args = (shape((1, 16, 16, 4), jnp.float32), shape((1,), jnp.int32), shape((1, 77, width), jnp.float32))
  v = jax.eval_shape(UNet(**config).init, jax.random.key(0), *args)
  assert sum(int(np.prod(a.shape)) for a in jax.tree.leaves(v)) == count
  assert jax.eval_shape(UNet(**config).apply, v, *args).shape == (1, 16, 16, 4)


def test_head_width_divides_the_channels():
  assert [UNet().heads_of(level) for level in range(4)] == [5, 10, 20, 20]  # SD 2.1
  assert UNet(heads=(1, 2, 4, 8)).heads_of(2) == 4


def test_time_embedding_equals_a_loop():
  got = timestep_embedding(jnp.array([0, 17, 999]), 8)
  for row, t in zip(np.asarray(got), (0, 17, 999), strict=True):
    angles = [t * 10_000 ** (-i / 4) for i in range(4)]
    np.testing.assert_allclose(row, np.r_[np.cos(angles), np.sin(angles)], atol=1e-4)


def test_upconv_equals_the_convolution_of_the_enlargement():
  x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
  v = filled(UpConv(6), x)
  kernel, bias = (np.asarray(v['params'][name], np.float64) for name in ('kernel', 'bias'))
  big = np.pad(np.asarray(x, np.float64).repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
  expected = bias + sum(big[:, y : y + 10, z : z + 8] @ kernel[y, z] for y in range(3) for z in range(3))
  np.testing.assert_allclose(UpConv(6).apply(v, x), expected, atol=1e-5)


def test_resblock_equals_numpy():
  x = jax.random.normal(jax.random.key(0), (2, 4, 5, 6))
  e = jax.random.normal(jax.random.key(1), (2, 7))
  block = ResBlock(8, groups=2)
  v = filled(block, x, e)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), v['params'])
  silu = lambda x: x / (1 + np.exp(-x))

  def norm(x, p):
    g = x.reshape(*x.shape[:3], 2, -1)
    g = (g - g.mean((1, 2, 4), keepdims=True)) / np.sqrt(g.var((1, 2, 4), keepdims=True) + 1e-5)
    return g.reshape(x.shape) * p['scale'] + p['bias']

  def conv(x, p):
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return p['bias'] + sum(x[:, i : i + 4, j : j + 5] @ p['kernel'][i, j] for i in range(3) for j in range(3))

  x64, e64 = np.asarray(x, np.float64), np.asarray(e, np.float64)
  y = conv(silu(norm(x64, p['norm1'])), p['conv1'])
  y += (silu(e64) @ p['time']['kernel'] + p['time']['bias'])[:, None, None]
  y = conv(silu(norm(y, p['norm2'])), p['conv2'])
  expected = x64 @ p['shortcut']['kernel'] + p['shortcut']['bias'] + y
  np.testing.assert_allclose(block.apply(v, x, e), expected, atol=1e-4)


def test_transformer_attends_to_the_context_and_everywhere():
  x = jax.random.normal(jax.random.key(0), (1, 3, 4, 8))
  context = jax.random.normal(jax.random.key(1), (1, 5, 6))
  block = Transformer(heads=2, groups=2)
  v = filled(block, x, context)
  y = block.apply(v, x, context)
  assert y.shape == x.shape
  assert jnp.abs(block.apply(v, x, context.at[0, 4].add(1.0)) - y).max() > 1e-4
  assert jnp.abs(block.apply(v, x.at[0, 0, 0].add(1.0), context) - y)[0, 2, 3].max() > 1e-5
  # The tokens of the context have no order.
  np.testing.assert_allclose(block.apply(v, x, context[:, ::-1]), y, atol=1e-5)


def test_heads_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match='8 channels.*3 heads'):
    jax.eval_shape(Attention(3).init, jax.random.key(0), jnp.zeros((1, 4, 8)), jnp.zeros((1, 4, 8)))


@pytest.mark.slow
def test_unet_uses_every_parameter_time_and_each_image_by_itself():
  unet = UNet(**SMALL)
  z = jax.random.normal(jax.random.key(0), (2, 8, 4, 4))
  t = jnp.array([3, 700])
  v = filled(unet, z, t)

  @jax.jit
  def run(v, z, t):
    return unet.apply(v, z, t), jax.grad(lambda v: jnp.sum(unet.apply(v, z, t) ** 2))(v)

  y, gradient = run(v, z, t)
  assert y.shape == z.shape and y.dtype == jnp.float32
  # A bias in front of a GroupNorm with one channel per group would cancel; with two it does not.
  dead = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(gradient) if not jnp.any(g)]
  assert not dead
  later = run(v, z, t.at[1].set(100))[0]
  np.testing.assert_allclose(later[0], y[0], atol=1e-5)
  assert jnp.abs(later[1] - y[1]).max() > 1e-3


@pytest.mark.slow
def test_residuals_are_added_to_the_skips_and_the_middle():
  """Zeros change nothing; each array reaches the output; a skip's residual is that of a shifted skip."""
  unet = UNet(**SMALL)
  z, t = jax.random.normal(jax.random.key(0), (1, 8, 4, 4)), jnp.array([3])
  v = filled(unet, z, t)
  plain, state = unet.apply(v, z, t, capture_intermediates=True)
  found = state['intermediates']
  names = ('conv_in', 'down_0_res_0', 'down_0_conv', 'down_1_attn_0', 'mid_res_1')
  shapes = [found[name]['__call__'][0].shape for name in names]
  zeros = [jnp.zeros(shape) for shape in shapes]
  run = jax.jit(lambda residuals: unet.apply(v, z, t, residuals=(residuals[:-1], residuals[-1])))
  np.testing.assert_allclose(run(zeros), plain, atol=1e-5)
  moved = [jnp.abs(run([*zeros[:i], zeros[i] + 0.1, *zeros[i + 1 :]]) - plain).max() for i in range(len(zeros))]
  assert min(moved) > 1e-4 and len({f'{m:.6f}' for m in moved}) == len(moved)
  with pytest.raises(ValueError, match='3 residuals for 4 skip connections'):
    unet.apply(v, z, t, residuals=(zeros[:3], zeros[-1]))


class _Scale(nn.Module):
  """A fusion that a test can follow: features times the condition's mean, plus a parameter."""

  @nn.compact
  def __call__(self, features, conditions, *, train=False):
    del train
    (f,) = conditions
    return features * f.mean() + self.param('shift', nn.initializers.zeros, (features.shape[-1],))


@pytest.mark.slow
def test_a_fusion_sits_on_every_residual_branch_with_its_own_levels_conditions():
  fusion = functools.partial(_Scale, name='fusion')
  z, t = jax.random.normal(jax.random.key(0), (1, 8, 4, 4)), jnp.array([3])
  unet = UNet(**SMALL, fusion=fusion)
  levels = [(jnp.ones((1, 8, 4, 1)),), (jnp.ones((1, 4, 2, 1)),)]
  v = filled(unet, z, t, None, levels)
  v['params'] = jax.tree_util.tree_map_with_path(lambda p, x: 0 * x if 'shift' in str(p) else x, v['params'])
  blocks = [name for name in v['params'] if '_res_' in name]
  assert len(blocks) == 2 + 2 + 4 and all('fusion' in v['params'][name] for name in blocks)
  plain = UNet(**SMALL).apply({'params': drop(v['params'], 'fusion')}, z, t)
  np.testing.assert_allclose(unet.apply(v, z, t, None, levels), plain, atol=1e-6)  # a factor of one
  for level in (0, 1):
    changed = [*levels]
    changed[level] = (0.5 * levels[level][0],)
    assert jnp.abs(unet.apply(v, z, t, None, changed) - plain).max() > 1e-3
  with pytest.raises(ValueError, match=r'one entry per level \(2\); got 1'):
    unet.apply(v, z, t, None, levels[:1])


def drop(tree, name):
  """A tree without the branches of that name."""
  return {k: drop(x, name) if isinstance(x, dict) else x for k, x in tree.items() if k != name}


@pytest.mark.parametrize(
  'config, size, context, match',
  [
    ({}, (7, 8, 4), None, 'multiples of 2'),
    ({}, (8, 8, 3), None, r'\[b, h, w, 4\]'),
    ({}, (8, 8, 4), (1, 5, 6), 'cross_attention_dim is None'),
    (dict(cross_attention_dim=6), (8, 8, 4), None, 'cross_attention_dim is 6'),
    (dict(cross_attention_dim=6), (8, 8, 4), (1, 5, 7), r'\[b, n, 6\]'),
    (dict(attention=(True,)), (8, 8, 4), None, '1 flags for 2 levels'),
  ],
)
def test_what_does_not_fit_is_named(config, size, context, match):
  unet = UNet(**{**SMALL, **config})
  context = None if context is None else jnp.zeros(context)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(unet.init, jax.random.key(0), jnp.zeros((1, *size)), jnp.zeros(1), context)


def test_resize_map_averages_down_and_leaves_the_right_size_alone():
  x = jnp.zeros((1, 8, 8, 1)).at[0, :, :4].set(1.0)
  assert resize_map(x, (8, 8)) is x
  small = resize_map(x, (4, 4))
  np.testing.assert_allclose(small.mean(), 0.5, atol=1e-6)
  assert 0.5 < small[0, 0, 1, 0] < 1  # antialiased: a pixel beside the edge knows of it
