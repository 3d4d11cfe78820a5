"""Pristine models for NIQE: one fitted to generated images, which is always there, and LIVE's."""

import os
import pathlib

import numpy as np

from ssr_jax.metrics import niqe

LIVE = pathlib.Path(os.environ.get('SSR_DATA', pathlib.Path(__file__).parents[2] / '../shared/data')).joinpath(
  'niqe', 'niqe_pris_params.npz'
)


def generated(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
  """An image [H, W, 3] uint8 with the 1/f spectrum of photos."""
  H, W = size
  frequency = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.rfftfreq(W))
  frequency[0, 0] = 1
  planes = []
  for _ in range(3):
    spectrum = np.fft.rfft2(rng.normal(size=(H, W))) / frequency
    spectrum[0, 0] = 0
    plane = np.fft.irfft2(spectrum, (H, W))
    planes.append(np.clip(128 + 40 * plane / plane.std(), 0, 255))
  return np.stack(planes, -1).astype(np.uint8)


def fit(path: pathlib.Path) -> pathlib.Path:
  """Writes the statistics of generated images as a pristine model file; returns its path."""
  rng = np.random.default_rng(0)
  niqe.save_pristine(path, niqe.fit((generated(rng, (288, 288)) for _ in range(6)), 'generated', sharpness=0))
  return path
