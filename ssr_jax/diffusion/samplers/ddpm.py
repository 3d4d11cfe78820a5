"""Ancestral sampling (Ho et al. 2020)."""

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.diffusion.samplers.common import Correct, Predict, clean, grid, image_noise, loop, table
from ssr_jax.diffusion.schedule import Schedule


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
  ratio = abar / abar_next  # the alpha of the step t -> s
  variance = (1 - abar_next) / (1 - abar) * (1 - ratio)
  columns = table(
    from_x0=np.sqrt(abar_next) * (1 - ratio) / (1 - abar),
    from_z=np.sqrt(ratio) * (1 - abar_next) / (1 - abar),
    sigma=np.sqrt(variance),
  )

  def body(i, z):
    c = {name: values[i] for name, values in columns.items()}
    x0 = clean(predict, schedule, z, t[i], clip, correct)
    return c['from_x0'] * x0 + c['from_z'] * z + c['sigma'] * image_noise(keys, i, z.shape[1:])

  return loop(steps, body, z.astype(jnp.float32), unroll)
