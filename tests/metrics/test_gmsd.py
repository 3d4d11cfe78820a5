"""GMSD against a restatement in loops, piq's value, and laws."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from ssr_jax.metrics.gmsd import gmsd
from tests.metrics.photos import degraded


def _by_loops(image, reference):
  """Xue et al.'s release in loops over pixels, for values of 0 to 255."""
  maps = []
  for rgb in (image.astype(float), reference.astype(float)):
    gray = 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]
    at = lambda y, i, j: y[i][j] if 0 <= i < len(y) and 0 <= j < len(y[0]) else 0.0
    H, W = (-(-n // 2) for n in gray.shape)
    half = [
      [sum(at(gray, 2 * i + a, 2 * j + b) for a in (0, 1) for b in (0, 1)) / 4 for j in range(W)] for i in range(H)
    ]
    gradient = np.empty((H, W))
    for i in range(H):
      for j in range(W):
        x = sum(at(half, i + a, j - 1) - at(half, i + a, j + 1) for a in (-1, 0, 1)) / 3
        y = sum(at(half, i - 1, j + a) - at(half, i + 1, j + a) for a in (-1, 0, 1)) / 3
        gradient[i, j] = math.hypot(x, y)
    maps.append(gradient)
  a, b = maps
  similarity = (2 * a * b + 170) / (a**2 + b**2 + 170)
  return math.sqrt(((similarity - similarity.mean()) ** 2).sum() / (similarity.size - 1))


@pytest.mark.parametrize('size', [(24, 30), (25, 31)])
def test_equals_loops(size):
  reference = data.astronaut()[100 : 100 + size[0], 150 : 150 + size[1]]
  image = degraded(reference)
  assert gmsd(image, reference) == pytest.approx(_by_loops(image, reference), abs=1e-12)
  inside = np.s_[3:-3, 3:-3]
  assert gmsd(image, reference, crop=3) == pytest.approx(_by_loops(image[inside], reference[inside]), abs=1e-12)


def test_equals_piq():
  """piq 0.8.0 gave this in float64; its deviation is the population's."""
  reference = data.astronaut()[:301, :260]
  image = degraded(reference)
  theirs = 0.047165519551985384 * math.sqrt(150 * 130 / (150 * 130 - 1))
  assert gmsd(image[:300], reference[:300]) == pytest.approx(theirs, abs=1e-9)


def test_laws():
  photo = data.astronaut()[:96, :128] / 255
  assert gmsd(photo, photo) == 0
  values = [gmsd(ndimage.gaussian_filter(photo, (s, s, 0)), photo) for s in (0.5, 1, 2, 4)]
  assert 0 < values[0] < values[1] < values[2] < values[3] < 0.6
  blurred = ndimage.gaussian_filter(photo, (1, 1, 0))
  assert gmsd(photo, blurred) == pytest.approx(gmsd(blurred, photo), abs=1e-15)
  as_bytes = (255 * blurred).round().astype(np.uint8)
  assert gmsd(as_bytes, photo) == pytest.approx(gmsd(as_bytes / 255, photo), abs=1e-12)


def test_bad_input():
  with pytest.raises(ValueError, match='differ in size'):
    gmsd(np.zeros((8, 8, 3)), np.zeros((8, 9, 3)))
  with pytest.raises(ValueError, match='leaves nothing'):
    gmsd(np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), crop=4)
  with pytest.raises(ValueError, match='3x3'):
    gmsd(np.zeros((2, 8, 3)), np.zeros((2, 8, 3)))
