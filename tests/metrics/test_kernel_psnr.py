"""Kernel PSNR and LR-PSNR: how good an estimate of the blur is."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

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
