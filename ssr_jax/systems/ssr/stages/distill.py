"""The stage that distils the UNet into a student of few steps, with an adversarial loss.

The teacher's sampler needs many steps and starts from an input that it was not trained on, the latent of the restored
image. The student is the same network, starts with the teacher's weights, and is trained on the calls that sampling
makes: the loss sees the decoded image after the colour fix (adversarial diffusion distillation, Sauer et al. 2023, with
a patch discriminator). It can train its own decoder: a decoder trained on latents of photos shows upsampling artefacts
on a network's latents, and can be guided by the restored image, so that edges need not pass through the latent's grid.
Instead of a decoder it can train a copy of NBSR that sees its latent: that one starts from the restored image, and with
features that know how to make it.

Where the data have images of a teacher (`taught:` in `data.sources.spec`), another network's results from the same LR
images, the student learns its detail from them and what varies more slowly from the photo.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax import diffusion
from ssr_jax.image import colour, colourfix
from ssr_jax.image.resize import resize, upscale
from ssr_jax.nn import discriminator as disc_lib
from ssr_jax.nn import vae as vae_lib
from ssr_jax.systems.base import Inherited, StepContext, Tree
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.encoders import Conditions
from ssr_jax.systems.ssr.stages import common
from ssr_jax.types import Array, SSRError

# Stored for sampling.
_SAMPLING = ('steps', 'start', 'noise', 'wavelet_levels', 'chroma_levels', 'strength', 'smooth', 'sharpen')
_WINDOW = 32  # side in pixels of the squares that textures are compared in


class DistillStage(common.Perceptual, common.SSRStage):
  """Adversarial distillation of the UNet into a student."""

  trains = ('student',)
  needs = ('depth', 'dkenet', 'nbsr', 'vae', 'unet')
  optional = ('lr', 'taught')
  metric = 'texture'
  origin = 'its teacher'

  def __init__(self, config: Any, inherited: Inherited):
    """As of `SSRStage`; raises SSRError also if the student cannot take its teacher's weights."""
    super().__init__(config, inherited)
    self.read_perceptual()
    self.schedule = diffusion.Schedule(**config.schedule.to_dict())
    self.critic: Any = disc_lib.Discriminator(dtype=self.dtype)
    self.begin = int(config.loss.adversarial_start * config.train.steps)
    self.sections = {
      'schedule': config.schedule.to_dict(),
      'sampling': {'student': {name: config.distill[name] for name in _SAMPLING}},
    }
    if config.loss.texture and config.data.patch < 2 * _WINDOW:
      raise SSRError(f'config.data.patch is {config.data.patch}: with loss.texture it must be at least {2 * _WINDOW}')
    self.decoder = 'vae'
    if config.distill.nbsr:
      if config.distill.decoder:
        raise SSRError('config.distill.decoder and config.distill.nbsr are both True: set one of them')
      self.decoder = 'student_nbsr'
      self.trains = ('student', 'student_nbsr')
      self.modules = {**self.modules, 'student_nbsr': self.build('student_nbsr')}
    if config.distill.decoder:
      self.decoder = 'student_vae'
      self.trains = ('student', 'student_vae')
      guided = bool(config.model.student_vae.get('guided', False))
      if config.distill.from_restored and not guided:
        raise SSRError('config.distill.from_restored needs a guided decoder: set config.model.student_vae.guided')
      own = self.modules['vae'].clone(remat=self.modules['student'].remat, guided=guided)
      self.modules = {**self.modules, 'student_vae': own}
      self.measures = {'student_vae': ('scaling_factor',)}
      self.fixed = ('student_vae/(encoder|quant_conv|shortcut_in)',)
    self._check_teacher()

  def init(self, key: Array) -> tuple[Tree, Tree, Tree]:
    """Adds the critic, whose input is an image and the restored image."""
    params, stats, constants = super().init(key)
    side = self.config.data.patch
    params['critic'] = self.critic.init(jax.random.fold_in(key, 1), jnp.zeros((1, side, side, 6)))['params']
    return params, stats, constants

  def prepare(self, ctx: StepContext, batch: common.Batch, inherited: bool) -> tuple[Tree, Tree]:
    """Starts student and decoder with the teacher's weights; the decoder can start from the restored image instead."""
    del batch
    if inherited:
      return ctx.params, ctx.stats
    teacher = ctx.frozen['unet']
    params = {**ctx.params, 'student': {**ctx.params['student'], **teacher['params']}}
    if self.config.distill.decoder:
      decoder = {**ctx.params['student_vae'], **ctx.frozen['vae']['params']}
      params['student_vae'] = vae_lib.passing_guide(decoder) if self.config.distill.from_restored else decoder
    if self.config.distill.nbsr:
      params['student_nbsr'] = {**ctx.params['student_nbsr'], **ctx.frozen['nbsr']['params']}
    return params, {**ctx.stats, 'student': teacher['batch_stats']}

  def export(self, ctx: StepContext, batch: common.Batch) -> dict[str, dict[str, Any]]:
    """The latents' scaling factor, which is the teacher's: the encoder is frozen."""
    del ctx, batch
    if not self.config.distill.decoder:
      return {}
    return {'student_vae': {'scaling_factor': jnp.asarray(self.modules['vae'].scaling_factor)}}

  def inputs(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, Array, Array, Conditions]:
    """Photo, LR (the record's if it has one), restored image and the networks' conditions, without gradients."""
    if 'lr' in batch:
      photo, lr = common.images(batch), jnp.asarray(batch['lr'], jnp.float32) / 255
      if photo.shape[1] != self.recipe.scale * lr.shape[1]:
        raise SSRError(
          f'data.train: its LR images are at 1/{photo.shape[1] // lr.shape[1]}, the model at 1/{self.recipe.scale}'
        )
    else:
      low = self.degrade(batch)
      photo, lr = low.target, low.lr
    refined = self.refine(ctx.frozen, lr, unroll=True)
    conditions = core.observe(self.modules, ctx.frozen, lr, refined, self.recipe.scale)
    return jax.lax.stop_gradient((photo, lr, jnp.clip(refined.image, 0, 1), conditions))

  def target(self, batch: common.Batch, photo: Array) -> Array:
    """What the image is compared with: the photo, with the teacher's detail if the record has its image."""
    if 'taught' not in batch:
      return photo
    return colourfix.wavelet(jnp.asarray(batch['taught'], jnp.float32) / 255, photo, self.config.loss.taught_levels)

  def draw(self, variables: core.Variables, network: str, restored: Array, conditions: Conditions, key: Array, **how):
    """Samples latents from the restored image's with a network."""
    keys = jax.random.split(key, len(restored))
    first = core.encode(self.modules, variables, restored)
    eps = core.image_noise(keys, first.shape[1:])
    start = self.config.distill.start
    return core.generate(
      self.modules, variables, conditions, first, eps, keys, self.schedule, network=network, start=start, **how
    )

  def decode(self, ctx: StepContext, latents: Array, restored: Array, conditions: Conditions) -> Array:
    """Decodes latents with the student's decoder."""
    return core.decode(self.modules, ctx.variables, latents, self.decoder, restored, conditions)

  def study(self, ctx: StepContext, restored: Array, conditions: Conditions) -> tuple[Array, Array]:
    """The student's latent, and its image after the colour fix."""
    how = self.config.distill
    options = {'sampler': diffusion.STUDENT_SAMPLER, 'steps': how.steps, 'noise': how.noise, 'unroll': True}
    z = self.draw(ctx.variables, 'student', restored, conditions, ctx.key, **options)
    image = self.decode(ctx, z, restored, conditions)
    return z, colourfix.wavelet(image, restored, how.wavelet_levels, how.chroma_levels)

  def loss(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """Reconstruction, the adversarial term scaled to it, and the distance to the teacher's latent."""
    weights = self.config.loss
    photo, _, restored, conditions = self.inputs(ctx, batch)
    z, image = self.study(ctx, restored, conditions)
    target = self.target(batch, photo)
    pair = lambda image: jnp.concatenate([image, restored], -1)  # the critic is conditioned on the restored image

    def reconstruction(image):
      value = vae_lib.reconstruction_loss(image, target) + weights.detail * vae_lib.detail_loss(image, target)
      if weights.grid:
        value += weights.grid * grid_loss(image, target, self.modules['vae'].reduction)
      terms = {}
      if weights.texture:
        terms['texture_loss'] = texture_loss(image, target, jax.random.fold_in(ctx.key, 1))
        value += weights.texture * terms['texture_loss']
      if weights.lpips:
        terms['lpips'] = self.lpips(ctx, image, target)
        value += weights.lpips * terms['lpips']
      return value, terms

    def adversarial(image):
      fixed = jax.lax.stop_gradient(ctx.params['critic'])
      return disc_lib.generator_loss(self.critic.apply({'params': fixed}, pair(image)))

    (value, terms), pull = jax.value_and_grad(reconstruction, has_aux=True)(jax.lax.stop_gradient(image))
    scalars = {'reconstruction': value, **terms, 'psnr': common.y_psnr(image, photo).mean()}
    total = jnp.zeros(())
    if weights.realism:
      both = jnp.concatenate([pair(target), pair(jax.lax.stop_gradient(image))])
      real, fake = jnp.split(self.critic.apply({'params': ctx.params['critic']}, both), 2)
      critic = disc_lib.hinge_loss(real, fake)
      generator, push = jax.value_and_grad(adversarial)(jax.lax.stop_gradient(image))
      # The critic's gradient is scaled to the norm of the reconstruction's, and by how well the critic separates real
      # from fake: at a loss of 1 it has learned nothing and its gradient is noise.
      strength = weights.realism * jnp.clip(1 - jax.lax.stop_gradient(critic), 0, 1)
      push *= jnp.where(ctx.step >= self.begin, strength, 0.0) * jnp.linalg.norm(pull) / (jnp.linalg.norm(push) + 1e-12)
      pull += push
      total += critic
      scalars |= {'generator': generator, 'critic': critic}
    if weights.teacher:
      variables = jax.lax.stop_gradient(ctx.frozen)
      taught = self.draw(variables, 'unet', restored, conditions, ctx.key, steps=self.config.distill.teacher_steps)
      distance = jnp.mean((z - jax.lax.stop_gradient(taught)) ** 2)
      total += weights.teacher * distance
      scalars['teacher'] = distance
    # The value is the reconstruction's; the gradient with respect to the image is `pull`.
    along = jnp.vdot(jax.lax.stop_gradient(pull), image)
    return total + value + along - jax.lax.stop_gradient(along), (scalars, ctx.stats)

  def validate(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Texture distance and Y-PSNR of the student's and of the restored image."""
    photo, _, restored, conditions = self.inputs(ctx, batch)
    image = jnp.clip(self.study(ctx, restored, conditions)[1], 0, 1)
    own = {}
    if self.config.distill.decoder:
      decoded = self.decode(ctx, core.encode(self.modules, ctx.frozen, photo), restored, conditions)
      own['decoder_psnr'] = common.y_psnr(decoded, photo).mean()
    if 'taught' in batch:
      own['taught'] = vae_lib.reconstruction_loss(image, self.target(batch, photo))
    if self.config.loss.lpips:
      own['lpips'] = self.lpips(ctx, image, photo)
    return own | {
      'texture': texture_distance(image, photo),
      'psnr': common.y_psnr(image, photo).mean(),
      'restored_texture': texture_distance(restored, photo),
      'restored_psnr': common.y_psnr(restored, photo).mean(),
    }

  def figures(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Bicubic, restored, result, truth."""
    photo, lr, restored, conditions = self.inputs(ctx, common.some(batch))
    return {
      'bicubic': upscale(lr, self.recipe.scale),
      'restored': restored,
      'result': self.study(ctx, restored, conditions)[1],
      'truth': photo,
    }

  def _check_teacher(self) -> None:
    """Raises SSRError if the student cannot take the teacher's weights, or its decoder the autoencoder's."""
    name = self.inherited.name
    if name is not None:
      theirs = diffusion.Schedule(**self.inherited.sections['schedule'])
      if theirs != self.schedule:
        raise SSRError(
          f'config.schedule is {self.schedule}, the teacher of parts_from={name} has {theirs}; use its values'
        )
    for part, other, skipped in (
      ('student', 'unet', ()),
      ('student_vae', 'vae', ('scaling_factor', 'guided')),
      ('student_nbsr', 'nbsr', ('latent_channels',)),
    ):
      if part not in self.trains:
        continue
      ours, theirs = self.build(part), self.modules[other]
      for field in (f.name for f in dataclasses.fields(ours)):
        a, b = getattr(ours, field), getattr(theirs, field, None)
        if a != b and field not in ('parent', 'name', 'dtype', 'remat', *skipped):
          raise SSRError(
            f'config.model.{part}.{field} is {a}, that of parts_from={name} has {b}; the {part} starts as the {other} '
            'there'
          )


def grid_loss(image: Array, target: Array, period: int, cells: int = 8) -> Array:
  """Mean absolute value of the error's periodic part: the mean of neighbouring squares of period x period pixels.

  An upsampling network without noise answers a critic that wants grain with a periodic pattern. Errors of other kinds
  average out over the squares.

  Args:
    image: [b, H, W, c]; pixels beyond a multiple of cells * period are left out.
    target: [b, H, W, c].
    period: side of a square, the autoencoder's reduction.
    cells: number of squares per axis that are averaged.

  Returns:
    A scalar, in the images' unit.
  """
  side = cells * period
  b, H, W, c = target.shape
  rows, columns = H // side, W // side
  error = (image - target)[:, : rows * side, : columns * side]
  error = error.reshape(b, rows, cells, period, columns, cells, period, c)
  return jnp.mean(jnp.abs(error.mean((2, 5))))


def texture_loss(image: Array, target: Array, key: Array) -> Array:
  """`texture_distance` of images in [0, 1] at full and at half size, along directions drawn by the key.

  A pixel-wise error is least for the mean of all textures that could be there, which is blurred. This one is least for
  any of them.

  Args:
    image: [b, H, W, 3], even sides, 64 at least.
    target: [b, H, W, 3].
    key: other directions at every step make up for their small number.

  Returns:
    A scalar, in the images' unit.
  """
  _, H, W, _ = image.shape
  halved = lambda x: resize(x, (H // 2, W // 2), 'area')
  full, half = jax.random.split(key)
  at_half = texture_distance(halved(image), halved(target), key=half)
  return (texture_distance(image, target, key=full) + at_half) / 255


def texture_distance(image: Array, target: Array, filters: int = 16, key: Array | None = None) -> Array:
  """Distance between the textures of two images, 0 for equal ones, regardless of position within a small square.

  Sliced Wasserstein distance (Rabin et al. 2011) between the 5x5 neighbourhoods of squares of 32x32 pixels: the mean
  over squares and random directions of the distance between the two sets of projections. Blur and grain both raise it;
  a small shift of a texture hardly does.

  Args:
    image: [b, H, W, 3] in [0, 1]; pixels beyond a multiple of 32 are left out.
    target: [b, H, W, 3] in [0, 1].
    filters: number of random directions.
    key: of the directions; None takes always the same ones, so that values can be compared.

  Returns:
    A scalar, in gray levels of 255.
  """
  directions = jax.random.normal(jax.random.key(0) if key is None else key, (5, 5, 1, filters))
  directions -= directions.mean((0, 1))
  directions /= jnp.sqrt((directions**2).sum((0, 1)))

  def projections(image):
    y = jax.lax.conv_general_dilated(
      colour.luma(image)[..., None], directions, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    b, h, w, n = y.shape
    rows, columns = h // _WINDOW, w // _WINDOW
    y = y[:, : rows * _WINDOW, : columns * _WINDOW].reshape(b, rows, _WINDOW, columns, _WINDOW, n)
    return jnp.sort(y.transpose(0, 1, 3, 5, 2, 4).reshape(b, rows, columns, n, _WINDOW**2), -1)

  return 255 * jnp.mean(jnp.abs(projections(image) - projections(target)))
