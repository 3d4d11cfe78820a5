"""PSNR against scikit-image and published values."""

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
  expected = references.peak_signal_noise_ratio(y, x, data_range=255)
  assert psnr(*pair, textbook=True) == pytest.approx(expected, abs=1e-9)
  expected = references.peak_signal_noise_ratio(y[4:-4, 4:-4], x[4:-4, 4:-4], data_range=255)
  assert psnr(*pair, crop=4, textbook=True) == pytest.approx(expected, abs=1e-9)


def test_equals_scikit_image_on_rgb(pair):
  expected = references.peak_signal_noise_ratio(pair[1], pair[0], data_range=255)
  assert psnr(*pair, space='rgb', textbook=True) == pytest.approx(expected, abs=1e-9)
  inside = [image[4:-4, 4:-4] for image in pair]
  assert psnr(*pair, crop=4, space='rgb') == psnr(*inside, space='rgb')
  with pytest.raises(ValueError, match="unknown space 'lab'; known: y, rgb"):
    psnr(*pair, space='lab')


def test_the_offset_of_the_published_numbers():
  """1e-8 on the unit scale: an error of one gray level in RGB has 48.1308 dB without it and 48.1280 dB with it."""
  black = np.zeros((16, 16, 3), np.uint8)
  assert psnr(black + np.uint8(1), black, space='rgb', textbook=True) == pytest.approx(20 * math.log10(255), abs=1e-9)
  expected = -10 * math.log10(255**-2 + 1e-8)
  assert psnr(black + np.uint8(1), black, space='rgb') == pytest.approx(expected, abs=1e-9)


def test_bytes_and_floats_agree(pair):
  assert psnr(*(image / 255 for image in pair)) == pytest.approx(psnr(*pair), abs=1e-9)


def test_equal_images_and_bad_input(pair):
  assert psnr(pair[0], pair[0]) == math.inf
  with pytest.raises(ValueError, match='differ in size'):
    psnr(pair[0], pair[1][:-1])
  with pytest.raises(ValueError, match='leaves nothing'):
    psnr(*pair, crop=40)


def test_published_values(published):
  for result, hr, row in published:
    assert psnr(result, hr) == pytest.approx(row['psnr'], abs=2e-5)
