"""Accuracy of estimated blur kernels."""

import numpy as np

from ssr_jax.metrics.psnr import decibels
from ssr_jax.types import ArrayLike


def kernel_psnr(kernels: ArrayLike, true_kernels: ArrayLike) -> float:
  """20 log10(1 / RMSE) in dB over all taps of all kernels: [..., k*k] against the same shape, each summing to one.

  Raises:
    ValueError: shapes differ.
  """
  if np.shape(kernels) != np.shape(true_kernels):
    raise ValueError(f'kernels {np.shape(kernels)} and true kernels {np.shape(true_kernels)} differ in shape')
  error = np.asarray(kernels, np.float64) - np.asarray(true_kernels, np.float64)
  return decibels(np.mean(error**2), peak=1.0)
