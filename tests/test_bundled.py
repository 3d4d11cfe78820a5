"""The bundled weights beat bicubic, a constant kernel and a ramp on photos that they have not seen (scikit-image)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from skimage import data

import ssr_jax
from ssr_jax import metrics, xla
from ssr_jax.degrade import Recipe, degrade
from ssr_jax.image import blur, kernels, resize

PHOTOS = {'astronaut': (0, 180), 'coffee': (60, 160), 'chelsea': (20, 100), 'rocket': (150, 200)}


@pytest.fixture(scope='module')
def model():
  return ssr_jax.load('compact')


def _degraded(recipe, depth=None):
  """64x64 LR images of four photos, with everything known about them."""
  hr = [np.pad(getattr(data, name)()[y : y + 256, x : x + 256], ((0, 0),) * 3) for name, (y, x) in PHOTOS.items()]
  hr = np.stack(hr).astype(np.float32) / 255
  return hr, xla.jit(degrade, static_argnums=2)(jax.random.key(0), hr, Recipe.parse(recipe), depth)


@pytest.mark.slow
def test_restored_images_beat_bicubic(model):
  hr, low = _degraded('smooth/no_noise')
  restored = model.sample(np.asarray(low.lr), steps=0, keep_kernels=False).image
  bicubic = np.clip(resize.upscale(low.lr, 4), 0, 1)
  gains = [
    metrics.psnr.psnr(_bytes(a), _bytes(c)) - metrics.psnr.psnr(_bytes(b), _bytes(c))
    for a, b, c in zip(restored, bicubic, hr, strict=True)
  ]
  assert min(gains) > 0.3 and np.mean(gains) > 1.0, gains


@pytest.mark.slow
def test_modes_trade_closeness_to_the_original_for_detail(model):
  """From faithful over natural to detailed gradients grow, and from natural to detailed PSNR falls.

  Faithful is the restored image, whose edges are softer than those of these photos: natural, which steepens them, has
  the higher PSNR here. On photos from cameras it has the lower one (MODEL_CARD.md).
  """
  hr, low = _degraded('smooth/no_noise')
  lr = np.asarray(low.lr)[:2]
  found = {mode: model.sample(lr, mode=mode, keep_kernels=False) for mode in ('faithful', 'natural', 'detailed')}
  psnr = lambda images: np.mean([metrics.psnr.psnr(_bytes(a), _bytes(b)) for a, b in zip(images, hr, strict=False)])
  close = [psnr(result.image) for result in found.values()]
  steps = lambda images: np.abs(np.diff(images, axis=1)).mean() + np.abs(np.diff(images, axis=2)).mean()
  sharp = [steps(result.image) for result in found.values()]
  assert close[1] > close[2] + 0.1 and close[1] > close[0], close
  assert sharp == sorted(sharp) and sharp[0] < sharp[1] < sharp[2], sharp
  np.testing.assert_array_equal(found['faithful'].image, found['natural'].restored)


@pytest.mark.slow
def test_defocus_is_kept_and_what_is_in_focus_gains_as_without_it(model):
  """With the true kernels and depth: a photo in focus at the left, an upright edge out of focus at the right."""
  hr = data.coffee()[60:316, 160:416].astype(np.float32) / 255
  hr[:, 128:] = np.where(np.arange(128)[:, None] < 64, 0.3, 0.7)
  near = np.where(np.arange(64) < 32, 0.9, 0.2)
  for variance in (4.0, 8.0):
    of = np.broadcast_to(np.where(near > 0.5, 1.0, variance), (64, 64)).astype(np.float32)
    known = kernels.gaussian_kernels(of, of, 0.0)
    lr = np.clip(np.asarray(blur.blur_downsample(hr[None], known[None], 4))[0], 0, 1)
    depth = np.broadcast_to(near.repeat(4)[None, :, None], (256, 256, 1))
    given = {'kernels': np.asarray(known), 'depth': depth.astype(np.float32)}
    without, kept = (model.sample(lr, steps=0, given=given, keep_defocus=keep).image for keep in (0, 1))
    focus = [metrics.psnr.psnr(_bytes(image[:, :128]), _bytes(hr[:, :128])) for image in (without, kept)]
    assert abs(focus[0] - focus[1]) < 0.05, focus
    line = np.diff(kept[40:-40, 168:216, 1].mean(0))
    place, line = np.arange(len(line)), line / line.sum()
    spread = np.sqrt((line * (place - (line * place).sum()) ** 2).sum())
    assert abs(spread / variance**0.5 - 1) < 0.15, (variance, spread)


RECIPES = ('smooth/no_noise', 'invariant/no_noise', 'motion/noise_jpeg', 'depth/no_noise', 'depth/isp')


@pytest.mark.slow
def test_kernels_beat_the_best_constant_kernel(model):
  """The isotropic kernel, one for all of these images, with the highest kernel PSNR on these very images."""
  depth = jnp.asarray(np.stack([_ramp(64, 64), _ramp(64, 64).T, 1 - _ramp(64, 64), 1 - _ramp(64, 64).T]))
  truth, estimate = [], []
  for recipe in RECIPES:
    _, low = _degraded(recipe, depth if recipe.startswith('depth') else None)
    truth.append(np.asarray(low.kernels))
    estimate.append(model.sample(np.asarray(low.lr), steps=0).kernels)
  truth, estimate = np.concatenate(truth), np.concatenate(estimate)
  psnr = lambda kernels: -10 * np.log10(np.mean((np.asarray(kernels) - truth) ** 2))
  variances = jnp.arange(0.75, 10, 0.25)
  best = max(psnr(kernels.gaussian_kernels(v, v, 0.0, scale=4)) for v in variances)
  assert psnr(estimate) > best + 0.5, (psnr(estimate), best)


@pytest.mark.slow
def test_depth_beats_a_ramp(model):
  """Rank correlation with the measured disparity of the motorcycle, at LR size."""
  photo, _, disparity = data.stereo_motorcycle()
  lr = np.asarray(resize.resize(photo[None] / 255.0, (photo.shape[0] // 4, photo.shape[1] // 4)))[0]
  depth = model.sample(np.clip(lr, 0, 1).astype(np.float32), steps=0, keep_kernels=False).depth[..., 0]
  valid = np.isfinite(disparity)
  rank = lambda estimate: stats.spearmanr(estimate[valid], disparity[valid])[0]
  whole = np.asarray(resize.resize(jnp.asarray(depth)[None, ..., None], photo.shape[:2], 'bilinear'))[0, ..., 0]
  assert rank(whole) > rank(_ramp(*photo.shape[:2])) + 0.01


def _ramp(height, width):
  """The best guess without looking: lower is nearer."""
  return np.broadcast_to(np.linspace(0, 1, height, dtype=np.float32)[:, None], (height, width))


def _bytes(image):
  return np.rint(255 * np.asarray(image)).astype(np.uint8)
