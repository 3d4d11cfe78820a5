"""Unsharp masking against its definition with SciPy's filters."""

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from skimage import data

from ssr_jax.image import sharpen


def test_is_the_definition_with_scipys_filters():
  image = data.astronaut()[20:116, 180:290].astype(np.float64) / 255
  offsets = np.arange(51) - 25
  taps = np.exp(-0.5 * (offsets / 8) ** 2)  # OpenCV's deviation for 51 taps: 0.3 * (25 - 1) + 0.8
  taps /= taps.sum()

  def blur(x):
    for axis in (0, 1):
      x = scipy.ndimage.correlate1d(x, taps, axis, mode='mirror')
    return x

  detail = image - blur(image)
  mask = blur((np.abs(detail) * 255 > 10).astype(np.float64))
  expected = mask * np.clip(image + 0.5 * detail, 0, 1) + (1 - mask) * image
  found = np.asarray(sharpen.unsharp_mask(jnp.asarray(image[None], jnp.float32)))[0]
  # A difference of just ten levels may fall on either side in float32.
  np.testing.assert_allclose(found, expected, atol=2e-3)
  assert np.abs(found - expected).mean() < 1e-5
  assert np.abs(found - image).mean() > 0.005


def test_flat_images_stay_and_small_ones_work():
  flat = jnp.full((1, 5, 1, 3), 0.3)
  np.testing.assert_allclose(sharpen.unsharp_mask(flat), flat, atol=1e-6)
