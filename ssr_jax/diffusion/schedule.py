"""The forward process of diffusion and the conversions between noise, velocity and clean latent."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from ssr_jax.types import Array, ArrayLike, Float, Int

Steps = Int[ArrayLike, ' b'] | Int[ArrayLike, ''] | int
"""A time step per image, or one for all."""


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The scaled-linear schedule of Stable Diffusion, or the linear one of DDPM, from beta_start to beta_end.

  z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps, abar_t the product of 1 - beta up to step t. The tables are computed in
  float64 and used in float32. Time steps are integers 0 ... steps - 1, 0 the least noisy.

  Attributes:
    steps: training steps.
    beta_start: first beta.
    beta_end: last beta.
    prediction: what the network predicts: 'eps', the noise, or 'v', sqrt(abar) eps - sqrt(1 - abar) z_0.
    shape: what rises linearly: 'scaled_linear' the square root of beta, 'linear' beta itself.
  """

  steps: int = 1000
  beta_start: float = 0.00085
  beta_end: float = 0.012
  prediction: str = 'eps'
  shape: str = 'scaled_linear'

  def __post_init__(self):
    if self.prediction not in ('eps', 'v'):
      raise ValueError(f"prediction must be 'eps' or 'v'; got {self.prediction!r}")
    if self.shape not in ('scaled_linear', 'linear'):
      raise ValueError(f"shape must be 'scaled_linear' or 'linear'; got {self.shape!r}")
    if self.steps < 1 or not 0 < self.beta_start <= self.beta_end < 1:
      raise ValueError(f'need steps >= 1 and 0 < beta_start <= beta_end < 1; got {self}')

  @functools.cached_property
  def betas(self) -> np.ndarray:
    """Beta of each step, float64 [steps]."""
    if self.shape == 'linear':
      return np.linspace(self.beta_start, self.beta_end, self.steps)
    return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps) ** 2

  @functools.cached_property
  def alphas_cumprod(self) -> np.ndarray:
    """The product abar at each step, float64 [steps]."""
    return np.cumprod(1 - self.betas)

  def coefficients(self, t: Int[ArrayLike, '*t'] | int) -> tuple[Float[Array, '*t'], Float[Array, '*t']]:
    """sqrt(abar_t) and sqrt(1 - abar_t), float32, for integer steps t of any shape."""
    alpha = jnp.asarray(np.sqrt(self.alphas_cumprod), jnp.float32)
    sigma = jnp.asarray(np.sqrt(1 - self.alphas_cumprod), jnp.float32)
    return alpha[t], sigma[t]

  def add_noise(
    self, z0: Float[ArrayLike, ' b *rest'], eps: Float[ArrayLike, ' b *rest'], t: Steps
  ) -> Float[Array, ' b *rest']:
    """z_t of clean z0 [b, ...] and noise eps [b, ...] at integer steps t [b] (or one step for all)."""
    alpha, sigma = self._like(z0, t)
    return alpha * z0 + sigma * eps

  def target(self, z0: Float[Array, ' b *rest'], eps: Float[Array, ' b *rest'], t: Steps) -> Float[Array, ' b *rest']:
    """What the network should predict for add_noise(z0, eps, t): eps, or v."""
    if self.prediction == 'eps':
      return eps
    alpha, sigma = self._like(z0, t)
    return alpha * eps - sigma * z0

  def to_x0(
    self, prediction: Float[Array, ' b *rest'], z_t: Float[Array, ' b *rest'], t: Steps
  ) -> Float[Array, ' b *rest']:
    """Clean latent x0 that a prediction [b, ...] at z_t [b, ...], t [b] implies."""
    alpha, sigma = self._like(z_t, t)
    return (z_t - sigma * prediction) / alpha if self.prediction == 'eps' else alpha * z_t - sigma * prediction

  def _like(self, z: ArrayLike, t: Steps) -> tuple[Array, Array]:
    """Coefficients that broadcast against z [b, ...]."""
    shape = jnp.shape(t) + (1,) * (z.ndim - jnp.ndim(t)) if jnp.ndim(t) else ()
    alpha, sigma = self.coefficients(t)
    return alpha.reshape(shape), sigma.reshape(shape)

  def timesteps(self, count: int, start: float = 1.0, spacing: str = 'trailing') -> np.ndarray:
    """The steps at which a sampler calls the network, descending.

    With spacing 'trailing' (the default) the first is the noisiest step and the last is one stride above zero;
    'leading', Stable Diffusion's own, never uses the noisiest step; 'linspace' includes both ends. Each divides the
    range up to `start`.

    Args:
      count: how many, at least 1.
      start: fraction of the schedule to begin at, in (0, 1]; 1 is pure noise.
      spacing: 'trailing', 'leading' or 'linspace'.

    Returns:
      int32 [count], strictly descending.

    Raises:
      ValueError: an unknown spacing, a start outside (0, 1], or more steps than the range has.
    """
    if not 0 < start <= 1:
      raise ValueError(f'start must be in (0, 1]; got {start}')
    span = max(round(self.steps * start), 1)
    if not 1 <= count <= span:
      raise ValueError(f'{count} sampling steps do not fit into {span} training steps')
    if spacing == 'trailing':
      t = np.round(np.arange(count, 0, -1) * span / count) - 1
    elif spacing == 'leading':
      t = np.arange(count - 1, -1, -1) * (span // count) + (1 if span // count > 1 else 0)
    elif spacing == 'linspace':
      t = np.round(np.linspace(span - 1, 0, count))
    else:
      raise ValueError(f"spacing must be 'trailing', 'leading' or 'linspace'; got {spacing!r}")
    return t.astype(np.int32)
