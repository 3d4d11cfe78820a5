"""BlindDiff's only training stage: noise and kernel at once (Eq. 13)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax import diffusion
from ssr_jax.degrade import Degraded
from ssr_jax.image.blur import blur_reduce
from ssr_jax.systems.base import Inherited, StepContext, Tree
from ssr_jax.systems.blinddiff import core
from ssr_jax.systems.blinddiff.parts import PARTS
from ssr_jax.systems.config_stage import Batch, ConfigStage, some, y_psnr
from ssr_jax.types import Array, SSRError

_DRAWS = 4  # of time steps and noise in validation: the error varies more with the step than with the image


class BlindDiffStage(ConfigStage):
  """Eq. 13: error of the predicted noise, and L1 of the kernel summed over its taps."""

  parts = PARTS
  trains = ('mcformer',)
  metric = 'loss'

  def __init__(self, config: Any, inherited: Inherited):
    """As of `ConfigStage`.

    Raises:
      SSRError: a recipe without one kernel for the image, or whose reduction is not that of the config's domain; a
        learned variance.
    """
    super().__init__(config, inherited)
    self.schedule = diffusion.Schedule(**config.schedule.to_dict())
    self.domain = core.Domain(**config.domain.to_dict(), scale=self.recipe.scale)
    self.sections = {name: config[name].to_dict() for name in ('schedule', 'domain', 'sampling')}
    if self.recipe.blur is None:
      raise SSRError(
        f'config.recipe.field is {self.recipe.field!r}; the stage needs one kernel for an image: isotropic, anisotropic'
      )
    if self.recipe.blur.down != self.domain.down:
      raise SSRError(
        f'config.recipe.field {self.recipe.field!r} reduces by {self.recipe.blur.down!r}, config.domain.down is '
        f'{self.domain.down!r}; guidance needs the reduction that makes the LR images'
      )
    if self.modules['mcformer'].variance != 'fixed':
      raise SSRError("config.model.mcformer.variance is 'learned', which is for released weights; train with 'fixed'")

  def check_sections(self, sections: Any) -> None:
    """SSRError if the weights were trained on another forward process or another x."""
    for name, kind in (('schedule', diffusion.Schedule), ('domain', core.Domain)):
      ours, theirs = (dataclasses.asdict(kind(**s[name])) for s in (self.sections, sections))
      for field in ours:
        if ours[field] != theirs[field]:
          raise SSRError(
            f'config.{name}.{field} is {ours[field]!r}, the weights were trained with {theirs[field]!r}; go on with '
            f'--config.{name}.{field}={theirs[field]}, or start from scratch'
          )

  def objective(self, variables: core.Variables, low: Degraded, key: Array) -> tuple[Array, dict[str, Array]]:
    """Eq. 13 and its terms."""
    settings = self.config.loss
    return core.loss(
      self.modules,
      variables,
      key,
      low.target,
      low.lr,
      low.kernels[:, 0, 0],
      self.schedule,
      self.domain,
      levels=settings.levels,
      weight=settings.kernel,
    )

  def loss(self, ctx: StepContext, batch: Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """Eq. 13; gradients of the noise's error flow through the kernel into the estimator too."""
    value, terms = self.objective(ctx.variables, self.degrade(batch), ctx.key)
    return value, (terms, ctx.stats)

  def first(self, ctx: StepContext, low: Degraded) -> tuple[Array, Array, Array]:
    """The clean image and the kernel of the first call, from pure noise; and the enlarged LR image."""
    u = self.domain.enlarge(low.lr)
    t = jnp.full((len(u),), self.schedule.steps - 1)
    eps = jax.random.normal(ctx.key, u.shape)
    x0, kernel = core.estimate(self.modules, ctx.variables, eps, t, u, self.schedule)
    return self.domain.to_image(x0, u), kernel, u

  def validate(self, ctx: StepContext, batch: Batch) -> dict[str, Array]:
    """Eq. 13 over four draws; of the first call the kernel's L1 and PSNR, LR-PSNR, and PSNR beside bicubic's."""
    low = self.degrade(batch)
    repeated = jax.tree.map(lambda x: jnp.concatenate([x] * _DRAWS), low)  # one call of the network for all draws
    loss, terms = self.objective(ctx.variables, repeated, ctx.key)
    image, kernel, u = self.first(ctx, low)
    true = low.kernels[:, 0, 0]
    error = kernel - true
    blurred = blur_reduce(low.target, kernel, self.domain.scale, self.domain.down)
    return {
      'loss': loss,
      **terms,
      'first_kernel_l1': jnp.abs(error).sum(-1).mean(),
      'first_kernel_psnr': (-10 * jnp.log10(jnp.square(error).mean(-1))).mean(),
      'first_lr_psnr': y_psnr(blurred, low.lr_clean).mean(),
      'first_psnr': y_psnr(image, low.target).mean(),
      'bicubic_psnr': y_psnr(u, low.target).mean(),
    }

  def figures(self, ctx: StepContext, batch: Batch) -> dict[str, Array]:
    """Bicubic, the first call's image, a sample in ten steps with guidance, truth."""
    low = self.degrade(some(batch))
    first, _, u = self.first(ctx, low)
    keys = jax.random.split(ctx.key, len(u))
    eps = jax.random.normal(ctx.key, u.shape)
    guidance = core.Guidance(self.config.sampling.guidance)
    image, _ = core.restore(
      self.modules, ctx.variables, low.lr, eps, keys, self.schedule, self.domain, guidance, steps=10
    )
    return {'bicubic': u, 'first call': first, 'result': image, 'truth': low.target}


STAGES = {'blinddiff': BlindDiffStage}
