"""The stage that trains NBSR on known kernels, slightly disturbed."""

import jax
import jax.numpy as jnp

from ssr_jax.image.resize import upscale
from ssr_jax.systems.base import StepContext, Tree
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.stages import common
from ssr_jax.types import Array


class NBSRStage(common.KernelBasis, common.SSRStage):
  """Charbonnier loss on the image restored with disturbed kernels."""

  trains = ('nbsr',)
  metric = 'psnr'
  higher_is_better = True
  depth = 'uses'

  def loss(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """The Charbonnier loss with disturbed kernels."""
    low = self.degrade(batch, _depth(self, batch))
    sr = core.apply(self.modules, ctx.variables, 'nbsr', low.lr, disturb(ctx.key, low.kernels))
    return common.charbonnier(sr, low.target), ({'psnr': common.y_psnr(sr, low.target).mean()}, ctx.stats)

  def validate(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Y-PSNR with true kernels, beside bicubic's."""
    low = self.degrade(batch, _depth(self, batch))
    sr = core.apply(self.modules, ctx.variables, 'nbsr', low.lr, low.kernels)
    bicubic = upscale(low.lr, self.recipe.scale)
    return {
      'psnr': common.y_psnr(sr, low.target).mean(),
      'bicubic_psnr': common.y_psnr(bicubic, low.target).mean(),
    }

  def figures(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Bicubic, restored, truth."""
    low = self.degrade(batch, _depth(self, batch))
    sr = core.apply(self.modules, ctx.variables, 'nbsr', low.lr, low.kernels)
    return {'bicubic': upscale(low.lr, self.recipe.scale), 'restored': sr, 'truth': low.target}


def _depth(stage: NBSRStage, batch: common.Batch) -> Array | None:
  """The records' depth at LR size, for defocus; None where the batch has none."""
  if 'depth' not in batch:
    return None
  b, H, W, _ = batch['hr'].shape
  h, w = H // stage.recipe.scale, W // stage.recipe.scale
  return common.true_depth(batch, jnp.full((b, h, w, 1), 0.5))


def disturb(key: Array, kernels: Array) -> Array:
  """Mixes up to a fifth of the next image's kernels into half of the fields, since NBSR gets inexact kernels later.

  Args:
    key: of the step.
    kernels: [b, h, w, k*k].
  """
  shape = (len(kernels), 1, 1, 1)
  amount = 0.2 * jax.random.uniform(key, shape) * jax.random.bernoulli(key, 0.5, shape)
  return (1 - amount) * kernels + amount * jnp.roll(kernels, 1, 0)
