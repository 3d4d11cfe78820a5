"""Resizing against Pillow and NumPy."""

import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax.image import resize


@pytest.mark.parametrize('method,pillow', [('bicubic', Image.BICUBIC), ('bilinear', Image.BILINEAR)])
@pytest.mark.parametrize('size', [(512, 512), (64, 96), (200, 37), (32, 32)])
def test_equals_pillow(method, pillow, size):
  """Within rounding of Pillow's 8-bit result where rounded as it rounds, and of its float result where not."""
  image = data.astronaut()[100:228, 100:228]
  levels = image.astype(np.float32) / 255
  theirs = np.asarray(Image.fromarray(image).resize(size[::-1], pillow), np.float32) / 255
  assert np.abs(np.asarray(resize.resize(levels, size, method, eight_bit=True)) - theirs).max() <= 1.01 / 255
  theirs = np.asarray(Image.fromarray(levels[..., 1]).resize(size[::-1], pillow))
  assert np.abs(np.asarray(resize.resize(levels, size, method))[..., 1] - theirs).max() <= 1e-5


def test_area_is_the_mean_of_cells_and_refuses_others():
  image = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)
  out = np.asarray(resize.resize(image, (4, 3), 'area'))
  np.testing.assert_allclose(out[1, 2, 1], image[1, 4:6, 4:8].mean((0, 1)), rtol=1e-5)
  with pytest.raises(ValueError, match='whole cells'):
    resize.resize(image, (3, 3), 'area')
  with pytest.raises(ValueError, match='unknown resize method'):
    resize.resize(image, (4, 4), 'lanczos')


def test_depth_to_space_is_torchs_order_and_inverts():
  """Channel c, offsets (y, x) of torch's pixel_shuffle sit at input channel c*s*s + y*s + x."""
  x = np.arange(2 * 3 * 8, dtype=np.float32).reshape(1, 2, 3, 8)
  out = np.asarray(resize.depth_to_space(x, 2))
  for c in range(2):
    for y in range(2):
      for dx in range(2):
        np.testing.assert_array_equal(out[0, y::2, dx::2, c], x[0, :, :, c * 4 + y * 2 + dx])
  np.testing.assert_array_equal(resize.space_to_depth(out, 2), x)
