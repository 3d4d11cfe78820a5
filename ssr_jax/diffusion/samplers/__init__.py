"""Samplers: each one loop with fixed shapes, from pure noise or from a noised latent.

All share one signature. `predict(z_t, t)` maps z_t [b, ...] and t int32 [b] to the network's prediction (eps or v, as
the schedule says) and is traced once. `keys` holds one PRNG key per image, and an image's noise depends on its own key
only: the same key gives the same image in any batch. Sampling ends at the predicted clean latent (abar = 1). A new
sampler is one file and one line in `SAMPLERS`.
"""

import jax
import jax.numpy as jnp

from ssr_jax.diffusion.samplers.common import Correct, Predict, image_noise
from ssr_jax.diffusion.samplers.ddim import ddim
from ssr_jax.diffusion.samplers.ddpm import Estimate, ddpm, ddpm_by
from ssr_jax.diffusion.samplers.dpmpp_2m import dpmpp_2m
from ssr_jax.diffusion.schedule import Schedule

SAMPLERS = {'ddpm': ddpm, 'ddim': ddim, 'dpmpp_2m': dpmpp_2m}

STUDENT_SAMPLER = 'ddim'
"""The sampler that a distilled student is trained and used with."""

__all__ = [
  'SAMPLERS',
  'STUDENT_SAMPLER',
  'Correct',
  'Estimate',
  'Predict',
  'ddim',
  'ddpm',
  'ddpm_by',
  'dpmpp_2m',
  'initial',
  'sample',
]


def sample(
  predict: Predict,
  schedule: Schedule,
  keys: jax.Array,
  *,
  shape: tuple[int, ...] | None = None,
  latent: jax.Array | None = None,
  steps: int = 20,
  start: float = 1.0,
  noise: float = 1.0,
  sampler: str = 'dpmpp_2m',
  **options,
) -> jax.Array:
  """Draws latents with the sampler of that name.

  Args:
    predict: the network, see above.
    schedule: the forward process.
    keys: [b], one key per image (as from jax.random.split).
    shape: [h, w, c] of one latent, to begin from pure noise.
    latent: [b, h, w, c], to begin from this latent instead, noised to the step at fraction `start`.
    steps: calls of the network.
    start: fraction of the schedule to begin at, in (0, 1]; below 1 only with a latent.
    noise: factor of the noise that is added to the latent; a student may use 0.
    sampler: a key of SAMPLERS.
    **options: of that sampler: spacing, clip, eta, correct, unroll.

  Returns:
    [b, h, w, c] float32.

  Raises:
    ValueError: an unknown sampler, neither or both of shape and latent, start < 1 without a latent.
  """
  if sampler not in SAMPLERS:
    raise ValueError(f'unknown sampler {sampler!r}; known: {", ".join(SAMPLERS)}')
  z = initial(
    schedule, keys, shape=shape, latent=latent, steps=steps, start=start, noise=noise, spacing=options.get('spacing')
  )
  return SAMPLERS[sampler](predict, schedule, keys, z, steps, start, **options)


def initial(
  schedule: Schedule,
  keys: jax.Array,
  *,
  shape: tuple[int, ...] | None = None,
  latent: jax.Array | None = None,
  steps: int = 20,
  start: float = 1.0,
  noise: float = 1.0,
  spacing: str | None = None,
) -> jax.Array:
  """The latent that a sampler begins with: noise [b, *shape], or `latent` [b, ...] noised to the first time step.

  `noise` is a factor of that noise; with 0 the latent is only multiplied by sqrt(abar) of the time step.
  """
  if shape is not None and latent is None:
    if start != 1:
      raise ValueError(f'start {start} below 1 needs a latent to begin from')
    return image_noise(keys, -1, tuple(shape))
  if shape is not None or latent is None:
    raise ValueError('give exactly one of shape (start from noise) and latent (start from it)')
  if latent.shape[0] != keys.shape[0]:
    raise ValueError(f'{keys.shape[0]} keys for {latent.shape[0]} latents')
  t = schedule.timesteps(steps, start, spacing or 'trailing')[0]
  return schedule.add_noise(latent.astype(jnp.float32), noise * image_noise(keys, -1, latent.shape[1:]), jnp.int32(t))
