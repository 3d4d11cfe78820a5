import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.diffusion import Schedule


def test_tables_equal_a_loop():
  s = Schedule()
  product, expected = 1.0, []
  for i in range(1000):
    root = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999
    product *= 1 - root**2
    expected.append(product)
  np.testing.assert_allclose(s.alphas_cumprod, expected, rtol=1e-12)
  # Stable Diffusion's, whose final step is known to keep a little of the signal.
  np.testing.assert_allclose(s.alphas_cumprod[-1], 0.0046601, rtol=1e-4)


@pytest.mark.parametrize('prediction', ['eps', 'v'])
def test_conversions_undo_the_forward_process(prediction):
  s = Schedule(prediction=prediction)
  z0, eps = (jax.random.normal(jax.random.key(i), (3, 4, 5, 2)) for i in range(2))
  t = jnp.array([0, 400, 999])
  z_t = s.add_noise(z0, eps, t)
  abar = s.alphas_cumprod[np.asarray(t)][:, None, None, None]
  np.testing.assert_allclose(z_t, np.sqrt(abar) * z0 + np.sqrt(1 - abar) * eps, atol=1e-6)
  target = s.target(z0, eps, t)
  np.testing.assert_allclose(s.to_x0(target, z_t, t), z0, atol=1e-4)


def test_one_step_for_all_equals_the_same_step_for_each():
  s = Schedule()
  z0, eps = (jax.random.normal(jax.random.key(i), (2, 3, 3, 1)) for i in range(2))
  np.testing.assert_array_equal(s.add_noise(z0, eps, 500), s.add_noise(z0, eps, jnp.array([500, 500])))


@pytest.mark.parametrize('spacing', ['trailing', 'leading', 'linspace'])
@pytest.mark.parametrize('count, start', [(1, 1.0), (7, 1.0), (20, 0.35), (1000, 1.0)])
def test_timesteps_descend_within_the_range(spacing, count, start):
  t = Schedule().timesteps(count, start, spacing)
  assert t.shape == (count,) and t.dtype == np.int32
  assert np.all(np.diff(t) < 0) and t[-1] >= 0 and t[0] < 1000 * start


def test_timesteps_known_values():
  s = Schedule()
  np.testing.assert_array_equal(s.timesteps(4), [999, 749, 499, 249])
  np.testing.assert_array_equal(s.timesteps(4, 0.4), [399, 299, 199, 99])
  np.testing.assert_array_equal(s.timesteps(4, spacing='leading'), [751, 501, 251, 1])  # diffusers with steps_offset 1
  np.testing.assert_array_equal(s.timesteps(4, spacing='linspace'), [999, 666, 333, 0])


def test_bad_values_are_named():
  with pytest.raises(ValueError, match='sigma'):
    Schedule(prediction='sigma')
  with pytest.raises(ValueError, match='beta'):
    Schedule(beta_end=2.0)
  for args, match in [((0,), '0 sampling'), ((30, 0.02), '30 sampling'), ((5, 0.0), 'start'), ((5, 1.0, 'x'), "'x'")]:
    with pytest.raises(ValueError, match=match):
      Schedule().timesteps(*args)


def test_the_linear_shape_is_that_of_ddpm():
  """Ho et al. 2020: betas from 1e-4 to 0.02, after which 4e-5 of the signal's power is left."""
  s = Schedule(beta_start=1e-4, beta_end=0.02, shape='linear')
  np.testing.assert_allclose(np.diff(s.betas), (0.02 - 1e-4) / 999, rtol=1e-9)
  assert s.betas[0] == 1e-4 and s.betas[-1] == pytest.approx(0.02, rel=1e-12)
  np.testing.assert_allclose(s.alphas_cumprod[-1], 4.036e-5, rtol=1e-3)
  with pytest.raises(ValueError, match="'scaled_linear' or 'linear'; got 'cosine'"):
    Schedule(shape='cosine')
