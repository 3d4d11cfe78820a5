"""The depth net, on rendered scenes or photos with depth."""

import jax
import jax.numpy as jnp

from ssr_jax.degrade import degrade
from ssr_jax.image.resize import upscale
from ssr_jax.nn.depth.compact import depth_loss, standardise
from ssr_jax.systems.ssr.stages import base


def build(config) -> base.Stage:
  """The stage `depth`."""
  module = base.build_part(config, 'depth')
  recipe = base.read_recipe(config)

  def views(batch):
    """The scene, or for half of the records its degraded and enlarged self: SVKR asks for the depth of both."""
    hr = base.images(batch)
    lr = degrade(base.record_keys(batch), hr, recipe).lr
    coin = jax.vmap(jax.random.bernoulli)(base.record_keys(batch, 1))[:, None, None, None]
    return jnp.where(coin, upscale(lr, recipe.scale), hr)

  def loss(params, stats, frozen, batch, key, step):
    del frozen, key, step
    raw = module.apply({'params': params['depth']}, views(batch), raw=True)
    return depth_loss(raw, batch['depth'][..., None]), ({}, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, frozen, key
    raw = module.apply({'params': params['depth']}, views(batch), raw=True)
    target = batch['depth'][..., None]
    # Pearson correlation of inverse depth: what scale and shift alignment leaves.
    a, b = (x - x.mean((1, 2, 3), keepdims=True) for x in (raw, target))
    norm = jnp.sqrt((a**2).sum((1, 2, 3)) * (b**2).sum((1, 2, 3)))
    return {
      'correlation': ((a * b).sum((1, 2, 3)) / jnp.maximum(norm, 1e-9)).mean(),
      'aligned_l1': jnp.abs(standardise(raw) - standardise(target)).mean(),
    }

  def figures(params, stats, frozen, batch, key):
    del stats, frozen, key
    depth = batch['depth'][..., None]
    low, high = depth.min((1, 2, 3), keepdims=True), depth.max((1, 2, 3), keepdims=True)
    image = views(batch)
    estimate = module.apply({'params': params['depth']}, image)
    return {'image': image, 'estimate': base.gray(estimate), 'truth': base.gray((depth - low) / (high - low))}

  size = config.data.patch
  return base.Stage(
    parts=('depth',),
    needs=(),
    modules={'depth': module},
    init=base.initialiser({'depth': lambda: (jnp.zeros((1, size, size, 3)),)}, {'depth': module}),
    loss=loss,
    validate=validate,
    metric='aligned_l1',
    higher_is_better=False,
    figures=figures,
    depth='needs',
  )
