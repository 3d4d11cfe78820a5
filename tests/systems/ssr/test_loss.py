import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.diffusion import Schedule
from ssr_jax.systems.ssr.loss import diffusion_loss, reconstruction_error

Z0 = jax.random.normal(jax.random.key(0), (4, 8, 8, 2))


def test_a_perfect_predictor_has_no_loss():
  s = Schedule()

  def perfect(z_t, t):
    alpha, sigma = s.coefficients(t)
    return (z_t - alpha[:, None, None, None] * Z0) / sigma[:, None, None, None], (), 'handed through'

  loss, terms = diffusion_loss(jax.random.key(1), perfect, Z0, s)
  assert loss < 1e-6 and terms['aux'] == 'handed through'


@pytest.mark.parametrize('prediction', ['eps', 'v'])
def test_a_silent_predictor_pays_the_targets_power(prediction):
  z0 = jnp.ones((64, 16, 16, 1))
  loss, _ = diffusion_loss(jax.random.key(1), lambda z, t: (0 * z, (), None), z0, Schedule(prediction=prediction))
  assert abs(loss - 1) < 0.05  # E eps^2 = 1, and E v^2 = abar + (1 - abar) z0^2 = 1


def test_time_steps_cover_the_schedule():
  seen = []
  z0 = jnp.zeros((2000, 1, 1, 1))
  diffusion_loss(jax.random.key(2), lambda z, t: (seen.append(t) or z, (), None), z0, Schedule())
  t = np.asarray(seen[0])
  assert t.min() < 5 and t.max() > 994 and abs(t.mean() - 499.5) < 20


def test_lambda_zero_is_exactly_the_noise_loss_and_computes_nothing_else():
  def predict(z_t, t):
    return 0.5 * z_t, [[jnp.full((4, 8, 8, 1), jnp.nan)]], None

  plain, _ = diffusion_loss(jax.random.key(3), predict, Z0, Schedule())
  loss, terms = diffusion_loss(jax.random.key(3), predict, Z0, Schedule(), [jnp.zeros((4, 8, 8, 1))], [0.0])
  assert loss == plain == terms['noise'] and terms['constraints'] == [None]


def test_constraints_are_weighted_and_added():
  targets = [jax.random.normal(jax.random.key(5), (4, 8, 8, 3)), Z0]
  maps = [[targets[0] + 1, jnp.zeros((4, 4, 4, 3))], [Z0]]
  loss, terms = diffusion_loss(jax.random.key(4), lambda z, t: (0 * z, maps, None), Z0, Schedule(), targets, [0.5, 2.0])
  low = np.asarray(jax.image.resize(targets[0], (4, 4, 4, 3), 'bilinear'))
  np.testing.assert_allclose(terms['constraints'], [(1 + np.mean(low**2)) / 2, 0], rtol=1e-5)
  np.testing.assert_allclose(loss, terms['noise'] + 0.5 * terms['constraints'][0], rtol=1e-6)


def test_numbers_and_channels_that_differ_are_named():
  predict = lambda z, t: (z, (), None)
  with pytest.raises(ValueError, match='1 targets for 0 lambdas'):
    diffusion_loss(jax.random.key(0), predict, Z0, Schedule(), [Z0])
  with pytest.raises(ValueError, match='1 targets for 0 reconstructions'):
    diffusion_loss(jax.random.key(0), predict, Z0, Schedule(), [Z0], [1.0])
  with pytest.raises(ValueError, match='3 channels'):
    reconstruction_error([jnp.zeros((1, 2, 2, 3))], jnp.zeros((1, 4, 4, 1)))


def test_focus_draws_its_share_of_the_steps_below_its_end():
  """Over 4000 draws with (0.75, 0.2): 0.75 + 0.25 * 0.2 of them below 200, and uniform on either side."""
  seen = []
  z0 = jnp.zeros((4000, 1, 1, 1))
  diffusion_loss(jax.random.key(5), lambda z, t: (seen.append(t) or z, (), None), z0, Schedule(), focus=(0.75, 0.2))
  t = np.asarray(seen[0])
  share = 0.75 + 0.25 * 0.2
  assert abs((t < 200).mean() - share) < 5 * (share * (1 - share) / 4000) ** 0.5
  assert abs(t[t < 200].mean() - 99.5) < 5 and abs(t[t >= 200].mean() - 599.5) < 5 * 231 / (0.2 * 4000) ** 0.5
  assert t.min() >= 0 and t.max() <= 999
