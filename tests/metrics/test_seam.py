"""The seam metric: a restatement in loops, steps that it must find, and photos where there are none."""

import itertools
import math

import numpy as np
import pytest
from skimage import data

from ssr_jax.image import io
from ssr_jax.metrics.seam import borders, seam


def _tiled(image, tile, step):
  """The image with every other tile brighter, as on a chess board."""
  H, W, _ = image.shape
  odd = (np.arange(H)[:, None] // tile + np.arange(W) // tile) % 2
  return np.clip(image + step * odd[..., None], 0, 255).astype(np.uint8)


def _by_loops(rgb, rows, columns):
  gray = rgb.astype(float) @ np.array([0.299, 0.587, 0.114])
  found = []
  for y, across, along in ((gray.T, rows, columns), (gray, columns, rows)):
    H, W = y.shape
    cuts = [0, *along, H]

    def magnitude(c, top, bottom, y=y):
      d = lambda i, c: y[i, c] - y[i, c - 1]
      total = weights = 0.0
      for i in range(top, bottom):
        activity = sum(d(i, c + o) ** 2 for o in (-2, -1, 1, 2)) / 4
        total += (d(i, c) - (d(i, c - 1) + d(i, c + 1)) / 2) / (1 + activity)
        weights += 1 / (1 + activity)
      return min(abs(total / weights), 4)

    for index, c in enumerate(across):
      before, after = [0, *across][index], [*across, W][index + 1]
      reach = [k for k in range(-50, 50) if k and c - (c - before) / 2 <= c + 8 * k <= c + (after - c) / 2]
      controls = [c + 8 * k for k in reach if 3 <= c + 8 * k <= W - 3]
      for top, bottom in itertools.pairwise(cuts):
        found.append(magnitude(c, top, bottom) - np.mean([magnitude(x, top, bottom) for x in controls]))
  return np.mean(found)


def test_equals_loops():
  photo = data.astronaut()[100:180, 150:246]
  assert seam(photo, ([40], [32, 64])) == pytest.approx(_by_loops(photo, [40], [32, 64]), abs=1e-12)
  assert seam(photo, ([], [32])) == pytest.approx(_by_loops(photo, [], [32]), abs=1e-12)


def test_a_step_on_a_smooth_image_is_its_height():
  ramp = np.repeat((np.arange(128) / 4)[:, None] + np.arange(128) / 2, 3).reshape(128, 128, 3) / 255
  assert seam(ramp, ([64], [64])) == pytest.approx(0, abs=1e-9)
  lifted = ramp.copy()
  lifted[:, 64:] += 1 / 255
  assert seam(lifted, ([], [64])) == pytest.approx(1, abs=1e-6)
  assert seam(lifted, ([64], [])) == pytest.approx(0, abs=1e-9)
  assert seam(lifted, ([], [40])) == pytest.approx(-1 / 7, abs=1e-6)  # line 64 is one of seven controls
  lifted[:, 64:] += 20 / 255
  assert seam(lifted, ([], [64])) == pytest.approx(4, abs=1e-6)


def test_blocks_of_jpeg_are_no_seams():
  """A grid of steps each 8 pixels is on both sides of the comparison."""
  image = np.full((256, 256, 3), 100.0) + 2 * ((np.arange(256) // 8) % 2)[:, None]
  assert abs(seam(image / 255, borders((256, 256), 64))) < 1e-9


def _mean_and_error(values):
  return np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))


def test_photos_in_the_box():
  photos = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
  whole = [seam(photo, borders(photo.shape[:2], 96)) for photo in photos]
  tiled = [seam(_tiled(photo, 96, 1), borders(photo.shape[:2], 96)) for photo in photos]
  mean, error = _mean_and_error(whole)
  assert abs(mean) < 2 * error
  assert all(b > a + 0.2 for a, b in zip(whole, tiled, strict=True))


def test_one_gray_level_is_found_in_an_average_of_photos_and_nothing_where_nothing_is(data_dir):
  photos = [io.read(path).rgb for path in sorted((data_dir / 'realsr_val' / 'hr').iterdir())[:20]]
  mean, error = _mean_and_error([seam(photo, borders(photo.shape[:2], 128)) for photo in photos])
  assert abs(mean) < 2 * error and error < 0.05
  mean, error = _mean_and_error([seam(_tiled(photo, 128, 1), borders(photo.shape[:2], 128)) for photo in photos])
  assert 0.6 < mean < 1 and mean > 10 * error


def test_borders():
  assert borders((256, 200), 64) == ([64, 128, 192], [64, 128, 136, 192])
  assert borders((256, 100), 128, 32) == ([96, 128, 224], [])
  assert borders((64, 64), 64) == ([], [])


def test_no_border_and_bad_input():
  image = np.zeros((64, 64, 3), np.uint8)
  assert math.isnan(seam(image, ([], [])))
  assert math.isnan(seam(image[:, :12], ([], [4])))  # no control fits
  with pytest.raises(ValueError, match='column 64 lies outside'):
    seam(image, ([], [32, 64]))
  with pytest.raises(ValueError, match='row 0 lies outside'):
    seam(image, ([0], []))
