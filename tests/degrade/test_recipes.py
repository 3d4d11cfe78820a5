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
  [('swirl/no_noise', 'realesrgan-light'), ('smooth/loud', 'no_jpeg'), ('realesrgan/noise_jpeg', 'takes no mode')],
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
