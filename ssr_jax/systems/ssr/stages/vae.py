"""The stage that trains the KL autoencoder, with a patch discriminator."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.image import colour
from ssr_jax.image.resize import space_to_depth
from ssr_jax.nn import discriminator as disc_lib
from ssr_jax.nn import vae as vae_lib
from ssr_jax.systems.base import Inherited, StepContext, Tree
from ssr_jax.systems.ssr.stages import common
from ssr_jax.types import Array


class VAEStage(common.Perceptual, common.SSRStage):
  """Reconstruction, detail, LPIPS and KL; an adversarial term joins after a fraction of the steps."""

  trains = ('vae',)
  metric = 'objective'
  measures = {'vae': ('scaling_factor',)}  # noqa: RUF012, a constant

  def __init__(self, config: Any, inherited: Inherited):
    """As of `SSRStage`."""
    super().__init__(config, inherited)
    self.read_perceptual()
    self.critic: Any = disc_lib.Discriminator(dtype=self.dtype)
    self.begin = int(config.loss.adversarial_start * config.train.steps)

  def init(self, key: Array) -> tuple[Tree, Tree, Tree]:
    """Adds the critic."""
    params, stats, constants = super().init(key)
    side = self.config.data.patch
    params['critic'] = self.critic.init(jax.random.fold_in(key, 1), jnp.zeros((1, side, side, 3)))['params']
    return params, stats, constants

  def apply(self, ctx: StepContext, *arguments: Any, **options: Any) -> Any:
    """Calls the autoencoder."""
    return self.modules['vae'].apply({'params': ctx.params['vae']}, *arguments, **options)

  def loss(self, ctx: StepContext, batch: common.Batch) -> tuple[Array, tuple[dict[str, Array], Tree]]:
    """One backward pass trains both: the generator's term sees fixed critic weights, the critic's a fixed image."""
    weights = self.config.loss
    hr = common.images(batch)
    mean, logvar = self.apply(ctx, hr, method='encode')
    posterior_key, amount_key, noise_key = jax.random.split(ctx.key, 3)
    z = vae_lib.sample_posterior(posterior_key, mean, logvar)
    if weights.latent_noise:
      # Sampled latents differ slightly from those of photos, so the decoder is trained with noise on its input.
      amount = jax.random.uniform(amount_key, (len(hr), 1, 1, 1), maxval=weights.latent_noise)
      z += amount * jax.lax.stop_gradient(jnp.std(mean)) * jax.random.normal(noise_key, z.shape)
    image = self.apply(ctx, z, method='decode')
    reconstruction = vae_lib.reconstruction_loss(image, hr)
    detail = vae_lib.detail_loss(image, hr)
    kl = vae_lib.kl_loss(mean, logvar)
    total = reconstruction + weights.detail * detail + weights.kl * kl
    psnr = common.y_psnr(image, hr).mean()
    scalars = {'reconstruction': reconstruction, 'detail': detail, 'kl': kl, 'psnr': psnr}
    if weights.lpips:
      scalars['lpips'] = self.lpips(ctx, image, hr)
      total += weights.lpips * scalars['lpips']
    if weights.adversarial:
      fixed = jax.lax.stop_gradient(ctx.params['critic'])
      generator = disc_lib.generator_loss(self.critic.apply({'params': fixed}, image))
      both = jnp.concatenate([hr, jax.lax.stop_gradient(image)])
      real, fake = jnp.split(self.critic.apply({'params': ctx.params['critic']}, both), 2)
      critic = disc_lib.hinge_loss(real, fake)
      total += jnp.where(ctx.step >= self.begin, weights.adversarial, 0.0) * generator + critic
      scalars |= {'generator': generator, 'critic': critic}
    return total, (scalars, ctx.stats)

  def validate(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Y-PSNR, the objective without the critic, sharpness (1: as much gradient as the photo) and KL."""
    weights, hr = self.config.loss, common.images(batch)
    image, mean, logvar = self.apply(ctx, hr)
    energy = lambda x: (
      jnp.abs(jnp.diff(colour.luma(x), axis=1)).mean() + jnp.abs(jnp.diff(colour.luma(x), axis=2)).mean()
    )
    scalars = {}
    if weights.latent_noise:  # with the mean amount of training
      noise = weights.latent_noise / 2 * jnp.std(mean) * jax.random.normal(ctx.key, mean.shape)
      scalars['noisy_psnr'] = common.y_psnr(self.apply(ctx, mean + noise, method='decode'), hr).mean()
    objective = vae_lib.reconstruction_loss(image, hr) + weights.detail * vae_lib.detail_loss(image, hr)
    if weights.lpips:
      scalars['lpips'] = self.lpips(ctx, jnp.clip(image, 0, 1), hr)
      objective += weights.lpips * scalars['lpips']
    return scalars | {
      'psnr': common.y_psnr(image, hr).mean(),
      'objective': objective,
      'sharpness': energy(jnp.clip(image, 0, 1)) / energy(hr),
      'kl': vae_lib.kl_loss(mean, logvar),
    }

  def figures(self, ctx: StepContext, batch: common.Batch) -> dict[str, Array]:
    """Photo and reconstruction."""
    hr = common.images(batch)
    return {'image': hr, 'reconstruction': self.apply(ctx, hr)[0]}

  def export(self, ctx: StepContext, batch: common.Batch) -> dict[str, dict[str, Any]]:
    """The scaling factor: one number that gives photos' latents unit variance, as in Stable Diffusion.

    With the shortcut, which starts as a whitened code, one number per channel.
    """
    mean, _ = self.apply(ctx, common.images(batch), method='encode')
    if not self.modules['vae'].shortcut:
      return {'vae': {'scaling_factor': 1 / jnp.std(mean)}}
    decode = lambda z: self.apply(ctx, z, method='decode')
    return {'vae': {'scaling_factor': vae_lib.visible_scaling(decode, mean, jax.random.key(0))}}

  def prepare(self, ctx: StepContext, batch: common.Batch, inherited: bool) -> tuple[Tree, Tree]:
    """Starts the shortcut as the whitened PCA of pixel squares, and encoder and decoder with zero output.

    With eight components of 4x4 squares this gives 31 dB on photos before the first step; from random weights 500 steps
    reached about 26 dB.
    """
    module = self.modules['vae']
    if inherited or not module.shortcut:
      return ctx.params, ctx.stats
    squares = np.asarray(space_to_depth(2 * common.images(batch) - 1, module.reduction), np.float64)
    squares = squares.reshape(-1, squares.shape[-1])
    values, vectors = np.linalg.eigh(squares.T @ squares / len(squares))
    values, vectors = (a[..., ::-1][..., : module.latent_channels] for a in (values, vectors))
    deviations = np.sqrt(np.maximum(values, 1e-8))
    tree = jax.tree.map(jnp.asarray, ctx.params['vae'])
    tree['shortcut_in']['kernel'] = jnp.asarray(vectors / deviations, jnp.float32)
    tree['shortcut_out']['kernel'] = jnp.asarray((vectors * deviations).T, jnp.float32)
    for layer in (tree['quant_conv'], tree['decoder']['conv_out']):
      layer['kernel'] = jnp.zeros_like(layer['kernel'])
    return {**ctx.params, 'vae': tree}, ctx.stats
