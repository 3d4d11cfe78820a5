"""What all samplers share: their types, the grid of time steps, the loop, and the predicted clean latent."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.diffusion.schedule import Schedule

Predict = Callable[[jax.Array, jax.Array], jax.Array]
"""(z_t [b, ...], t int32 [b]) -> the network's prediction, eps or v as the schedule says."""

Correct = Callable[[jax.Array, jax.Array], jax.Array]
"""(x0 [b, ...], t int32 [b]) -> corrected x0: guidance that acts on the predicted clean latent."""


def grid(schedule: Schedule, steps: int, start: float, spacing: str) -> tuple[jax.Array, np.ndarray, np.ndarray]:
  """Time steps int32 [steps], and abar, float64, at each and at the next; after the last it is 1, no noise."""
  t = schedule.timesteps(steps, start, spacing)
  abar = schedule.alphas_cumprod[t]
  return jnp.asarray(t), abar, np.append(abar[1:], 1.0)


def loop(steps: int, body: Callable, carry, unroll: bool):
  """Runs `carry = body(i, carry)` for i < steps; unrolled by hand, since `fori_loop` keeps a loop of one trip."""
  if not unroll:
    return jax.lax.fori_loop(0, steps, body, carry)
  for i in range(steps):
    carry = body(i, carry)
  return carry


def table(**columns: np.ndarray) -> dict[str, jax.Array]:
  """Coefficients for each step, as float32 arrays."""
  return {name: jnp.asarray(values, jnp.float32) for name, values in columns.items()}


def clean(
  predict: Predict, schedule: Schedule, z: jax.Array, t: jax.Array, clip: float | None, correct: Correct | None
) -> jax.Array:
  """The clean latent x0 that the network predicts at step t, clipped and corrected if asked."""
  t = jnp.full((z.shape[0],), t)
  x0 = schedule.to_x0(predict(z, t).astype(jnp.float32), z, t)
  x0 = x0 if clip is None else jnp.clip(x0, -clip, clip)
  return x0 if correct is None else correct(x0, t)


def image_noise(keys: jax.Array, step: int | jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal [b, *shape]; each image from its own key, different at every step (-1 is the start)."""
  return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step + 1), shape, jnp.float32))(keys)
