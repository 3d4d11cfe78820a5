import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.nn.unet import UNet
from ssr_jax.systems import build
from ssr_jax.systems.ssr.amf import AMF, AMFUNet, calibrate
from ssr_jax.systems.ssr.encoders import Conditions

UNET = dict(channels=(8, 16), blocks=1, attention=(False, False), heads=2, cross_attention_dim=None, groups=4)
SMALL = dict(
  **UNET,
  amf_hidden=6,
  kernel_channels=(4, 4),
  depth_channels=(4, 4),
  lr_channels=(8, 8),
  lr_blocks=1,
  map_features=4,
  lr_features=6,
)
COMPACT = dict(
  channels=(32, 64, 128),
  blocks=1,
  attention=(False, False, False),
  head_dim=32,
  cross_attention_dim=None,
  groups=8,
  amf_hidden=32,
  kernel_channels=(16, 24, 32),
  depth_channels=(16, 24, 32),
  lr_channels=(24, 48, 96),
  lr_blocks=1,
  map_features=32,
  lr_features=32,
)


def inputs(b=2, size=8, lr_size=8, seed=0):
  keys = jax.random.split(jax.random.key(seed), 5)
  conditions = Conditions(
    kernel_code=jax.random.normal(keys[0], (b, lr_size, lr_size, 15)),
    depth=jax.random.uniform(keys[1], (b, lr_size, lr_size, 1)),
    lr=jax.random.uniform(keys[2], (b, lr_size, lr_size, 3)),
    lr_latent=jax.random.normal(keys[3], (b, size, size, 4)),
  )
  return jax.random.normal(keys[4], (b, size, size, 4)), jnp.arange(b) * 400 + 50, conditions


@pytest.fixture(scope='module')
def amf_unet():
  """A small AMF-UNet as after init, but drawn by NumPy, for compiling an init takes longer than all the rest."""
  module = AMFUNet(**SMALL)
  rng = np.random.default_rng(0)

  def draw(path, a):
    names = [entry.key for entry in path]
    if names[0] == 'batch_stats':
      return jnp.full(a.shape, names[-1] == 'var', jnp.float32)
    if names[-1] != 'kernel' or ('amf' in names and names[-2].endswith('_out')):
      return jnp.full(a.shape, names[-1] == 'scale', jnp.float32)
    return jnp.asarray(rng.normal(0, np.prod(a.shape[:-1]) ** -0.5, a.shape), jnp.float32)

  return module, jax.tree_util.tree_map_with_path(draw, jax.eval_shape(module.init, jax.random.key(0), *inputs()))


def layer(seed=0):
  """An AMF with every parameter random, its features and modalities."""
  rng = np.random.default_rng(seed)
  features = jnp.asarray(rng.normal(1, 2, (2, 4, 5, 6)), jnp.float32)
  modalities = [jnp.asarray(rng.normal(0, 1, (2, 4, 5, c)), jnp.float32) for c in (3, 2, 4)]
  v = AMF(hidden=7).init(jax.random.key(0), features, modalities)
  v = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape), jnp.float32), v)
  stats = jax.tree.map(jnp.abs, v['batch_stats'])
  return {'params': v['params'], 'batch_stats': stats}, features, modalities


@pytest.mark.parametrize('train', [False, True])
def test_amf_equals_eq_3_in_numpy(train):
  v, features, modalities = layer()
  p, stats = (jax.tree.map(lambda a: np.asarray(a, np.float64), v[name]) for name in ('params', 'batch_stats'))
  x = np.asarray(features, np.float64)
  new_stats = {}
  for i, f in enumerate(modalities, start=1):
    mean, var = stats[f'bn_{i}']['mean'], stats[f'bn_{i}']['var']
    if train:
      old, (mean, var) = (mean, var), (x.mean((0, 1, 2)), x.var((0, 1, 2)))
      new_stats[f'bn_{i}'] = {'mean': 0.99 * old[0] + 0.01 * mean, 'var': 0.99 * old[1] + 0.01 * var}
    normed = (x - mean) / np.sqrt(var + 1e-5) * p[f'bn_{i}']['scale'] + p[f'bn_{i}']['bias']

    def mlp(name, f=np.asarray(f, np.float64)):
      hidden, out = p[f'{name}_hidden'], p[f'{name}_out']
      return np.maximum(f @ hidden['kernel'] + hidden['bias'], 0) @ out['kernel'] + out['bias']

    x = (1 + mlp(f'alpha_{i}')) * normed + mlp(f'beta_{i}')
  got, state = AMF(hidden=7).apply(v, features, modalities, train=train, mutable=['batch_stats'])
  np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-4)
  expected = new_stats if train else stats
  for name, values in expected.items():
    for field, value in values.items():
      np.testing.assert_allclose(state['batch_stats'][name][field], value, rtol=1e-4, atol=1e-4)


def test_last_layers_start_at_zero():
  _, features, modalities = layer()
  params = AMF(hidden=7).init(jax.random.key(0), features, modalities)['params']
  for i in (1, 2, 3):
    for name in ('alpha', 'beta'):
      assert jnp.any(params[f'{name}_{i}_hidden']['kernel'])
      assert not any(jnp.any(a) for a in params[f'{name}_{i}_out'].values())


def test_calibrated_layer_with_zero_mlps_is_the_identity_and_others_keep_their_bn():
  _, features, modalities = layer()
  v = AMF(hidden=7).init(jax.random.key(0), features, modalities)
  calibrated = calibrate(AMF(hidden=7), v, features, modalities)
  np.testing.assert_allclose(AMF(hidden=7).apply(calibrated, features, modalities), features, atol=1e-5)
  assert jnp.abs(AMF(hidden=7).apply(v, features, modalities) - features).max() < 1e-3  # mean 0, variance 1 at first
  trained, _ = AMF(hidden=7).apply(v, features, modalities, train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(trained.mean((0, 1, 2)), 0, atol=1e-5)  # so without calibration the prior would be lost


@pytest.mark.slow
def test_calibrated_amf_unet_equals_its_base_unet(amf_unet):
  """At initialisation, for sampling and for training on the batch it was calibrated with."""
  module, v = amf_unet
  args = inputs(seed=3)
  run_base, run = jax.jit(UNet(**UNET).apply), jax.jit(module.apply)
  base = run_base({'params': v['params']['unet']}, *args[:2])
  calibrated = jax.jit(lambda v, *args: calibrate(module, v, *args))(v, *args)
  np.testing.assert_allclose(run(calibrated, *args), base, atol=1e-4)
  trained, _ = jax.jit(lambda v, *args: module.apply(v, *args, train=True, mutable=['batch_stats']))(calibrated, *args)
  np.testing.assert_allclose(trained, base, atol=1e-4)
  # Another batch too: running statistics and scales cancel, whatever the features.
  other = inputs(seed=4)
  base = run_base({'params': v['params']['unet']}, *other[:2])
  np.testing.assert_allclose(run(calibrated, *other), base, atol=1e-4)


@pytest.mark.slow
def test_calibration_measures_in_sequence(amf_unet):
  """All norms of the network at once, each behind those before it: measured again, nothing changes."""
  module, v = amf_unet
  v = {**v, 'params': jax.tree.map(lambda a: a + 0.02, v['params'])}  # the MLPs are not zero any more
  args = inputs(seed=5)
  once = jax.jit(lambda v, *args: calibrate(module, v, *args))(v, *args)
  _, state = jax.jit(lambda v, *args: module.apply(v, *args, train=True, mutable=['batch_stats']))(once, *args)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), state['batch_stats'], once['batch_stats']
  )


def test_amf_is_in_every_residual_block_of_the_unet(amf_unet):
  _, v = amf_unet
  blocks = {name: p for name, p in v['params']['unet'].items() if '_res_' in name}
  assert len(blocks) == 2 + 2 + 4 and all('amf' in p for p in blocks.values())


def test_every_modality_reaches_the_prediction(amf_unet):
  module, v = amf_unet
  rng = np.random.default_rng(0)
  v = {**v, 'params': jax.tree.map(lambda a: a + rng.normal(0, 0.05, a.shape), v['params'])}
  z, t, c = inputs()
  run = jax.jit(module.apply)
  y = run(v, z, t, c)
  assert y.shape == z.shape and y.dtype == jnp.float32
  for field in ('kernel_code', 'depth', 'lr', 'lr_latent'):
    changed = run(v, z, t, c.replace(**{field: getattr(c, field).at[0].set(0.3)}))
    np.testing.assert_allclose(changed[1], y[1], atol=1e-4)
    assert jnp.abs(changed[0] - y[0]).max() > 1e-3, field


@pytest.mark.slow
def test_maps_computed_once_give_the_same_and_features_reconstruct(amf_unet):
  module, v = amf_unet
  z, t, c = inputs(lr_size=12)

  @jax.jit
  def run(v):
    maps = module.apply(v, c, method='encode_maps')
    y, features = module.apply(v, z, t, c, return_features=True)
    return y, module.apply(v, z, t, c, maps=maps), features, module.apply(v, features, method='reconstruct')

  a, b, features, reconstructions = run(v)
  np.testing.assert_allclose(a, b, atol=1e-6)
  assert [[f.shape[1:] for f in maps] for maps in features] == [[(8, 8, c), (4, 4, c)] for c in (4, 4, 6)]
  assert [[r.shape[-1] for r in row] for row in reconstructions] == [[15, 15], [1, 1], [4, 4]]
  without = {**v, 'params': {k: p for k, p in v['params'].items() if k != 'reconstruction'}}
  np.testing.assert_allclose(jax.jit(module.apply)(without, z, t, c), a, atol=1e-5)


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
  module = AMFUNet(**SMALL, dtype=jnp.bfloat16)
  v = jax.eval_shape(module.init, jax.random.key(0), *inputs())
  assert {a.dtype for a in jax.tree.leaves(v)} == {jnp.dtype('float32')}
  assert jax.eval_shape(module.apply, v, *inputs()).dtype == jnp.float32


@pytest.mark.slow
def test_full_and_compact_sizes():
  full = AMFUNet()
  z, t, c = inputs(b=1, size=64, lr_size=128)
  v = jax.eval_shape(full.init, jax.random.key(0), z, t, c, jnp.zeros((1, 77, 1024)))
  assert jax.eval_shape(full.apply, v, z, t, c, jnp.zeros((1, 77, 1024))).shape == (1, 64, 64, 4)
  encoders = {k: sum(int(np.prod(a.shape)) for a in jax.tree.leaves(v['params'][k])) for k in v['params']}
  assert encoders['lr_encoder'] > 10 * max(encoders['kernel_encoder'], encoders['depth_encoder'])
  compact = build('unet', **{k: list(x) if isinstance(x, tuple) else x for k, x in COMPACT.items()})
  v = jax.eval_shape(compact.init, jax.random.key(0), *inputs())
  assert sum(int(np.prod(a.shape)) for a in jax.tree.leaves(v['params'])) < 6_000_000


def test_what_does_not_fit_is_named():
  z, t, c = inputs()
  with pytest.raises(ValueError, match='lr_latent'):
    jax.eval_shape(AMFUNet(**SMALL).init, jax.random.key(0), z[:, :4], t, c)
  with pytest.raises(ValueError, match='kernel_channels.*per UNet level'):
    jax.eval_shape(AMFUNet(**{**SMALL, 'kernel_channels': (4,)}).init, jax.random.key(0), z, t, c)
  with pytest.raises(ValueError, match='f_2 is'):
    jax.eval_shape(AMF(4).init, jax.random.key(0), z, [z, z[:, :4]])
