"""Keeps the blur that a photographer meant: what lies out of focus stays as it is in the photo.

The estimated kernels say how far each place is out of focus. Where it is, the result gives way to the enlarged photo,
whose blur is the photo's own by construction. Blurring the result again would add to whatever blur the restoration left
there: with the bundled model a standard deviation of 2 pixels, a third more than a mild defocus itself.
"""

from collections.abc import Iterable, Iterator
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from ssr_jax.image import kernels as kernel_lib
from ssr_jax.runtime.bands import Band, resized
from ssr_jax.types import Array, ArrayLike, Float, SSRError

OUTPUT = 'defocus'
"""Name of what `measured` gives, beside the outputs of a system."""

_FOCUS = 5  # percentile of the variances that lies in focus: a subject may be small
# Variances, over that in focus, from which the photo counts, and from which it counts alone. Chosen by eye on photos:
# from 1.25 on, faces whose kernels are uncertain stay as they are; up to 2.5, little of a background does.
_BLURRED = (1.4, 2.1)
_PATCH = 7  # LR pixels, side of the median that takes single wrong estimates out and leaves edges
_BINS = 16  # of depth
_BESIDE = 3  # LR rows that bicubic interpolation looks at, rounded up


def measured(
  kernels: Float[ArrayLike, 'b h w taps'], depth: Float[ArrayLike, 'b H W 1'] | None, scale: int
) -> Float[Array, 'b h w 2']:
  """How far each place is out of focus, and its depth.

  Defocus blurs in all directions alike: it is what the shorter axis of a kernel has. A longer one is motion.

  Args:
    kernels: [b, h, w, k*k], each summing to one.
    depth: [b, s*h, s*w, 1] in [0, 1], or None.
    scale: s.

  Returns:
    [b, h, w, 2]: smaller eigenvalue of the covariance in HR pixels squared, and depth, 0 where there is none.
  """
  covariance = kernel_lib.moments(kernels, scale)[1]
  yy, xx, xy = covariance[..., 0, 0], covariance[..., 1, 1], covariance[..., 0, 1]
  variance = (xx + yy) / 2 - jnp.hypot((xx - yy) / 2, xy)
  b, h, w = variance.shape
  deep = jnp.zeros_like(variance) if depth is None else depth.reshape(b, h, scale, w, scale).mean((2, 4))
  return jnp.stack([variance, deep], -1)


def photo_share(found: Float[np.ndarray, 'h w 2']) -> Float[np.ndarray, 'h w']:
  """The share that the enlarged photo has at each place: 0 in focus, 1 where the variance is 2.1 times that in focus.

  In focus is the 5th percentile of the variances, of which a median takes out single wrong ones. As far as depth
  explains the variances, their mean at a place's depth stands for them, which is less noisy: its weight is the share of
  their spread that it explains.

  Args:
    found: [h, w, 2], of `measured`, of a whole image.

  Returns:
    [h, w] float32 in [0, 1].
  """
  variance, depth = ndimage.median_filter(found[..., 0], _PATCH, mode='nearest'), found[..., 1]
  at = np.linspace(float(depth.min()), float(depth.max()) + 1e-6, _BINS + 1)
  middles = (at[1:] + at[:-1]) / 2
  counts, sums = (np.histogram(depth, at, weights=weights)[0] for weights in (None, variance))
  there = counts > 0
  evened = np.interp(depth, middles[there], sums[there] / counts[there])
  spread = float(variance.var())
  explained = max(1 - float((variance - evened).var()) / spread, 0) if spread > 1e-9 else 0
  variance = variance + explained * (evened - variance)
  low, high = _BLURRED
  ratio = variance / max(float(np.percentile(variance, _FOCUS)), 1e-6)
  ramp = np.clip((ratio - low) / (high - low), 0, 1)
  return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def check(keep: float) -> None:
  """SSRError for a share that is none."""
  if not 0 <= keep <= 1:  # written so that NaN fails too
    raise SSRError(f'keep_defocus {keep!r}: must lie in [0, 1], 0 restoring everything')


def kept(bands: Iterable[Band], photo: Any, answer: str, keep: float, scale: int) -> Iterator[Band]:
  """Lets the photo show in the answer where it is out of focus.

  Args:
    bands: of the outputs at the model's scale, and before the first rows of the answer all of `OUTPUT`.
    photo: [h, w, 3], gives float32 in [0, 1] for slices of its rows.
    answer: name of the output that changes.
    keep: share of the defocus that is kept, above 0 to 1.
    scale: of the model.
  """
  share, top = np.zeros((0, 0, 1), np.float32), 0
  for band in bands:
    if OUTPUT in band:
      share = keep * photo_share(band[OUTPUT])[..., None]
    band = {name: x for name, x in band.items() if name != OUTPUT}
    if answer in band:
      image = band[answer]
      band[answer] = _blended(image, photo, share, top, scale)
      top += len(image)
    if band:
      yield band


def _blended(
  image: Float[np.ndarray, 'n W c'], photo: Any, share: Float[np.ndarray, 'h w 1'], top: int, scale: int
) -> Float[np.ndarray, 'n W c']:
  """Rows of the answer from `top` on, blended with the enlarged photo."""
  n, W, _ = image.shape
  first = max(top // scale - _BESIDE, 0)
  last = min(math.ceil((top + n) / scale) + _BESIDE, photo.shape[0])
  if not share[first:last].any():
    return image
  rows = top / scale - first, (top + n) / scale - first
  weight = np.clip(resized(share[first:last], (n, W), 'bilinear', rows), 0, 1)
  return image + weight * (resized(photo[first:last], (n, W), 'bicubic', rows) - image)
