"""Colour fixes against SciPy's correlation and their defining properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ssr_jax.image import colourfix


def _images(seed=0, shape=(2, 40, 52, 3)):
  rng = np.random.default_rng(seed)
  return rng.random(shape, dtype=np.float32), 0.3 + 0.5 * rng.random(shape, dtype=np.float32)


def test_adain_takes_the_references_statistics():
  image, reference = _images()
  fixed = colourfix.adain(image, reference)
  np.testing.assert_allclose(fixed.mean((1, 2)), reference.mean((1, 2)), atol=1e-5)
  np.testing.assert_allclose(fixed.std((1, 2)), reference.std((1, 2)), rtol=1e-3)


def test_low_frequencies_against_scipy():
  image, _ = _images()
  want = image[0, :, :, 1].astype(np.float64)
  binomial = np.outer([1, 2, 1], [1, 2, 1]) / 16
  for level in range(3):
    kernel = np.zeros((2 * 2**level + 1,) * 2)
    kernel[:: 2**level, :: 2**level] = binomial
    want = ndimage.correlate(want, kernel, mode='nearest')
  got = colourfix.low_frequencies(image, 3)[0, :, :, 1]
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_wavelet_keeps_detail_and_drops_a_colour_shift():
  _, reference = _images(shape=(1, 96, 96, 3))
  shifted = reference + np.array([0.1, -0.05, 0.2], np.float32)
  np.testing.assert_allclose(colourfix.wavelet(shifted, reference), reference, atol=1e-5)
  detail = np.where(np.indices((96, 96)).sum(0) % 2, 0.1, -0.1)[None, :, :, None].astype(np.float32)
  fixed = colourfix.wavelet(shifted + detail, reference)
  np.testing.assert_allclose((fixed - reference - detail)[:, 32:-32, 32:-32], 0, atol=1e-5)


def test_numpy_and_jit_agree():
  image, reference = _images()
  for fix in (colourfix.adain, colourfix.wavelet):
    assert isinstance(fix(image, reference), np.ndarray)
    on_device = jax.jit(fix)(jnp.asarray(image), jnp.asarray(reference))
    np.testing.assert_allclose(on_device, fix(image, reference), atol=1e-5)


def test_shapes_must_agree():
  image, reference = _images()
  with pytest.raises(ValueError, match='same shape'):
    colourfix.wavelet(image, reference[:, :-1])


def test_colours_can_be_taken_finer_than_brightness():
  """What differs in brightness is kept above 4 pixels' scale, what differs in colour not; gray images are as ever."""
  rng = np.random.default_rng(3)
  reference = rng.random((40, 48, 3)).astype(np.float32)
  gray = rng.standard_normal((40, 48, 1)).astype(np.float32) * np.ones(3, np.float32)
  colours = rng.standard_normal((40, 48, 3)).astype(np.float32)
  colours -= (colours @ np.float32([0.299, 0.587, 0.114]))[..., None]
  np.testing.assert_allclose(colourfix.wavelet(reference + colours, reference, 2, 0), reference, atol=1e-5)
  np.testing.assert_allclose(
    colourfix.wavelet(reference + gray, reference, 2, 0), colourfix.wavelet(reference + gray, reference, 2), atol=1e-5
  )
  both = colourfix.wavelet(reference + gray + colours, reference, 3, 1)
  expected = reference + gray - colourfix.low_frequencies(gray, 3) + colours - colourfix.low_frequencies(colours, 1)
  np.testing.assert_allclose(both, expected, atol=1e-5)
