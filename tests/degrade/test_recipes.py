"""Names of recipes; and that a recipe gives today what it gave when figures were published with it."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from ssr_jax import degrade as degrade_lib
from ssr_jax.degrade import NAMES, Recipe, fields, realesrgan, uniform
from ssr_jax.image import blur, jpeg
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.types import SSRError

_GOLDEN = pathlib.Path(__file__).with_name('golden.json')
# Kernels, noise and JPEG have keys of their own: every field, and images of every mode, are every recipe.
_IMAGES = ('smooth/no_noise', 'smooth/noise_jpeg', 'mixed/mixed', *realesrgan.CHAINS)
_degrade = jax.jit(degrade_lib.degrade, static_argnums=2)
_kernel_field = jax.jit(degrade_lib.kernel_field, static_argnums=(1, 2, 3))


def _field(name: str) -> list[float]:
  """The field of one key at three places."""
  depth = jnp.broadcast_to(jnp.linspace(0, 1, 20) ** 2, (16, 20))
  field = _kernel_field(jax.random.key(7), Recipe(name), 16, 20, depth)
  return [float(value[row, column]) for value in field for row, column in ((0, 0), (7, 11), (15, 19))]


def _images(name: str) -> dict:
  """Sums and some levels of the LR images that three keys make of three photos, and what was drawn."""
  photo = jnp.asarray(data.astronaut()[None, 20:84, 180:260], jnp.float32) / 255
  hr = jnp.concatenate([photo, photo[:, ::-1], photo[:, :, ::-1]])
  made = _degrade(jax.random.split(jax.random.key(5), 3), hr, Recipe.parse(name))
  levels = np.rint(np.asarray(made.lr) * 255).astype(int)
  numbers = {'noise_sigma': made.noise_sigma, 'jpeg_quality': made.jpeg_quality, **made.draws}
  return {
    'rows': levels.sum((2, 3)).ravel().tolist(),
    'levels': levels[:, ::5, ::7, 1].ravel().tolist(),
    'drawn': {name: np.asarray(value, np.float64).tolist() for name, value in sorted(numbers.items())},
  }


@pytest.mark.parametrize('name', fields.KINDS)
def test_a_field_is_what_it_was(name):
  assert _field(name) == pytest.approx(json.loads(_GOLDEN.read_text())['fields'][name], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize('name', _IMAGES)
def test_images_are_what_they_were(name):
  """Values, not a hash: another version of XLA may round a sum otherwise, which moves a level here and there."""
  expected, found = json.loads(_GOLDEN.read_text())['images'][name], _images(name)
  assert set(found['drawn']) == set(expected['drawn'])
  for what, values in found['drawn'].items():
    assert values == pytest.approx(expected['drawn'][what], rel=1e-4, abs=1e-6), what
  # Half a level on average for a row's 60 samples; another draw of the noise moves every one of them by several.
  assert np.abs(np.subtract(found['rows'], expected['rows'])).mean() <= 30
  assert np.abs(np.subtract(found['levels'], expected['levels'])).mean() <= 0.5


def test_every_name_is_a_recipe_that_has_that_name():
  assert len(set(NAMES)) == len(NAMES) == 5 * (len(fields.KINDS) + len(uniform.FIELDS)) + 3
  for name in NAMES:
    assert Recipe.parse(name).name == name
  assert Recipe.parse('smooth') == Recipe('smooth', 'no_noise')
  assert Recipe.parse('realesrgan', scale=2).scale == 2
  assert [name for name in NAMES if Recipe.parse(name).needs_depth and name.endswith('/mixed')] == [
    'depth/mixed',
    'depth_motion/mixed',
  ]


@pytest.mark.parametrize(
  'name,complaint',
  [
    ('swirl/no_noise', 'realesrgan-light'),
    ('smooth/loud', 'no_jpeg'),
    ('realesrgan/noise_jpeg', 'takes no mode'),
    ('invariant-0-1-45', 'invariant-L1-L2-DEGREES'),
    ('invariant-9-1-181', 'invariant-L1-L2-DEGREES'),
    ('invariant-9-1', 'invariant-L1-L2-DEGREES'),
    ('smooth/noise-0', 'noise-SIGMA'),
    ('smooth/jpeg-101', 'jpeg-QUALITY'),
  ],
)
def test_unknown_names_say_what_is_known(name, complaint):
  with pytest.raises(SSRError, match=complaint):
    Recipe.parse(name)


def test_the_key_of_an_image_is_that_of_its_name_and_seed():
  key = lambda *args: int(jax.random.key_data(degrade_lib.image_key(*args))[1])
  assert key(0, 'a.png') == 0x08080295  # crc32 of '0:a.png': sets made today can be made again
  assert len({key(0, 'a.png'), key(1, 'a.png'), key(0, 'b.png')}) == 3


if __name__ == '__main__':  # after a change that is meant: python tests/degrade/test_recipes.py
  golden = {
    'fields': {name: _field(name) for name in fields.KINDS},
    'images': {name: _images(name) for name in _IMAGES},
  }
  _GOLDEN.write_text(json.dumps(golden) + '\n')


@pytest.mark.parametrize('name', fields.NINE)
def test_a_known_kernel_has_the_variances_and_direction_of_its_name(name):
  """At every pixel; the angle is that from the axis of columns to the longer side of the kernel."""
  l1, l2, degrees = map(float, name.split('-')[1:])
  assert Recipe.parse(name).name == f'{name}/no_noise'
  hr = jnp.asarray(data.astronaut()[None, 20:84, 180:260], jnp.float32) / 255
  made = _degrade(jax.random.key(0), hr, Recipe.parse(name))
  kernels = np.asarray(made.kernels[0])
  assert (kernels == kernels[0, 0]).all()
  _, covariance = kernel_lib.moments(made.kernels[:, :1, :1], 4)
  c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  turned = np.array([[c, -s], [s, c]])
  wanted = (turned @ np.diag([l1, l2]) @ turned.T)[::-1, ::-1]  # of rows and columns, in this order
  np.testing.assert_allclose(np.asarray(covariance)[0, 0, 0], wanted, atol=0.12 * l1)
  np.testing.assert_allclose(made.lr_clean, blur.blur_downsample(hr, made.kernels, 4), atol=1e-5)


@pytest.mark.slow
def test_a_fixed_level_of_noise_or_jpeg_is_that_level_and_nothing_else():
  hr = jnp.full((2, 256, 256, 3), 0.5)
  keys = jax.random.split(jax.random.key(3), 2)
  noisy = _degrade(keys, hr, Recipe.parse('invariant-5-5-0/noise-15'))
  assert np.std(np.asarray(noisy.lr - noisy.lr_clean)) * 255 == pytest.approx(15, rel=0.02)
  assert np.asarray(noisy.noise_sigma * 255).tolist() == pytest.approx([15, 15]) and not noisy.jpeg_quality.any()
  photo = jnp.asarray(data.astronaut()[None, 20:148, 180:308], jnp.float32) / 255
  coded = _degrade(keys[:1], photo, Recipe.parse('invariant-5-5-0/jpeg-75'))
  rounded = jnp.round(jnp.clip(coded.lr_clean, 0, 1) * 255) / 255
  np.testing.assert_allclose(coded.lr, jpeg.jpeg(rounded, jnp.array([75.0])), atol=1e-5)
  assert float(coded.jpeg_quality[0]) == 75 and not coded.noise_sigma.any()
  assert np.abs(np.asarray(coded.lr - rounded)).mean() > 1e-3
