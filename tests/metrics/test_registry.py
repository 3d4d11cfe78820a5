"""The registry: names, directions, weights, and what happens without an input."""

import math

import numpy as np
import pytest

from ssr_jax import metrics
from ssr_jax.types import SSRError
from tests.metrics import pristine


def test_unknown_name_lists_the_known_ones():
  with pytest.raises(
    SSRError,
    match="unknown metric 'pnsr'; known: psnr, ssim, gmsd, haarpsi, log_spectrum, grid, seam, lr_psnr, kernel_psnr, "
    'niqe, lpips, lpips-vgg, dists, musiq, clipiqa, maniqa, pyiqa-lpips, pyiqa-lpips-vgg, fid',
  ):
    metrics.get(['psnr', 'pnsr'])


def test_directions():
  better = {name: metric.higher_is_better for name, metric in metrics.METRICS.items()}
  higher = {'psnr', 'ssim', 'haarpsi', 'lr_psnr', 'kernel_psnr', 'musiq', 'clipiqa', 'maniqa'}
  assert {name for name, is_better in better.items() if is_better} == higher
  lower = {
    'gmsd',
    'log_spectrum',
    'grid',
    'seam',
    'niqe',
    'lpips',
    'lpips-vgg',
    'dists',
    'pyiqa-lpips',
    'pyiqa-lpips-vgg',
    'fid',
  }
  assert better.keys() - higher == lower


def test_headings_say_what_was_measured():
  loaded = metrics.load(['psnr', 'ssim', 'gmsd', 'niqe'])
  assert [m.heading() for m in loaded.values()] == ['PSNR-Y (dB)', 'SSIM-Y', 'GMSD', 'NIQE (ssr_jax free photos)']
  assert [loaded[name].heading('rgb') for name in ('psnr', 'ssim', 'gmsd')] == ['PSNR-RGB (dB)', 'SSIM-RGB', 'GMSD']


def test_options_reach_the_metrics_that_compare():
  rng = np.random.default_rng(0)
  image, reference = rng.uniform(size=(2, 48, 48, 3))
  names = ['psnr', 'ssim', 'gmsd', 'haarpsi', 'log_spectrum']
  cropped = metrics.score(names, image=image, reference=reference, crop=8)
  assert cropped == metrics.score(names, image=image[8:-8, 8:-8], reference=reference[8:-8, 8:-8])
  whole = metrics.score(names, image=image, reference=reference)
  assert all(whole[name] != cropped[name] for name in names)
  rgb = metrics.score(names, image=image, reference=reference, space='rgb')
  assert {name for name in names if rgb[name] != whole[name]} == {'psnr', 'ssim'}


def test_score_keeps_order_and_marks_what_cannot_be_computed():
  image = np.random.default_rng(0).uniform(size=(24, 24, 3))
  values = metrics.score(['ssim', 'kernel_psnr', 'psnr'], image=image, reference=image, kernels=None, crop=4)
  assert list(values) == ['ssim', 'kernel_psnr', 'psnr']
  assert values['ssim'] == pytest.approx(1) and values['psnr'] == math.inf and math.isnan(values['kernel_psnr'])


def test_every_metric_says_what_it_is():
  inputs = {'image', 'reference', 'borders', 'lr_clean', 'kernels', 'true_kernels'}
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


def test_weights_that_cannot_be_read_or_are_too_many_are_one_clear_line():
  with pytest.raises(SSRError, match='absent.npz: no pristine model'):
    metrics.load(['niqe'], {'niqe': 'absent.npz'})
  with pytest.raises(SSRError, match="'psnr' reads no weights"):
    metrics.load(['psnr'], {'psnr': 'some.npz'})
