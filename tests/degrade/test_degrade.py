"""Eq. 1: fields stay in their ranges, modes add what they say, and image i depends on key i alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from ssr_jax import degrade as degrade_lib
from ssr_jax.degrade import Recipe, fields
from ssr_jax.image import blur, kernels
from ssr_jax.types import SSRError

degrade = jax.jit(degrade_lib.degrade, static_argnums=2)
kernel_field = jax.jit(degrade_lib.kernel_field, static_argnums=(1, 2, 3))
manet_mode = jax.jit(fields.manet_mode, static_argnums=(1, 2, 3, 4))


def _photo(size=64):
  return jnp.asarray(data.astronaut()[None, 100 : 100 + size, 200 : 200 + size], jnp.float32) / 255


@pytest.mark.parametrize('kind', fields.KINDS)
def test_fields_stay_in_the_eigenvalue_range(kind):
  depth = jnp.linspace(0, 1, 30 * 20).reshape(30, 20)
  low, high = 0.7, 10.0
  for seed in range(5):
    lambda1, lambda2, theta = kernel_field(jax.random.key(seed), Recipe(kind), 30, 20, depth)
    assert lambda1.shape == lambda2.shape == theta.shape == (30, 20)
    for value in (lambda1, lambda2):
      assert float(value.min()) >= low - 1e-4 and float(value.max()) <= high + 1e-4


def test_invariant_is_constant_and_smooth_varies_without_jumps():
  recipe = Recipe('invariant')
  for f in kernel_field(jax.random.key(0), recipe, 24, 24):
    assert float(jnp.ptp(f)) == 0
  spread = []
  for seed in range(8):
    lambda1, *_ = kernel_field(jax.random.key(seed), Recipe('smooth', period=(16, 16)), 80, 120)
    spread.append(float(jnp.ptp(lambda1)))
    # A smooth step over 16 pixels climbs at most 1.5/16 of the range a pixel.
    assert float(jnp.abs(jnp.diff(lambda1, axis=0)).max()) <= 9.3 * 1.5 / 16 + 1e-3
  assert np.mean(spread) > 6


def test_smooth_noise_reaches_the_values_of_its_nodes():
  """The weights of the two neighbours sum to one: constant nodes give a constant field, and the mean is a half."""
  noise = jax.jit(jax.vmap(lambda k: fields.smooth_noise(k, 40, 40, 20.0)))(jax.random.split(jax.random.key(0), 200))
  assert float(noise.min()) >= 0 and float(noise.max()) <= 1
  assert float(noise.mean()) == pytest.approx(0.5, abs=0.03)
  assert float(noise.max()) > 0.97 and float(noise.min()) < 0.03


def test_manet_modes_follow_their_formulas():
  a, b = (2.5 - 0.175) * 4, 0.175 * 4
  get = lambda mode: [np.asarray(f) for f in manet_mode(jax.random.key(0), mode, 50, 30, 4)]
  u = np.repeat(np.linspace(0, 1, 5), 10)[:, None] * np.ones((1, 30))
  v = np.repeat(np.linspace(0, 1, 3), 10)[None, :] * np.ones((50, 1))
  for mode, expected in {
    'mode1': (a + b, a * u + b, 0),
    'mode2': (a * v + b, a * u + b, 0),
    'mode3': (a + b, b, np.pi * u),
  }.items():
    for got, want in zip(get(mode), expected, strict=True):
      np.testing.assert_allclose(got, np.broadcast_to(want, (50, 30)), rtol=1e-5, atol=1e-6)
  theta = get('mode6')[2][::10, ::10]
  np.testing.assert_allclose(theta[:2, :2], np.pi / 4 * np.array([[1, 3], [3, 1]]), rtol=1e-5)


def test_defocus_is_sharp_at_the_focus_and_grows_away_from_it():
  depth = jnp.linspace(0, 1, 64)[None, :] * jnp.ones((8, 1))
  variance = np.asarray(fields.defocus(jax.random.key(3), depth, (0.7, 10.0))[0])[0]
  sharpest = variance.argmin()
  assert variance[sharpest] < 0.75
  assert (np.diff(variance[sharpest:]) >= -1e-5).all() and (np.diff(variance[: sharpest + 1]) <= 1e-5).all()


def test_defocus_and_motion_together_add_their_covariances():
  """Sharp where the depth is in focus and nothing moves; the sum of both elsewhere, direction that of the motion."""
  depth = jnp.linspace(0, 1, 64)[None, :] * jnp.ones((48, 1))
  for seed in range(3):
    key = jax.random.key(seed)
    (along, across, theta), draws = jax.jit(fields.depth_motion, static_argnums=2)(key, depth, (0.7, 10.0), 20.0)
    added = np.asarray(across) - 0.7  # motion adds nothing across itself, so this is defocus alone
    assert np.abs(added - added[:1]).max() < 1e-5  # a function of depth, which varies along x only
    circle = np.abs(np.asarray(depth)[0] - float(draws['focus']))
    expected = (float(draws['widest']) - 0.7) * (circle / circle.max()) ** 2
    np.testing.assert_allclose(added[0], expected, atol=1e-4)
    moved = np.asarray(along - across)
    assert moved.min() > -1e-5 and np.ptp(moved) > 0.5 and np.ptp(theta) > 1
    assert 0.25 <= float(draws['share']) <= 0.75
    assert draws['widest'] <= 0.7 + draws['share'] * 9.3 + 1e-5 and moved.max() <= (1 - draws['share']) * 9.3 + 1e-4


def test_what_is_returned_tells_the_whole_story():
  """Kernels come from the field, the target is HR, and what was drawn is what the field was made from."""
  hr, depth = _photo(), jnp.broadcast_to(jnp.linspace(0, 1, 16), (1, 16, 16))
  out = degrade(jax.random.key(4), hr, Recipe('depth', 'no_jpeg'), depth)
  np.testing.assert_array_equal(out.target, hr)
  np.testing.assert_array_equal(out.depth, depth)
  np.testing.assert_allclose(out.kernels, kernels.gaussian_kernels(*out.field), atol=1e-7)
  assert fields.KINDS[int(out.draws['kind'][0])] == 'depth'
  sharpest = np.asarray(depth)[0, 0, np.asarray(out.field[0])[0, 0].argmin()]
  assert abs(sharpest - float(out.draws['focus'][0])) <= 0.5 / 15 + 1e-6
  assert float(out.field[0].max()) == pytest.approx(float(out.draws['widest'][0]), abs=1e-4)


def test_mixed_draws_each_field_equally_often_and_says_which():
  keys = jax.random.split(jax.random.key(0), 400)
  depth = jnp.broadcast_to(jnp.linspace(0, 1, 8), (400, 8, 8))
  out = degrade(keys, jnp.zeros((400, 32, 32, 3)), Recipe('mixed'), depth)
  drawn = np.array([fields.KINDS[i] for i in np.asarray(out.draws['kind'])])
  for name in ('invariant', 'smooth', 'motion', 'depth'):
    assert (drawn == name).mean() == pytest.approx(0.25, abs=0.09)  # 4 sigma
  flat = np.asarray(jnp.ptp(out.field[0].reshape(400, -1), axis=1)) == 0
  assert flat[drawn == 'invariant'].all()
  assert flat[drawn != 'invariant'].mean() < 0.05  # a patch where nothing moves


def test_noise_free_is_the_operator_and_modes_add_noise_and_jpeg():
  hr = _photo()
  clean = degrade(jax.random.key(0), hr, Recipe('smooth', 'no_noise'))
  np.testing.assert_allclose(clean.lr_clean, blur.blur_downsample(hr, clean.kernels, 4), atol=1e-6)
  assert float(jnp.abs(clean.lr - clean.lr_clean).max()) <= 0.5 / 255 + 1e-6
  assert float(clean.noise_sigma[0]) == 0 and float(clean.jpeg_quality[0]) == 0

  hr = jnp.full((1, 128, 128, 3), 0.5)
  noisy = degrade(jax.random.key(1), hr, Recipe('invariant', 'no_jpeg', noise=(0.04, 0.04)))
  assert float(jnp.std(noisy.lr)) == pytest.approx(0.04, rel=0.06)
  assert float(noisy.noise_sigma[0]) == pytest.approx(0.04) and float(noisy.jpeg_quality[0]) == 0
  coded = degrade(jax.random.key(1), hr, Recipe('invariant', 'noise_jpeg', noise=(0.04, 0.04), quality=(20, 20)))
  assert float(coded.jpeg_quality[0]) == 20
  assert 0.05 * 0.04 < float(jnp.std(coded.lr)) < 0.9 * 0.04  # JPEG at quality 20 takes most of the noise away


def test_mixed_draws_each_mode_a_third_of_the_time():
  keys = jax.random.split(jax.random.key(0), 300)
  out = degrade(keys, jnp.zeros((300, 16, 16, 3)), Recipe('invariant', 'mixed'))
  noisy, coded = np.asarray(out.noise_sigma) > 0, np.asarray(out.jpeg_quality) > 0
  for share in ((~noisy).mean(), (noisy & ~coded).mean(), coded.mean()):
    assert share == pytest.approx(1 / 3, abs=0.09)
  assert not (coded & ~noisy).any()


def test_an_image_depends_on_its_own_key_only():
  keys = jax.random.split(jax.random.key(5), 3)
  hr = jnp.concatenate([_photo(), _photo()[:, ::-1], _photo()[:, :, ::-1]])
  recipe = Recipe('mixed', 'mixed')
  together = degrade(keys, hr, recipe)
  alone = degrade(keys[1:2], hr[1:2], recipe)
  np.testing.assert_allclose(together.lr[1:2], alone.lr, atol=1.01 / 255)
  np.testing.assert_allclose(together.kernels[1:2], alone.kernels, atol=1e-6)


def test_kernels_returned_are_distributions():
  out = degrade(jax.random.key(0), _photo(), Recipe('motion'))
  np.testing.assert_allclose(out.kernels.sum(-1), 1, atol=1e-5)
  assert kernels.side(out.kernels) == 21


@pytest.mark.parametrize('bad', [dict(field='swirl'), dict(mode='loud'), dict(eigenvalues=(0.0, 1.0))])
def test_unknown_recipes_are_one_line(bad):
  with pytest.raises(SSRError, match='recipe'):
    Recipe(**bad)
  for name in ('depth', 'depth_motion'):
    with pytest.raises(SSRError, match='needs a depth map'):
      degrade(jax.random.key(0), _photo(), Recipe(name))


def test_images_without_a_real_depth_get_no_defocus_from_recipes_that_can_do_without():
  n = 60
  hr, depth = jnp.full((n, 16, 16, 3), 0.5), jnp.broadcast_to(jnp.linspace(0, 1, 4)[:, None], (n, 4, 4))
  known = jnp.arange(n) % 2 == 0
  kinds = degrade(jax.random.key(0), hr, Recipe('mixed', 'no_noise'), depth, known).draws['kind']
  defocus = np.asarray(kinds == fields.KINDS.index('depth'))
  assert 3 < defocus[::2].sum() < 15 and not defocus[1::2].any()
  assert len(np.unique(kinds[1::2])) == 3
