"""The training stages of CasSR: the compact prior, a plain ControlNet, and CasSR itself."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax import diffusion
from ssr_jax.image.resize import upscale
from ssr_jax.systems.base import Inherited, StepContext, Tree
from ssr_jax.systems.cassr import core
from ssr_jax.systems.cassr.networks import PROMPTS, TRUNK
from ssr_jax.systems.cassr.parts import PARTS
from ssr_jax.systems.config_stage import Batch, ConfigStage, record_keys, some
from ssr_jax.systems.ssr import core as ssr
from ssr_jax.types import Array, SSRError

_DRAWS = 4  # of time steps and noise in validation: the error varies more with the step than with the image
_PROMPT = 3  # stream of a record's draws: which prompt it has


class LatentStage(ConfigStage):
  """What the stages share: the schedule, the prompts of records and the error over several draws."""

  parts = PARTS
  metric = 'error'

  def __init__(self, config: Any, inherited: Inherited):
    """As of `ConfigStage`."""
    super().__init__(config, inherited)
    self.schedule = diffusion.Schedule(**config.schedule.to_dict())
    self.sections = {name: config[name].to_dict() for name in ('svkr', 'schedule', 'sampling')}

  def check_sections(self, sections: Any) -> None:
    """SSRError if the weights were trained on another forward process."""
    a, b = (dataclasses.asdict(diffusion.Schedule(**s['schedule'])) for s in (self.sections, sections))
    for name in a:
      if a[name] != b[name]:
        raise SSRError(
          f'config.schedule.{name} is {a[name]!r}, the weights were trained with {b[name]!r}; go on with '
          f'--config.schedule.{name}={b[name]}, or start from scratch'
        )

  def coin(self, batch: Batch) -> Array:
    """[b] in [0, 1), from each record's own seed."""
    return jax.vmap(jax.random.uniform)(record_keys(batch, _PROMPT))

  def context(self, variables: core.Variables, prompt: Array) -> Array:
    """Embeddings [b, n, e] of the prompts with these numbers, [b]."""
    return ssr.apply(self.modules, variables, 'prior', method='prompts')[prompt]

  def repeated(self, tree: Tree) -> Tree:
    """A batch as often as `config.loss.draws` says; its latents and images are computed once."""
    return jax.tree.map(lambda x: jnp.concatenate([x] * self.config.loss.draws), tree)


class PriorStage(LatentStage):
  """Error of the prediction on latents of photos, of their enlarged LR images, and without a prompt.

  The share `config.loss.degraded` of the records are latents of enlarged LR images with the prompt 'degraded', so that
  guidance has something to lead away from; `config.loss.null` are photos without a prompt.
  """

  trains = ('prior',)
  needs = ('vae',)

  def __init__(self, config: Any, inherited: Inherited):
    """As of `ConfigStage`; SSRError also for shares that are none."""
    degraded, null = config.loss.degraded, config.loss.null
    if not (degraded >= 0 and null >= 0 and degraded + null <= 1):
      raise SSRError(f'config.loss.degraded {degraded} and config.loss.null {null} are shares; their sum is at most 1')
    super().__init__(config, inherited)
    if not self.modules['prior'].learned:
      raise SSRError('config.model.prior.learned is False: prompts come from a text encoder; import such a prior')

  def errors(self, variables: core.Variables, batch: Batch, key: Array) -> tuple[Array, Array]:
    """The error of each record and draw, and which prompt it has."""
    low, coin = self.degrade(batch), self.coin(batch)
    degraded, null = self.config.loss.degraded, self.config.loss.null
    worse = coin < degraded
    number = [PROMPTS.index(name) for name in ('degraded', 'null', 'clean')]
    prompt = jnp.where(worse, number[0], jnp.where(coin < degraded + null, number[1], number[2]))
    image = jnp.where(worse[:, None, None, None], upscale(low.lr, self.recipe.scale), low.target)
    latent_key, loss_key = jax.random.split(key)
    z0 = jax.lax.stop_gradient(ssr.encode(self.modules, variables, image, latent_key))
    z0, prompt = self.repeated((z0, prompt))
    return core.loss(self.modules, variables, loss_key, z0, self.context(variables, prompt), self.schedule), prompt

  def loss(self, ctx: StepContext, batch: Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """The mean error."""
    error, _ = self.errors(ctx.variables, batch, ctx.key)
    return error.mean(), ({'error': error.mean()}, ctx.stats)

  def validate(self, ctx: StepContext, batch: Batch) -> dict[str, Array]:
    """The mean error over four draws."""
    draw = lambda key: self.errors(ctx.variables, batch, key)[0]
    return {'error': jax.lax.map(draw, jax.random.split(ctx.key, _DRAWS)).mean()}

  def figures(self, ctx: StepContext, batch: Batch) -> dict[str, Array]:
    """Samples from noise in twenty steps with each prompt, beside the photo's reconstruction."""
    low = self.degrade(some(batch))
    z = ssr.encode(self.modules, ctx.variables, low.target)
    keys = jax.random.split(ctx.key, len(z))
    found = {'photo': low.target, 'autoencoder': ssr.decode(self.modules, ctx.variables, z)}
    for i, name in enumerate(PROMPTS):
      context = self.context(ctx.variables, jnp.full((len(z),), i))
      predict = lambda z_t, t, context=context: core.predict(self.modules, ctx.variables, z_t, t, context)
      drawn = diffusion.ddim(predict, self.schedule, keys, ssr.image_noise(keys, z.shape[1:]), 20)
      found[name] = ssr.decode(self.modules, ctx.variables, drawn)
    return found


class SteeringStage(LatentStage):
  """Eq. 3 with the prior frozen: only the ControlNet and the attention to its features train.

  The reference image is made on the fly by `config.sampling.reference`.
  """

  part = 'cassr'
  trains = ('cassr',)
  needs = (*ssr.RESTORING, 'vae', 'prior')  # with SVKR's reference; see `needed`

  @classmethod
  def needed(cls, config: Any) -> tuple[str, ...]:
    """The autoencoder and the prior, and the parts that make the reference image, if it steers."""
    if cls.part not in config.model or 'reference' not in config.model[cls.part].get('controls', core.CONTROLS):
      return 'vae', 'prior'
    if config.sampling.reference not in ('svkr', 'lr', 'restorer'):
      raise SSRError(
        f'config.sampling.reference is {config.sampling.reference!r}; training makes svkr, lr or restorer on the fly'
      )
    return *core.REFERENCES[config.sampling.reference], 'vae', 'prior'

  def __init__(self, config: Any, inherited: Inherited):
    """As of `ConfigStage`; SSRError also if the part has not the prior's trunk, or the schedule is not the prior's."""
    if not 0 <= config.loss.null <= 1:
      raise SSRError(f'config.loss.null is {config.loss.null}; it is a share, from 0 to 1')
    super().__init__(config, inherited)
    check_trunk(self.modules, self.part)
    if 'schedule' in inherited.sections:
      try:
        self.check_sections(inherited.sections)
      except SSRError as error:
        raise SSRError(f'parts_from={inherited.name}: {error}') from error

  def prepare(self, ctx: StepContext, batch: Batch, inherited: bool) -> tuple[Tree, Tree]:
    """Starts the ControlNet as a copy of the prior's way down and middle."""
    del batch
    if inherited:
      return ctx.params, ctx.stats
    own, prior = ctx.params[self.part], ctx.frozen['prior']['params']['unet']
    copied = {name: prior.get(name, value) for name, value in own['controlnet'].items()}
    return {**ctx.params, self.part: {**own, 'controlnet': copied}}, ctx.stats

  def inputs(self, variables: core.Variables, batch: Batch) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """Target, the images that steer, and their latents; without gradients."""
    low = self.degrade(batch)
    images = {'lr': jnp.clip(upscale(low.lr, self.recipe.scale), 0, 1)}
    if 'reference' in self.modules[self.part].controls:
      section, more = self.config.svkr, {}
      if self.config.sampling.reference == 'svkr':
        more = {'iterations': section.iterations, 'gamma': section.gamma, 'rule': section.rule, 'unroll': True}
      images['reference'] = core.activate(
        self.modules, variables, low.lr, self.config.sampling.reference, scale=self.recipe.scale, **more
      )
    latents = {}
    if self.modules[self.part].hint == 'latent':
      latents = {name: ssr.encode(self.modules, variables, image) for name, image in images.items()}
    return jax.lax.stop_gradient((low.target, images, latents))

  def errors(self, ctx: StepContext, batch: Batch) -> Callable[[Array, bool], dict[str, Array]]:
    """(key, base) -> the error of each record and draw, [b]; with `base` also the prior's alone on the same draws."""
    variables = ctx.variables
    target, images, latents = self.inputs(ctx.frozen, batch)
    null = self.coin(batch) < self.config.loss.null
    prompt = jnp.where(null, PROMPTS.index('null'), PROMPTS.index('clean'))
    context = self.context(ctx.frozen, prompt)
    hints = core.see(self.modules, variables, self.part, images, latents)

    def draw(key: Array, base: bool) -> dict[str, Array]:
      latent_key, loss_key = jax.random.split(key)
      z0 = jax.lax.stop_gradient(ssr.encode(self.modules, ctx.frozen, target, latent_key))
      z0, texts, steer = self.repeated((z0, context, hints))
      arguments = self.modules, variables, loss_key, z0, texts, self.schedule
      alone = {'base': core.loss(*arguments)} if base else {}
      return {'error': core.loss(*arguments, steer, self.part), **alone}

    return draw

  def loss(self, ctx: StepContext, batch: Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """The mean error, Eq. 3."""
    error = self.errors(ctx, batch)(ctx.key, False)['error'].mean()
    return error, ({'error': error}, ctx.stats)

  def validate(self, ctx: StepContext, batch: Batch) -> dict[str, Array]:
    """The mean error over four draws, and that of the prior alone on the same ones."""
    draw = self.errors(ctx, batch)
    found = jax.lax.map(lambda key: draw(key, True), jax.random.split(ctx.key, _DRAWS))
    return {name: values.mean() for name, values in found.items()}

  def figures(self, ctx: StepContext, batch: Batch) -> dict[str, Array]:
    """The images that steer, a sample in twenty steps, truth."""
    target, images, _ = self.inputs(ctx.frozen, some(batch))
    keys = jax.random.split(ctx.key, len(target))
    side = self.modules['vae'].reduction
    shape = target.shape[1] // side, target.shape[2] // side, self.modules['vae'].latent_channels
    sampling = self.config.sampling
    how = core.Sampling('ddim', 20, sampling.guidance, sampling.prompt, tile=0)
    others = {name: image for name, image in images.items() if name != 'lr'}
    eps = ssr.image_noise(keys, shape)
    image = core.restore(self.modules, ctx.variables, images['lr'], others, eps, keys, self.schedule, how, self.part)
    return {**images, 'result': image, 'truth': target}


class ActivationStage(SteeringStage):
  """Eq. 3 for a plain ControlNet that sees the LR image alone; its samples can be CasSR's reference images."""

  part = 'activation'
  trains = ('activation',)
  needs = ('vae', 'prior')


def check_trunk(modules: core.Modules, part: str) -> None:
  """SSRError unless a part that steers has the trunk of the prior, and the prior the latents of the autoencoder."""
  if 'prior' not in modules:
    return
  ours, prior = modules[part], modules['prior']
  plain = lambda value: tuple(value) if isinstance(value, list | tuple) else value
  for field in TRUNK:
    a, b = plain(getattr(ours, field)), plain(getattr(prior, field))
    if a != b:
      raise SSRError(f'{part}.{field} is {a}, that of the prior is {b}; a part steers the prior that it was trained on')
  if 'vae' in modules and modules['vae'].latent_channels != prior.latent_channels:
    raise SSRError(
      f'prior.latent_channels is {prior.latent_channels}, the vae has {modules["vae"].latent_channels}; they must agree'
    )


STAGES = {'prior': PriorStage, 'activation': ActivationStage, 'cassr': SteeringStage}
