"""Distance of log spectra: whether an image has as much detail at each scale as the original, wherever it lies."""

import functools

import numpy as np

from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric
from ssr_jax.types import ArrayLike

_LOWEST = 8  # cycles over the shorter side; below, a ring has few coefficients, and the window blurs it
_FLOOR = 1e-3  # gray levels of white noise


class LogSpectrum(Metric):
  """Log-spectrum distance in dB; see `log_spectrum`."""

  name = 'log_spectrum'
  label = 'log-spectrum distance (dB)'
  higher_is_better = False
  needs = ('image', 'reference')

  def __call__(self, inputs: Inputs) -> float:
    """Distance of the spectra of 'image' and 'reference', without 'crop' pixels on every side."""
    return log_spectrum(inputs['image'], inputs['reference'], inputs.get('crop') or 0)


def log_spectrum(image: ArrayLike, reference: ArrayLike, crop: int = 0, root_mean_square: bool = False) -> float:
  """The mean absolute difference in dB between the radially averaged power spectra of two images.

  P(r) is the mean of |FFT(w (y - mean(y)))|^2 over the coefficients whose frequency, in cycles over the shorter side
  N, rounds to r; y is luma, w a Hann window, the product of those of the two axes. The distance is the mean over
  r = 8, ..., floor(N / 2) of |10 log10(P(r) / P'(r))|, P' being the reference's. Before the logarithm, the power of
  white noise of 0.001 gray levels is added to both, so that flat images have a distance. Positions do not enter: an
  image that has the original's amount of detail at each scale in other places is near 0, which fidelity metrics do not
  see. Blur and added sharpness both raise it.

  Args:
    image: RGB [H, W, 3], uint8 or float in [0, 1].
    reference: RGB of the same size.
    crop: pixels left out on every side.
    root_mean_square: take the root of the mean square over r, which is larger, in place of the mean absolute value.

  Returns:
    The distance in dB, 0 for equal spectra.

  Raises:
    ValueError: the sizes differ, or a side has fewer than 16 pixels after the crop.
  """
  pixels.check_pair(image, reference)
  difference = radial_power(image, crop) - radial_power(reference, crop)
  return float(np.sqrt(np.mean(difference**2)) if root_mean_square else np.mean(np.abs(difference)))


def radial_power(image: ArrayLike, crop: int = 0) -> np.ndarray:
  """10 log10 P(r) of `log_spectrum` for r = 8, ..., floor(N / 2): [floor(N / 2) - 7].

  Raises:
    ValueError: a side has fewer than 16 pixels after the crop.
  """
  y = pixels.luma_255(image, crop)
  if min(y.shape) < 2 * _LOWEST:
    raise ValueError(f'the log spectrum needs at least 16x16 pixels; got {y.shape[0]}x{y.shape[1]}')
  window = np.outer(*map(np.hanning, y.shape))
  power = np.abs(np.fft.rfft2(window * (y - y.mean()))) ** 2
  rings, shares, used = _rings(*y.shape)
  mean = np.bincount(rings, (shares * power).ravel())[used] / np.bincount(rings, shares.ravel())[used]
  return 10 * np.log10(mean + _FLOOR**2 * np.sum(window**2))


@functools.lru_cache(maxsize=4)
def _rings(H: int, W: int) -> tuple[np.ndarray, np.ndarray, slice]:
  """Of rfft2's coefficients: the ring of each [n], how many of fft2's each stands for [H, W // 2 + 1], rings used."""
  N = min(H, W)
  radius = N * np.hypot(np.fft.fftfreq(H)[:, None], np.fft.rfftfreq(W))
  shares = np.full(radius.shape, 2.0)  # a coefficient and its conjugate
  shares[:, 0] = 1
  if W % 2 == 0:
    shares[:, -1] = 1
  return np.rint(radius).astype(int).ravel(), shares, slice(_LOWEST, N // 2 + 1)
