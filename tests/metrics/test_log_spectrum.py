"""The log-spectrum distance against a restatement in loops, an analytic value, and laws."""

import cmath
import math

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from ssr_jax.metrics import psnr
from ssr_jax.metrics.log_spectrum import log_spectrum, radial_power
from tests.metrics import pristine
from tests.metrics.photos import degraded


def _power_by_loops(rgb):
  """10 log10 of the mean power of each ring, with Fourier's sum written out."""
  y = rgb.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255
  H, W = y.shape
  hann = lambda n: [0.5 - 0.5 * math.cos(2 * math.pi * i / (n - 1)) for i in range(n)]
  window = np.array([[a * b for b in hann(W)] for a in hann(H)])
  y = window * (y - y.mean())
  turn = lambda n: np.array([[cmath.exp(-2j * math.pi * i * k / n) for i in range(n)] for k in range(n)])
  spectrum = turn(H) @ y @ turn(W).T
  N, rings = min(H, W), {}
  for k in range(H):
    for m in range(W):
      frequency = math.hypot(min(k, H - k) / H, min(m, W - m) / W) * N
      rings.setdefault(round(frequency), []).append(abs(spectrum[k, m]) ** 2)
  floor = 1e-6 * (window**2).sum()
  return [10 * math.log10(np.mean(rings[r]) + floor) for r in range(8, N // 2 + 1)]


@pytest.mark.parametrize('size', [(24, 36), (27, 21)])
def test_equals_loops(size):
  reference = data.astronaut()[100 : 100 + size[0], 150 : 150 + size[1]]
  image = degraded(reference)
  ours, theirs = _power_by_loops(image), _power_by_loops(reference)
  np.testing.assert_allclose(radial_power(image), ours, atol=1e-8)
  differences = np.subtract(ours, theirs)
  assert log_spectrum(image, reference) == pytest.approx(np.abs(differences).mean(), abs=1e-8)
  expected = math.sqrt((differences**2).mean())
  assert log_spectrum(image, reference, root_mean_square=True) == pytest.approx(expected, abs=1e-8)


def test_contrast_is_its_decibels():
  photo = data.astronaut()[:96, :128] / 255
  assert log_spectrum(photo / 2, photo) == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_positions_do_not_enter():
  """Two draws of the same texture have nothing in common but their spectrum."""
  a, b = (pristine.generated(np.random.default_rng(seed), (256, 256)) for seed in (0, 1))
  assert log_spectrum(a, b) < 0.6 and psnr.psnr(a, b) < 20
  assert log_spectrum(ndimage.gaussian_filter(a, (1, 1, 0)), b) > 8


def test_laws():
  photo = data.astronaut()[:96, :128] / 255
  assert log_spectrum(photo, photo) == 0
  values = [log_spectrum(ndimage.gaussian_filter(photo, (s, s, 0)), photo) for s in (0.5, 1, 2)]
  assert 0 < values[0] < values[1] < values[2]
  blurred = ndimage.gaussian_filter(photo, (1, 1, 0))
  assert log_spectrum(photo, blurred) == log_spectrum(blurred, photo)
  sharpened = np.clip(2 * photo - blurred, 0, 1)
  assert log_spectrum(sharpened, photo) > 1
  assert log_spectrum(photo, blurred, crop=8) == log_spectrum(photo[8:-8, 8:-8], blurred[8:-8, 8:-8])


def test_flat_images_and_bad_input():
  flat, noisy = np.full((32, 32, 3), 0.5), np.random.default_rng(0).uniform(size=(32, 32, 3))
  assert log_spectrum(flat, flat) == 0 and math.isfinite(log_spectrum(flat, noisy))
  with pytest.raises(ValueError, match='16x16'):
    log_spectrum(flat[:15], flat[:15])
  with pytest.raises(ValueError, match='differ in size'):
    log_spectrum(flat, flat[:31])
