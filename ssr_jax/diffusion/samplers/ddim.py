"""DDIM (Song et al. 2021)."""

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.diffusion.samplers.common import Correct, Predict, clean, grid, image_noise, loop, table
from ssr_jax.diffusion.schedule import Schedule


def ddim(
  predict: Predict,
  schedule: Schedule,
  keys: jax.Array,
  z: jax.Array,
  steps: int,
  start: float = 1.0,
  *,
  eta: float = 0.0,
  spacing: str = 'trailing',
  clip: float | None = None,
  correct: Correct | None = None,
  unroll: bool = False,
) -> jax.Array:
  """DDIM (Song et al. 2021, Eqs. 12, 16): deterministic with eta 0, as noisy as DDPM with eta 1.

  Arguments and result as in `ddpm`; eta is a plain number, at least 0.
  """
  t, abar, abar_next = grid(schedule, steps, start, spacing)
  sigma = eta * np.sqrt((1 - abar_next) / (1 - abar) * (1 - abar / abar_next))
  columns = table(
    alpha=np.sqrt(abar),
    sigma_t=np.sqrt(1 - abar),
    from_x0=np.sqrt(abar_next),
    from_eps=np.sqrt(np.maximum(1 - abar_next - sigma**2, 0)),
    sigma=sigma,
  )

  def body(i, z):
    c = {name: values[i] for name, values in columns.items()}
    x0 = clean(predict, schedule, z, t[i], clip, correct)
    eps = (z - c['alpha'] * x0) / c['sigma_t']
    z = c['from_x0'] * x0 + c['from_eps'] * eps
    return z + c['sigma'] * image_noise(keys, i, z.shape[1:]) if eta else z

  return loop(steps, body, z.astype(jnp.float32), unroll)
