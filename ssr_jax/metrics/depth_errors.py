"""Errors of relative inverse depth, after alignment of scale and shift."""

import numpy as np
from scipy import stats

from ssr_jax.types import ArrayLike

_PAIRS = 20_000


def align(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
  """The least-squares fit a * prediction + c of `target` (MiDaS Eq. 3); both arrays have the same shape."""
  design = np.stack([prediction.ravel(), np.ones(prediction.size)], axis=1)
  (a, c), *_ = np.linalg.lstsq(design, target.ravel(), rcond=None)
  return a * prediction + c


def depth_errors(prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None) -> dict[str, float]:
  """Errors of one predicted inverse depth map.

  Args:
    prediction: [H, W] or [H, W, 1], relative inverse depth, larger is nearer, any scale and shift.
    target: same shape, true inverse depth or disparity.
    mask: same shape, true where the target is known; default where it is finite and positive, which leaves out the sky.

  Returns:
    absrel: mean |z' - z| / z of depth after least-squares alignment of inverse depth; lower is better.
    delta1: share of pixels with max(z'/z, z/z') < 1.25; higher is better.
    spearman: rank correlation of inverse depths, in [-1, 1].
    ordinal: share of pixel pairs in the right order, among random pairs that differ by more than 10 % in the target.

  Raises:
    ValueError: the shapes differ, or fewer than two pixels are known.
  """
  prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
  if prediction.shape != target.shape:
    raise ValueError(f'prediction {prediction.shape} and target {target.shape} differ in shape')
  mask = np.isfinite(target) & (target > 0) if mask is None else np.asarray(mask, bool)
  prediction, target = prediction[mask], target[mask]
  if target.size < 2:
    raise ValueError('depth errors need two pixels of known depth')

  # The aligned inverse depth can be zero or negative, which is no depth: limit it to ten times the farthest depth.
  aligned = np.maximum(align(prediction, target), 0.1 * target.min())
  ratio = target / aligned  # z'/z
  i, j = np.random.default_rng(0).integers(0, target.size, (2, _PAIRS))
  apart = np.abs(target[i] - target[j]) > 0.1 * np.minimum(target[i], target[j])
  i, j = i[apart], j[apart]
  ordered = np.sign(prediction[i] - prediction[j]) == np.sign(target[i] - target[j])
  flat = np.ptp(prediction) == 0 or np.ptp(target) == 0
  return {
    'absrel': float(np.mean(np.abs(ratio - 1))),
    'delta1': float(np.mean(np.maximum(ratio, 1 / ratio) < 1.25)),
    'spearman': 0.0 if flat else float(np.asarray(stats.spearmanr(prediction, target)[0])),
    'ordinal': float(np.mean(ordered)) if ordered.size else 0.0,
  }
