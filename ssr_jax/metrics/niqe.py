"""NIQE, the natural image quality evaluator (Mittal, Soundararajan & Bovik 2013), no reference needed.

The distance between statistics of an image's blocks and those of undistorted photos, the pristine model. The protocol
is that of the LIVE laboratory's release: luma rounded to integers, 96x96 blocks from the top left, two scales, all
blocks. Luma is the full-range one (MATLAB's rgb2gray), not that of PSNR: with 16-235 luma the numbers are some tenths
higher and published ones are not met.
"""

import functools
import os
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from ssr_jax.types import ArrayLike, SSRError

_BLOCK = 96


class Pristine(NamedTuple):
  """The pristine model: mean [36], covariance [36, 36] of the features, and the Gaussian window [7, 7]."""

  mean: np.ndarray
  covariance: np.ndarray
  window: np.ndarray


def load_pristine(path: str | os.PathLike) -> Pristine:
  """Reads a pristine model: an .npz with mu_pris_param, cov_pris_param and gaussian_window.

  Raises:
    SSRError: there is no such file, or it holds something else.
  """
  try:
    with np.load(path) as file:
      mean, covariance, window = (
        file[key].astype(np.float64) for key in ('mu_pris_param', 'cov_pris_param', 'gaussian_window')
      )
  except (OSError, KeyError, ValueError) as error:
    raise SSRError(
      f'{os.fspath(path)}: no pristine model of NIQE '
      f'(.npz with mu_pris_param, cov_pris_param, gaussian_window): {error}'
    ) from error
  mean = mean.ravel()
  if mean.shape != (36,) or covariance.shape != (36, 36) or window.ndim != 2:
    raise SSRError(f"{os.fspath(path)}: holds arrays of other shapes than NIQE's [36], [36, 36] and [7, 7]")
  return Pristine(mean, covariance, window)


def niqe(image: ArrayLike, pristine: Pristine) -> float:
  """NIQE of one RGB image [H, W, 3], uint8 or float in [0, 1]; lower is better, undistorted photos lie around 3 to 5.

  Float64 throughout: on flat regions the features are ill-conditioned, and float32 is off by several percent there.

  Returns:
    The distance; NaN for an image with fewer than two whole 96x96 blocks that are not flat: they have no covariance.
  """
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f'expected one RGB image [H, W, 3]; got shape {image.shape}')
  image = image.astype(np.float64) * (1 if image.dtype == np.uint8 else 255)
  y = np.round(0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2])
  rows, columns = y.shape[0] // _BLOCK, y.shape[1] // _BLOCK
  if rows * columns < 2:
    return float('nan')
  y = y[: rows * _BLOCK, : columns * _BLOCK]
  features = []
  for block in (_BLOCK, _BLOCK // 2):
    normalised = _mscn(y, pristine.window)
    features.append(
      [
        _features(normalised[i * block : (i + 1) * block, j * block : (j + 1) * block])
        for j in range(columns)
        for i in range(rows)
      ]
    )
    y = _half_size(y)
  features = np.concatenate(features, axis=1)  # [blocks, 36]
  whole = features[~np.isnan(features).any(axis=1)]
  if len(whole) < 2:
    return float('nan')
  difference = pristine.mean - np.nanmean(features, axis=0)
  inverse = np.linalg.pinv((pristine.covariance + np.cov(whole, rowvar=False)) / 2)
  return float(np.sqrt(difference @ inverse @ difference))


def _mscn(y: np.ndarray, window: np.ndarray) -> np.ndarray:
  """Mean-subtracted, contrast-normalised coefficients, [H, W], with replicated borders."""
  mean = ndimage.correlate(y, window, mode='nearest')
  deviation = np.sqrt(np.abs(ndimage.correlate(y * y, window, mode='nearest') - mean * mean))
  return (y - mean) / (deviation + 1)


def _features(block: np.ndarray) -> list[float]:
  """18 features of one block: the fit to its coefficients, and to products of neighbours in four directions."""
  alpha, left, right = _fit(block)
  features = [alpha, (left + right) / 2]
  for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
    alpha, left, right = _fit(block * np.roll(block, shift, axis=(0, 1)))
    mean = (right - left) * special.gamma(2 / alpha) / special.gamma(1 / alpha)
    features += [alpha, mean, left, right]
  return features


@functools.cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
  """The grid of shape parameters, and the moment ratio of the generalised Gaussian at each."""
  alpha = np.arange(0.2, 10.001, 0.001)
  ratio = special.gamma(2 / alpha) ** 2 / (special.gamma(1 / alpha) * special.gamma(3 / alpha))
  return alpha, ratio


def _fit(x: np.ndarray) -> tuple[float, float, float]:
  """Moment fit of an asymmetric generalised Gaussian: shape, left scale, right scale; NaN where a side is empty."""
  left_values, right_values = x[x < 0], x[x > 0]
  if not len(left_values) or not len(right_values):
    return float('nan'), float('nan'), float('nan')
  left, right = np.sqrt(np.mean(left_values**2)), np.sqrt(np.mean(right_values**2))
  balance = left / right
  moment = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
  moment *= (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
  shapes, ratios = _shapes()
  alpha = shapes[np.argmin((ratios - moment) ** 2)]
  spread = np.sqrt(special.gamma(1 / alpha) / special.gamma(3 / alpha))
  return float(alpha), float(left * spread), float(right * spread)


def _half_size(y: np.ndarray) -> np.ndarray:
  """MATLAB's `imresize(y, 0.5)`: antialiased bicubic, mirrored borders; [H, W], both even, -> [H/2, W/2]."""
  distance = np.abs(np.arange(-3.5, 4)) / 2
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  taps = np.where(distance <= 1, near, far)
  taps /= taps.sum()
  for axis in (0, 1):
    padded = np.moveaxis(np.pad(y, [(3, 3) if a == axis else (0, 0) for a in (0, 1)], mode='symmetric'), axis, 0)
    n = y.shape[axis]
    y = np.moveaxis(sum(tap * padded[i : i + n : 2][: n // 2] for i, tap in enumerate(taps)), 0, axis)
  return y
