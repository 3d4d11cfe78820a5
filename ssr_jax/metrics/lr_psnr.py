"""How well estimated kernels explain the LR image (MANet's LR-PSNR)."""

import jax
import numpy as np

from ssr_jax.image import blur
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.metrics.psnr import psnr
from ssr_jax.types import Array, ArrayLike


class LRPSNR(Metric):
  """PSNR of the LR image that estimated kernels give, in dB; see `lr_psnr`."""

  name = 'lr_psnr'
  label = 'LR-PSNR (dB)'
  higher_is_better = True
  needs = ('reference', 'kernels', 'lr_clean')

  def __call__(self, inputs: Inputs) -> float:
    """PSNR of 'reference' degraded with 'kernels', by the operator of 'reduction', against 'lr_clean'."""
    return lr_psnr(inputs['reference'], inputs['kernels'], inputs['lr_clean'], inputs.get('reduction'))


def lr_psnr(reference: ArrayLike, kernels: ArrayLike, lr_clean: ArrayLike, reduction: str | None = None) -> float:
  """PSNR in dB on Y between the noise-free LR image and HR degraded with the estimated kernels.

  The operator is that of the recipe, with the estimated kernels in place of the true ones, whatever the system that
  estimated them means by a kernel: the same operator made `lr_clean`.

  Args:
    reference: HR RGB [H, W, 3], uint8 or float in [0, 1].
    kernels: [h, w, k*k] estimated kernels, one per LR pixel; H = s*h, W = s*w.
    lr_clean: [h, w, 3] uint8 or float in [0, 1], (HR (*) K) downsampled, before noise, compression and rounding.
    reduction: None for Eq. 1, `blur.blur_downsample`; 'bicubic' or 'stride' for `blur.blur_reduce`, whose recipes have
      one kernel for the image. Where the estimates of an image differ, as those of tiles do, each LR pixel is made
      with its own, exactly so but for the bicubic reduction's last two samples at a border.

  Returns:
    The value in dB; infinite for equal images.

  Raises:
    ValueError: the sizes do not fit together, or another `reduction`.
  """
  h, w = kernels.shape[:2]
  scale = reference.shape[0] // h
  if (h, w) != tuple(lr_clean.shape[:2]):
    raise ValueError(f'kernels for {h}x{w} pixels do not fit an LR image of {lr_clean.shape[0]}x{lr_clean.shape[1]}')
  again = _degraded(_float(reference)[None], np.asarray(kernels, np.float32)[None], scale, reduction)
  return psnr(np.clip(np.asarray(again[0]), 0, 1), _float(lr_clean), textbook=True)


def _degraded(image: np.ndarray, kernels: np.ndarray, scale: int, reduction: str | None) -> Array:
  if reduction is None:
    return _blur_downsample(image, kernels, scale)
  if (kernels == kernels[:, :1, :1]).all():
    return _blur_reduce(image, kernels[:, 0, 0], scale, reduction)
  kernels = blur.gathered_kernels(kernels, scale, reduction)
  cells = -(-(kernel_lib.side(kernels) // 2) // scale)  # LR samples that a kernel reaches beyond a border
  around = lambda n: ((0, 0), (n, n), (n, n), (0, 0))
  image, kernels = np.pad(image, around(scale * cells), 'reflect'), np.pad(kernels, around(cells), 'edge')
  return _blur_downsample(image, kernels, scale)[:, cells:-cells, cells:-cells]


_blur_downsample = jax.jit(blur.blur_downsample, static_argnums=2)
_blur_reduce = jax.jit(blur.blur_reduce, static_argnums=(2, 3))


def _float(image: ArrayLike) -> np.ndarray:
  image = np.asarray(image)
  return image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
