"""The stage that trains AMF-UNet on the frozen autoencoder's latents, conditioned by the frozen SVKR."""

from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax import diffusion, xla
from ssr_jax.image.resize import upscale
from ssr_jax.systems.base import Inherited, StepContext, Tree
from ssr_jax.systems.ssr import amf, core
from ssr_jax.systems.ssr.encoders import Conditions
from ssr_jax.systems.ssr.loss import diffusion_loss
from ssr_jax.systems.ssr.stages import common
from ssr_jax.systems.ssr.svkr import SVKR
from ssr_jax.types import Array


class DiffusionStage(common.SSRStage):
  """Eq. 5: the prediction loss and the constraints on the modalities' features."""

  trains = ('unet',)
  needs = ('depth', 'dkenet', 'nbsr', 'vae')
  metric = 'noise'

  def __init__(self, config: Any, inherited: Inherited):
    """As of `SSRStage`."""
    super().__init__(config, inherited)
    self.schedule = diffusion.Schedule(**config.schedule.to_dict())
    self.sections = {'schedule': config.schedule.to_dict()}

  def inputs(
    self, variables: core.Variables, batch: common.Batch, iterations: int
  ) -> tuple[Array, Array, SVKR, Conditions]:
    """Target, LR, SVKR's result and the UNet's conditions."""
    low = self.degrade(batch)
    refined = self.refine(variables, low.lr, iterations=iterations)
    return low.target, low.lr, refined, core.observe(self.modules, variables, low.lr, refined, self.recipe.scale)

  def objective(
    self, ctx: StepContext, hr: Array, conditions: Conditions, key: Array, train: bool
  ) -> tuple[Array, dict[str, Any]]:
    """Eq. 5 and its terms, of a target and the UNet's conditions."""
    module, variables = self.modules['unet'], ctx.variables['unet']
    conditions = jax.lax.stop_gradient(conditions)
    latent_key, loss_key = jax.random.split(key)
    z0 = jax.lax.stop_gradient(core.encode(self.modules, ctx.frozen, hr, latent_key))
    draws = self.config.loss.draws
    if train and draws > 1:
      conditions, z0 = jax.tree.map(lambda x: jnp.repeat(x, draws, 0), (conditions, z0))

    def predict(z_t, t):
      if train:
        (prediction, features), updated = module.apply(
          variables, z_t, t, conditions, train=True, return_features=True, mutable=['batch_stats']
        )
      else:
        (prediction, features), updated = module.apply(variables, z_t, t, conditions, return_features=True), {}
      return prediction, module.apply(variables, features, method='reconstruct'), updated

    targets = (conditions.kernel_code, conditions.depth, z0)
    constraints, focus = tuple(self.config.loss.constraints), tuple(self.config.loss.focus)
    return diffusion_loss(loss_key, predict, z0, self.schedule, targets, constraints, focus)

  def loss(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """Eq. 5 with batch statistics in AMF's norms."""
    hr, _, _, conditions = self.inputs(ctx.frozen, batch, self.config.svkr.iterations)
    value, out = self.objective(ctx, hr, conditions, ctx.key, True)
    names = ('kernel', 'depth', 'image')
    constraints = zip(names, out['constraints'], strict=True)
    scalars = {f'constraint_{name}': value for name, value in constraints if value is not None}
    return value, ({'noise': out['noise'], **scalars}, {'unet': out['aux']['batch_stats']})

  def validate(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """The prediction's mean squared error over four draws, since it varies more with the time step than the image."""
    keys = jax.random.split(ctx.key, 4)
    hr, _, _, conditions = self.inputs(ctx.frozen, batch, self.config.svkr.iterations)
    errors = [self.objective(ctx, hr, conditions, key, False)[1]['noise'] for key in keys]
    return {'noise': jnp.mean(jnp.stack(errors))}

  def figures(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Bicubic, restored, a sample in ten steps, the autoencoder's reconstruction, truth."""
    variables = ctx.variables
    hr, lr, refined, conditions = self.inputs(ctx.frozen, common.some(batch), 3)
    keys = jax.random.split(ctx.key, len(hr))
    restored = jnp.clip(refined.image, 0, 1)
    first = core.encode(self.modules, variables, restored)
    eps = core.image_noise(keys, first.shape[1:])
    z = core.generate(self.modules, variables, conditions, first, eps, keys, self.schedule, steps=10, start=0.4)
    return {
      'bicubic': upscale(lr, self.recipe.scale),
      'restored': restored,
      'result': core.decode(self.modules, variables, z),
      'autoencoder': core.decode(self.modules, variables, core.encode(self.modules, variables, hr)),
      'truth': hr,
    }

  def prepare(self, ctx: StepContext, batch: common.Batch, inherited: bool) -> tuple[Tree, Tree]:
    """Calibrates AMF's batch norms, so that the UNet starts as its base.

    Loaded weights are calibrated too if their AMF is fresh, as in an imported Stable Diffusion: in training mode
    uncalibrated norms would change the pretrained features.
    """
    if inherited and not amf.is_fresh(ctx.params['unet']):
      return ctx.params, ctx.stats
    # Compiled as one program: its operations one by one are 600 of them.
    params, stats = xla.jit(self._calibrated)(ctx, batch)
    return {**ctx.params, 'unet': params}, {**ctx.stats, 'unet': stats}

  def _calibrated(self, ctx: StepContext, batch: common.Batch) -> tuple[Tree, Tree]:
    """The UNet's parameters and batch statistics after `amf.calibrate` on a batch."""
    target, _, _, conditions = self.inputs(ctx.frozen, batch, self.config.svkr.iterations)
    z0 = core.encode(self.modules, ctx.frozen, target)
    t = jnp.linspace(0, self.schedule.steps - 1, len(z0)).astype(jnp.int32)
    noise = jax.random.normal(jax.random.key(0), z0.shape)
    z_t = self.schedule.add_noise(z0, noise, t)
    calibrated = amf.calibrate(self.modules['unet'], ctx.variables['unet'], z_t, t, conditions)
    return calibrated['params'], calibrated['batch_stats']
