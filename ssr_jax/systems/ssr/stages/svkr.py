"""The stage that trains DKENet and NBSR together, through the loop of SVKR."""

import jax.numpy as jnp

from ssr_jax.image.resize import upscale
from ssr_jax.systems.base import StepContext, Tree
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.stages import common
from ssr_jax.types import Array


class SVKRStage(common.KernelBasis, common.SSRStage):
  """The restored image's Charbonnier loss through all rounds, and the kernels' L1."""

  trains = ('dkenet', 'nbsr')
  needs = ('depth',)
  metric = 'psnr'
  higher_is_better = True
  depth = 'uses'

  def loss(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """Restoration and kernel terms; without the latter the two networks drift to a code that is no blur kernel."""
    _, low, _ = self.degrade_by_depth(ctx.variables, batch)
    out = self.refine(ctx.variables, low.lr, unroll=True)
    restoration = common.charbonnier(out.image, low.target)
    l1 = jnp.abs(out.kernels - low.kernels).mean()
    total = restoration + 1e-3 * self.config.loss.kernel * l1
    psnr = common.y_psnr(out.image, low.target).mean()
    return total, ({'restoration': restoration, 'kernel_l1': l1, 'psnr': psnr}, ctx.stats)

  def validate(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Y-PSNR of the restored image beside bicubic's, and kernel PSNR."""
    _, low, _ = self.degrade_by_depth(ctx.variables, batch)
    out = self.refine(ctx.variables, low.lr, unroll=True)
    return {
      'psnr': common.y_psnr(out.image, low.target).mean(),
      'bicubic_psnr': common.y_psnr(upscale(low.lr, self.recipe.scale), low.target).mean(),
      'kernel_psnr': common.kernel_psnr(out.kernels, low.kernels).mean(),
    }

  def figures(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Bicubic, restored, truth, depth, and the variance of estimated and true kernels."""
    _, low, _ = self.degrade_by_depth(ctx.variables, batch)
    out = self.refine(ctx.variables, low.lr, unroll=True)
    scale = self.recipe.scale
    _, H, W, _ = low.target.shape
    return {
      'bicubic': upscale(low.lr, scale),
      'restored': out.image,
      'truth': low.target,
      'depth': common.gray(core.spread_depth(out.depth, (H, W))),
      'estimate': common.variance_map(out.kernels, scale),
      'kernels': common.variance_map(low.kernels, scale),
    }
