"""The stage that trains NBSR on known kernels, slightly disturbed, and on estimated ones."""

from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax.image.resize import upscale
from ssr_jax.systems.base import Inherited, StepContext, Tree
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.stages import common
from ssr_jax.types import Array, SSRError


class NBSRStage(common.KernelBasis, common.SSRStage):
  """Charbonnier loss on the image restored with inexact kernels.

  The share `config.loss.estimated` of each batch is restored with the kernels that a trained depth net and DKENet
  estimate on its LR images, the first estimate of SVKR. On photos from cameras they are wrong more often than `disturb`
  makes them, and NBSR learns what they can be trusted with.
  """

  trains = ('nbsr',)
  metric = 'psnr'
  higher_is_better = True
  depth = 'uses'

  @classmethod
  def needed(cls, config: Any) -> tuple[str, ...]:
    """The parts that estimate kernels, if a share of the batch asks for them."""
    return ('depth', 'dkenet') if config.loss.estimated else ()

  def __init__(self, config: Any, inherited: Inherited):
    """As `ConfigStage`; also SSRError for a share outside [0, 1]."""
    if not 0 <= config.loss.estimated <= 1:
      raise SSRError(f'config.loss.estimated is {config.loss.estimated}; it is a share, from 0 to 1')
    super().__init__(config, inherited)

  def loss(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """The Charbonnier loss with inexact kernels."""
    low = self.degrade(batch, _depth(self, batch))
    kernels = disturb(ctx.key, low.kernels)
    count = round(self.config.loss.estimated * len(low.lr))
    if count:  # the first records: which photos these are changes from batch to batch
      kernels = jnp.concatenate([self._estimate(ctx, low.lr[:count]), kernels[count:]])
    sr = core.apply(self.modules, ctx.variables, 'nbsr', low.lr, kernels)
    return common.charbonnier(sr, low.target), ({'psnr': common.y_psnr(sr, low.target).mean()}, ctx.stats)

  def _estimate(self, ctx: StepContext, lr: Array) -> Array:
    return self.refine(ctx.variables, lr, iterations=0).kernels

  def validate(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Y-PSNR with true kernels, beside bicubic's; with estimated ones too, which then decide, if training sees some."""
    low = self.degrade(batch, _depth(self, batch))

    def psnr(image: Array) -> Array:
      return common.y_psnr(image, low.target).mean()

    exact = psnr(core.apply(self.modules, ctx.variables, 'nbsr', low.lr, low.kernels))
    bicubic = psnr(upscale(low.lr, self.recipe.scale))
    if not self.needs:
      return {'psnr': exact, 'bicubic_psnr': bicubic}
    sr = core.apply(self.modules, ctx.variables, 'nbsr', low.lr, self._estimate(ctx, low.lr))
    return {'psnr': psnr(sr), 'true_psnr': exact, 'bicubic_psnr': bicubic}

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
  how_much, which = jax.random.split(key)
  amount = 0.2 * jax.random.uniform(how_much, shape) * jax.random.bernoulli(which, 0.5, shape)
  return (1 - amount) * kernels + amount * jnp.roll(kernels, 1, 0)
