"""Smoothing against SciPy; steepening by its laws: steeper edges, no halos, flat areas as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ssr_jax.image import edges as lib

IMAGE = np.random.default_rng(0).random((40, 52, 3), np.float32)


@pytest.mark.parametrize('deviation', [0.6, 1.2, 2.5])
def test_smoothing_is_scipys(deviation):
  want = ndimage.gaussian_filter(
    IMAGE.astype(np.float64),
    (deviation, deviation, 0),
    mode='nearest',
    radius=(*[lib.smoothing_reach(deviation)] * 2, 0),
  )
  np.testing.assert_allclose(lib.smooth(IMAGE, deviation), want, atol=1e-6)
  assert lib.smooth(IMAGE, deviation).dtype == np.float32 and lib.smoothing_reach(0) == 0


def test_steepening_is_its_definition():
  y = IMAGE.astype(np.float64) @ [0.299, 0.587, 0.114]
  low, high = (f(y, 5, mode='nearest') for f in (ndimage.minimum_filter, ndimage.maximum_filter))
  blurred = ndimage.gaussian_filter(y, 1.5, mode='nearest', radius=5)
  want = IMAGE + (np.clip(y + 0.7 * (y - blurred), low, high) - y)[..., None]
  found = lib.steepen(IMAGE, 0.7)
  np.testing.assert_allclose(found, want, atol=1e-6)
  assert found.dtype == np.float32
  np.testing.assert_allclose(jax.jit(lambda x: lib.steepen(x, 0.7))(IMAGE), want, atol=1e-6)


def test_an_edge_gets_steeper_without_halos_and_colours_stay():
  x = np.arange(48, dtype=np.float32)
  ramp = 0.2 + 0.6 / (1 + np.exp(-(x - 24) / 1.2))  # an edge some five pixels wide
  image = np.broadcast_to(ramp[None, :, None], (32, 48, 3)) * np.float32([1.0, 0.8, 0.6])
  found = lib.steepen(image, 2.0)
  assert np.diff(found[16, :, 1]).max() > 1.2 * np.diff(image[16, :, 1]).max()
  y, before = (a @ np.float32([0.299, 0.587, 0.114]) for a in (found, image))
  assert y.max() <= before.max() + 1e-6 and y.min() >= before.min() - 1e-6
  np.testing.assert_allclose(found[..., :1] - found, image[..., :1] - image, atol=1e-6)
  unlimited = before + 2 * (before - ndimage.gaussian_filter(before, 1.5, mode='nearest'))
  assert unlimited.max() > before.max() + 0.008  # which is what a halo would be
  flat = np.full((16, 16, 3), 0.3, np.float32)
  np.testing.assert_allclose(lib.steepen(flat, 4.0), flat, atol=1e-6)
  np.testing.assert_array_equal(lib.steepen(image, 0.0), image)


def test_rows_depend_on_what_reach_says_and_no_more():
  changed = IMAGE.copy()
  changed[:20] = 1 - changed[:20]
  for function, reach in ((lambda x: lib.steepen(x, 1.0), lib.REACH), (lambda x: lib.smooth(x, 1.2), 4)):
    difference = np.abs(function(changed) - function(IMAGE)).max((1, 2))
    np.testing.assert_allclose(difference[20 + reach :], 0, atol=1e-7)
    assert difference[20:].max() > 1e-3
  assert lib.smoothing_reach(1.2) == 4


def test_both_stay_in_the_library_of_their_argument():
  assert isinstance(lib.steepen(jnp.asarray(IMAGE), 1.0), jax.Array) and isinstance(lib.smooth(IMAGE, 1.0), np.ndarray)
