"""Luma against scikit-image, which follows MATLAB."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color, data

from ssr_jax.image import colour


@pytest.fixture(scope='module')
def photo():
  return data.astronaut()[100:164, 150:230] / 255.0


def test_luma_is_scikit_images(photo):
  expected = color.rgb2ycbcr(photo)[..., 0] / 255
  np.testing.assert_allclose(colour.luma(photo), expected, atol=1e-12)
  np.testing.assert_allclose(colour.luma(jnp.asarray(photo, jnp.float32)), expected, atol=3e-7)
  white, black = np.ones((1, 1, 3)), np.zeros((1, 1, 3))
  assert colour.luma(white) * 255 == pytest.approx(235)
  assert colour.luma(black) * 255 == pytest.approx(16)


def test_keeps_the_kind_and_type_of_array(photo):
  assert isinstance(colour.luma(photo), np.ndarray) and colour.luma(photo).dtype == np.float64
  assert colour.luma(jnp.asarray(photo, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize('bad', [np.zeros((4, 4)), np.zeros((4, 4, 4)), np.zeros((4, 4, 3), np.uint8)])
def test_refuses_what_is_not_floating_rgb(bad):
  with pytest.raises(ValueError, match='expected'):
    colour.luma(bad)
