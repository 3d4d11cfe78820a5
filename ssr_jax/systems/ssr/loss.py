"""The training loss of the diffusion stage, Eq. 5."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax.diffusion.schedule import Schedule
from ssr_jax.types import Array, Float

Predict = Callable[[Array, Array], tuple[Array, Sequence[Sequence[Array]], Any]]


def diffusion_loss(
  key: Array,
  predict: Predict,
  z0: Float[Array, 'b h w c'],
  schedule: Schedule,
  targets: Sequence[Float[Array, 'b _ _ _']] = (),
  lambdas: Sequence[float] = (),
  focus: tuple[float, float] = (0.0, 1.0),
) -> tuple[Float[Array, ''], dict[str, Any]]:
  """`l + sum_i lambda_i C_i(f_i)`, Eq. 5: the error of the prediction and of each modality's reconstruction.

  Each latent gets one noise and one time step t, uniform over the schedule unless `focus` changes that. l is the mean
  squared error of the prediction, of the noise or of v as the schedule says. The paper does not define C_i; ours is
  `reconstruction_error`. A term with lambda 0 is not computed.

  Args:
    key: one PRNG key.
    predict: (z_t [b, h, w, c], t int32 [b]) -> prediction [b, h, w, c]; reconstructions of each modality, one map per
      level, in the order of targets (may be empty if all lambdas are 0); any other value, such as updated batch
      statistics, which is returned as 'aux'.
    z0: clean latents [b, h, w, c].
    schedule: the forward process.
    targets: modalities at any resolution: kernel code, depth, clean latent.
    lambdas: weight of each target, Python numbers.
    focus: (share, end): this share of the time steps is drawn below `end`, a fraction of the schedule, for models whose
      sampling starts there.

  Returns:
    the loss, a scalar, and {'noise': l, 'constraints': [C_i or None], 'aux': from predict}.

  Raises:
    ValueError: different numbers of targets, lambdas and reconstructions.
  """
  if len(targets) != len(lambdas):
    raise ValueError(f'{len(targets)} targets for {len(lambdas)} lambdas')
  t_key, noise_key = jax.random.split(key)
  share, end = focus
  t = jax.random.randint(t_key, (z0.shape[0],), 0, schedule.steps)
  if share:
    coin = jax.random.bernoulli(jax.random.fold_in(t_key, 0), share, t.shape)
    low = jax.random.randint(jax.random.fold_in(t_key, 1), t.shape, 0, max(round(end * schedule.steps), 1))
    t = jnp.where(coin, low, t)
  eps = jax.random.normal(noise_key, z0.shape, z0.dtype)
  prediction, reconstructions, aux = predict(schedule.add_noise(z0, eps, t), t)
  noise = jnp.mean((prediction - schedule.target(z0, eps, t)) ** 2)

  loss = noise
  constraints: list[Array | None] = [None] * len(targets)
  for i, weight in enumerate(lambdas):
    if weight:
      if len(reconstructions) != len(targets):
        raise ValueError(f'{len(targets)} targets for {len(reconstructions)} reconstructions')
      constraints[i] = error = reconstruction_error(reconstructions[i], targets[i])
      loss = loss + weight * error
  return loss, {'noise': noise, 'constraints': constraints, 'aux': aux}


def reconstruction_error(maps: Sequence[Float[Array, 'b _ _ _']], target: Float[Array, 'b h w c']) -> Float[Array, '']:
  """C_i: mean squared error of maps [b, h_l, w_l, c] to the target [b, h, w, c] at their resolution, mean over l."""
  total = jnp.zeros(())
  for x in maps:
    if x.shape[3] != target.shape[3]:
      raise ValueError(f'reconstruction has {x.shape[3]} channels, its target {target.shape[3]}')
    resized = target if x.shape == target.shape else jax.image.resize(target, x.shape, 'bilinear')
    total += jnp.mean((x - resized) ** 2)
  return total / len(maps)
