"""Samplers: each one loop with fixed shapes, from pure noise or from a noised latent.

All share one signature. `predict(z_t, t)` maps z_t [b, ...] and t int32 [b] to the network's prediction (eps or v, as
the schedule says) and is traced once. `keys` holds one PRNG key per image, and an image's noise depends on its own key
only: the same key gives the same image in any batch. Sampling ends at the predicted clean latent (abar = 1).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.diffusion.schedule import Schedule

Predict = Callable[[jax.Array, jax.Array], jax.Array]


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
    shape: [h, w, c] of one latent, to begin from pure noise; or
    latent: [b, h, w, c], to begin from this latent, noised to the step at fraction `start`.
    steps: calls of the network.
    start: fraction of the schedule to begin at, in (0, 1]; below 1 only with a latent.
    noise: how much of the forward process's noise is put on the latent; a student can do without.
    sampler: a key of SAMPLERS.
    **options: of that sampler: spacing, clip, eta, unroll.

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

  Of the latter's noise there is the part `noise`: with 0 the latent only shrinks, as it does at that time step.
  """
  if (shape is None) == (latent is None):
    raise ValueError('give exactly one of shape (pure noise) and latent (a start between)')
  if latent is None:
    if start != 1:
      raise ValueError(f'start {start} below 1 needs a latent to begin from')
    return _noise(keys, -1, tuple(shape))
  if latent.shape[0] != keys.shape[0]:
    raise ValueError(f'{keys.shape[0]} keys for {latent.shape[0]} latents')
  t = schedule.timesteps(steps, start, spacing or 'trailing')[0]
  return schedule.add_noise(latent.astype(jnp.float32), noise * _noise(keys, -1, latent.shape[1:]), jnp.int32(t))


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
    unroll: no loop, to train through the sampler: on a CPU convolution gradients inside a loop are slow.

  Returns:
    The clean latent, the shape of z.
  """
  t, abar, abar_next = _grid(schedule, steps, start, spacing)
  ratio = abar / abar_next  # the alpha of the step t -> s
  variance = (1 - abar_next) / (1 - abar) * (1 - ratio)
  table = _table(
    from_x0=np.sqrt(abar_next) * (1 - ratio) / (1 - abar),
    from_z=np.sqrt(ratio) * (1 - abar_next) / (1 - abar),
    sigma=np.sqrt(variance),
  )

  def body(i, z):
    c = {name: values[i] for name, values in table.items()}
    x0 = _x0(predict, schedule, z, t[i], clip)
    return c['from_x0'] * x0 + c['from_z'] * z + c['sigma'] * _noise(keys, i, z.shape[1:])

  return _loop(steps, body, z.astype(jnp.float32), unroll)


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
  unroll: bool = False,
) -> jax.Array:
  """DDIM (Song et al. 2021, Eqs. 12, 16): deterministic with eta 0, as noisy as DDPM with eta 1.

  Arguments and result as in `ddpm`; eta is a plain number, at least 0.
  """
  t, abar, abar_next = _grid(schedule, steps, start, spacing)
  sigma = eta * np.sqrt((1 - abar_next) / (1 - abar) * (1 - abar / abar_next))
  table = _table(
    alpha=np.sqrt(abar),
    sigma_t=np.sqrt(1 - abar),
    from_x0=np.sqrt(abar_next),
    from_eps=np.sqrt(np.maximum(1 - abar_next - sigma**2, 0)),
    sigma=sigma,
  )

  def body(i, z):
    c = {name: values[i] for name, values in table.items()}
    x0 = _x0(predict, schedule, z, t[i], clip)
    eps = (z - c['alpha'] * x0) / c['sigma_t']
    z = c['from_x0'] * x0 + c['from_eps'] * eps
    return z + c['sigma'] * _noise(keys, i, z.shape[1:]) if eta else z

  return _loop(steps, body, z.astype(jnp.float32), unroll)


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
  unroll: bool = False,
) -> jax.Array:
  """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): a second-order multistep solver of the probability-flow ODE.

  The first step is of first order, for it has no predecessor; the last one too, for it goes to the end where log-SNR is
  infinite: there the update is the predicted x0 itself. Deterministic: `keys` is not used.

  Arguments and result as in `ddpm`.
  """
  del keys
  t, abar, abar_next = _grid(schedule, steps, start, spacing)
  with np.errstate(divide='ignore'):  # the last log-SNR is infinite on purpose
    log_snr, log_snr_next = (0.5 * (np.log(a) - np.log1p(-a)) for a in (abar, abar_next))
  h = log_snr_next - log_snr
  # D = (1 + w) x0_i - w x0_{i-1}, w = 1 / (2 r), r = h_{i-1} / h_i.
  weight = np.zeros(steps)
  weight[1:-1] = h[1:-1] / (2 * h[:-2])
  table = _table(
    from_z=np.sqrt((1 - abar_next) / (1 - abar)), from_x0=-np.sqrt(abar_next) * np.expm1(-h), weight=weight
  )

  def body(i, carry):
    z, previous = carry
    c = {name: values[i] for name, values in table.items()}
    x0 = _x0(predict, schedule, z, t[i], clip)
    return c['from_z'] * z + c['from_x0'] * (x0 + c['weight'] * (x0 - previous)), x0

  z = z.astype(jnp.float32)
  return _loop(steps, body, (z, jnp.zeros_like(z)), unroll)[0]


SAMPLERS = {'ddpm': ddpm, 'ddim': ddim, 'dpmpp_2m': dpmpp_2m}

STUDENT_SAMPLER = 'ddim'
"""What a distilled student is trained through and used with."""


def _grid(schedule: Schedule, steps: int, start: float, spacing: str) -> tuple[jax.Array, np.ndarray, np.ndarray]:
  """Time steps int32 [steps] and abar, float64, at each of them and at the next; the last next is 1, the clean end."""
  t = schedule.timesteps(steps, start, spacing)
  abar = schedule.alphas_cumprod[t]
  return jnp.asarray(t), abar, np.append(abar[1:], 1.0)


def _loop(steps: int, body: Callable, carry, unroll: bool):
  """Carry = body(i, carry) for i < steps. By hand where it is unrolled: of one trip `fori_loop` keeps a loop."""
  if not unroll:
    return jax.lax.fori_loop(0, steps, body, carry)
  for i in range(steps):
    carry = body(i, carry)
  return carry


def _table(**columns: np.ndarray) -> dict[str, jax.Array]:
  return {name: jnp.asarray(values, jnp.float32) for name, values in columns.items()}


def _x0(predict: Predict, schedule: Schedule, z: jax.Array, t: jax.Array, clip: float | None) -> jax.Array:
  t = jnp.full((z.shape[0],), t)
  x0 = schedule.to_x0(predict(z, t).astype(jnp.float32), z, t)
  return x0 if clip is None else jnp.clip(x0, -clip, clip)


def _noise(keys: jax.Array, step: int | jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal [b, *shape]; image by image from its own key, different at every step (-1: the beginning)."""
  return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step + 1), shape, jnp.float32))(keys)
