"""The registry: names, directions, weights, and what happens without an input."""

import math

import numpy as np
import pytest

from ssr_jax import metrics
from ssr_jax.types import SSRError
from tests.metrics import pristine


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(SSRError, match="unknown metric 'pnsr'; known: psnr, ssim, lr_psnr, kernel_psnr, niqe"):
    metrics.get(['psnr', 'pnsr'])


def test_directions():
  better = {name: metric.higher_is_better for name, metric in metrics.METRICS.items()}
  assert better == {'psnr': True, 'ssim': True, 'lr_psnr': True, 'kernel_psnr': True, 'niqe': False}


def test_score_keeps_order_and_marks_what_cannot_be_computed():
  image = np.random.default_rng(0).uniform(size=(24, 24, 3))
  values = metrics.score(['ssim', 'kernel_psnr', 'psnr'], image=image, reference=image, kernels=None, crop=4)
  assert list(values) == ['ssim', 'kernel_psnr', 'psnr']
  assert values['ssim'] == pytest.approx(1) and values['psnr'] == math.inf and math.isnan(values['kernel_psnr'])


def test_every_metric_says_what_it_is():
  inputs = {'image', 'reference', 'lr_clean', 'kernels', 'true_kernels'}
  for name, metric in metrics.METRICS.items():
    assert metric.name == name and metric.label and metric.digits > 0
    assert metric.needs and set(metric.needs) <= inputs


def test_a_metric_owns_its_weights(tmp_path):
  path = pristine.fit(tmp_path / 'fitted.npz')
  loaded = metrics.load(['niqe', 'psnr'], {'niqe': path})
  image = pristine.generated(np.random.default_rng(1), (96, 288))
  values = metrics.score(loaded, image=image, reference=None)
  assert list(values) == ['niqe', 'psnr'] and math.isnan(values['psnr'])
  assert values['niqe'] == metrics.niqe.niqe(image, metrics.niqe.load_pristine(path))


def test_weights_that_are_missing_or_too_many_are_one_clear_line():
  with pytest.raises(SSRError, match="'niqe' needs its pristine model"):
    metrics.load(['niqe'])
  with pytest.raises(SSRError, match="'psnr' reads no weights"):
    metrics.load(['psnr'], {'psnr': 'some.npz'})
