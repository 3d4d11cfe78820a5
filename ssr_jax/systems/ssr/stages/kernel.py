"""DKENet alone, on kernels that are known."""

import jax.numpy as jnp

from ssr_jax.degrade import Degraded, degrade
from ssr_jax.image.blur import blur_downsample
from ssr_jax.image.resize import resize, upscale
from ssr_jax.systems.ssr.stages import base
from ssr_jax.types import Array


def example(config, recipe):
  """Arguments of DKENet at the config's patch size."""
  side = config.data.patch // recipe.scale
  return lambda: (jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side, 1)))


def degraded_by_depth(depth_module, variables, recipe, batch) -> tuple[Array, Degraded, Array]:
  """HR, its degradation, and the depth at LR size that DKENet sees: the depth net's estimate on HR, as in SVKR.

  A defocus field follows the true depth where it is known. Where it is not, the estimate stands for it, so that the
  two agree, which is what depth can teach.
  """
  hr = base.images(batch)
  h, w = hr.shape[1] // recipe.scale, hr.shape[2] // recipe.scale
  depth = resize(depth_module.apply(variables, hr), (h, w), 'area')
  return hr, degrade(base.record_keys(batch), hr, recipe, base.true_depth(batch, depth)), depth


def build(config) -> base.Stage:
  """The stage `kernel`."""
  module, depth_module = base.build_part(config, 'dkenet'), base.frozen_modules(config, ('depth',))['depth']
  recipe = base.kernel_recipe(config)

  def inputs(frozen, batch):
    return degraded_by_depth(depth_module, frozen['depth'], recipe, batch)

  def loss(params, stats, frozen, batch, key, step):
    del key, step
    _, low, depth = inputs(frozen, batch)
    kernels = module.apply({'params': params['dkenet']}, low.lr, depth)
    l1 = jnp.abs(kernels - low.kernels).mean()
    return config.loss.kernel * l1, ({'kernel_l1': l1}, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, key
    hr, low, depth = inputs(frozen, batch)
    kernels = module.apply({'params': params['dkenet']}, low.lr, depth)
    rmse = jnp.sqrt(((kernels - low.kernels) ** 2).mean((1, 2, 3)))
    blurred = blur_downsample(hr, kernels, recipe.scale)
    return {
      'kernel_psnr': (-20 * jnp.log10(rmse)).mean(),
      'lr_psnr': base.y_psnr(blurred, low.lr_clean).mean(),
      'kernel_l1': jnp.abs(kernels - low.kernels).mean(),
    }

  def figures(params, stats, frozen, batch, key):
    del stats, key
    _, low, depth = inputs(frozen, batch)
    kernels = module.apply({'params': params['dkenet']}, low.lr, depth)
    return {
      'lr': upscale(low.lr, recipe.scale, 'nearest'),
      'depth': base.gray(upscale(depth, recipe.scale, 'nearest')),
      'estimate': base.variance_map(kernels, recipe.scale),
      'truth': base.variance_map(low.kernels, recipe.scale),
    }

  return base.Stage(
    parts=('dkenet',),
    needs=('depth',),
    modules={'dkenet': module},
    init=base.initialiser({'dkenet': example(config, recipe)}, {'dkenet': module}),
    loss=loss,
    validate=validate,
    metric='kernel_l1',
    higher_is_better=False,
    figures=figures,
    depth='uses',
  )
