"""Ancestral sampling (Ho et al. 2020), and its loop for methods that do more in a step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.diffusion.samplers.common import Correct, Predict, clean, grid, image_noise, loop, table
from ssr_jax.diffusion.schedule import Schedule

Estimate = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array | None, Any]]
"""(z_t [b, ...], t int32 [b]) -> the clean latent; what is added to the next latent, or None; what is to be seen."""


def ddpm(
  predict: Predict,
  schedule: Schedule,
  keys: jax.Array,
  z: jax.Array,
  steps: int,
  start: float = 1.0,
  *,
  spacing: str = 'trailing',
  clip: float | None = None,
  correct: Correct | None = None,
  unroll: bool = False,
) -> jax.Array:
  """Ancestral sampling (Ho et al. 2020, Eqs. 6, 7) over the chosen steps: z_s ~ q(z_s | z_t, x0), x0 as predicted.

  Args:
    predict: the network.
    schedule: the forward process.
    keys: [b].
    z: the latent at the first time step, from `initial`.
    steps: calls of the network.
    start: fraction of the schedule to begin at.
    spacing: see Schedule.timesteps.
    clip: bound on the absolute value of the predicted x0, or None.
    correct: see `Correct`; None changes nothing.
    unroll: no loop, to train through the sampler: on a CPU convolution gradients inside a loop are slow.

  Returns:
    The clean latent, the shape of z.
  """
  t, abar, abar_next = grid(schedule, steps, start, spacing)
  columns = table(**posterior(abar, abar_next))

  def body(i, z):
    x0 = clean(predict, schedule, z, t[i], clip, correct)
    return _step({name: values[i] for name, values in columns.items()}, x0, z, keys, i)

  return loop(steps, body, z.astype(jnp.float32), unroll)


def ddpm_by(
  estimate: Estimate,
  schedule: Schedule,
  keys: jax.Array,
  z: jax.Array,
  steps: int,
  start: float = 1.0,
  *,
  spacing: str = 'trailing',
) -> tuple[jax.Array, Any]:
  """`ddpm` with a function in place of the network, which also moves the latent and shows something of each step.

  Guidance by a gradient with respect to z_t (Chung et al. 2023, Algorithm 1) is such a move. Without moves the result
  is that of `ddpm`, bit for bit.

  Args:
    estimate: see `Estimate`; traced once.
    schedule: the forward process.
    keys: [b].
    z: the latent at the first time step.
    steps: calls of `estimate`.
    start: fraction of the schedule to begin at.
    spacing: see Schedule.timesteps.

  Returns:
    The clean latent, the shape of z; and what was seen, with an axis of steps in front.
  """
  t, abar, abar_next = grid(schedule, steps, start, spacing)
  columns = table(**posterior(abar, abar_next))

  def body(z, now):
    i, t, c = now
    x0, move, seen = estimate(z, jnp.full((z.shape[0],), t))
    z = _step(c, x0, z, keys, i)
    return z if move is None else z + move, seen

  return jax.lax.scan(body, z.astype(jnp.float32), (jnp.arange(steps), t, columns))


def posterior(abar: np.ndarray, abar_next: np.ndarray) -> dict[str, np.ndarray]:
  """Mean and deviation of q(z_s | z_t, x0) = N(from_x0 x0 + from_z z_t, sigma^2), float64.

  Args:
    abar: at t, of each step.
    abar_next: at s; 1 for the last step, whose deviation is then 0.
  """
  ratio = abar / abar_next  # the alpha of the step t -> s
  return {
    'from_x0': np.sqrt(abar_next) * (1 - ratio) / (1 - abar),
    'from_z': np.sqrt(ratio) * (1 - abar_next) / (1 - abar),
    'sigma': np.sqrt((1 - abar_next) / (1 - abar) * (1 - ratio)),
  }


def _step(c: dict[str, jax.Array], x0: jax.Array, z: jax.Array, keys: jax.Array, i: int | jax.Array) -> jax.Array:
  return c['from_x0'] * x0 + c['from_z'] * z + c['sigma'] * image_noise(keys, i, z.shape[1:])
