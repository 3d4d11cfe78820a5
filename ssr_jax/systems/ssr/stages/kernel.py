"""The stage that trains DKENet on known kernels."""

import jax.numpy as jnp

from ssr_jax.image.blur import blur_downsample
from ssr_jax.image.resize import upscale
from ssr_jax.systems.base import StepContext, Tree
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.stages import common
from ssr_jax.types import Array


class KernelStage(common.SSRStage):
  """L1 on kernels, as in MANet, and their squared error.

  L1 alone leads to the median of the kernels that an image allows, which has a lower kernel PSNR than their mean.
  """

  trains = ('dkenet',)
  needs = ('depth',)
  metric = 'kernel_l1'
  depth = 'uses'

  def loss(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """`config.loss.kernel` times the mean absolute error of the taps, `config.loss.kernel_squared` the squared one."""
    _, low, depth = self.degrade_by_depth(ctx.variables, batch)
    kernels = core.apply(self.modules, ctx.variables, 'dkenet', low.lr, depth)
    error = kernels - low.kernels
    l1 = jnp.abs(error).mean()
    total = self.config.loss.kernel * l1 + self.config.loss.kernel_squared * (error**2).mean()
    return total, ({'kernel_l1': l1}, ctx.stats)

  def validate(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Kernel PSNR, and LR-PSNR: Y-PSNR of HR blurred by the estimate against the noise-free LR."""
    hr, low, depth = self.degrade_by_depth(ctx.variables, batch)
    kernels = core.apply(self.modules, ctx.variables, 'dkenet', low.lr, depth)
    blurred = blur_downsample(hr, kernels, self.recipe.scale)
    return {
      'kernel_psnr': common.kernel_psnr(kernels, low.kernels).mean(),
      'lr_psnr': common.y_psnr(blurred, low.lr_clean).mean(),
      'kernel_l1': jnp.abs(kernels - low.kernels).mean(),
    }

  def figures(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """LR, depth, and the variance of estimated and true kernels."""
    _, low, depth = self.degrade_by_depth(ctx.variables, batch)
    kernels = core.apply(self.modules, ctx.variables, 'dkenet', low.lr, depth)
    scale = self.recipe.scale
    return {
      'lr': upscale(low.lr, scale, 'nearest'),
      'depth': common.gray(upscale(depth, scale, 'nearest')),
      'estimate': common.variance_map(kernels, scale),
      'truth': common.variance_map(low.kernels, scale),
    }
