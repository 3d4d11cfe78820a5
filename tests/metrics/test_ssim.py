"""SSIM against scikit-image and published values."""

import numpy as np
import pytest
from skimage import color, data
from skimage import metrics as references

from ssr_jax.metrics.ssim import ssim


@pytest.fixture(scope='module')
def pair():
  photo = data.astronaut()[100:180, 150:250]
  noise = np.random.default_rng(0).normal(0, 8, photo.shape)
  return np.clip(photo + noise, 0, 255).astype(np.uint8), photo


@pytest.mark.parametrize('crop', [0, 4])
def test_textbook_equals_scikit_image(pair, crop):
  inside = np.s_[crop : 80 - crop, crop : 100 - crop]
  x, y = (color.rgb2ycbcr(image)[inside][..., 0] for image in pair)
  expected = references.structural_similarity(
    y, x, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
  )
  assert ssim(*pair, crop=crop, textbook=True) == pytest.approx(expected, abs=1e-9)
  assert ssim(*pair, crop=crop) == pytest.approx(expected, abs=3e-3)


def test_textbook_equals_scikit_image_on_rgb(pair):
  options = dict(data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
  expected = references.structural_similarity(pair[1], pair[0], channel_axis=-1, **options)
  assert ssim(*pair, space='rgb', textbook=True) == pytest.approx(expected, abs=1e-9)
  assert ssim(*pair, space='rgb') != ssim(*pair)


def test_negative_structure_counts_as_zero_by_default():
  stripes = np.zeros((32, 32, 3), np.uint8)
  stripes[:, ::2] = 200
  opposite = 200 - stripes
  assert ssim(stripes, opposite, textbook=True) < -0.5
  assert ssim(stripes, opposite) == 0


def test_equal_images_and_bad_input(pair):
  assert ssim(pair[0], pair[0]) == pytest.approx(1, abs=1e-12)
  with pytest.raises(ValueError, match='11x11'):
    ssim(pair[0][:10], pair[1][:10])
  with pytest.raises(ValueError, match='differ in size'):
    ssim(pair[0], pair[1][:-1])


def test_published_values(published):
  for result, hr, row in published:
    assert ssim(result, hr) == pytest.approx(row['ssim'], abs=5e-6)
