"""The camera: its draws against their ranges, its noise, denoiser and sharpener against laws that must hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from ssr_jax import degrade as degrade_lib
from ssr_jax.degrade import Recipe, isp
from ssr_jax.image import colour

degrade = jax.jit(degrade_lib.degrade, static_argnums=2)
_draw = jax.jit(jax.vmap(isp.draw))
_apply = jax.jit(isp.apply)
_PLAIN = dict(
  quiet=False, shot=0.0, read=0.0, red=2.0, blue=1.5, row=0, column=1, chroma=0.0, chroma_radius=2.0
) | dict(denoise=0.0, radius=1.0, amount=0.0, quality=0.0)


def _draws(count=1, **changes):
  return {name: jnp.full(count, value) for name, value in (_PLAIN | changes).items()}


def _neighbours(noise):
  """Correlation of a sample [b, h, w, 3] with the one to its right, of each channel."""
  return [np.corrcoef(noise[:, :, :-1, c].ravel(), noise[:, :, 1:, c].ravel())[0, 1] for c in range(3)]


def test_draws_are_those_of_the_camera():
  draws = {name: np.asarray(value) for name, value in _draw(jax.random.split(jax.random.key(0), 6000)).items()}
  camera, quiet = isp.CAMERA, draws['quiet']
  loud = ~quiet
  assert quiet.mean() == pytest.approx(1 / 3, abs=0.025)
  assert (draws['shot'][quiet] <= camera.shot[0]).all()
  assert camera.shot[0] * 0.999 <= draws['shot'][loud].min() and draws['shot'].max() <= camera.shot[1] * 1.001
  assert np.median(draws['shot'][loud]) == pytest.approx(np.sqrt(np.prod(camera.shot)), rel=0.15)  # log-uniform
  np.testing.assert_allclose(draws['read'] ** 2, np.exp(2.18 * np.log(draws['shot']) + 1.2), rtol=1e-3)
  assert (draws['chroma'][quiet] == 0).all() and (draws['denoise'][quiet] == 0).all()
  assert (draws['denoise'][loud] > 0).mean() == pytest.approx(0.75, abs=0.03)
  assert (draws['amount'] > 0).mean() == pytest.approx(0.8, abs=0.03)
  assert draws['amount'][loud].max() > 1.4 and draws['amount'].max() <= 1.5 and draws['amount'][quiet].max() <= 0.3
  assert draws['radius'].min() >= 0.5 and draws['radius'].max() <= 2
  coded = draws['quality'] > 0
  assert coded.mean() == pytest.approx(0.5, abs=0.03)
  assert draws['quality'][coded].min() >= 60 and draws['quality'].max() <= 95
  assert draws['quality'][coded & quiet].min() >= 85
  for name in ('row', 'column'):
    assert draws[name].mean() == pytest.approx(0.5, abs=0.03)


def test_without_noise_and_sharpening_the_image_is_the_clean_one():
  photo = jnp.asarray(data.astronaut()[None, 100:132, 200:240], jnp.float32) / 255
  made, rms = _apply(jax.random.split(jax.random.key(0), 1), photo, _draws())
  np.testing.assert_allclose(made, photo, atol=1e-5)
  assert float(rms[0]) < 1e-6


def test_srgb_is_its_standard_and_inverts():
  x = jnp.linspace(0, 1, 1001)
  np.testing.assert_allclose(colour.linear_to_srgb(colour.srgb_to_linear(x)), x, atol=2e-6)
  assert float(colour.srgb_to_linear(jnp.float32(0.5))) == pytest.approx(0.21404, abs=1e-5)
  assert float(colour.srgb_to_linear(jnp.float32(0.04))) == pytest.approx(0.04 / 12.92)


@pytest.mark.parametrize('row,column', [(0, 0), (1, 0)])
def test_noise_is_that_of_a_demosaicked_bayer_sensor(row, column):
  """Deviations of shot and read noise at the samples that are measured; averages of neighbours elsewhere."""
  d = {
    name: jnp.asarray(value) for name, value in (_PLAIN | dict(shot=2e-3, read=5e-3, row=row, column=column)).items()
  }
  level = 0.3
  linear = jnp.full((64, 64, 3), level)
  noise = jax.jit(jax.vmap(lambda key: isp.sensor_noise(key, linear, d)))(jax.random.split(jax.random.key(1), 20))
  noise = np.asarray(noise)[:, 2:-2, 2:-2]  # at the border both neighbours are the same sample
  deviation = {c: np.sqrt(g * 2e-3 * level + (g * 5e-3) ** 2) for c, g in enumerate((2.0, 1.0, 1.5))}
  at = lambda c, y, x: noise[:, (y + row) % 2 :: 2, (x + column) % 2 :: 2, c]
  for c, y in ((0, 0), (2, 1)):
    assert at(c, y, y).std() == pytest.approx(deviation[c], rel=0.02)  # measured
    assert at(c, y, 1 - y).std() == pytest.approx(deviation[c] / np.sqrt(2), rel=0.02)  # the mean of two
    assert at(c, 1 - y, 1 - y).std() == pytest.approx(deviation[c] / 2, rel=0.04)  # of four
  assert at(1, 0, 1).std() == pytest.approx(deviation[1], rel=0.02)
  assert at(1, 0, 0).std() == pytest.approx(deviation[1] / 2, rel=0.04)
  red, green, blue = _neighbours(noise)
  assert min(red, blue) > 0.5 and 0.2 < green < 0.5


def test_the_noise_of_the_recipe_is_correlated_and_that_of_eq_1_is_not():
  hr = jnp.full((16, 128, 128, 3), 0.5)
  made = degrade(jax.random.key(3), hr, Recipe('invariant', 'isp'))
  kept = np.asarray((made.draws['isp_quality'] == 0) & (made.noise_sigma > 0.005))
  assert kept.sum() >= 2
  for one in np.asarray(made.lr)[kept]:
    assert min(_neighbours(one[None] - 0.5)) > 0.15
  white = degrade(jax.random.key(3), hr, Recipe('invariant', 'no_jpeg', noise=(0.03, 0.03)))
  assert np.abs(_neighbours(np.asarray(white.lr) - 0.5)).max() < 0.03


def test_chroma_noise_leaves_the_luma_and_has_its_deviation():
  noise = np.asarray(jax.jit(isp.chroma_noise, static_argnums=1)(jax.random.key(0), (128, 128), 0.02, 2.0))
  assert np.abs(noise @ [0.299, 0.587, 0.114]).max() < 1e-5
  assert (noise[..., 0] / 1.402).std() == pytest.approx(0.02, rel=0.15)
  assert min(_neighbours(noise[None])) > 0.8


def test_the_denoiser_takes_noise_and_keeps_edges():
  """Weights of a plain loop; half of the noise and more goes, an edge of twenty deviations stays."""
  rng = np.random.default_rng(0)
  image = np.where(np.arange(24) < 12, 0.3, 0.7)[None, :, None] + 0.02 * rng.standard_normal((20, 24, 3))
  found = np.asarray(jax.jit(isp.bilateral)(jnp.asarray(image, jnp.float32), 0.06))
  luma = image @ [0.299, 0.587, 0.114]
  y, x, total, norm = 9, 11, 0, 0
  for dy in range(-2, 3):
    for dx in range(-2, 3):
      difference = luma[y + dy, x + dx] - luma[y, x]
      weight = np.exp(-(dy**2 + dx**2) / 4.5 - difference**2 / (2 * 0.06**2))
      total, norm = total + weight * image[y + dy, x + dx], norm + weight
  np.testing.assert_allclose(found[y, x], total / norm, atol=1e-5)
  assert found[:, :12].std() < 0.5 * image[:, :12].std()
  assert found[:, 12].mean() - found[:, 11].mean() > 0.38


def test_sharpening_makes_overshoot_at_an_edge():
  edge = jnp.broadcast_to(jnp.where(jnp.arange(32) < 16, 0.3, 0.7)[None, None, :, None], (1, 32, 32, 3))
  key = jax.random.split(jax.random.key(0), 1)
  before = 0.0
  for amount in (0.0, 0.5, 1.5):
    made = np.asarray(_apply(key, edge, _draws(amount=amount))[0])
    over, under = made.max() - 0.7, 0.3 - made.min()
    # A Gaussian of radius 1 has 0.399 of its weight on the middle tap, and half of the rest lies beyond the edge.
    assert over == pytest.approx(amount * 0.4 * 0.3005, abs=0.004) and under == pytest.approx(over, abs=0.005)
    assert amount == 0 or over > before + 0.05
    before = over


@pytest.mark.slow
def test_images_are_8_bit_in_range_and_their_own_keys():
  photo = jnp.asarray(data.astronaut()[None, 100:164, 200:264], jnp.float32) / 255
  hr = jnp.concatenate([photo, photo[:, ::-1], photo[:, :, ::-1], 1 - photo])
  keys, recipe = jax.random.split(jax.random.key(5), 4), Recipe('mixed', 'isp')
  made = degrade(keys, hr, recipe)
  assert float(made.lr.min()) >= 0 and float(made.lr.max()) <= 1
  np.testing.assert_allclose(made.lr * 255, jnp.round(made.lr * 255), atol=1e-3)
  other = degrade(keys, hr, Recipe('mixed', 'no_noise'))
  np.testing.assert_allclose(made.lr_clean, other.lr_clean, atol=1e-6)
  np.testing.assert_allclose(made.kernels, other.kernels, atol=1e-7)
  np.testing.assert_array_equal(made.jpeg_quality, made.draws['isp_quality'])
  turned = degrade(keys[::-1], hr[::-1], recipe)
  np.testing.assert_array_equal(turned.lr[::-1], made.lr)
