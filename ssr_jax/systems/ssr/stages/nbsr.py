"""NBSR alone, on kernels that are known or nearly."""

import jax
import jax.numpy as jnp

from ssr_jax.degrade import degrade
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.image.resize import upscale
from ssr_jax.systems.ssr.stages import base
from ssr_jax.types import Array


def _disturb(key: Array, kernels: Array) -> Array:
  """Mixes into each field up to a fifth of the next image's: NBSR must live with kernels that are nearly right."""
  shape = (len(kernels), 1, 1, 1)
  amount = 0.2 * jax.random.uniform(key, shape) * jax.random.bernoulli(key, 0.5, shape)
  return (1 - amount) * kernels + amount * jnp.roll(kernels, 1, 0)


def initialiser(modules, recipe, inputs):
  """`base.initialiser` for stages that train NBSR, whose basis is drawn from the recipe's kernels."""

  def constants(part, key, fixed):
    if part != 'nbsr':
      return fixed
    return {'pca': base.kernel_basis(key, recipe, modules['nbsr'].components)}

  return base.initialiser(inputs, modules, constants)


def example(config, recipe):
  """Arguments of NBSR at the config's patch size."""
  side = config.data.patch // recipe.scale
  return lambda: (jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side, kernel_lib.SIZE**2)))


def build(config) -> base.Stage:
  """The stage `nbsr`."""
  module = base.build_part(config, 'nbsr')
  recipe = base.kernel_recipe(config)

  def restore(params, frozen, lr, kernels):
    return module.apply({'params': params['nbsr'], 'constants': frozen['constants']['nbsr']}, lr, kernels)

  def loss(params, stats, frozen, batch, key, step):
    del step
    hr = base.images(batch)
    low = degrade(base.record_keys(batch), hr, recipe)
    sr = restore(params, frozen, low.lr, _disturb(key, low.kernels))
    return base.charbonnier(sr, hr), ({'psnr': base.y_psnr(sr, hr).mean()}, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, key
    hr = base.images(batch)
    low = degrade(base.record_keys(batch), hr, recipe)
    sr = restore(params, frozen, low.lr, low.kernels)
    return {'psnr': base.y_psnr(sr, hr).mean(), 'bicubic_psnr': base.y_psnr(upscale(low.lr, recipe.scale), hr).mean()}

  def figures(params, stats, frozen, batch, key):
    del stats, key
    hr = base.images(batch)
    low = degrade(base.record_keys(batch), hr, recipe)
    sr = restore(params, frozen, low.lr, low.kernels)
    return {'bicubic': upscale(low.lr, recipe.scale), 'restored': sr, 'truth': hr}

  return base.Stage(
    parts=('nbsr',),
    needs=(),
    modules={'nbsr': module},
    init=initialiser({'nbsr': module}, recipe, {'nbsr': example(config, recipe)}),
    loss=loss,
    validate=validate,
    metric='psnr',
    higher_is_better=True,
    figures=figures,
  )
