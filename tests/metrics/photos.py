"""Distorted photos for the tests of metrics."""

import numpy as np
from scipy import ndimage


def degraded(photo: np.ndarray) -> np.ndarray:
  """A photo [H, W, 3] uint8 with blur of 1.2 pixels and noise of 4 gray levels."""
  blurred = ndimage.gaussian_filter(photo.astype(float), (1.2, 1.2, 0))
  return np.clip(blurred + np.random.default_rng(0).normal(0, 4, photo.shape), 0, 255).astype(np.uint8)
