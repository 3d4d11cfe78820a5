"""The bundled weights beat bicubic."""

import jax
import numpy as np
import pytest
from skimage import data

import ssr_jax
from ssr_jax import metrics, xla
from ssr_jax.degrade import Recipe, degrade
from ssr_jax.image import resize

PHOTOS = {'astronaut': (0, 180), 'coffee': (60, 160), 'chelsea': (20, 100), 'rocket': (150, 200)}


@pytest.fixture(scope='module')
def model():
  return ssr_jax.load('compact')


def _degraded(recipe):
  """128x128 LR images of four photos, with everything known about them."""
  hr = [np.pad(getattr(data, name)()[y : y + 256, x : x + 256], ((0, 0),) * 3) for name, (y, x) in PHOTOS.items()]
  hr = np.stack(hr).astype(np.float32) / 255
  return hr, xla.jit(degrade, static_argnums=2)(jax.random.key(0), hr, Recipe.parse(recipe))


def test_restored_images_beat_bicubic(model):
  hr, low = _degraded('smooth/no_noise')
  restored = model.sample(np.asarray(low.lr), steps=0, keep_kernels=False).image
  bicubic = np.clip(resize.upscale(low.lr, 4), 0, 1)
  gains = [
    metrics.psnr.psnr(_bytes(a), _bytes(c)) - metrics.psnr.psnr(_bytes(b), _bytes(c))
    for a, b, c in zip(restored, bicubic, hr, strict=True)
  ]
  assert min(gains) > 0.3 and np.mean(gains) > 1.0, gains


def _bytes(image):
  return np.rint(255 * np.asarray(image)).astype(np.uint8)
