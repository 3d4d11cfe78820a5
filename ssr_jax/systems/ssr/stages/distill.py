"""A student of few steps, made from the UNet: from the noised restored latent to an image that a critic believes.

The teacher's sampler needs many steps and starts from what it was never trained on, the latent of the restored image.
The student is the same network, starts as the teacher, and is trained on the very calls that sampling makes: its image
is decoded, gets its low frequencies from the restored one, and is judged as the user sees it (adversarial diffusion
distillation, Sauer et al. 2023, with a patch discriminator). A decoder of its own can learn along: the one that was
trained on the latents of photos shows those of a network with the marks of its up-sampling.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ssr_jax import diffusion
from ssr_jax.degrade import degrade
from ssr_jax.image import colour, colourfix
from ssr_jax.image.resize import upscale
from ssr_jax.nn import discriminator as disc_lib
from ssr_jax.nn import vae as vae_lib
from ssr_jax.systems.ssr.parts import PARTS
from ssr_jax.systems.ssr.stages import base
from ssr_jax.types import Array, SSRError
from ssr_jax.weights import format, store

_SAMPLING = ('steps', 'start', 'noise', 'wavelet_levels', 'chroma_levels', 'strength')  # what sampling has to know
_WINDOW = 32  # pixels: texture is compared within squares of this size


def build(config) -> base.Stage:
  """The stage `distill`."""
  module = base.build_part(config, 'student')
  recipe = base.read_recipe(config)
  schedule = diffusion.Schedule(**config.schedule.to_dict())
  how, weights = config.distill, config.loss
  needs = ('depth', 'dkenet', 'nbsr', 'vae', 'unet')
  fixed = base.frozen_modules(config, needs)
  critic = disc_lib.Discriminator(dtype=base.compute_dtype(config))
  modules = {'student': module}
  if how.decoder:
    modules['student_vae'] = fixed['vae'].clone(remat=module.remat)
  _check_teacher(config, modules, fixed, schedule)
  begin = int(weights.adversarial_start * config.train.steps)

  def inputs(frozen, batch):
    """The photo, the restored image, and what conditions student and teacher; no gradient flows into them."""
    low = degrade(base.record_keys(batch), base.images(batch), recipe)
    refined = base.refine(fixed, frozen, low.lr, config.svkr, recipe.scale, unroll=True)
    conditions = base.conditions(fixed, frozen, low.lr, refined, recipe.scale)
    return jax.lax.stop_gradient((low.target, low.lr, jnp.clip(refined.image, 0, 1), conditions))

  def draw(network, variables, frozen, restored, conditions, key, sampler, steps, **options):
    return diffusion.sample(
      lambda z_t, t: network.apply(variables, z_t, t, conditions),
      schedule,
      jax.random.split(key, len(restored)),
      latent=base.latents(fixed, frozen, restored),
      steps=steps,
      start=how.start,
      sampler=sampler,
      **options,
    )

  def decode(params, frozen, z):
    if how.decoder:
      return modules['student_vae'].apply({'params': params['student_vae']}, z, method='from_latents')
    return fixed['vae'].apply(frozen['vae'], z, method='from_latents')

  def study(params, stats, frozen, restored, conditions, key):
    """The student's latent, and the image as `SSR.sample` shows it."""
    variables = {
      'params': params['student'],
      'batch_stats': stats['student'],
      'constants': frozen['constants']['student'],
    }
    sampler, options = diffusion.STUDENT_SAMPLER, {'noise': how.noise, 'unroll': True}
    z = draw(module, variables, frozen, restored, conditions, key, sampler, how.steps, **options)
    image = decode(params, frozen, z)
    return z, colourfix.wavelet(image, restored, how.wavelet_levels, how.chroma_levels)

  def loss(params, stats, frozen, batch, key, step):
    photo, _, restored, conditions = inputs(frozen, batch)
    z, image = study(params, stats, frozen, restored, conditions, key)
    pair = lambda image: jnp.concatenate([image, restored], -1)  # real is what is real for this restored image

    def faithful(image):
      value = vae_lib.reconstruction_loss(image, photo) + weights.detail * vae_lib.detail_loss(image, photo)
      return value + weights.grid * grid_loss(image, photo, fixed['vae'].reduction) if weights.grid else value

    def believed(image):  # by a critic whose weights stay as they are
      return disc_lib.generator_loss(critic.apply({'params': jax.lax.stop_gradient(params['critic'])}, pair(image)))

    value, pull = jax.value_and_grad(faithful)(jax.lax.stop_gradient(image))
    scalars = {'reconstruction': value, 'psnr': base.y_psnr(image, photo).mean()}
    total = jnp.zeros(())
    if weights.realism:
      both = jnp.concatenate([pair(photo), pair(jax.lax.stop_gradient(image))])
      real, fake = jnp.split(critic.apply({'params': params['critic']}, both), 2)
      judge = disc_lib.hinge_loss(real, fake)
      fool, push = jax.value_and_grad(believed)(jax.lax.stop_gradient(image))
      # In the reconstruction's measure, however steep the critic has become, and by how well it tells the two apart: 1
      # is the loss of one that knows nothing, whose slope would be a pull at random.
      strength = weights.realism * jnp.clip(1 - jax.lax.stop_gradient(judge), 0, 1)
      push *= jnp.where(step >= begin, strength, 0.0) * jnp.linalg.norm(pull) / (jnp.linalg.norm(push) + 1e-12)
      pull += push
      total += judge
      scalars |= {'generator': fool, 'critic': judge}
    if weights.teacher:
      variables = jax.lax.stop_gradient(frozen['unet'])
      taught = draw(fixed['unet'], variables, frozen, restored, conditions, key, 'dpmpp_2m', how.teacher_steps)
      distance = jnp.mean((z - jax.lax.stop_gradient(taught)) ** 2)
      total += weights.teacher * distance
      scalars['teacher'] = distance
    # A term whose value is the reconstruction's and whose gradient on the image is `pull`.
    along = jnp.vdot(jax.lax.stop_gradient(pull), image)
    return total + value + along - jax.lax.stop_gradient(along), (scalars, stats)

  def validate(params, stats, frozen, batch, key):
    photo, _, restored, conditions = inputs(frozen, batch)
    image = jnp.clip(study(params, stats, frozen, restored, conditions, key)[1], 0, 1)
    own = {}
    if how.decoder:
      own['decoder_psnr'] = base.y_psnr(decode(params, frozen, base.latents(fixed, frozen, photo)), photo).mean()
    return own | {
      'texture': texture_distance(image, photo),
      'psnr': base.y_psnr(image, photo).mean(),
      'restored_texture': texture_distance(restored, photo),
      'restored_psnr': base.y_psnr(restored, photo).mean(),
    }

  def figures(params, stats, frozen, batch, key):
    batch = {name: value[:4] for name, value in batch.items()}
    photo, lr, restored, conditions = inputs(frozen, batch)
    return {
      'bicubic': upscale(lr, recipe.scale),
      'restored': restored,
      'result': study(params, stats, frozen, restored, conditions, key)[1],
      'truth': photo,
    }

  def init(key):
    example = {part: functools.partial(PARTS[part].example, m) for part, m in modules.items()}
    params, stats, constants = base.initialiser(example, modules)(key)
    side = config.data.patch
    params['critic'] = critic.init(jax.random.fold_in(key, 1), jnp.zeros((1, side, side, 6)))['params']
    return params, stats, constants

  def prepare(params, stats, frozen, batch):
    """The student starts as its teacher, its decoder as the teacher's."""
    del batch
    teacher = frozen['unet']
    params = params | {'student': params['student'] | teacher['params']}
    if how.decoder:
      params['student_vae'] = frozen['vae']['params']
    return params, stats | {'student': teacher['batch_stats']}

  def export(params, stats, frozen, batch):
    """The latents are scaled as they were: what makes them is as it was."""
    del params, stats, frozen, batch
    return {'student_vae': {'scaling_factor': jnp.asarray(fixed['vae'].scaling_factor)}} if how.decoder else {}

  return base.Stage(
    parts=tuple(modules),
    needs=needs,
    modules=modules,
    init=init,
    loss=loss,
    validate=validate,
    metric='texture',
    higher_is_better=False,
    figures=figures,
    sections={
      'schedule': config.schedule.to_dict(),
      'sampling': {'student': {name: how[name] for name in _SAMPLING}},
    },
    export=export,
    measures={'student_vae': ('scaling_factor',)} if how.decoder else {},
    fixed=('student_vae/(encoder|quant_conv|shortcut_in)',) if how.decoder else (),
    prepare=prepare,
    origin='its teacher',
  )


def grid_loss(image: Array, target: Array, period: int, cells: int = 8) -> Array:
  """Mean absolute error of the pattern that neighbouring squares of period x period pixels have in common.

  An up-sampling network without noise can only make such a pattern where a critic asks for grain. In an error of any
  other kind the squares have little in common.

  Args:
    image: [b, H, W, c]; what the sides have beyond a multiple of cells * period is left out.
    target: likewise.
    period: side of a square, the autoencoder's reduction.
    cells: squares on each axis that are averaged.

  Returns:
    A scalar, in the images' own unit.
  """
  side = cells * period
  b, H, W, c = target.shape
  rows, columns = H // side, W // side
  error = (image - target)[:, : rows * side, : columns * side]
  error = error.reshape(b, rows, cells, period, columns, cells, period, c)
  return jnp.mean(jnp.abs(error.mean((2, 5))))


def texture_distance(image: Array, target: Array, filters: int = 16) -> Array:
  """How differently two images are textured, 0 where one is the other, whatever lies where within a small square.

  Sliced Wasserstein distance (Rabin et al. 2011) between the 5x5 neighbourhoods of squares of 32x32 pixels: the mean
  over squares and random directions of the distance between the two sets of projections. Blur and grain both raise it;
  a texture that is only shifted hardly does.

  Args:
    image: [b, H, W, 3] in [0, 1]; what the sides have beyond a multiple of 32 is left out.
    target: likewise.
    filters: random directions, always the same ones.

  Returns:
    A scalar, in units of brightness of the 255.
  """
  directions = jax.random.normal(jax.random.key(0), (5, 5, 1, filters))
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


def _check_teacher(config, modules, fixed, schedule) -> None:
  """SSRError where the student could not start as its teacher, or the decoder as it is."""
  if config.parts_from:
    theirs = diffusion.Schedule(**format.read_config(store.resolve(config.parts_from))['schedule'])
    if theirs != schedule:
      raise SSRError(
        f'config.schedule is {schedule}, the teacher of parts_from={config.parts_from} has {theirs}; use its values'
      )
  for part, other, skipped in (('student', 'unet', ()), ('student_vae', 'vae', ('scaling_factor',))):
    if part not in modules:
      continue
    ours, theirs = base.build_part(config, part), fixed[other]
    for field in (f.name for f in dataclasses.fields(ours)):
      a, b = getattr(ours, field), getattr(theirs, field)
      if a != b and field not in ('parent', 'name', 'dtype', 'remat', *skipped):
        raise SSRError(
          f'config.model.{part}.{field} is {a}, that of parts_from={config.parts_from} has {b}; '
          f'the {part} starts as the {other} there'
        )
