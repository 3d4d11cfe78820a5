"""NIQE, the natural image quality evaluator (Mittal, Soundararajan & Bovik 2013). It needs no reference image.

NIQE is the distance between the statistics of an image's blocks and those of undistorted photos, the pristine model.
The protocol is that of the LIVE laboratory's release: luma rounded to integers, 96x96 blocks from the top left, two
scales, all blocks. Luma is full-range (MATLAB's rgb2gray), unlike that of PSNR: 16-235 luma gives values that are some
tenths higher and do not match published ones.
"""

import functools
import os
from typing import NamedTuple, Self
import zipfile

import numpy as np
from scipy import ndimage, special

from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike, SSRError

_BLOCK = 96


class Pristine(NamedTuple):
  """Statistics of the features of undistorted photos.

  Attributes:
    mean: [36].
    covariance: [36, 36].
    window: [7, 7], the Gaussian window of local means and deviations.
  """

  mean: np.ndarray
  covariance: np.ndarray
  window: np.ndarray


class NIQE(Metric):
  """NIQE with a pristine model; see `niqe`.

  Attributes:
    pristine: the pristine model.
  """

  name = 'niqe'
  label = 'NIQE'
  higher_is_better = False
  needs = ('image',)
  weights = 'pristine model, an .npz file'
  digits = 3

  def __init__(self, pristine: Pristine):
    self.pristine = pristine

  @classmethod
  def load(cls, weights: str | os.PathLike | None = None) -> Self:
    """Reads the pristine model from the file `weights`; see `load_pristine`."""
    if not weights:
      raise SSRError("metric 'niqe' needs its pristine model; give an .npz file such as niqe_pris_params.npz")
    return cls(load_pristine(weights))

  def __call__(self, inputs: Inputs) -> float:
    """NIQE of 'image'."""
    return niqe(inputs['image'], self.pristine)


def load_pristine(path: str | os.PathLike) -> Pristine:
  """Reads a pristine model.

  Args:
    path: an .npz file with mu_pris_param, cov_pris_param and gaussian_window, such as niqe_pris_params.npz of BasicSR.

  Raises:
    SSRError: the file does not exist, or is not a pristine model.
  """
  try:
    with np.load(path) as file:
      mean, covariance, window = (
        file[key].astype(np.float64) for key in ('mu_pris_param', 'cov_pris_param', 'gaussian_window')
      )
  except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
    raise SSRError(
      f'{os.fspath(path)}: no pristine model of NIQE '
      f'(.npz with mu_pris_param, cov_pris_param, gaussian_window): {error}'
    ) from error
  mean = mean.ravel()
  if mean.shape != (36,) or covariance.shape != (36, 36) or window.ndim != 2:
    raise SSRError(f"{os.fspath(path)}: the arrays have other shapes than NIQE's [36], [36, 36] and [7, 7]")
  return Pristine(mean, covariance, window)


def niqe(image: ArrayLike, pristine: Pristine) -> float:
  """NIQE of one image; lower is better, undistorted photos have values of about 3 to 5.

  Computed in float64: the features of flat regions are ill-conditioned, and float32 changes them by several percent.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    pristine: see `load_pristine`.

  Returns:
    The distance; NaN for an image with fewer than two complete 96x96 blocks that are not flat, because the covariance
    needs two.

  Raises:
    ValueError: another shape.
  """
  features = block_features(image, pristine.window)
  whole = features[~np.isnan(features).any(axis=1)]
  if len(whole) < 2:
    return float('nan')
  difference = pristine.mean - np.nanmean(features, axis=0)
  inverse = np.linalg.pinv((pristine.covariance + np.cov(whole, rowvar=False)) / 2)
  return float(np.sqrt(difference @ inverse @ difference))


def block_features(image: ArrayLike, window: np.ndarray) -> np.ndarray:
  """The features whose statistics NIQE compares.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    window: `Pristine.window`.

  Returns:
    [blocks, 36], 18 features at each of two scales; NaN for a block that is flat.

  Raises:
    ValueError: another shape.
  """
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f'expected one RGB image [H, W, 3]; got shape {image.shape}')
  image = image.astype(np.float64) * (1 if image.dtype == np.uint8 else 255)
  y = np.round(0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2])
  rows, columns = y.shape[0] // _BLOCK, y.shape[1] // _BLOCK
  y = y[: rows * _BLOCK, : columns * _BLOCK]
  if not y.size:
    return np.empty((0, 36))
  scales = []
  for block in (_BLOCK, _BLOCK // 2):
    normalised = _mscn(y, window)
    scales.append(
      [
        _features(normalised[i * block : (i + 1) * block, j * block : (j + 1) * block])
        for j in range(columns)
        for i in range(rows)
      ]
    )
    y = _half_size(y)
  return np.concatenate(scales, axis=1)  # [blocks, 36]


def _mscn(y: np.ndarray, window: np.ndarray) -> np.ndarray:
  """Mean-subtracted, contrast-normalised coefficients, [H, W], with replicated borders."""
  mean = ndimage.correlate(y, window, mode='nearest')
  deviation = np.sqrt(np.abs(ndimage.correlate(y * y, window, mode='nearest') - mean * mean))
  return (y - mean) / (deviation + 1)


def _features(block: np.ndarray) -> list[float]:
  """18 features of one block: a fit to its coefficients, and one to the products of neighbours in each direction."""
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
  """Moment fit of an asymmetric generalised Gaussian: (shape, left scale, right scale); NaN where a side is empty."""
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
  """MATLAB's `imresize(y, 0.5)`, antialiased bicubic with mirrored borders: [H, W] -> [H/2, W/2]; H, W are even."""
  distance = np.abs(np.arange(-3.5, 4)) / 2
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  taps = np.where(distance <= 1, near, far)
  taps /= taps.sum()
  for axis in (0, 1):
    padded = np.moveaxis(np.pad(y, [(3, 3) if a == axis else (0, 0) for a in (0, 1)], mode='symmetric'), axis, 0)
    n = y.shape[axis]
    shrunk = np.zeros_like(padded[: n // 2])
    for i, tap in enumerate(taps):
      shrunk += tap * padded[i : i + n : 2][: n // 2]
    y = np.moveaxis(shrunk, 0, axis)
  return y
