"""AMF-UNet on the latents of the frozen autoencoder, conditioned by the frozen SVKR."""

import functools

import jax
import jax.numpy as jnp

from ssr_jax import diffusion
from ssr_jax.degrade import degrade
from ssr_jax.image.resize import upscale
from ssr_jax.systems.ssr import amf as amf_lib
from ssr_jax.systems.ssr.loss import diffusion_loss
from ssr_jax.systems.ssr.parts import PARTS
from ssr_jax.systems.ssr.stages import base


def build(config) -> base.Stage:
  """The stage `diffusion`."""
  module = base.build_part(config, 'unet')
  recipe = base.read_recipe(config)
  schedule = diffusion.Schedule(**config.schedule.to_dict())
  lambdas = tuple(config.loss.constraints)
  draws = config.loss.draws
  needs = ('depth', 'dkenet', 'nbsr', 'vae')
  fixed = base.frozen_modules(config, needs)

  latents = functools.partial(base.latents, fixed)

  def inputs(frozen, batch, iterations):
    hr = base.images(batch)
    low = degrade(base.record_keys(batch), hr, recipe)
    refined = base.refine(fixed, frozen, low.lr, config.svkr, recipe.scale, iterations=iterations)
    return low.target, low.lr, refined, base.conditions(fixed, frozen, low.lr, refined, recipe.scale)

  def variables(params, stats, frozen):  # the constant is the prompt's embedding, where there is one
    return {'params': params['unet'], 'batch_stats': stats['unet'], 'constants': frozen['constants']['unet']}

  def objective(params, stats, frozen, batch, key, train):
    hr, _, _, conditions = inputs(frozen, batch, config.svkr.iterations)
    conditions = jax.lax.stop_gradient(conditions)
    latent_key, loss_key = jax.random.split(key)
    z0 = jax.lax.stop_gradient(latents(frozen, hr, latent_key))
    if train and draws > 1:
      conditions, z0 = jax.tree.map(lambda x: jnp.repeat(x, draws, 0), (conditions, z0))

    def predict(z_t, t):
      v = variables(params, stats, frozen)
      if train:
        (prediction, features), updated = module.apply(
          v, z_t, t, conditions, train=True, return_features=True, mutable=['batch_stats']
        )
      else:
        (prediction, features), updated = module.apply(v, z_t, t, conditions, return_features=True), {}
      return prediction, module.apply(v, features, method='reconstruct'), updated

    targets = (conditions.kernel_code, conditions.depth, z0)
    return diffusion_loss(loss_key, predict, z0, schedule, targets, lambdas, tuple(config.loss.focus))

  def loss(params, stats, frozen, batch, key, step):
    del step
    value, out = objective(params, stats, frozen, batch, key, True)
    names = ('kernel', 'depth', 'image')
    scalars = {f'constraint_{n}': c for n, c in zip(names, out['constraints'], strict=True) if c is not None}
    return value, ({'noise': out['noise'], **scalars}, {'unet': out['aux']['batch_stats']})

  def validate(params, stats, frozen, batch, key):
    keys = jax.random.split(key, 4)  # four draws of (t, noise): the loss depends on t more than on the image
    return {'noise': jnp.mean(jnp.stack([objective(params, stats, frozen, batch, k, False)[1]['noise'] for k in keys]))}

  def figures(params, stats, frozen, batch, key):
    batch = {name: value[:4] for name, value in batch.items()}
    hr, lr, refined, conditions = inputs(frozen, batch, 3)
    z = diffusion.sample(
      lambda z_t, t: module.apply(variables(params, stats, frozen), z_t, t, conditions),
      schedule,
      jax.random.split(key, len(hr)),
      latent=latents(frozen, refined.image),
      steps=10,
      start=0.4,
    )
    decode = lambda z: fixed['vae'].apply(frozen['vae'], z, method='from_latents')
    return {
      'bicubic': upscale(lr, recipe.scale),
      'restored': refined.image,
      'result': decode(z),
      'autoencoder': decode(latents(frozen, hr)),
      'truth': hr,
    }

  def prepare(params, stats, frozen, batch):
    """BN's scale and offset start at the deviation and mean of what they normalise."""
    target, _, _, conditions = inputs(frozen, batch, config.svkr.iterations)
    z0 = latents(frozen, target)
    t = jnp.linspace(0, schedule.steps - 1, len(z0)).astype(jnp.int32)
    noise = jax.random.normal(jax.random.key(0), z0.shape)
    z_t = schedule.add_noise(z0, noise, t)
    calibrated = amf_lib.calibrate(module, variables(params, stats, frozen), z_t, t, conditions)
    return {'unet': calibrated['params']}, {'unet': calibrated['batch_stats']}

  return base.Stage(
    parts=('unet',),
    needs=needs,
    modules={'unet': module},
    init=base.initialiser({'unet': lambda: PARTS['unet'].example(module)}, {'unet': module}),
    loss=loss,
    validate=validate,
    metric='noise',
    higher_is_better=False,
    figures=figures,
    sections={'schedule': config.schedule.to_dict()},
    prepare=prepare,
  )
