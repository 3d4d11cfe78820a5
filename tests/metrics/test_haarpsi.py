"""HaarPSI against a restatement in loops, piq's value, and laws."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage import data

from ssr_jax.metrics.haarpsi import haarpsi
from tests.metrics.photos import degraded


def _same(x, kernel):
  """MATLAB's conv2(x, kernel, 'same') for kernels with an even side, by its definition."""
  k = len(kernel)
  out = np.zeros_like(x)
  for i in range(x.shape[0]):
    for j in range(x.shape[1]):
      for a in range(k):
        for b in range(k):
          row, column = i + k // 2 - a, j + k // 2 - b
          if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
            out[i, j] += kernel[a, b] * x[row, column]
  return out


def _by_loops(image, reference):
  """The release of Reisenhofer et al., for values of 0 to 255."""
  planes = []
  for rgb in (image.astype(float), reference.astype(float)):
    r, g, b = np.moveaxis(rgb, -1, 0)
    yiq = (0.299 * r + 0.587 * g + 0.114 * b, 0.596 * r - 0.274 * g - 0.322 * b, 0.211 * r - 0.523 * g + 0.312 * b)
    planes.append([_same(p, np.full((2, 2), 0.25))[::2, ::2] for p in yiq])
  similarity = lambda a, b: (2 * a * b + 30) / (a**2 + b**2 + 30)
  maps, weights = [], []
  for turned in (False, True):
    coefficients = []
    for x, *_ in planes:
      filters = []
      for scale in (1, 2, 3):
        haar = np.ones((2**scale, 2**scale)) / 2**scale
        haar[: 2 ** (scale - 1)] *= -1
        filters.append(abs(_same(x, haar.T if turned else haar)))
      coefficients.append(filters)
    a, b = coefficients
    maps.append((similarity(a[0], b[0]) + similarity(a[1], b[1])) / 2)
    weights.append(np.maximum(a[2], b[2]))
  chroma = [[abs(_same(x, np.full((2, 2), 0.25))) for x in yiq[1:]] for yiq in planes]
  maps.append(sum(similarity(*pair) for pair in zip(*chroma, strict=True)) / 2)
  weights.append(sum(weights) / 2)
  logistic = [1 / (1 + np.exp(-4.2 * x)) for x in maps]
  mean = sum((s * w).sum() for s, w in zip(logistic, weights, strict=True)) / sum(w.sum() for w in weights)
  return (math.log(mean / (1 - mean)) / 4.2) ** 2


@pytest.mark.parametrize('size', [(24, 30), (25, 31)])
def test_equals_loops(size):
  reference = data.astronaut()[100 : 100 + size[0], 150 : 150 + size[1]]
  image = degraded(reference)[..., ::-1]  # channels in another order: colours differ
  assert haarpsi(image, reference) == pytest.approx(_by_loops(image, reference), abs=1e-12)
  inside = np.s_[3:-3, 3:-3]
  assert haarpsi(image, reference, crop=3) == pytest.approx(_by_loops(image[inside], reference[inside]), abs=1e-12)


def test_equals_piq():
  """piq 0.8.0 gave this in float64; its weights of I and Q have a digit more."""
  reference = data.astronaut()[:301, :260]
  image = degraded(reference)
  assert haarpsi(image[:300], reference[:300]) == pytest.approx(0.8755743538820289, abs=1e-5)


def test_laws():
  photo = data.astronaut()[:96, :128] / 255
  assert haarpsi(photo, photo) == pytest.approx(1, abs=1e-12)
  values = [haarpsi(ndimage.gaussian_filter(photo, (s, s, 0)), photo) for s in (0.5, 1, 2, 4)]
  assert 1 > values[0] > values[1] > values[2] > values[3] > 0
  blurred = ndimage.gaussian_filter(photo, (1, 1, 0))
  assert haarpsi(photo, blurred) == pytest.approx(haarpsi(blurred, photo), abs=1e-15)
  as_bytes = (255 * blurred).round().astype(np.uint8)
  assert haarpsi(as_bytes, photo) == pytest.approx(haarpsi(as_bytes / 255, photo), abs=1e-12)


def test_black_images_are_equal():
  black = np.zeros((16, 16, 3), np.uint8)
  assert haarpsi(black, black) == pytest.approx(1, abs=1e-12)


def test_bad_input():
  with pytest.raises(ValueError, match='differ in size'):
    haarpsi(np.zeros((8, 8, 3)), np.zeros((8, 9, 3)))
  with pytest.raises(ValueError, match='leaves nothing'):
    haarpsi(np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), crop=4)
