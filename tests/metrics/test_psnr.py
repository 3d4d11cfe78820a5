"""PSNR on Y against scikit-image and published values."""

import math

import numpy as np
import pytest
from skimage import color, data
from skimage import metrics as references

from ssr_jax.metrics.psnr import psnr


@pytest.fixture(scope='module')
def pair():
  photo = data.astronaut()[100:180, 150:250]
  noise = np.random.default_rng(0).normal(0, 8, photo.shape)
  return np.clip(photo + noise, 0, 255).astype(np.uint8), photo


def test_equals_scikit_image_on_y(pair):
  x, y = (color.rgb2ycbcr(image)[..., 0] for image in pair)
  assert psnr(*pair) == pytest.approx(references.peak_signal_noise_ratio(y, x, data_range=255), abs=1e-9)
  expected = references.peak_signal_noise_ratio(y[4:-4, 4:-4], x[4:-4, 4:-4], data_range=255)
  assert psnr(*pair, crop=4) == pytest.approx(expected, abs=1e-9)


def test_bytes_and_floats_agree(pair):
  assert psnr(*(image / 255 for image in pair)) == pytest.approx(psnr(*pair), abs=1e-9)


def test_equal_images_and_bad_input(pair):
  assert psnr(pair[0], pair[0]) == math.inf
  with pytest.raises(ValueError, match='differ in size'):
    psnr(pair[0], pair[1][:-1])
  with pytest.raises(ValueError, match='leaves nothing'):
    psnr(*pair, crop=40)


def test_published_values(published):
  """The published numbers add 1e-8 to the mean squared error on the unit scale; that apart they are ours."""
  for result, hr, row in published:
    mse = 10 ** (-psnr(result, hr) / 10)
    assert -10 * math.log10(mse + 1e-8) == pytest.approx(row['psnr'], abs=2e-5)
    assert psnr(result, hr) == pytest.approx(row['psnr'], abs=4e-3)
