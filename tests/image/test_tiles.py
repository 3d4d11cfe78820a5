"""Tile windows: coverage, symmetry of weights, and what they blend to."""

import itertools

import numpy as np
import pytest

from ssr_jax.image import tiles


@pytest.mark.parametrize('tile, overlap', [(8, 0), (8, 3), (9, 4), (16, 8), (5, 4)])
def test_every_sample_is_covered_and_neighbours_share_the_overlap(tile, overlap):
  for size in range(tile, 3 * tile + 1):
    starts = tiles.starts(size, tile, overlap)
    covered = {i for start in starts for i in range(start, start + tile)}
    assert covered == set(range(size))
    assert starts[0] == 0 and starts[-1] == size - tile
    assert all(a < b <= a + tile - overlap for a, b in itertools.pairwise(starts))
    # No more tiles than are needed.
    assert len(starts) == 1 + -(-(size - tile) // (tile - overlap))


def test_a_short_axis_has_one_tile_whatever_the_overlap():
  assert tiles.starts(5, 8, 2) == tiles.starts(8, 8, 8) == (0,)
  assert tiles.origins((5, 12), (8, 8), 4) == [(0, 0), (0, 4)]


def test_two_axes_are_the_product_of_one():
  assert tiles.origins((10, 7), (4, 7), (1, 2)) == [(0, 0), (3, 0), (6, 0)]
  assert tiles.origins((6, 6), 4, 2) == [(0, 0), (0, 2), (2, 0), (2, 2)]


@pytest.mark.parametrize('tile', [(8, 8), (9, 9), (6, 11)])
def test_weights_are_symmetric_about_the_middle_of_both_axes(tile):
  weights = tiles.gaussian_weights(tile)
  assert weights.shape == tile and weights.dtype == np.float32 and weights.min() > 0
  np.testing.assert_array_equal(weights, weights[::-1])
  np.testing.assert_array_equal(weights, weights[:, ::-1])
  rows, columns = weights.sum(1), weights.sum(0)
  assert rows @ np.arange(tile[0]) / rows.sum() == pytest.approx((tile[0] - 1) / 2)
  assert columns @ np.arange(tile[1]) / columns.sum() == pytest.approx((tile[1] - 1) / 2)


def test_weights_have_the_deviation_asked_for():
  rows = tiles.gaussian_weights(101, 0.1).sum(1).astype(np.float64)
  offset = np.arange(101) - 50
  assert np.sqrt(rows @ offset**2 / rows.sum()) == pytest.approx(10.1, rel=1e-3)


def _blended(pieces, origins, size, weights):
  """sum(weight * tile) / sum(weight), by a loop over tiles [th, tw]."""
  top, bottom = np.zeros(size), np.zeros(size)
  for piece, (y, x) in zip(pieces, origins, strict=True):
    window = np.s_[y : y + weights.shape[0], x : x + weights.shape[1]]
    top[window] += piece * weights
    bottom[window] += weights
  return top / bottom


@pytest.mark.parametrize('size', [(16, 16), (19, 33), (40, 17)])
def test_tiles_of_an_image_blend_to_the_image(size):
  image = np.random.default_rng(0).random(size)
  origins = tiles.origins(size, 16, 6)
  pieces = [image[y : y + 16, x : x + 16] for y, x in origins]
  np.testing.assert_allclose(_blended(pieces, origins, size, tiles.gaussian_weights(16)), image, rtol=1e-12)


def test_a_seam_is_a_smooth_ramp():
  """Two tiles that disagree by one meet without a step larger than the weights' own slope."""
  origins = tiles.origins((16, 24), 16, 8)
  row = _blended([0, 1], origins, (16, 24), tiles.gaussian_weights(16, 0.2).astype(np.float64))[8]
  assert (np.diff(row) >= -1e-6).all() and row[0] == 0 and row[-1] == 1
  assert row[11] + row[12] == pytest.approx(1, abs=1e-5)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='overlap'):
    tiles.starts(20, 8, 8)
  with pytest.raises(ValueError, match='without weight'):
    tiles.gaussian_weights(16, 0.01)


@pytest.mark.parametrize('multiple', [2, 4, 8])
def test_starts_are_multiples_and_cover_all_whatever_the_overlap(multiple):
  """Also where tile - overlap is none: neighbours then share more. The last tile reaches past the end by less."""
  for size, tile, overlap in itertools.product(range(17, 60), (16,), (1, 3, 5, 14)):
    starts = tiles.starts(size, tile, overlap, multiple)
    assert all(start % multiple == 0 for start in starts)
    assert {i for start in starts for i in range(start, start + tile)} >= set(range(size))
    assert size <= starts[-1] + tile < size + multiple
    shared = min(overlap, tile - multiple)  # no step forward is smaller than the multiple
    assert all(a < b <= a + tile - shared for a, b in itertools.pairwise(starts))
