"""How well estimated kernels explain the LR image (MANet's LR-PSNR)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.image import blur
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.metrics.psnr import psnr
from ssr_jax.types import ArrayLike


class LRPSNR(Metric):
  """PSNR of the LR image that estimated kernels give, in dB; see `lr_psnr`."""

  name = 'lr_psnr'
  label = 'LR-PSNR (dB)'
  higher_is_better = True
  needs = ('reference', 'kernels', 'lr_clean')

  def __call__(self, inputs: Inputs) -> float:
    """PSNR of 'reference' degraded with 'kernels' against 'lr_clean'."""
    return lr_psnr(inputs['reference'], inputs['kernels'], inputs['lr_clean'])


def lr_psnr(reference: ArrayLike, kernels: ArrayLike, lr_clean: ArrayLike) -> float:
  """PSNR in dB on Y between the noise-free LR image and HR degraded with the estimated kernels.

  Args:
    reference: HR RGB [H, W, 3], uint8 or float in [0, 1].
    kernels: [h, w, k*k] estimated kernels, one per LR pixel; H = s*h, W = s*w.
    lr_clean: [h, w, 3] uint8 or float in [0, 1], (HR (*) K) downsampled, before noise, compression and rounding.

  Returns:
    The value in dB; infinite for equal images.

  Raises:
    ValueError: the sizes do not fit together.
  """
  h, w = kernels.shape[:2]
  scale = reference.shape[0] // h
  if (h, w) != tuple(lr_clean.shape[:2]):
    raise ValueError(f'kernels for {h}x{w} pixels do not fit an LR image of {lr_clean.shape[0]}x{lr_clean.shape[1]}')
  again = _blur_downsample(_float(reference)[None], jnp.asarray(kernels, jnp.float32)[None], scale)
  return psnr(np.clip(np.asarray(again[0]), 0, 1), _float(lr_clean), textbook=True)


_blur_downsample = functools.partial(jax.jit, static_argnums=2)(blur.blur_downsample)


def _float(image: ArrayLike) -> np.ndarray:
  image = np.asarray(image)
  return image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
