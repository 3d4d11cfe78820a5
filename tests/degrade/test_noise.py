"""Noise: Poisson inversion against SciPy's quantiles, the published chain's units, and gray noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from ssr_jax.degrade import noise as noise_lib

_noise = jax.jit(jax.vmap(noise_lib.noise, (0, None, None, None, None, None)))


@pytest.mark.parametrize('rate', [0.0, 0.01, 0.7, 3.9, 4.1, 12.0, 77.0, 256.0])
def test_poisson_is_the_quantile_function(rate):
  uniform = (np.arange(40000) + 0.5) / 40000
  normal = special.ndtri(uniform)
  found = np.asarray(noise_lib.poisson(*(jnp.asarray(a, jnp.float32) for a in (uniform, normal)), jnp.float32(rate)))
  expected = stats.poisson.ppf(uniform, rate) if rate else np.zeros_like(uniform)
  assert (found != expected).mean() < 2e-3
  assert np.abs(found - expected).max() <= 1


def test_distinct_levels_counts_inside_only():
  rng = np.random.default_rng(0)
  for values in (1, 7, 128, 256):
    levels = rng.choice(256, values, replace=False)[rng.integers(values, size=(3, 40, 50))]
    inside = np.zeros((40, 50), bool)
    inside[:30, :20] = True
    found = noise_lib.distinct_levels(jnp.asarray(levels), jnp.asarray(inside))
    assert int(found) == len(np.unique(levels[:, :30, :20]))


def test_gaussian_noise_has_its_deviation_and_gray_noise_is_one_plane():
  image, inside = jnp.full((3, 64, 64), 0.5), jnp.ones((64, 64), bool)
  keys = jax.random.split(jax.random.key(0), 8)
  colour = np.asarray(_noise(keys, image, inside, True, 0.1, False))
  assert colour.std() == pytest.approx(0.1, rel=0.02) and abs(colour.mean()) < 0.002
  assert abs(np.corrcoef(colour[:, 0].ravel(), colour[:, 1].ravel())[0, 1]) < 0.03
  gray = np.asarray(_noise(keys, image, inside, True, 0.1, True))
  np.testing.assert_array_equal(gray[:, 0], gray[:, 2])
  assert gray.std() == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize('gray', [False, True])
def test_poisson_noise_has_the_variance_of_its_units(gray):
  """n distinct values in the image: noise of variance value / 2^ceil(log2 n), times the scale squared."""
  levels = np.array([40, 80, 120, 160, 200])  # 5 values: units of 1/8
  image = np.broadcast_to(np.repeat(levels, 40)[:, None], (3, 200, 60)) / 255
  keys = jax.random.split(jax.random.key(1), 8)
  scale = 1.7
  found = np.asarray(_noise(keys, jnp.asarray(image, jnp.float32), jnp.ones((200, 60), bool), False, scale, gray))
  for i, level in enumerate(levels):
    band = found[:, 0, 40 * i : 40 * i + 40]  # 19200 draws: the variance is known to 1 %, three sigma 3 % and skew
    assert band.var() == pytest.approx(scale**2 * level / 255 / 8, rel=0.06)
    assert abs(band.mean()) < 4 * band.std() / np.sqrt(band.size)
  if gray:
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
