"""The KL autoencoder, with a patch discriminator."""

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.image import colour
from ssr_jax.image.resize import space_to_depth
from ssr_jax.nn import discriminator as disc_lib
from ssr_jax.nn import vae as vae_lib
from ssr_jax.systems.ssr.stages import base


def build(config) -> base.Stage:
  """The stage `vae`."""
  module = base.build_part(config, 'vae')
  critic = disc_lib.Discriminator(dtype=base.compute_dtype(config))
  weights = config.loss
  start = int(weights.adversarial_start * config.train.steps)

  def loss(params, stats, frozen, batch, key, step):
    del frozen
    hr = base.images(batch)
    variables = {'params': params['vae']}
    mean, logvar = module.apply(variables, hr, method='encode')
    posterior_key, amount_key, noise_key = jax.random.split(key, 3)
    z = vae_lib.sample_posterior(posterior_key, mean, logvar)
    if weights.latent_noise:
      # What diffusion hands the decoder is not quite a photo's latent; so it learns to bear latents that are a bit off.
      amount = jax.random.uniform(amount_key, (len(hr), 1, 1, 1), maxval=weights.latent_noise)
      z += amount * jax.lax.stop_gradient(jnp.std(mean)) * jax.random.normal(noise_key, z.shape)
    image = module.apply(variables, z, method='decode')
    reconstruction = vae_lib.reconstruction_loss(image, hr)
    detail = vae_lib.detail_loss(image, hr)
    kl = vae_lib.kl_loss(mean, logvar)
    total = reconstruction + weights.detail * detail + weights.kl * kl
    scalars = {'reconstruction': reconstruction, 'detail': detail, 'kl': kl, 'psnr': base.y_psnr(image, hr).mean()}

    # One backward pass trains both: the generator's term sees fixed critic weights, the critic's a fixed image.
    def adversarial():
      fixed = jax.lax.stop_gradient(params['critic'])
      fool = disc_lib.generator_loss(critic.apply({'params': fixed}, image))
      both = jnp.concatenate([hr, jax.lax.stop_gradient(image)])
      real, fake = jnp.split(critic.apply({'params': params['critic']}, both), 2)
      return fool, disc_lib.hinge_loss(real, fake)

    if weights.adversarial:
      fool, judge = adversarial()
      total += jnp.where(step >= start, weights.adversarial, 0.0) * fool + judge
      scalars |= {'generator': fool, 'critic': judge}
    return total, (scalars, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, frozen
    hr = base.images(batch)
    variables = {'params': params['vae']}
    image, mean, logvar = module.apply(variables, hr)
    energy = lambda x: (
      jnp.abs(jnp.diff(colour.luma(x), axis=1)).mean() + jnp.abs(jnp.diff(colour.luma(x), axis=2)).mean()
    )
    scalars = {}
    if weights.latent_noise:  # of the amount that training shows on average
      noise = weights.latent_noise / 2 * jnp.std(mean) * jax.random.normal(key, mean.shape)
      scalars['noisy_psnr'] = base.y_psnr(module.apply(variables, mean + noise, method='decode'), hr).mean()
    return scalars | {
      'psnr': base.y_psnr(image, hr).mean(),
      'objective': vae_lib.reconstruction_loss(image, hr) + weights.detail * vae_lib.detail_loss(image, hr),
      'sharpness': energy(jnp.clip(image, 0, 1)) / energy(hr),  # 1: as much gradient as the photo
      'kl': vae_lib.kl_loss(mean, logvar),
    }

  def figures(params, stats, frozen, batch, key):
    del stats, frozen, key
    hr = base.images(batch)
    return {'image': hr, 'reconstruction': module.apply({'params': params['vae']}, hr)[0]}

  def export(params, stats, frozen, batch):
    """The scaling factor makes the latents of photos unit variance: of Stable Diffusion's kind by one number; where the
    shortcut begins as a whitened code, channel by channel.
    """
    del stats, frozen
    variables = {'params': params['vae']}
    mean, _ = module.apply(variables, base.images(batch), method='encode')
    if not module.shortcut:
      return {'vae': {'scaling_factor': 1 / jnp.std(mean)}}
    decode = lambda z: module.apply(variables, z, method='decode')
    return {'vae': {'scaling_factor': vae_lib.visible_scaling(decode, mean, jax.random.key(0))}}

  def prepare(params, stats, frozen, batch):
    """The shortcut starts as the PCA of squares of pixels, whitened; the networks around it start silent.

    With eight components of 4x4 squares that is 31 dB on photos before the first step; from random weights
    500 steps reached about 26 dB.
    """
    del frozen
    if not module.shortcut:
      return params, stats
    squares = np.asarray(space_to_depth(2 * base.images(batch) - 1, module.reduction), np.float64)
    squares = squares.reshape(-1, squares.shape[-1])
    values, vectors = np.linalg.eigh(squares.T @ squares / len(squares))
    values, vectors = (a[..., ::-1][..., : module.latent_channels] for a in (values, vectors))
    deviations = np.sqrt(np.maximum(values, 1e-8))
    tree = jax.tree.map(jnp.asarray, params['vae'])
    tree['shortcut_in']['kernel'] = jnp.asarray(vectors / deviations, jnp.float32)
    tree['shortcut_out']['kernel'] = jnp.asarray((vectors * deviations).T, jnp.float32)
    for layer in (tree['quant_conv'], tree['decoder']['conv_out']):
      layer['kernel'] = jnp.zeros_like(layer['kernel'])
    return params | {'vae': tree}, stats

  def init(key):
    side = config.data.patch
    images = jnp.zeros((1, side, side, 3))
    params, stats, constants = base.initialiser({'vae': lambda: (images,)}, {'vae': module})(key)
    params['critic'] = critic.init(jax.random.fold_in(key, 1), images)['params']
    return params, stats, constants

  return base.Stage(
    parts=('vae',),
    needs=(),
    modules={'vae': module},
    init=init,
    loss=loss,
    validate=validate,
    metric='objective',
    higher_is_better=False,
    figures=figures,
    export=export,
    measures={'vae': ('scaling_factor',)},
    prepare=prepare,
  )
