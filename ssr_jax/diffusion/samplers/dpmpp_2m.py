"""DPM-Solver++(2M) (Lu et al. 2022)."""

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.diffusion.samplers.common import Correct, Predict, clean, grid, loop, table
from ssr_jax.diffusion.schedule import Schedule


def dpmpp_2m(
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
  """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): a second-order multistep solver of the probability-flow ODE.

  The first step is of first order because it has no predecessor. So is the last, which ends at infinite log-SNR: its
  update is the predicted x0. Deterministic: `keys` is not used.

  Arguments and result as in `ddpm`.
  """
  del keys
  t, abar, abar_next = grid(schedule, steps, start, spacing)
  with np.errstate(divide='ignore'):  # the last log-SNR is infinite on purpose
    log_snr, log_snr_next = (0.5 * (np.log(a) - np.log1p(-a)) for a in (abar, abar_next))
  h = log_snr_next - log_snr
  # D = (1 + w) x0_i - w x0_{i-1}, w = 1 / (2 r), r = h_{i-1} / h_i.
  weight = np.zeros(steps)
  weight[1:-1] = h[1:-1] / (2 * h[:-2])
  columns = table(
    from_z=np.sqrt((1 - abar_next) / (1 - abar)), from_x0=-np.sqrt(abar_next) * np.expm1(-h), weight=weight
  )

  def body(i, carry):
    z, previous = carry
    c = {name: values[i] for name, values in columns.items()}
    x0 = clean(predict, schedule, z, t[i], clip, correct)
    return c['from_z'] * z + c['from_x0'] * (x0 + c['weight'] * (x0 - previous)), x0

  z = z.astype(jnp.float32)
  return loop(steps, body, (z, jnp.zeros_like(z)), unroll)[0]
