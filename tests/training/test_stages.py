"""What the stages' programs are made of, read from their jaxprs: nothing is compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, tiny
from ssr_jax.systems.ssr.stages import common as base
from ssr_jax.training import flops, stages, state
from ssr_jax.training import shapes as run_shapes
from ssr_jax.types import SSRError
from ssr_jax.weights import store

STAGES = ('depth', 'kernel', 'nbsr', 'svkr', 'vae', 'diffusion', 'distill')
# The last convolution before an image, by the scope that it has in a program: NBSR's, and that of the VAE's decoder.
IMAGE_HEAD = re.compile(r'\bNBSR\)*/conv_out$|/decoder/conv_out$')


@pytest.mark.parametrize('stage', STAGES)
@pytest.mark.slow
def test_bfloat16_is_in_the_networks_and_not_in_their_parameters(stage, tiny_model_dir, products_of):
  config = common.apply(tiny.get_config(stage), {'train.dtype': 'bfloat16', 'parts_from': str(tiny_model_dir)})
  built, params, stats, frozen = run_shapes.of_run(config)
  batch = {
    'hr': np.zeros((2, 64, 64, 3), np.uint8),
    'seed': np.zeros(2, np.uint32),
    'depth': np.zeros((2, 64, 64), np.float32),
  }
  gradient = jax.grad(lambda *a: state.loss_of(built)(*a)[0])
  arguments = params, stats, frozen, batch, jax.random.key(0), jnp.zeros((), jnp.int32)
  shapes = jax.eval_shape(gradient, *arguments)
  assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
  convolutions = [e for e in products_of(gradient, *arguments) if e.primitive.name == 'conv_general_dilated']
  heads = [e for e in convolutions if IMAGE_HEAD.search(str(e.source_info.name_stack))]
  others = [e for e in convolutions if e not in heads]
  assert others and {v.aval.dtype for e in others for v in e.invars} == {jnp.dtype(jnp.bfloat16)}
  assert bool(heads) == (stage not in ('depth', 'kernel'))  # they make no image
  assert {v.aval.dtype for e in heads for v in e.invars} <= {jnp.dtype(jnp.float32)}


def test_another_dtype_is_refused(tiny_model_dir):
  config = common.apply(tiny.get_config('nbsr'), {'train.dtype': 'float16'})
  with pytest.raises(SSRError, match="train.dtype is 'float16'; known: float32, bfloat16"):
    stages.build(config)


def test_blur_follows_the_true_depth_where_a_record_has_it():
  """A depth step across the image: with it the kernels on either side differ, without it they follow the estimate."""
  true = np.zeros((2, 64, 64), np.float32)
  true[:, :, 32:] = 0.2  # inverse depth in 1/m, not yet 0 to 1
  estimate = np.full((2, 16, 16, 1), 0.5, np.float32)
  batch = {'depth': true, 'has_depth': np.array([True, False])}
  depth = np.asarray(base.true_depth(batch, estimate))
  np.testing.assert_allclose(depth[0, :, :7], 0, atol=1e-6)
  np.testing.assert_allclose(depth[0, :, 9:], 1, atol=1e-6)
  np.testing.assert_array_equal(depth[1], estimate[1])
  np.testing.assert_allclose(base.true_depth({'depth': true}, estimate)[1], depth[0], atol=1e-6)
  np.testing.assert_array_equal(base.true_depth({}, estimate), estimate)


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['kernel', 'nbsr', 'svkr'])
def test_kernels_are_learned_from_chains_and_mixtures_too(stage, tiny_model_dir):
  """A chain's target is the photo that it sharpens first, and its kernel the effective one."""
  for field in ('realesrgan', 'real'):
    config = common.apply(tiny.get_config(stage), {'recipe.field': field, 'parts_from': str(tiny_model_dir)})
    built, params, stats, frozen = run_shapes.of_run(config)
    batch = {'hr': np.zeros((2, 64, 64, 3), np.uint8), 'seed': np.zeros(2, np.uint32)}
    loss = state.loss_of(built)
    value, _ = jax.eval_shape(loss, params, stats, frozen, batch, jax.random.key(0), jnp.zeros((), jnp.int32))
    assert value.shape == ()


@pytest.mark.slow
def test_draws_share_the_work_of_the_frozen_nets(tiny_model_dir):
  """Operations grow by the same amount with each draw, and that amount is the UNet's alone."""

  def operations(draws):
    config = common.apply(tiny.get_config('diffusion'), {'loss.draws': draws, 'parts_from': str(tiny_model_dir)})
    built = stages.build(config)
    params, stats, constants = jax.eval_shape(built.init, jax.random.key(0))
    frozen = dict(store.load_model(config.parts_from, parts=built.needs).variables) | {'constants': constants}
    batch = {'hr': np.zeros((2, 64, 64, 3), np.uint8), 'seed': np.zeros(2, np.uint32)}
    gradient = jax.grad(lambda *a: state.loss_of(built)(*a)[0])
    return flops.count(gradient, params, stats, frozen, batch, jax.random.key(0), jnp.zeros((), jnp.int32))

  one, two, three = (operations(n) for n in (1, 2, 3))
  assert two - one == three - two > 0
  assert one > 2 * (two - one)  # at this size the frozen nets are most of it; repeated, they would be in the difference


@pytest.mark.slow
def test_noise_on_latents_reaches_the_decoder_and_nothing_else(tiny_model_dir):
  """On a code that reconstructs well, each step up in noise costs reconstruction, and the KL term stays as it is."""

  def terms(noise):
    built = stages.build(common.apply(tiny.get_config('vae'), {'loss.latent_noise': noise, 'loss.adversarial': 0.0}))
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    hr = np.stack([np.broadcast_to(ramp[:, None, None], (64, 64, 3)), np.broadcast_to(ramp[:, None], (64, 64, 3))])
    batch = {'hr': jnp.asarray(hr), 'seed': jnp.zeros(2, jnp.uint32)}
    params, stats, _ = built.init(jax.random.key(0))
    params, _ = built.prepare(stages.context(params, stats, {}), batch, False)
    return built.loss(stages.context(params, stats, {}, jax.random.key(1)), batch)[1][0]

  none, some, much = (terms(noise) for noise in (0.0, 0.2, 0.8))
  assert none['reconstruction'] < 0.7 * some['reconstruction'] < 0.5 * much['reconstruction']
  assert none['kl'] == some['kl'] == much['kl']
