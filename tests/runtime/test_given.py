"""Depth and kernels that are given instead of estimated, and the number of SVKR's rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

import ssr_jax
from ssr_jax.image import kernels as kernel_maths
from ssr_jax.image import resize
from ssr_jax.systems.ssr.system import SYSTEM
from ssr_jax.types import SSRError


@pytest.fixture(scope='module')
def model(tiny_model_dir):
  return ssr_jax.load(tiny_model_dir)


def _photo(h=32, w=32):
  return data.chelsea()[100 : 100 + h, 100 : 100 + w].astype(np.float32) / 255


def _depth(h, w):
  return np.broadcast_to(np.linspace(0.1, 0.9, 4 * w, dtype=np.float32)[None, :, None], (4 * h, 4 * w, 1)).copy()


def _kernels(h, w):
  variances = np.linspace(0.7, 10, h * w).reshape(h, w)
  return np.asarray(kernel_maths.gaussian_kernels(variances, variances / 2 + 0.3, 0.4))


@pytest.mark.slow
def test_the_networks_see_what_is_given(model):
  """Independent of the pipeline: NBSR on the given kernels; DKENet and then NBSR on the given depth."""
  lr, depth, kernels = _photo(), _depth(32, 32), _kernels(32, 32)  # a size of the bucket: nothing is padded
  apply = lambda part, *inputs: model.modules[part].apply(model.variables[part], *map(jnp.asarray, inputs))
  found = model.sample(lr, steps=0, given={'kernels': kernels})
  np.testing.assert_allclose(found.kernels, kernels, atol=1e-6)
  np.testing.assert_allclose(found.restored, np.clip(apply('nbsr', lr[None], kernels[None])[0], 0, 1), atol=2e-4)
  assert np.abs(found.restored - model.sample(lr, steps=0).restored).max() > 0.01

  small = jax.image.resize(jnp.asarray(depth), (*model.modules['depth'].resolution, 1), 'linear')
  low = jax.image.resize(small, (32, 32, 1), 'linear')
  expected = apply('dkenet', lr[None], low[None])
  found = model.sample(lr, steps=0, given={'depth': depth})
  np.testing.assert_allclose(found.kernels, expected[0], atol=2e-4)
  np.testing.assert_allclose(found.restored, np.clip(apply('nbsr', lr[None], expected)[0], 0, 1), atol=2e-4)
  np.testing.assert_allclose(found.depth, jax.image.resize(small, (128, 128, 1), 'linear'), atol=1e-3)
  other = model.sample(lr, steps=0, given={'depth': 1 - depth})
  assert np.abs(other.kernels - found.kernels).max() > 1e-4


@pytest.mark.slow
def test_diffusion_sees_it_too(model):
  lr, given = _photo(), {'depth': _depth(32, 32), 'kernels': _kernels(32, 32)}
  plain = model.sample(lr, start=1.0, colour_fix='none', given=given)  # from pure noise, whatever was restored
  for name, other in (('depth', 1 - given['depth']), ('kernels', given['kernels'][::-1])):
    changed = model.sample(lr, start=1.0, colour_fix='none', given={**given, name: other})
    assert np.abs(changed.image - plain.image).max() > 1e-3, name


@pytest.mark.slow
def test_what_was_estimated_gives_the_same_image(model):
  lr = _photo()  # not padded: the estimate goes on into the padding, what is given is reflected there
  own = model.sample(lr, steps=0, iterations=1)
  again = model.sample(lr, steps=0, given={'kernels': own.kernels})
  np.testing.assert_allclose(again.restored, own.restored, atol=1e-4)


@pytest.mark.slow
def test_tiles_have_their_part_of_it(model):
  lr, calls = _photo(72, 100), []
  given = {'depth': _depth(72, 100), 'kernels': _kernels(72, 100)}
  whole = model.sample(lr, steps=0, given=given)
  tiles = model.sample(lr, steps=0, given=given, tile=64, progress=lambda done, total: calls.append(total))
  assert set(calls) == {len(calls)} == {6}  # one pass over 2x3 tiles, not one for each round
  np.testing.assert_allclose(tiles.depth, whole.depth, atol=1e-4)
  np.testing.assert_allclose(tiles.kernels, given['kernels'], atol=1e-5)
  # The corner that only one tile covers; elsewhere the networks see the tiles' borders.
  np.testing.assert_allclose(tiles.restored[:32, :140], whole.restored[:32, :140], atol=2e-4)


@pytest.mark.slow
def test_a_batch_and_a_second_image_of_the_bucket(model):
  lr = np.stack([_photo(20, 28), _photo(20, 28)[::-1]])
  kernels = np.stack([_kernels(20, 28), _kernels(20, 28)[::-1]])
  both = model.sample(lr, steps=0, given={'kernels': kernels})
  before = dict(model.traces)
  for i in range(2):
    alone = model.sample(lr[i], steps=0, given={'kernels': kernels[i]})
    np.testing.assert_array_equal(alone.restored, both.restored[i])
  model.sample(_photo(24, 25), steps=0, given={'kernels': _kernels(24, 25)})
  assert model.traces == before


def test_what_cannot_be_given_is_one_clear_line(model):
  lr, kernels, depth = _photo(8, 12), _kernels(8, 12), _depth(8, 12)
  for given, message in (
    ({'kernel': kernels}, "'kernel' cannot be given; system 'ssr' accepts depth, kernels"),
    ({'restored': _photo(32, 48)}, "'restored' cannot be given"),
    (kernels, 'must be a mapping'),
    ({'kernels': kernels[:7]}, r"given\['kernels'\] has shape \[7, 12, 441\]; it must be \[8, 12, 'k\*k'\]"),
    ({'depth': depth[None]}, r"given\['depth'\] has shape \[1, 32, 48, 1\]; it must be \[32, 48, 1\]"),
    ({'depth': 'near'}, r"given\['depth'\] is no array of numbers"),
    ({'kernels': kernels * 2}, 'must be non-negative and sum to one'),
    ({'kernels': kernels - 1 / 441}, 'must be non-negative and sum to one'),
    ({'kernels': np.full_like(kernels, np.nan)}, r"given\['kernels'\] is not finite"),
    ({'depth': depth + 0.2}, r'must lie in \[0, 1\]; got \[0.3, 1.1\]'),
    ({'kernels': np.full((8, 12, 225), 1 / 225)}, 'given kernels have 225 taps; those of this model have 441'),
  ):
    with pytest.raises(SSRError, match=message):
      model.sample(lr, steps=0, given=given)


@pytest.mark.slow
def test_rounds(model):
  lr = _photo()
  none, one, three = (model.sample(lr, steps=0, iterations=n) for n in (0, 1, 3))
  np.testing.assert_allclose(none.restored, np.clip(resize.upscale(jnp.asarray(lr)[None], 4)[0], 0, 1), atol=1e-5)
  np.testing.assert_allclose(none.kernels, one.kernels, atol=1e-6)  # Algorithm 1's first round changes neither
  np.testing.assert_allclose(none.depth, one.depth, atol=1e-6)
  assert np.abs(none.restored - one.restored).max() > 0.01 and np.abs(one.depth - three.depth).max() > 1e-4
  np.testing.assert_array_equal(three.restored, model.sample(lr, steps=0).restored)  # the model's own is 3
  for wrong in (-1, 33):
    with pytest.raises(SSRError, match=f'iterations {wrong}: must be a whole number from 0 to 32'):
      model.check(iterations=wrong)


def test_neutral_values_can_be_given(model):
  taps = SYSTEM.neutral(model.modules, 'kernels').reshape(21, 21)
  y, x = np.mgrid[:21, :21]
  centre = (taps * y).sum(), (taps * x).sum()
  assert centre == pytest.approx((11.5, 11.5), abs=1e-3)  # the cell's centre: images stay where they are
  assert ((y - centre[0]) ** 2 * taps).sum() == pytest.approx(7**0.5, rel=0.01)
  np.testing.assert_array_equal(SYSTEM.neutral(model.modules, 'depth'), [0.5])
