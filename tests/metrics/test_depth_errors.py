"""Depth errors: zero for affine predictions, hand-computed small cases."""

import numpy as np
import pytest

from ssr_jax.metrics.depth_errors import align, depth_errors


@pytest.fixture
def truth():
  return np.random.default_rng(0).uniform(0.2, 2, (20, 30))


def test_an_affine_prediction_is_perfect(truth):
  errors = depth_errors(3 * truth - 7, truth)
  assert errors['absrel'] == pytest.approx(0, abs=1e-9)
  assert errors['delta1'] == errors['ordinal'] == 1
  assert errors['spearman'] == pytest.approx(1)


def test_align_equals_polyfit(truth):
  prediction = truth**2 + np.random.default_rng(1).normal(0, 0.1, truth.shape)
  a, c = np.polyfit(prediction.ravel(), truth.ravel(), 1)
  np.testing.assert_allclose(align(prediction, truth), a * prediction + c, rtol=1e-9)


def test_against_a_loop(truth):
  prediction = truth + np.random.default_rng(2).normal(0, 0.2, truth.shape)
  a, c = np.polyfit(prediction.ravel(), truth.ravel(), 1)
  relative, close = [], []
  for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
    z, z_true = 1 / max(a * p + c, 0.1 * truth.min()), 1 / t
    relative.append(abs(z - z_true) / z_true)
    close.append(max(z / z_true, z_true / z) < 1.25)
  errors = depth_errors(prediction, truth)
  assert errors['absrel'] == pytest.approx(np.mean(relative))
  assert errors['delta1'] == pytest.approx(np.mean(close))


def test_order_reversed_scores_nothing(truth):
  errors = depth_errors(-truth, truth)
  assert errors['spearman'] == pytest.approx(-1)
  assert errors['ordinal'] == 0


def test_sky_and_holes_are_left_out(truth):
  holed = truth.copy()
  holed[:3], holed[3:5] = np.inf, 0
  assert depth_errors(truth, holed)['absrel'] == pytest.approx(0, abs=1e-9)


def test_a_flat_prediction_orders_nothing(truth):
  errors = depth_errors(np.ones_like(truth), truth)
  assert errors['spearman'] == errors['ordinal'] == 0


def test_what_does_not_fit_is_refused(truth):
  with pytest.raises(ValueError, match='differ in shape'):
    depth_errors(truth[:5], truth)
  with pytest.raises(ValueError, match='known depth'):
    depth_errors(truth, np.zeros_like(truth))
