"""ControlNet beside the UNet that it is a copy of, the UNet's hooks for it, and attention within windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.nn import blocks
from ssr_jax.nn.controlnet import ControlNet
from ssr_jax.nn.unet import UNet

SIZES = dict(channels=(8, 16), blocks=1, attention=(True, False), head_dim=4, cross_attention_dim=6, groups=4)
Z = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 6, 4)), jnp.float32)
T = jnp.array([3, 700])
CONTEXT = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 6)), jnp.float32)
IMAGE = jnp.asarray(np.random.default_rng(2).random((2, 32, 48, 3)), jnp.float32)


def drawn(module, *inputs, seed=0, **options):
  """Variables without zeros, and without running the initialisers."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda *a: module.init(jax.random.key(0), *a, **options), *inputs)
  return jax.tree.map(lambda s: (0.3 * rng.standard_normal(s.shape)).astype(np.float32), shapes)


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope='module')
def fresh():
  """Variables of UNet and ControlNet as they are initialised, the trunk of both the UNet's."""
  unet = UNet(**SIZES).init(jax.random.key(0), Z, T, CONTEXT)
  control = ControlNet(**SIZES).init(jax.random.key(1), Z, T, CONTEXT, IMAGE)
  own = {name: unet['params'].get(name, value) for name, value in control['params'].items()}
  return unet, {'params': own}


def test_sd15s_has_the_published_parameters():
  module = ControlNet(heads=8, cross_attention_dim=768)
  inputs = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 77, 768)), jnp.zeros((1, 64, 64, 3))
  params = jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']
  assert count(params) == 361_279_120
  assert count(params['see']) == 1_086_480
  assert sum(count(v) for k, v in params.items() if k.startswith('zero_')) == 11_479_680


@pytest.mark.slow
def test_its_trunk_has_the_unets_names_and_shapes(fresh):
  unet, control = fresh
  shapes = lambda tree: jax.tree.map(np.shape, tree)
  shared = {name for name in control['params'] if not name.startswith(('zero_', 'see'))}
  assert shared == {name for name in unet['params'] if not name.startswith(('up_', 'norm_out', 'conv_out'))}
  fresh_control = jax.eval_shape(lambda: ControlNet(**SIZES).init(jax.random.key(1), Z, T, CONTEXT, IMAGE))['params']
  assert shapes({name: fresh_control[name] for name in shared}) == shapes({n: unet['params'][n] for n in shared})


@pytest.mark.slow
def test_at_initialisation_it_adds_nothing_and_its_taps_are_the_unets_skips(fresh):
  unet, control = fresh
  module = UNet(**SIZES)
  found = ControlNet(**SIZES).apply(control, Z, T, CONTEXT, IMAGE)
  assert len(found.taps) == len(found.residuals) == 4
  for x in (*found.residuals, found.middle):
    assert not np.any(x)
  plain, state = module.apply(unet, Z, T, CONTEXT, capture_intermediates=True, mutable=['intermediates'])
  calls = state['intermediates']
  skips = [calls[name]['__call__'][0] for name in ('conv_in', 'down_0_attn_0', 'down_0_conv', 'down_1_res_0')]
  for tap, skip in zip(found.taps, skips, strict=True):
    np.testing.assert_array_equal(tap, skip)
  with_control = module.apply(unet, Z, T, CONTEXT, residuals=(found.residuals, found.middle))
  np.testing.assert_array_equal(with_control, plain)


@pytest.mark.slow
def test_zero_convolutions_get_gradients_at_initialisation(fresh):
  unet, control = fresh

  def loss(params):
    found = ControlNet(**SIZES).apply({'params': params}, Z, T, CONTEXT, IMAGE)
    return jnp.square(UNet(**SIZES).apply(unet, Z, T, CONTEXT, residuals=(found.residuals, found.middle))).mean()

  gradients = jax.grad(loss)(control['params'])
  zeros = [name for name in gradients if name.startswith('zero_')]
  assert len(zeros) == 5
  for name in zeros:
    assert np.any(gradients[name]['kernel']) and np.any(gradients[name]['bias']), name


@pytest.mark.slow
@pytest.mark.parametrize('hint', ['pixels', 'latent'])
def test_a_hint_made_before_is_the_image(hint):
  module = ControlNet(**SIZES, hint=hint, hint_channels=(4, 6, 8, 10))
  image = IMAGE if hint == 'pixels' else Z[::-1]
  variables = drawn(module, Z, T, CONTEXT, image)
  one = module.apply(variables, Z, T, CONTEXT, image)
  embedded = module.apply(variables, image, method='embed')
  other = module.apply(variables, Z, T, CONTEXT, hint=embedded)
  jax.tree.map(np.testing.assert_array_equal, one, other)
  without = module.apply(variables, Z, T, CONTEXT, hint=0 * embedded)
  assert np.abs(one.taps[0] - without.taps[0] - embedded).max() < 1e-5 and np.abs(embedded).max() > 0.1


@pytest.mark.parametrize(
  'inputs,match',
  [
    ((Z, T, CONTEXT, IMAGE[:, :24]), r'the hint is \(2, 3, 6\), the latent \(2, 4, 6\)'),
    ((Z, T, CONTEXT, IMAGE[:, :28]), 'multiples of 8'),
    ((Z[:, :3], T, CONTEXT, IMAGE), 'multiples of 2'),
    ((Z, T, None, IMAGE), 'cross_attention_dim is 6'),
    ((Z, T, CONTEXT), 'either an image or its hint'),
  ],
)
def test_what_does_not_fit_is_said(fresh, inputs, match):
  with pytest.raises(ValueError, match=match):
    ControlNet(**SIZES).apply(fresh[1], *inputs)


@pytest.mark.slow
def test_the_unet_asks_what_to_add_before_each_attention_of_the_way_up():
  """Adding c before self-attention of the first transformer is what the residual stream then contains."""
  module = UNet(**SIZES | dict(attention=(True, True)))
  variables = drawn(module, Z, T, CONTEXT)
  asked = []

  def nothing(name, block, before, y):
    asked.append((name, block, before, y.shape))
    return jnp.zeros_like(y)

  plain = module.apply(variables, Z, T, CONTEXT)
  np.testing.assert_array_equal(module.apply(variables, Z, T, CONTEXT, attend=nothing), plain)
  places = [(f'up_{i}_attn_{j}', 0, before) for i in (0, 1) for j in (0, 1) for before in ('self', 'cross')]
  assert [x[:3] for x in asked] == places
  assert [x[3] for x in asked] == [(2, 6, 16)] * 4 + [(2, 24, 8)] * 4
  for place in places:
    add = lambda *call, place=place: jnp.where(call[:3] == place, 1.0, 0.0) * jnp.sin(jnp.arange(call[3].shape[-1]))
    assert np.abs(module.apply(variables, Z, T, CONTEXT, attend=add) - plain).max() > 1e-4, place


def test_what_is_added_is_seen_by_the_attention_behind_it():
  """A restatement of the block: y += a(y); y += self(norm(y)); y += b(y); y += cross(norm(y)); y += geglu(norm(y))."""
  module = blocks.Transformer(2, groups=4)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 2, 8)), jnp.float32)
  context = jnp.asarray(np.random.default_rng(1).standard_normal((1, 4, 5)), jnp.float32)
  variables = drawn(module, x, context)
  p = variables['params']
  added = {'self': lambda y: jnp.sin(3 * y), 'cross': lambda y: jnp.cos(2 * y)}
  found = module.apply(variables, x, context, attend=lambda block, before, y: added[before](y))

  dense = lambda name, y: y @ p[name]['kernel'] + p[name].get('bias', 0)

  def norm(name, y):
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return y * p[name]['scale'] + p[name]['bias']

  attention = lambda name, y, source: blocks.Attention(2).apply({'params': p[name]}, y, source)
  group = x.reshape(6, 4, 2)
  mean, deviation = group.mean((0, 2), keepdims=True), np.sqrt(group.var((0, 2), keepdims=True) + 1e-6)
  y = ((group - mean) / deviation).reshape(1, 6, 8) * p['norm']['scale'] + p['norm']['bias']
  y = dense('proj_in', y)
  y = y + added['self'](y)
  z = norm('block_0_norm1', y)
  y = y + attention('block_0_self', z, z)
  y = y + added['cross'](y)
  y = y + attention('block_0_cross', norm('block_0_norm2', y), context)
  z, gate = jnp.split(dense('block_0_geglu', norm('block_0_norm3', y)), 2, -1)
  y = y + dense('block_0_out', z * jax.nn.gelu(gate, approximate=False))
  np.testing.assert_allclose(found, x + dense('proj_out', y).reshape(x.shape), atol=2e-5)


def test_windows_are_squares_and_come_back():
  tokens = jnp.arange(2 * 24 * 3, dtype=jnp.float32).reshape(2, 24, 3)
  windows = blocks.to_windows(tokens, (4, 6), 2)
  grid = tokens.reshape(2, 4, 6, 3)
  expected = [grid[b, y : y + 2, x : x + 2].reshape(4, 3) for b in (0, 1) for y in (0, 2) for x in (0, 2, 4)]
  np.testing.assert_array_equal(windows, expected)
  np.testing.assert_array_equal(blocks.from_windows(windows, (4, 6), 2), tokens)
  for side in (0, 6, 8):  # the whole map, along a shorter axis too
    np.testing.assert_array_equal(blocks.to_windows(tokens, (4, 6), side), tokens)
  tall = blocks.to_windows(tokens, (12, 2), 4)
  np.testing.assert_array_equal(tall, tokens.reshape(6, 8, 3))
  with pytest.raises(ValueError, match='windows of 4 do not fill a map of 6 x 4'):
    blocks.to_windows(tokens, (6, 4), 4)


def test_self_attention_stays_within_a_window():
  module = blocks.Transformer(2, groups=1, window=2)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 8)), jnp.float32)
  variables = drawn(module, x)
  # One group's norm sees the whole map: only differences of what attention sees are compared.
  whole = blocks.Transformer(2, groups=1)
  np.testing.assert_allclose(whole.apply(variables, x[:, :2, :2]), module.apply(variables, x[:, :2, :2]), atol=1e-6)
  gradient = jax.grad(lambda y: blocks.from_windows(_attend(variables, y, 2), (4, 4), 2)[0, 0].sum())(
    x.reshape(1, 16, 8)
  )
  seen = np.any(np.asarray(gradient).reshape(4, 4, 8), -1)
  np.testing.assert_array_equal(seen, np.pad(np.ones((2, 2), bool), ((0, 2), (0, 2))))
  assert np.abs(module.apply(variables, x) - whole.apply(variables, x)).max() > 1e-3


def _attend(variables, tokens, window):
  z = blocks.to_windows(tokens, (4, 4), window)
  return blocks.Attention(2).apply({'params': variables['params']['block_0_self']}, z, z)


def test_windows_must_be_given_for_every_level():
  with pytest.raises(ValueError, match='window has 1 sides for 2 levels'):
    UNet(**SIZES, window=(2,)).init(jax.random.key(0), Z, T, CONTEXT)
