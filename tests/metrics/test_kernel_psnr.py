"""Kernel PSNR and LR-PSNR: how good an estimate of the blur is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from scipy import ndimage
from skimage import data

from ssr_jax.degrade.uniform import GAUSSIAN8
from ssr_jax.image import blur
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.metrics.kernel_psnr import kernel_psnr
from ssr_jax.metrics.lr_psnr import lr_psnr
from ssr_jax.metrics.psnr import psnr


def _field(variance):
  field = kernel_lib.gaussian_kernels(jnp.full((12, 10), variance), jnp.full((12, 10), 1.0), jnp.zeros((12, 10)))
  return np.asarray(field)


def test_kernel_psnr_is_that_of_the_rmse():
  truth, estimate = _field(5.0), _field(4.0)
  rmse = math.sqrt(np.mean((truth.astype(np.float64) - estimate) ** 2))
  assert kernel_psnr(estimate, truth) == pytest.approx(20 * math.log10(1 / rmse), abs=1e-9)
  assert kernel_psnr(truth, truth) == math.inf
  with pytest.raises(ValueError, match='differ in shape'):
    kernel_psnr(truth, truth[:-1])


def test_lr_psnr_falls_with_the_error_of_the_kernels():
  hr = data.astronaut()[100:148, 100:140]
  truth = _field(5.0)
  clean = np.asarray(blur.blur_downsample(jnp.asarray(hr[None], jnp.float32) / 255, jnp.asarray(truth)[None], 4)[0])
  right, near, far = (lr_psnr(hr, kernels, clean) for kernels in (truth, _field(4.0), _field(1.0)))
  assert right > 100 > near > far > 20
  again = blur.blur_downsample(jnp.asarray(hr[None], jnp.float32) / 255, jnp.asarray(_field(1.0))[None], 4)[0]
  assert far == pytest.approx(psnr(np.asarray(again), clean, textbook=True), abs=1e-4)


def test_lr_psnr_refuses_sizes_that_do_not_fit():
  with pytest.raises(ValueError, match='do not fit'):
    lr_psnr(np.zeros((48, 40, 3), np.float32), _field(1.0), np.zeros((12, 11, 3), np.float32))


@pytest.mark.parametrize('reduction', ['bicubic', 'stride'])
def test_lr_psnr_is_that_of_the_recipes_reduction(reduction):
  """Blur by SciPy, reduction by Pillow or a stride; a field is made pixel by pixel."""
  hr = data.astronaut()[100:196, 100:212]
  true, near = (np.asarray(kernel_lib.shaped_kernels(s, s, 0.0, 1.0, False, 21)) for s in (2.4, 2.0))
  clean, blurred = (_reduced(hr, kernel, reduction) for kernel in (true, near))
  field = lambda kernel: np.broadcast_to(kernel, (24, 28, 441))
  assert lr_psnr(hr, field(true), np.clip(clean, 0, 1), reduction) > 90
  expected = psnr(np.clip(blurred, 0, 1), clean, textbook=True)
  assert 20 < expected < 60 and lr_psnr(hr, field(near), clean, reduction) == pytest.approx(expected, abs=0.02)
  # Two tiles: on the left the true kernel, on the right the other one.
  tiles = np.array(field(true))
  tiles[:, 14:] = near
  mixed = np.where(np.arange(28)[:, None] < 14, clean, blurred)
  far = lr_psnr(hr, tiles, clean, reduction)
  border = 0.5 if reduction == 'bicubic' else 0.01
  assert far == pytest.approx(psnr(np.clip(mixed, 0, 1), clean, textbook=True), abs=border) and far > expected + 1
  assert lr_psnr(hr, field(true), clean) < 60  # Eq. 1 is another operator, or has another border at least
  with pytest.raises(ValueError, match="down is 'area'"):
    lr_psnr(hr, field(true), clean, 'area')


def _reduced(hr, kernel, reduction):
  planes = [
    ndimage.correlate(hr[..., c].astype(np.float32) / 255, kernel.reshape(21, 21), mode='mirror') for c in range(3)
  ]
  if reduction == 'stride':
    return np.stack(planes, -1)[::4, ::4]
  size = hr.shape[1] // 4, hr.shape[0] // 4
  return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC)) for p in planes], -1)


@pytest.mark.parametrize('reduction,expected', [('bicubic', 46.89), ('stride', 45.72)])
def test_a_constant_kernel_scores_on_set5_what_the_document_says(data_dir, reduction, expected):
  """sigma 2.5 in place of each of Gaussian8: the marks that an estimator must beat."""
  gaussian = lambda sigma: np.asarray(kernel_lib.shaped_kernels(sigma, sigma, 0.0, 1.0, False, 21))
  middle, kernels = gaussian(2.5), [gaussian(float(name[-3:])) for name in GAUSSIAN8]
  reduce, scores = jax.jit(lambda hr, kernel: blur.blur_reduce(hr[None], kernel[None], 4, reduction)[0]), []
  for path in sorted((data_dir / 'set5').glob('*.png')):
    hr = np.asarray(Image.open(path).convert('RGB'), np.float32) / 255
    for kernel in kernels:
      clean = np.asarray(reduce(hr, kernel))
      estimate = np.broadcast_to(middle, (*clean.shape[:2], 441))
      l1 = np.abs(middle - kernel).sum()
      scores.append([lr_psnr(hr, estimate, clean, reduction), kernel_psnr(middle, kernel), l1])
  mean = np.mean(scores, 0)
  assert mean.round(2).tolist() == [expected, 60.13, 0.24] and mean[2] == pytest.approx(0.236, abs=0.001)
  assert len(scores) == 40
