"""The recipe 'real': its shares, and that each image is what its part makes of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from skimage import data

from ssr_jax import degrade as degrade_lib
from ssr_jax.degrade import Recipe, realesrgan
from ssr_jax.image import blur
from ssr_jax.types import SSRError

_RECIPE = Recipe('real')
_PARTS = tuple(_RECIPE.mixture)
degrade = jax.jit(degrade_lib.degrade, static_argnums=2)


def _photos(count):
  photo = np.asarray(data.astronaut()[20:84, 180:244], np.float32) / 255
  return jnp.stack([jnp.asarray(np.roll(photo, 5 * i, 1)) for i in range(count)])


@pytest.fixture(scope='module')
def made():
  """Enough images for each part to occur; their depth is a ramp."""
  keys, depth = jax.random.split(jax.random.key(2), 24), jnp.broadcast_to(jnp.linspace(0, 1, 16), (24, 16, 16))
  hr = _photos(24)
  return keys, hr, depth, degrade(keys, hr, _RECIPE, depth)


@pytest.mark.slow
def test_shares_are_those_of_the_table_for_small_batches_too():
  """The part is each image's own draw: batches of 4, 8 and 16 have the same shares on average."""
  assert sum(_RECIPE.mixture.values()) == pytest.approx(1)
  assert _RECIPE.mixture == {'mixed/mixed': 0.35, 'mixed/isp': 0.4, 'realesrgan-light': 0.15, 'realesrgan': 0.1}
  part = jax.jit(lambda keys: degrade_lib.degrade(keys, jnp.zeros((len(keys), 16, 16, 3)), _RECIPE).draws['part'])
  for b, batches in ((4, 400), (8, 200), (16, 100)):
    keys = jax.random.split(jax.random.key(b), (batches, b))
    found = np.concatenate([np.asarray(part(k)) for k in keys])
    for i, share in enumerate(_RECIPE.mixture.values()):
      low, high = scipy.stats.binom.interval(0.9999, found.size, share)
      assert low <= (found == i).sum() <= high, (b, _PARTS[i], (found == i).mean())


@pytest.mark.slow
def test_every_part_occurs_and_all_have_kernels_and_the_photo_as_target(made):
  _, hr, depth, out = made
  assert set(np.asarray(out.draws['part'])) == set(range(len(_PARTS)))
  np.testing.assert_array_equal(out.target, hr)
  np.testing.assert_array_equal(out.depth, depth)
  np.testing.assert_allclose(out.kernels.sum(-1), 1, atol=1e-5)
  assert float(out.kernels.min()) >= 0
  assert float(out.lr.min()) >= 0 and float(out.lr.max()) <= 1 and np.isfinite(out.lr).all()
  np.testing.assert_allclose(out.lr * 255, jnp.round(out.lr * 255), atol=1e-3)
  np.testing.assert_allclose(
    out.lr_clean, jax.jit(blur.blur_downsample, static_argnums=2)(hr, out.kernels, 4), atol=1e-5
  )
  assert float(jnp.std(out.lr, axis=(1, 2, 3)).min()) > 0.02  # no image is the zero that stands for a chain not run


@pytest.mark.parametrize('name', _PARTS)
@pytest.mark.slow
def test_an_image_is_what_its_part_makes_of_it(made, name):
  keys, hr, depth, out = made
  where = np.flatnonzero(np.asarray(out.draws['part']) == _PARTS.index(name))
  recipe = Recipe.parse(name)
  keys, hr, depth = keys[where], hr[where], depth[where]
  if recipe.chain:  # without the sharpening of HR
    chain = dataclasses.replace(recipe.chain, sharpen=False)
    draw_keys, noise_keys = (jax.vmap(jax.random.split)(keys)[:, i] for i in (0, 1))
    draws = jax.jit(jax.vmap(lambda k: realesrgan.draw(k, chain)))(draw_keys)
    lr, _, rms = jax.jit(lambda *a: realesrgan.apply(*a[:2], chain, 4, a[2]))(noise_keys, hr, draws)
    kernels, quality = degrade(keys, hr, recipe).kernels, draws['second_quality']
    field = jax.jit(lambda d: realesrgan.effective_field(d, chain, (64, 64), 4, (0.7, 10.0)))(draws)
    expected = np.broadcast_to(field[0][:, None, None], (len(where), 16, 16))
    np.testing.assert_allclose(out.field[0][where], expected, rtol=1e-5)
  else:
    expected = degrade(keys, hr, recipe, depth)
    lr, rms, kernels, quality = expected.lr, expected.noise_sigma, expected.kernels, expected.jpeg_quality
    np.testing.assert_array_equal(out.draws['kind'][where], expected.draws['kind'])
  # Two programs: a sum may round otherwise, and a DCT level then falls to the other side.
  assert float(jnp.abs(out.lr[where] - lr).mean()) < 0.3 / 255
  np.testing.assert_allclose(out.kernels[where], kernels, atol=2e-5)
  np.testing.assert_allclose(out.noise_sigma[where], rms, rtol=1e-3, atol=1e-6)
  np.testing.assert_array_equal(out.jpeg_quality[where], quality)


@pytest.mark.slow
def test_depth_reaches_the_parts_of_eq_1(made):
  keys, hr, _, out = made
  kind = np.array([degrade_lib.fields.KINDS[i] for i in np.asarray(out.draws['kind'])])
  chained = np.array([realesrgan.CHAINS.get(_PARTS[i]) is not None for i in np.asarray(out.draws['part'])])
  defocused = np.flatnonzero((kind == 'depth') & ~chained)
  assert defocused.size
  for i in defocused:  # the ramp of the depth is the field's
    np.testing.assert_allclose(out.field[0][i], np.broadcast_to(out.field[0][i][:1], (16, 16)), atol=1e-4)
  without = degrade(keys, hr, _RECIPE)
  assert not np.isin(np.asarray(without.draws['kind']), degrade_lib.fields.KINDS.index('depth')).any()


@pytest.mark.slow
def test_an_image_depends_on_its_own_key_and_one_program_serves_all_keys():
  traced = []
  run = jax.jit(lambda *args: traced.append(args) or degrade_lib.degrade(*args), static_argnums=2)
  keys, hr = jax.random.split(jax.random.key(7), 4), _photos(4)
  first = run(keys, hr, _RECIPE)
  turned = run(keys[::-1], hr[::-1], Recipe('real'))
  np.testing.assert_array_equal(turned.lr[::-1], first.lr)
  np.testing.assert_array_equal(run(keys, hr, _RECIPE).lr, first.lr)
  assert len(traced) == 1


@pytest.mark.slow
def test_the_whole_batch_at_once_is_the_images_one_by_one(monkeypatch):
  """An accelerator runs the chain on all images, a CPU on those that need it."""
  keys, hr = jax.random.split(jax.random.key(9), 6), _photos(6)
  alone = degrade(keys, hr, _RECIPE)
  monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *args, cpu, default: default(*args))
  jax.clear_caches()
  together = jax.jit(lambda keys, hr: degrade_lib.degrade(keys, hr, _RECIPE))(keys, hr)
  assert float(jnp.abs(alone.lr - together.lr).mean()) < 0.1 / 255


def test_a_mixture_takes_no_mode():
  assert Recipe.parse('real').name == 'real' and Recipe.parse('real').takes_depth and not _RECIPE.needs_depth
  with pytest.raises(SSRError, match='takes no mode'):
    Recipe.parse('real/isp')
  with pytest.raises(SSRError, match='no field before its images'):
    degrade_lib.kernel_field(jax.random.key(0), _RECIPE, 8, 8)
