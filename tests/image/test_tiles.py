"""Tile windows: coverage, symmetry of weights, blending against a loop."""

import itertools

import jax
import jax.numpy as jnp
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


@pytest.mark.parametrize('size', [(16, 16), (19, 33), (40, 17)])
def test_tiles_of_an_image_blend_to_the_image(size):
  image = jax.random.uniform(jax.random.key(0), (2, *size, 3))
  origins = tiles.origins(size, 16, 6)
  pieces = tiles.extract(image, origins, 16)
  assert pieces.shape == (len(origins), 2, 16, 16, 3)
  for piece, (y, x) in zip(pieces, origins, strict=True):
    np.testing.assert_array_equal(piece, image[:, y : y + 16, x : x + 16])
  blended = tiles.blend(pieces, origins, size, tiles.gaussian_weights(16))
  np.testing.assert_allclose(blended, image, rtol=1e-5, atol=1e-6)


def test_blend_against_a_loop_and_in_any_order():
  rng = np.random.default_rng(0)
  size, tile = (13, 18), (8, 10)
  origins = tiles.origins(size, tile, 3)
  pieces = rng.normal(size=(len(origins), 1, *tile, 2)).astype(np.float32)
  weights = tiles.gaussian_weights(tile, 0.2)
  top, bottom = np.zeros((1, *size, 2)), np.zeros((1, *size, 1))
  for piece, (y, x) in zip(pieces, origins, strict=True):
    for i in range(tile[0]):
      for j in range(tile[1]):
        top[:, y + i, x + j] += piece[:, i, j] * weights[i, j]
        bottom[:, y + i, x + j] += weights[i, j]
  blended = jax.jit(lambda p: tiles.blend(p, origins, size, weights))(pieces)
  np.testing.assert_allclose(blended, top / bottom, rtol=1e-4, atol=1e-5)
  order = rng.permutation(len(origins))
  shuffled = tiles.blend(jnp.asarray(pieces[order]), [origins[i] for i in order], size, weights)
  np.testing.assert_allclose(shuffled, blended, rtol=1e-4, atol=1e-5)


def test_a_seam_is_a_smooth_ramp():
  """Two tiles that disagree by one meet without a step larger than the weights' own slope."""
  origins = tiles.origins((16, 24), 16, 8)
  pieces = jnp.stack([jnp.zeros((1, 16, 16, 1)), jnp.ones((1, 16, 16, 1))])
  row = np.asarray(tiles.blend(pieces, origins, (16, 24), tiles.gaussian_weights(16, 0.2)))[0, 8, :, 0]
  assert (np.diff(row) >= -1e-6).all() and row[0] == 0 and row[-1] == 1
  assert row[11] + row[12] == pytest.approx(1, abs=1e-5)


def test_bfloat16_tiles_are_summed_in_float32():
  image = jax.random.uniform(jax.random.key(0), (1, 20, 20, 1)).astype(jnp.bfloat16)
  origins = tiles.origins((20, 20), 8, 6)
  out = tiles.blend(tiles.extract(image, origins, 8), origins, (20, 20), tiles.gaussian_weights(8))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_array_equal(out.astype(jnp.float32), image.astype(jnp.float32))


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='overlap'):
    tiles.starts(20, 8, 8)
  with pytest.raises(ValueError, match='without weight'):
    tiles.gaussian_weights(16, 0.01)
  pieces, weights = jnp.zeros((1, 1, 8, 8, 3)), tiles.gaussian_weights(8)
  with pytest.raises(ValueError, match='do not go with'):
    tiles.blend(pieces, [(0, 0), (0, 1)], (8, 9), weights)
  with pytest.raises(ValueError, match='uncovered'):
    tiles.blend(pieces, [(0, 0)], (8, 9), weights)
  with pytest.raises(ValueError, match='leaves the image'):
    tiles.blend(pieces, [(0, 2)], (8, 9), weights)
