"""One kernel for the image: its distribution, the operator, and the published baselines that it leads to."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import scipy.ndimage
from skimage import data

from ssr_jax import degrade as degrade_lib
from ssr_jax.degrade import Recipe, uniform
from ssr_jax.types import SSRError

degrade = jax.jit(degrade_lib.degrade, static_argnums=2)


def _gaussian(sigma):
  y, x = np.mgrid[-10:11, -10:11]
  kernel = np.exp(-(x**2 + y**2) / 2 / sigma**2)
  return kernel / kernel.sum()


def _reference(hr, kernel, down):
  """HR [H, W, 3] in [0, 1] by SciPy and Pillow, in 8-bit levels."""
  planes = [scipy.ndimage.correlate(hr[..., c], kernel, mode='mirror') for c in range(3)]
  if down == 'bicubic':
    size = hr.shape[1] // 4, hr.shape[0] // 4
    planes = [np.asarray(Image.fromarray(p.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)) for p in planes]
  else:
    planes = [p[::4, ::4] for p in planes]
  return np.rint(np.clip(np.stack(planes, -1), 0, 1) * 255)


@pytest.mark.parametrize('field', ['isotropic-2.4', 'isotropic-stride-2.4'])
def test_lr_is_that_of_scipy_and_pillow(field):
  hr = np.stack([data.astronaut()[60:124, 160:240], data.coffee()[100:164, 200:280]]).astype(np.float32) / 255
  made = degrade(jax.random.key(0), hr, Recipe.parse(field))
  kernel = _gaussian(2.4)
  np.testing.assert_allclose(made.kernels, np.broadcast_to(kernel.reshape(-1), (2, 16, 20, 441)), atol=1e-7)
  for n in range(2):
    expected = _reference(hr[n], kernel, 'stride' if 'stride' in field else 'bicubic')
    levels = np.asarray(made.lr[n]) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert np.abs(levels - expected).max() < 1.01 and np.mean(np.rint(levels) != expected) < 1e-3
    np.testing.assert_allclose(made.lr_clean[n] * 255, expected, atol=0.51)
  np.testing.assert_array_equal(made.target, hr)
  np.testing.assert_allclose(made.field[0], 2.4**2, rtol=1e-6)


@pytest.mark.parametrize('name', uniform.BLURS)
def test_kernels_have_the_stated_distribution(name):
  family = uniform.BLURS[name]
  kernels, draws = jax.jit(jax.vmap(lambda k: uniform.draw(k, family)))(jax.random.split(jax.random.key(1), 400))
  kernels, draws = np.asarray(kernels).reshape(-1, 21, 21), {n: np.asarray(v) for n, v in draws.items()}
  np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-5)
  assert kernels.min() >= 0 and (kernels.reshape(-1, 441).argmax(-1) == 220).mean() > (0.5 if family.jitter else 0.999)
  low, high = family.sigma
  for deviation in (draws['sigma1'], draws['sigma2']):
    assert deviation.min() >= low - 1e-6 and deviation.max() <= high + 1e-6
    assert deviation.mean() == pytest.approx((low + high) / 2, abs=0.2)
  if family.levels:
    values, counts = np.unique(draws['sigma1'].round(3), return_counts=True)
    np.testing.assert_allclose(values, [1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2], atol=1e-3)
    assert counts.min() > 25
  y, x = np.mgrid[-10:11, -10:11]
  if not family.anisotropic:
    np.testing.assert_array_equal(draws['sigma1'], draws['sigma2'])
    for i in range(0, 400, 50):
      np.testing.assert_allclose(kernels[i], _gaussian(draws['sigma1'][i]), atol=1e-6)
    return
  assert draws['angle'].min() < -3 and draws['angle'].max() > 3 and np.abs(draws['sigma1'] - draws['sigma2']).max() > 3
  ratios = []
  for i in range(0, 400, 40):
    cos, sin = np.cos(draws['angle'][i]), np.sin(draws['angle'][i])
    along, across = cos * x + sin * y, cos * y - sin * x
    plain = np.exp(-((along / draws['sigma1'][i]) ** 2 + (across / draws['sigma2'][i]) ** 2) / 2)
    there = plain > 1e-6
    ratio = kernels[i][there] / plain[there]
    ratios.append(ratio / ratio.min())
  # Each tap times 1 + U(0, 1/4), before the normalisation.
  ratios = np.concatenate(ratios)
  assert ratios.max() < 1.25 * 1.01 and ratios.max() > 1.2 and 1.08 < ratios.mean() < 1.14


def test_image_i_depends_on_key_i_alone():
  hr = jnp.asarray(np.random.default_rng(0).random((3, 16, 16, 3)), jnp.float32)
  keys, recipe = jax.random.split(jax.random.key(2), 3), Recipe.parse('anisotropic/noise_jpeg')
  whole, turned = degrade(keys, hr, recipe), degrade(keys[::-1], hr[::-1], recipe)
  np.testing.assert_array_equal(whole.lr, turned.lr[::-1])
  np.testing.assert_array_equal(whole.draws['angle'], turned.draws['angle'][::-1])
  assert len(np.unique(np.asarray(whole.draws['sigma1']))) == 3
  assert float(jnp.abs(whole.lr - whole.lr_clean).max()) > 0.01 and float(whole.jpeg_quality.min()) >= 40


def test_names():
  assert [float(name[-3:]) for name in uniform.GAUSSIAN8] == [1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.2]
  for name in uniform.GAUSSIAN8:
    assert Recipe.parse(name).name == f'{name}/no_noise' and Recipe(name).blur.sigma == (float(name[-3:]),) * 2
  assert Recipe.parse('gaussian8').blur.down == 'bicubic' and Recipe.parse('gaussian8-stride').blur.down == 'stride'
  assert Recipe('smooth').blur is None and not Recipe.parse('gaussian8').takes_depth
  for name in ('isotropic-0.0', 'isotropic-11.0', 'anisotropic-2.0', 'isotropic-2', 'gaussian9', 'isotropic-area'):
    with pytest.raises(SSRError, match='unknown field .*gaussian8-stride.*isotropic-SIGMA'):
      Recipe(name)
  with pytest.raises(SSRError, match='draws no field before its images'):
    degrade_lib.kernel_field(jax.random.key(0), Recipe('isotropic'), 8, 8)


def test_bicubic_baseline_of_set5(data_dir):
  """Y-PSNR, crop 4, of bicubic enlargement after each of the eight kernels: 25.87 dB as measured for the project."""
  from ssr_jax.metrics.psnr import psnr

  scores = []
  for path in sorted((data_dir / 'set5').glob('*.png')):
    hr = np.asarray(Image.open(path).convert('RGB'))
    both = np.broadcast_to(hr.astype(np.float32) / 255, (8, *hr.shape))
    # Eight images of one batch, so that one program serves all kernels.
    kernels = np.stack([_gaussian(float(name[-3:])).reshape(-1) for name in uniform.GAUSSIAN8]).astype(np.float32)
    for lr in np.asarray(_reduce(both, kernels)):
      large = Image.fromarray(np.rint(lr * 255).astype(np.uint8)).resize(hr.shape[1::-1], Image.Resampling.BICUBIC)
      scores.append(psnr(np.asarray(large), hr, crop=4))
  assert len(scores) == 40 and np.mean(scores) == pytest.approx(25.87, abs=0.02)


@jax.jit
def _reduce(hr, kernels):
  from ssr_jax.image.blur import blur_reduce

  return jnp.clip(blur_reduce(hr, kernels, 4), 0, 1)
