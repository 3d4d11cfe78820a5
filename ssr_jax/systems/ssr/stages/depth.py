"""The stage that trains the depth net, on rendered scenes or photos with depth."""

import jax
import jax.numpy as jnp

from ssr_jax.image.resize import upscale
from ssr_jax.nn.depth.compact import depth_loss, standardise
from ssr_jax.systems.base import StepContext, Tree
from ssr_jax.systems.ssr.stages import common
from ssr_jax.types import Array


class DepthStage(common.SSRStage):
  """Scale- and shift-invariant regression of inverse depth."""

  trains = ('depth',)
  metric = 'aligned_l1'
  depth = 'needs'

  def views(self, batch: common.Batch) -> Array:
    """The photo, or for half of the records its upscaled LR image: SVKR estimates the depth of both kinds."""
    lr = self.degrade(batch).lr
    coin = jax.vmap(jax.random.bernoulli)(common.record_keys(batch, 1))[:, None, None, None]
    return jnp.where(coin, upscale(lr, self.recipe.scale), common.images(batch))

  def estimate(self, ctx: StepContext, image: Array, **options: bool) -> Array:
    """Applies the net to images."""
    return self.modules['depth'].apply({'params': ctx.params['depth']}, image, **options)

  def loss(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """MiDaS's loss on standardised inverse depth."""
    raw = self.estimate(ctx, self.views(batch), raw=True)
    return depth_loss(raw, batch['depth'][..., None]), ({}, ctx.stats)

  def validate(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Pearson correlation of inverse depth, and L1 after alignment of scale and shift."""
    raw, target = self.estimate(ctx, self.views(batch), raw=True), batch['depth'][..., None]
    a, b = (x - x.mean((1, 2, 3), keepdims=True) for x in (raw, target))
    norm = jnp.sqrt((a**2).sum((1, 2, 3)) * (b**2).sum((1, 2, 3)))
    return {
      'correlation': ((a * b).sum((1, 2, 3)) / jnp.maximum(norm, 1e-9)).mean(),
      'aligned_l1': jnp.abs(standardise(raw) - standardise(target)).mean(),
    }

  def figures(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Image, estimate and truth."""
    depth = batch['depth'][..., None]
    low, high = depth.min((1, 2, 3), keepdims=True), depth.max((1, 2, 3), keepdims=True)
    image = self.views(batch)
    estimate = self.estimate(ctx, image)
    return {'image': image, 'estimate': common.gray(estimate), 'truth': common.gray((depth - low) / (high - low))}
