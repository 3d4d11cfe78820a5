"""DKENet and NBSR together, through the loop."""

import jax.numpy as jnp

from ssr_jax.image.resize import upscale
from ssr_jax.systems.ssr.stages import base, kernel, nbsr


def build(config) -> base.Stage:
  """The stage `svkr`."""
  modules = {part: base.build_part(config, part) for part in ('dkenet', 'nbsr')}
  depth_module = base.frozen_modules(config, ('depth',))['depth']
  recipe = base.kernel_recipe(config)

  def run(params, frozen, lr):
    constants = frozen['constants']
    trained = {part: {'params': params[part], 'constants': constants[part]} for part in modules}
    every = modules | {'depth': depth_module}
    return base.refine(every, {'depth': frozen['depth'], **trained}, lr, config.svkr, recipe.scale, unroll=True)

  def inputs(frozen, batch):
    return kernel.degraded_by_depth(depth_module, frozen['depth'], recipe, batch)[:2]

  def loss(params, stats, frozen, batch, key, step):
    del key, step
    hr, low = inputs(frozen, batch)
    out = run(params, frozen, low.lr)
    restoration = base.charbonnier(out.image, hr)
    l1 = jnp.abs(out.kernels - low.kernels).mean()
    # The kernel term keeps K a blur kernel: without it the pair drifts to a private code.
    total = restoration + 1e-3 * config.loss.kernel * l1
    return total, ({'restoration': restoration, 'kernel_l1': l1, 'psnr': base.y_psnr(out.image, hr).mean()}, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, key
    hr, low = inputs(frozen, batch)
    out = run(params, frozen, low.lr)
    rmse = jnp.sqrt(((out.kernels - low.kernels) ** 2).mean((1, 2, 3)))
    return {
      'psnr': base.y_psnr(out.image, hr).mean(),
      'bicubic_psnr': base.y_psnr(upscale(low.lr, recipe.scale), hr).mean(),
      'kernel_psnr': (-20 * jnp.log10(rmse)).mean(),
    }

  def figures(params, stats, frozen, batch, key):
    del stats, key
    hr, low = inputs(frozen, batch)
    out = run(params, frozen, low.lr)
    return {
      'bicubic': upscale(low.lr, recipe.scale),
      'restored': out.image,
      'truth': hr,
      'depth': base.gray(out.depth),
      'estimate': base.variance_map(out.kernels, recipe.scale),
      'kernels': base.variance_map(low.kernels, recipe.scale),
    }

  examples = {'dkenet': kernel.example(config, recipe), 'nbsr': nbsr.example(config, recipe)}
  return base.Stage(
    parts=('dkenet', 'nbsr'),
    needs=('depth',),
    modules=modules,
    init=nbsr.initialiser(modules, recipe, examples),
    loss=loss,
    validate=validate,
    metric='psnr',
    higher_is_better=True,
    figures=figures,
    depth='uses',
  )
