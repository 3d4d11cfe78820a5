import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.diffusion import SAMPLERS, Schedule, ddim, ddpm, dpmpp_2m, sample, samplers

SHAPE = (4, 4, 2)
KEYS = jax.random.split(jax.random.key(0), 3)
TARGET = jax.random.normal(jax.random.key(7), (3, *SHAPE))
S = Schedule()


def point(schedule, target=TARGET):
  """The perfect network where the data are one point per image: its noise is z_t minus that point."""

  def predict(z, t):
    alpha, sigma = (a[:, None, None, None] for a in schedule.coefficients(t))
    eps = (z - alpha * target) / sigma
    return eps if schedule.prediction == 'eps' else alpha * eps - sigma * target

  return predict


def gaussian(schedule, mean=0.3, deviation=0.5):
  """The perfect network where the data are N(mean, deviation^2), each pixel by itself."""

  def predict(z, t):
    alpha, sigma = (a[:, None, None, None] for a in schedule.coefficients(t))
    eps = sigma * (z - alpha * mean) / (alpha**2 * deviation**2 + sigma**2)
    return eps if schedule.prediction == 'eps' else alpha * eps - sigma * (z - sigma * eps) / alpha

  return predict


def gaussian_flow(z, abar_from, abar_to, mean=0.3, deviation=0.5):
  """The exact probability-flow ODE for that Gaussian: the marginals' standard score is constant along it."""
  spread = lambda abar: np.sqrt(abar * deviation**2 + 1 - abar)
  score = (np.asarray(z, np.float64) - np.sqrt(abar_from) * mean) / spread(abar_from)
  return np.sqrt(abar_to) * mean + spread(abar_to) * score


@pytest.mark.parametrize('name', SAMPLERS)
@pytest.mark.parametrize('steps', [1, 2, 7])
def test_a_perfect_predictor_of_a_point_recovers_it(name, steps):
  z = sample(point(S), S, KEYS, shape=SHAPE, steps=steps, sampler=name)
  np.testing.assert_allclose(z, TARGET, atol=2e-4)
  z = sample(point(S), S, KEYS, latent=TARGET + 1, steps=steps, start=0.4, sampler=name)
  np.testing.assert_allclose(z, TARGET, atol=2e-4)


@pytest.mark.parametrize('name', SAMPLERS)
def test_a_correction_sees_the_predicted_clean_latent_and_its_step_and_its_result_is_followed(name):
  other, seen = TARGET[::-1] - 2, []

  def correct(x0, t):
    seen.append((x0, t))
    return other

  z = sample(point(S), S, KEYS, latent=TARGET + 1, steps=3, start=0.4, sampler=name, correct=correct, unroll=True)
  np.testing.assert_allclose(z, other, atol=2e-4)
  for (x0, t), step in zip(seen, S.timesteps(3, 0.4), strict=True):
    np.testing.assert_allclose(x0, TARGET, atol=2e-3)
    np.testing.assert_array_equal(t, np.full(3, step))


@pytest.mark.parametrize('name', SAMPLERS)
def test_v_and_eps_give_the_same_image(name):
  v = Schedule(prediction='v')
  a = sample(gaussian(S), S, KEYS, shape=SHAPE, steps=6, sampler=name)
  b = sample(gaussian(v), v, KEYS, shape=SHAPE, steps=6, sampler=name)
  np.testing.assert_allclose(a, b, atol=2e-3)  # eps loses digits where the signal is weakest


@pytest.mark.parametrize('name', SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name):
  predict = gaussian(S)
  whole = sample(predict, S, KEYS, latent=TARGET, steps=4, start=0.6, sampler=name)
  alone = sample(predict, S, KEYS[1:2], latent=TARGET[1:2], steps=4, start=0.6, sampler=name)
  np.testing.assert_allclose(whole[1:2], alone, atol=1e-6)
  assert jnp.abs(whole[0] - whole[1]).max() > 0.1


@pytest.mark.parametrize('name', SAMPLERS)
def test_one_compiled_loop_traces_the_network_once(name):
  traces = []

  def predict(z, t):
    traces.append(z.shape)
    return gaussian(S)(z, t)

  run = jax.jit(lambda keys: sample(predict, S, keys, shape=SHAPE, steps=9, sampler=name))
  run(KEYS), run(KEYS[::-1])
  assert len(traces) == 1


def test_ddim_equals_a_python_loop_of_eq_12():
  eta, steps = 0.7, 5
  t = S.timesteps(steps)
  z0 = z = np.asarray(samplers.initial(S, KEYS, shape=SHAPE, steps=steps), np.float64)
  for i in range(steps):
    a, b = S.alphas_cumprod[t[i]], (S.alphas_cumprod[t[i + 1]] if i + 1 < steps else 1.0)
    eps = np.asarray(gaussian(S)(jnp.asarray(z, jnp.float32), jnp.full(3, t[i])), np.float64)
    x0 = (z - np.sqrt(1 - a) * eps) / np.sqrt(a)
    sigma = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
    z = np.sqrt(b) * x0 + np.sqrt(1 - b - sigma**2) * eps + sigma * np.asarray(samplers.image_noise(KEYS, i, SHAPE))
  got = ddim(gaussian(S), S, KEYS, jnp.asarray(z0, jnp.float32), steps, eta=eta)
  np.testing.assert_allclose(got, z, atol=1e-3)


def test_dpmpp_2m_equals_a_python_loop_of_algorithm_2():
  steps = 6
  t = S.timesteps(steps)
  z0 = z = np.asarray(samplers.initial(S, KEYS, shape=SHAPE, steps=steps), np.float64)
  abar = [float(S.alphas_cumprod[i]) for i in t]
  lam = [np.log(np.sqrt(a) / np.sqrt(1 - a)) for a in abar]
  x0s = []
  for i in range(steps):
    eps = np.asarray(gaussian(S)(jnp.asarray(z, jnp.float32), jnp.full(3, t[i])), np.float64)
    x0s.append((z - np.sqrt(1 - abar[i]) * eps) / np.sqrt(abar[i]))
    if i == steps - 1:
      z = x0s[-1]
      break
    h = lam[i + 1] - lam[i]
    D = x0s[-1]
    if i:
      r = (lam[i] - lam[i - 1]) / h
      D = (1 + 1 / (2 * r)) * x0s[-1] - 1 / (2 * r) * x0s[-2]
    z = np.sqrt(1 - abar[i + 1]) / np.sqrt(1 - abar[i]) * z - np.sqrt(abar[i + 1]) * (np.exp(-h) - 1) * D
  got = dpmpp_2m(gaussian(S), S, KEYS, jnp.asarray(z0, jnp.float32), steps)
  np.testing.assert_allclose(got, z, atol=1e-3)


def test_order_of_convergence_on_an_analytic_ode():
  """Error against the exact flow falls as 1/n for DDIM and faster than n**-1.6 for the second-order solver.

  A dense schedule, so that steps can be fine, over its middle, where the ODE is smooth; the last, always first-order,
  step to the clean end is left out by comparing the state that enters it.
  """
  schedule = Schedule(steps=4096, beta_start=0.00085 / 4, beta_end=0.012 / 4)

  def error(sampler, n):
    last = []

    def predict(z, t):
      jax.debug.callback(lambda z: last.append(np.asarray(z)), z, ordered=True)
      return gaussian(schedule)(z, t)

    z = jnp.linspace(-2.0, 2.0, 32).reshape(1, 4, 4, 2)
    jax.block_until_ready(sampler(predict, schedule, KEYS[:1], z, n, 0.5, spacing='linspace'))
    jax.effects_barrier()
    t = schedule.timesteps(n, 0.5, 'linspace')
    abar = schedule.alphas_cumprod[t]
    middle = np.argmin(np.abs(t - 512))
    return np.abs(last[middle] - gaussian_flow(z, abar[0], abar[middle])).max()

  counts = [9, 17, 33]  # strides of 256, 128, 64: 512 is (nearly) among the steps of each
  first, second = ([error(sampler, n) for n in counts] for sampler in (ddim, dpmpp_2m))
  slope = lambda errors: np.log2(errors[0] / errors[-1]) / 2
  assert 0.8 < slope(first) < 1.3, first
  assert slope(second) > 1.6, second
  assert second[-1] < first[-1] / 4


def test_ddpm_has_the_posteriors_moments():
  """The last but one step of DDPM, with x0 known, has the mean and variance of q(z_s | z_t, x0), by Bayes' rule."""
  steps, n = 2, 20_000
  t = S.timesteps(steps)
  a, b = S.alphas_cumprod[t]
  x0, z_t = 0.8, -0.5
  seen = []

  def predict(z, t):
    jax.debug.callback(lambda z: seen.append(np.asarray(z)), z, ordered=True)
    return point(S, x0)(z, t)

  keys = jax.random.split(jax.random.key(3), 2)
  jax.block_until_ready(ddpm(predict, S, keys, jnp.full((2, n, 1, 1), z_t), steps))
  jax.effects_barrier()
  # q(z_s | x0) = N(sqrt(b) x0, 1 - b) times the likelihood q(z_t | z_s) = N(sqrt(a/b) z_s, 1 - a/b).
  precision = 1 / (1 - b) + (a / b) / (1 - a / b)
  mean = (np.sqrt(b) * x0 / (1 - b) + np.sqrt(a / b) * z_t / (1 - a / b)) / precision
  assert abs(seen[1].mean() - mean) < 0.02
  assert abs(seen[1].var() * precision - 1) < 0.03


@pytest.mark.parametrize('name, steps', [('ddpm', 1000), ('ddim', 100), ('dpmpp_2m', 50)])
def test_samples_of_a_gaussian_have_its_moments(name, steps):
  keys = jax.random.split(jax.random.key(5), 4)  # DDPM needs small steps: its variance is that of a known x0
  z = sample(gaussian(S), S, keys, shape=(40, 50, 1), steps=steps, sampler=name, spacing='linspace')
  assert abs(z.mean() - 0.3) < 0.03 and abs(z.std() - 0.5) < 0.02


def test_ddim_with_eta_one_is_ddpm():
  z = samplers.initial(S, KEYS, shape=SHAPE, steps=5)
  a, b = ddim(gaussian(S), S, KEYS, z, 5, eta=1.0), ddpm(gaussian(S), S, KEYS, z, 5)
  np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize('name', SAMPLERS)
def test_clipping_bounds_the_result(name):
  z = sample(point(S, 5.0), S, KEYS, shape=SHAPE, steps=3, sampler=name, clip=1.5)
  np.testing.assert_allclose(z, 1.5, atol=1e-5)


def test_the_start_in_between_is_the_noised_latent():
  z = samplers.initial(S, KEYS, latent=TARGET, steps=4, start=0.4)
  abar = S.alphas_cumprod[399]
  noise = (np.asarray(z) - np.sqrt(abar) * np.asarray(TARGET)) / np.sqrt(1 - abar)
  np.testing.assert_allclose(noise, samplers.initial(S, KEYS, shape=SHAPE, steps=4), atol=1e-5)
  quieter = samplers.initial(S, KEYS, latent=TARGET, steps=4, start=0.4, noise=0.25)
  silent = samplers.initial(S, KEYS, latent=TARGET, steps=4, start=0.4, noise=0)
  np.testing.assert_allclose(silent, np.sqrt(abar) * TARGET, atol=1e-6)
  np.testing.assert_allclose(quieter, silent + (z - silent) / 4, atol=1e-6)


def test_bad_arguments_are_named():
  predict = gaussian(S)
  with pytest.raises(ValueError, match="unknown sampler 'euler'"):
    sample(predict, S, KEYS, shape=SHAPE, sampler='euler')
  with pytest.raises(ValueError, match='exactly one'):
    sample(predict, S, KEYS)
  with pytest.raises(ValueError, match='below 1 needs a latent'):
    sample(predict, S, KEYS, shape=SHAPE, start=0.5)
  with pytest.raises(ValueError, match='2 keys for 3 latents'):
    sample(predict, S, KEYS[:2], latent=TARGET)


def test_the_loop_with_moves_is_ddpm_without_them_and_adds_them_with():
  """Bit for bit; a move is added to the next latent, in the last step too, and what was seen comes back in order."""
  S_LINEAR = Schedule(beta_start=1e-4, beta_end=0.02, shape='linear')
  predict = lambda z, t: jnp.sin(z) + 1e-3 * t[:, None, None, None]
  z = samplers.initial(S_LINEAR, KEYS, shape=SHAPE)

  def estimate(move):
    def step(z, t):
      x0 = S_LINEAR.to_x0(predict(z, t), z, t)
      return x0, move, {'t': t, 'mean': z.mean((1, 2, 3))}

    return step

  plain = jax.jit(lambda z: ddpm(predict, S_LINEAR, KEYS, z, 5, spacing='linspace'))(z)
  run = lambda move: jax.jit(lambda z: samplers.ddpm_by(estimate(move), S_LINEAR, KEYS, z, 5, spacing='linspace'))(z)
  same, seen = run(None)
  np.testing.assert_array_equal(same, plain)
  np.testing.assert_array_equal(seen['t'], S_LINEAR.timesteps(5, spacing='linspace')[:, None].repeat(3, 1))
  np.testing.assert_allclose(seen['mean'][0], z.mean((1, 2, 3)), rtol=1e-6)
  zeros, _ = run(jnp.zeros_like(z))
  np.testing.assert_allclose(zeros, plain, rtol=1e-5)
  one = lambda move: jax.jit(lambda z: samplers.ddpm_by(estimate(move), S_LINEAR, KEYS, z, 1))(z)[0]
  np.testing.assert_allclose(one(2 * jnp.ones_like(z)) - one(None), 2 * jnp.ones_like(z), rtol=1e-4)
