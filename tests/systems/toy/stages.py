"""The toy's only training stage."""

from ssr_jax.systems.base import StepContext, Tree
from ssr_jax.systems.config_stage import Batch, ConfigStage, charbonnier, some, y_psnr
from ssr_jax.types import Array
from tests.systems.toy import core
from tests.systems.toy.parts import PARTS


class ResidualStage(ConfigStage):
  """Charbonnier loss on the enlarged image."""

  parts = PARTS
  trains = ('residual',)
  metric = 'psnr'
  higher_is_better = True

  def loss(self, ctx: StepContext, batch: Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """The loss, and the Y-PSNR to log."""
    low = self.degrade(batch)
    _, image = core.enlarge(self.modules, ctx.variables, low.lr, self.recipe.scale)
    return charbonnier(image, low.target), ({'psnr': y_psnr(image, low.target).mean()}, ctx.stats)

  def validate(self, ctx: StepContext, batch: Batch) -> dict[str, Array]:
    """Y-PSNR, beside bicubic's."""
    low = self.degrade(batch)
    bicubic, image = core.enlarge(self.modules, ctx.variables, low.lr, self.recipe.scale)
    return {'psnr': y_psnr(image, low.target).mean(), 'bicubic_psnr': y_psnr(bicubic, low.target).mean()}

  def figures(self, ctx: StepContext, batch: Batch) -> dict[str, Array]:
    """Bicubic, result, truth."""
    low = self.degrade(some(batch))
    bicubic, image = core.enlarge(self.modules, ctx.variables, low.lr, self.recipe.scale)
    return {'bicubic': bicubic, 'result': image, 'truth': low.target}


STAGES = {'residual': ResidualStage}
