"""Accuracy of estimated blur kernels."""

import numpy as np

from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.metrics.psnr import decibels
from ssr_jax.types import ArrayLike


class KernelPSNR(Metric):
  """PSNR of estimated blur kernels in dB; see `kernel_psnr`."""

  name = 'kernel_psnr'
  label = 'kernel PSNR (dB)'
  higher_is_better = True
  needs = ('kernels', 'true_kernels')

  def __call__(self, inputs: Inputs) -> float:
    """PSNR of 'kernels' against 'true_kernels'."""
    return kernel_psnr(inputs['kernels'], inputs['true_kernels'])


def kernel_psnr(kernels: ArrayLike, true_kernels: ArrayLike) -> float:
  """20 log10(1 / RMSE) in dB, the mean taken over all taps of all kernels.

  Args:
    kernels: [..., k*k], estimated kernels; each sums to one.
    true_kernels: the same shape.

  Returns:
    The value in dB; infinite for equal kernels.

  Raises:
    ValueError: the shapes differ.
  """
  if np.shape(kernels) != np.shape(true_kernels):
    raise ValueError(f'kernels {np.shape(kernels)} and true kernels {np.shape(true_kernels)} differ in shape')
  error = np.asarray(kernels, np.float64) - np.asarray(true_kernels, np.float64)
  return decibels(float(np.mean(error**2)), peak=1.0)
