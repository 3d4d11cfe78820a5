"""NIQE, the natural image quality evaluator (Mittal, Soundararajan & Bovik 2013). It needs no reference image.

NIQE is the distance between the statistics of an image's blocks and those of undistorted photos, the pristine model.
The protocol is that of the LIVE laboratory's release: luma rounded to integers, 96x96 blocks from the top left, two
scales, all blocks. Luma is full-range (MATLAB's rgb2gray), unlike that of PSNR: 16-235 luma gives values that are some
tenths higher and do not match published ones.
"""

from collections.abc import Iterable
import functools
import io as iolib
import os
import pathlib
from typing import NamedTuple, Self
import zipfile

import numpy as np
from scipy import ndimage, special

from ssr_jax.image import io, opening
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike, SSRError, one_line

_BLOCK = 96
OWN = pathlib.Path(__file__).parent / 'niqe_free_photos.npz'
"""The pristine model of this package, which tools/fit_niqe.py fitted to photos with free licences."""


class Pristine(NamedTuple):
  """Statistics of the features of undistorted photos.

  Attributes:
    mean: [36].
    covariance: [36, 36].
    window: [7, 7], the Gaussian window of local means and deviations.
    name: what tables call the model: values of different models cannot be compared.
  """

  mean: np.ndarray
  covariance: np.ndarray
  window: np.ndarray
  name: str = ''


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
  bundled = True
  digits = 3

  def __init__(self, pristine: Pristine):
    self.pristine = pristine

  @classmethod
  def load(cls, weights: str | os.PathLike | None = None) -> Self:
    """Reads the pristine model from the file `weights`, or the package's own; see `load_pristine`."""
    return cls(load_pristine(weights or OWN))

  def __call__(self, inputs: Inputs) -> float:
    """NIQE of 'image'."""
    return niqe(inputs['image'], self.pristine)

  def heading(self, space: str = 'y') -> str:
    """See `Metric.heading`."""
    return f'{super().heading(space)} ({self.pristine.name})'


def load_pristine(path: str | os.PathLike) -> Pristine:
  """Reads a pristine model.

  Args:
    path: an .npz file with mu_pris_param, cov_pris_param and gaussian_window, such as niqe_pris_params.npz of BasicSR,
      and perhaps the model's name, which is else that of the file.

  Raises:
    SSRError: the file does not exist, or is not a pristine model.
  """
  try:
    with np.load(iolib.BytesIO(opening.read_bytes(path))) as file:
      mean, covariance, window = (
        file[key].astype(np.float64) for key in ('mu_pris_param', 'cov_pris_param', 'gaussian_window')
      )
      name = str(file['name']) if 'name' in file else pathlib.Path(path).stem
  except (OSError, EOFError, KeyError, TypeError, ValueError, SSRError, zipfile.BadZipFile) as error:
    raise SSRError(
      f'{os.fspath(path)}: no pristine model of NIQE '
      f'(.npz with mu_pris_param, cov_pris_param, gaussian_window): {error}'
    ) from error
  mean = mean.ravel()
  if mean.shape != (36,) or covariance.shape != (36, 36) or window.ndim != 2:
    raise SSRError(f"{os.fspath(path)}: the arrays have other shapes than NIQE's [36], [36, 36] and [7, 7]")
  return Pristine(mean, covariance, window, one_line(name))


def save_pristine(path: str | os.PathLike, pristine: Pristine) -> None:
  """Writes a pristine model as `load_pristine` reads it; the same model gives the same bytes.

  Raises:
    SSRError: the file cannot be written.
  """
  buffer = iolib.BytesIO()
  np.savez(
    buffer,
    mu_pris_param=pristine.mean[None],
    cov_pris_param=pristine.covariance,
    gaussian_window=pristine.window,
    name=np.array(pristine.name),
  )
  io.write_bytes(path, buffer.getvalue())


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
  return _features_and_sharpness(image, window)[0]


def fit(images: Iterable[ArrayLike], name: str, sharpness: float = 0.75, contrast: float = 0) -> Pristine:
  """Fits a pristine model to undistorted photos (Mittal et al. 2013, Section II).

  Of each photo those blocks count whose sharpness, the mean of the local deviations, exceeds a share of that of its
  sharpest block: people look at what is in focus, and defocus is a distortion. A bound in gray levels can leave out the
  blocks of photos that are smooth throughout.

  Args:
    images: RGB [H, W, 3], uint8 or float in [0, 1].
    name: what tables call the model.
    sharpness: the share.
    contrast: the bound on a block's mean local deviation, in gray levels.

  Raises:
    ValueError: another shape, or fewer than 37 blocks in all, whose covariance would be singular.
  """
  axis = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
  window = np.outer(axis, axis) / axis.sum() ** 2
  kept = []
  for image in images:
    features, sharp = _features_and_sharpness(image, window)
    chosen = features[sharp > max(contrast, sharpness * sharp.max(initial=0))]
    kept.append(chosen[~np.isnan(chosen).any(axis=1)])
  features = np.concatenate([np.empty((0, 36)), *kept])
  if len(features) < 37:
    raise ValueError(f'{len(features)} sharp blocks of 96x96 pixels; a pristine model needs at least 37')
  return Pristine(features.mean(axis=0), np.cov(features, rowvar=False), window, name)


def _features_and_sharpness(image: ArrayLike, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """`block_features` [blocks, 36], and the mean local deviation of each block in gray levels [blocks]."""
  image = np.asarray(image)
  if image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(f'expected one RGB image [H, W, 3]; got shape {image.shape}')
  image = image.astype(np.float64) * (1 if image.dtype == np.uint8 else 255)
  y = np.round(0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2])
  y = y[: y.shape[0] // _BLOCK * _BLOCK, : y.shape[1] // _BLOCK * _BLOCK]
  if not y.size:
    return np.empty((0, 36)), np.empty(0)
  normalised, deviation = _mscn(y, window)
  halved, _ = _mscn(_half_size(y), window)
  scales = [_features(_blocks(normalised, _BLOCK)), _features(_blocks(halved, _BLOCK // 2))]
  return np.concatenate(scales, axis=1), _blocks(deviation, _BLOCK).mean(axis=(1, 2))


def _blocks(y: np.ndarray, side: int) -> np.ndarray:
  """[rows * side, columns * side] -> [rows * columns, side, side]."""
  rows, columns = y.shape[0] // side, y.shape[1] // side
  return y.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)


def _mscn(y: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean-subtracted, contrast-normalised coefficients and local deviations, both [H, W]; borders are replicated."""
  mean = ndimage.correlate(y, window, mode='nearest')
  deviation = np.sqrt(np.abs(ndimage.correlate(y * y, window, mode='nearest') - mean * mean))
  return (y - mean) / (deviation + 1), deviation


def _features(blocks: np.ndarray) -> np.ndarray:
  """18 features of each block: a fit to its coefficients, and one to the products of neighbours in each direction.

  [blocks, n, n] -> [blocks, 18].
  """
  alpha, left, right = _fit(blocks.reshape(len(blocks), -1))
  features = [alpha, (left + right) / 2]
  for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
    products = blocks * np.roll(blocks, shift, axis=(1, 2))
    alpha, left, right = _fit(products.reshape(len(blocks), -1))
    mean = (right - left) * special.gamma(2 / alpha) / special.gamma(1 / alpha)
    features += [alpha, mean, left, right]
  return np.stack(features, axis=1)


@functools.cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
  """The grid of shape parameters, and the moment ratio of the generalised Gaussian at each, which rises."""
  alpha = np.arange(0.2, 10.001, 0.001)
  ratio = special.gamma(2 / alpha) ** 2 / (special.gamma(1 / alpha) * special.gamma(3 / alpha))
  return alpha, ratio


def _fit(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Moment fits of asymmetric generalised Gaussians to the rows of [..., n]: (shape, left scale, right scale) [...].

  NaN where there are no values on a side of zero.
  """
  squares = x * x
  with np.errstate(invalid='ignore'):  # 0 / 0 is NaN
    left, right = (np.sqrt((squares * side).sum(-1) / side.sum(-1)) for side in (x < 0, x > 0))
    balance = left / right
    moment = np.mean(np.abs(x), axis=-1) ** 2 / np.mean(squares, axis=-1)
  moment = moment * ((balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2)
  shapes, ratios = _shapes()
  nearest = np.searchsorted((ratios[1:] + ratios[:-1]) / 2, moment)
  alpha = np.where(np.isnan(moment), np.nan, shapes[nearest])
  spread = np.sqrt(special.gamma(1 / alpha) / special.gamma(3 / alpha))
  return alpha, left * spread, right * spread


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
