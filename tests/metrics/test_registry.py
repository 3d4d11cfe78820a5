"""The registry: names, directions, and what happens without an input."""

import math

import numpy as np
import pytest

from ssr_jax import metrics
from ssr_jax.types import SSRError


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
