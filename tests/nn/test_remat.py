"""Rematerialisation: the same parameters, results and gradients, with less kept for the backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from ssr_jax import systems
from ssr_jax.nn import remat
from ssr_jax.systems.ssr.parts import PARTS
from ssr_jax.training import stages
from ssr_jax.types import SSRError

# Several blocks of each kind; small beside what they keep.
CONFIGS = {
  'depth': dict(resolution=(32, 32), widths=(8, 8, 8), blocks=(2, 2), group=4, heads=2),
  'dpt': dict(
    family='dpt',
    resolution=(64, 64),
    width=8,
    layers=4,
    heads=2,
    hidden=16,
    taps=(0, 1, 2, 3),
    positions=4,
    neck=(4, 4, 4, 4),
    fusion=4,
    head=4,
  ),
  'dkenet': dict(features=4, depth_features=4, taps=9),
  'nbsr': dict(blocks=2, features=8, growth=4, taps=9, components=3),
  'vae': dict(channels=(8, 8), encoder_blocks=1, decoder_blocks=1, groups=4, mid_attention=False, patch=2),
  'unet': dict(
    channels=(8, 16),
    blocks=1,
    attention=(False, True),
    mid_attention=False,
    head_dim=8,
    cross_attention_dim=4,
    prompt_tokens=3,
    groups=4,
    amf_hidden=8,
    kernel_channels=(4, 4),
    depth_channels=(4, 4),
    lr_channels=(8, 8),
    lr_blocks=1,
    map_features=4,
    lr_features=8,
  ),
}


def _module(name, policy=''):
  return systems.build('depth' if name == 'dpt' else name, remat=policy, **CONFIGS[name])


def _inputs(name):
  inputs = PARTS['depth' if name == 'dpt' else name].example(_module(name))
  if name == 'nbsr':
    inputs = inputs[0], jnp.zeros((1, 16, 16, 9))
  if name == 'unet':
    inputs = inputs[:3]  # the context is the prompt that comes with the weights
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.random(x.shape).astype(x.dtype), inputs)


def _loss(name, policy=''):
  """(params, what is not trained, inputs) -> (a scalar that depends on all that comes out, new statistics)."""
  module = _module(name, policy)

  def loss(params, rest, inputs):
    train = {'train': True} if name == 'unet' else {'raw': True} if name in ('depth', 'dpt') else {}
    mutable = ['batch_stats'] if name == 'unet' else []
    out, updated = module.apply({'params': params, **rest}, *inputs, **train, mutable=mutable)
    return sum(jnp.sum(jnp.sin(3 * x)) for x in jax.tree.leaves(out)), updated

  return loss


def _variables(name, policy=''):
  return jax.eval_shape(_module(name, policy).init, jax.random.key(0), *_inputs(name))


def _kept(name, policy):
  """Bytes that the backward pass is handed by the forward pass."""
  shapes = dict(_variables(name))
  params = shapes.pop('params')
  inputs = jax.tree.map(lambda x: np.repeat(x, 8, 0), _inputs(name))  # parameters are kept in any case: outweigh them
  loss = _loss(name, policy)
  pull = jax.eval_shape(lambda p, r, x: jax.vjp(lambda p: loss(p, r, x)[0], p)[1], params, shapes, inputs)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pull))


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_parameters_keep_their_paths_and_shapes(name):
  plain, again = (jax.tree.map(lambda x: x.shape, _variables(name, policy)) for policy in ('', 'blocks'))
  assert plain == again


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_less_is_kept(name):
  kept = {policy: _kept(name, policy) for policy in ('', *remat.POLICIES)}
  # So small a DPT keeps most for its decoder, which has no blocks that are done again.
  assert kept['blocks'] < (0.95 if name == 'dpt' else 0.8) * kept['']
  assert kept['blocks'] <= kept['dots'] <= kept['products'] < kept['']
  if name in ('dpt', 'unet'):  # transformers: products of matrices with weights
    assert kept['blocks'] < kept['dots']
  if name in ('unet', 'vae', 'nbsr', 'dkenet'):
    assert kept['dots'] < kept['products']


@pytest.mark.slow
@pytest.mark.parametrize('name,policy', [('unet', 'products'), ('depth', 'blocks'), ('nbsr', 'blocks')])
def test_results_and_gradients_are_the_same(name, policy):
  rng = np.random.default_rng(1)
  draw = lambda path, x: (
    np.ones(x.shape, np.float32)
    if path[-1].key in ('scale', 'var')
    else 0.3 * rng.standard_normal(x.shape).astype(np.float32)
  )
  variables = jax.tree_util.tree_map_with_path(draw, dict(_variables(name)))
  params = variables.pop('params')
  both = jax.jit(lambda *a: [jax.value_and_grad(_loss(name, p), has_aux=True)(*a) for p in ('', policy)])
  for a, b in zip(*both(params, variables, _inputs(name)), strict=True):  # result and statistics, gradients
    # A bias in front of a norm has no gradient but rounding: the largest of all gradients is the scale.
    scale = max(np.abs(x).max() for x in jax.tree.leaves(a))
    assert scale > 0
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, rtol=2e-4, atol=1e-5 * scale), a, b)


def test_an_unknown_name_lists_the_known_ones():
  config = tiny.get_config('nbsr')
  config.train.remat = 'everything'
  with pytest.raises(SSRError, match="config.train.remat is 'everything'; known: '', blocks, dots, products"):
    stages.build(config)
  with pytest.raises(SSRError, match="remat is 'some'; known"):
    jax.eval_shape(_module('nbsr', 'some').init, jax.random.key(0), *_inputs('nbsr'))


def test_the_config_reaches_every_trained_part(tiny_model_dir):
  for stage in ('depth', 'kernel', 'nbsr', 'svkr', 'vae', 'diffusion', 'distill'):
    config = tiny.get_config(stage)
    config.train.remat = 'blocks'
    config.parts_from = str(tiny_model_dir)
    built = stages.build(config)
    assert {built.modules[part].remat for part in built.trains} == {'blocks'}, stage
