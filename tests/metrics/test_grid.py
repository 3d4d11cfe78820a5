"""The grid metric: a restatement in loops, grids that it must find, and photos where there are none."""

import itertools
import math

import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax.metrics.grid import grid

PHOTOS = ('astronaut', 'chelsea', 'coffee')


def _dots(image, period, strength, phase=(1, 2)):
  """The image with a dot at every `period`-th pixel, brighter or darker by chance."""
  dotted = image.astype(float)
  sign = np.random.default_rng(0).choice([-1, 1], image.shape[:2])[..., None]
  places = np.zeros(image.shape[:2], bool)
  places[phase[0] :: period, phase[1] :: period] = True
  return np.clip(dotted + strength * sign * places[..., None], 0, 255).round().astype(np.uint8)


def _by_loops(rgb):
  y = rgb.astype(float) @ np.array([0.299, 0.587, 0.114])
  H, W = y.shape
  places = {}
  for i in range((H - 2) // 8 * 8):
    for j in range((W - 2) // 8 * 8):
      r, c = i + 1, j + 1
      laplacian = 4 * y[r, c] - y[r - 1, c] - y[r + 1, c] - y[r, c - 1] - y[r, c + 1]
      kind = (i // 4 % 2, j // 4 % 2)
      places.setdefault((kind, i % 4, j % 4), []).append(math.log(1 + abs(laplacian)))
  mean = {key: sum(values) / len(values) for key, values in places.items()}
  alike = lambda kind, i, j: [mean[kind, k, m] for k in range(i % 2, 4, 2) for m in range(j % 2, 4, 2)]
  rest = {(kind, i, j): m - sum(alike(kind, i, j)) / 4 for (kind, i, j), m in mean.items()}
  products = [
    rest[first, i, j] * rest[second, i, j]
    for first, second in itertools.permutations(itertools.product((0, 1), (0, 1)), 2)
    for i in range(4)
    for j in range(4)
  ]
  shared = sum(products) / len(products) * 4 / 3
  whole = [
    math.log(1 + abs(4 * y[r, c] - y[r - 1, c] - y[r + 1, c] - y[r, c - 1] - y[r, c + 1]))
    for r in range(1, H - 1)
    for c in range(1, W - 1)
  ]
  return math.copysign(100 * math.sqrt(abs(shared)) / (sum(whole) / len(whole)), shared)


def test_it_is_the_formula():
  photo = data.astronaut()[100:163, 200:270]
  assert grid(photo) == pytest.approx(_by_loops(photo), rel=1e-9)
  assert grid(photo) == pytest.approx(grid(photo / 255), rel=1e-9)


def test_noise_and_photos_that_were_no_jpeg_have_none():
  draws = [grid(np.random.default_rng(seed).random((64, 64, 3))) for seed in range(50)]
  assert abs(np.mean(draws)) < 3 * np.std(draws) / 50**0.5
  assert all(abs(grid(getattr(data, photo)())) < 0.5 for photo in ('astronaut', 'chelsea', 'coffee'))


def test_what_repeats_every_two_pixels_is_none():
  photo = data.astronaut()[:256, :256]
  assert grid(_dots(photo, 2, 12)) < grid(photo) + 1 < grid(_dots(photo, 4, 12))


@pytest.mark.parametrize('photo', PHOTOS)
def test_dots_at_every_fourth_pixel_raise_it_with_their_strength(photo):
  photo = getattr(data, photo)()[:256, :256]
  plain, weak, strong = (grid(_dots(photo, 4, strength)) for strength in (0, 4, 12))
  assert strong > weak > plain and strong > plain + 3
  # Wherever the cells begin, and however the photo is turned.
  for phase in ((0, 0), (3, 1)):
    assert grid(_dots(photo, 4, 12, phase)) > plain + 3
  assert grid(_dots(photo, 4, 12)[::-1].swapaxes(0, 1)) > plain + 3


@pytest.mark.parametrize('photo', PHOTOS)
def test_dots_at_another_distance_do_not(photo):
  photo = getattr(data, photo)()[:256, :256]
  assert grid(_dots(photo, 7, 12)) < grid(photo) + 1


def test_bicubic_enlargement_has_one():
  photo = data.astronaut()[:256, :256]
  small = Image.fromarray(photo).resize((64, 64), Image.Resampling.BICUBIC)
  assert grid(np.asarray(small.resize((256, 256), Image.Resampling.BICUBIC))) > grid(photo) + 3


def test_flat_and_too_small():
  assert grid(np.full((40, 40, 3), 7, np.uint8)) == 0
  with pytest.raises(ValueError, match='an image of 31x64 is too small; the grid needs 32x32 pixels'):
    grid(np.zeros((31, 64, 3)))
