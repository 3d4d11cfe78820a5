"""The second-order chain: its draws against the published table by sampling, its steps against SciPy and NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from skimage import data

from ssr_jax import degrade as degrade_lib
from ssr_jax.degrade import Recipe, realesrgan
from ssr_jax.degrade import noise as noise_lib
from ssr_jax.image import blur, sharpen
from ssr_jax.image import jpeg as jpeg_lib
from ssr_jax.image import kernels as kernel_lib

_COUNT = 6000
_NAMES = list(realesrgan.CHAINS)
degrade = jax.jit(degrade_lib.degrade, static_argnums=2)
_draw = jax.jit(lambda keys, chain: jax.vmap(lambda k: realesrgan.draw(k, chain))(keys), static_argnums=1)

# The table of facts, written out again: what the program reads is not what it is tested against.
_TABLE = {
  'realesrgan': {
    'first': dict(
      blur=1,
      side=(7, 21),
      sigma=(0.2, 3),
      beta_g=(0.5, 4),
      beta_p=(1, 2),
      resize=(0.2, 0.7, 0.1),
      factor=(0.15, 1.5),
      noise=(1, 30),
      poisson=(0.05, 3),
      quality=(30, 95),
    ),
    'second': dict(
      blur=0.8,
      side=(7, 21),
      sigma=(0.2, 1.5),
      beta_g=(0.5, 4),
      beta_p=(1, 2),
      resize=(0.3, 0.4, 0.3),
      factor=(0.3, 1.2),
      noise=(1, 25),
      poisson=(0.05, 2.5),
      quality=(30, 95),
    ),
  },
  'realesrgan-light': {
    'first': dict(
      blur=1,
      side=(7, 21),
      sigma=(0.2, 1.5),
      beta_g=(0.5, 2),
      beta_p=(1, 1.5),
      resize=(0.2, 0.7, 0.1),
      factor=(0.3, 1.5),
      noise=(1, 15),
      poisson=(0.05, 2),
      quality=(60, 95),
    ),
    'second': dict(
      blur=0.5,
      side=(7, 11),
      sigma=(0.2, 1),
      beta_g=(0.5, 2),
      beta_p=(1, 1.5),
      resize=(0.3, 0.4, 0.3),
      factor=(0.6, 1.2),
      noise=(1, 12),
      poisson=(0.05, 1),
      quality=(60, 100),
    ),
  },
}


def _assert_share(found: np.ndarray, probability: float, what: str):
  """A share of booleans within the central 99.99 % of its binomial distribution."""
  low, high = scipy.stats.binom.interval(0.9999, found.size, probability)
  assert low <= found.sum() <= high, f'{what}: {found.sum()} of {found.size}, expected {probability}'


def _assert_uniform(found: np.ndarray, low: float, high: float, what: str):
  """Kolmogorov-Smirnov at 1e-4, and no value outside."""
  assert found.min() >= low - 1e-5 and found.max() <= high + 1e-5, f'{what}: {found.min()} to {found.max()}'
  p = scipy.stats.kstest(found, scipy.stats.uniform(low, high - low).cdf).pvalue
  assert p > 1e-4, f'{what}: not uniform on {low} to {high}, p {p}'


@pytest.fixture(scope='module', params=_NAMES)
def drawn(request):
  draws = _draw(jax.random.split(jax.random.key(11), _COUNT), realesrgan.CHAINS[request.param])
  return _TABLE[request.param], {name: np.asarray(value, np.float64) for name, value in draws.items()}


@pytest.mark.parametrize('stage', ['first', 'second'])
def test_every_probability_and_range_of_a_stage_is_the_tables(drawn, stage):
  table, draws = drawn[0][stage], {k.partition('_')[2]: v for k, v in drawn[1].items() if k.startswith(stage)}
  kind = draws['kind']
  blurred = kind < 7
  _assert_share(blurred, table['blur'], 'blur') if table['blur'] < 1 else None
  assert table['blur'] < 1 or blurred.all()
  sinc = kind == 6
  _assert_share(sinc[blurred], 0.1, 'sinc')
  shaped = kind < 6
  for i, probability in enumerate((0.45, 0.25, 0.12, 0.03, 0.12, 0.03)):
    _assert_share(kind[shaped] == i, probability, realesrgan.KINDS[i])

  low, high = table['side']
  sides = draws['side'][blurred]
  assert set(sides) == set(range(low, high + 1, 2))
  for side in set(sides):
    _assert_share(sides == side, 2 / (high - low + 2), f'side {side}')
  narrow = sinc & (draws['side'] < 13)
  _assert_uniform(draws['omega'][narrow], np.pi / 3, np.pi, 'omega of small kernels')
  if high > 13:
    _assert_uniform(draws['omega'][sinc & ~narrow], np.pi / 5, np.pi, 'omega of large kernels')

  aniso = shaped & (kind % 2 == 1)
  _assert_uniform(draws['sigma1'][shaped], *table['sigma'], 'sigma1')
  _assert_uniform(draws['sigma2'][aniso], *table['sigma'], 'sigma2')
  assert abs(np.corrcoef(draws['sigma1'][aniso], draws['sigma2'][aniso])[0, 1]) < 0.12
  np.testing.assert_array_equal(draws['sigma1'][shaped & ~aniso], draws['sigma2'][shaped & ~aniso])
  _assert_uniform(draws['theta'][aniso], -np.pi, np.pi, 'theta')
  assert (draws['theta'][~aniso] == 0).all()
  assert (draws['beta'][kind < 2] == 1).all()
  for name, kinds in (('beta_g', (2, 3)), ('beta_p', (4, 5))):
    beta = draws['beta'][np.isin(kind, kinds)]
    low, high = table[name]
    if low < 1:
      _assert_share(beta < 1, 0.5, name)
      _assert_uniform(beta[beta < 1], low, 1, name)
    else:  # half of them lie between 1 and 1
      _assert_share(beta == 1, 0.5, name)
    _assert_uniform(beta[beta > 1], 1, high, name)

  direction = draws['direction']
  for i, probability in enumerate(table['resize']):
    _assert_share(direction == i, probability, realesrgan.DIRECTIONS[i])
  _assert_uniform(draws['factor'][direction == 0], 1, table['factor'][1], 'factor up')
  _assert_uniform(draws['factor'][direction == 1], table['factor'][0], 1, 'factor down')
  assert (draws['factor'][direction == 2] == 1).all()
  for i in range(3):
    _assert_share(draws['method'] == i, 1 / 3, f'method {i}')

  gaussian = draws['gaussian'] == 1
  _assert_share(gaussian, 0.5, 'Gaussian')
  _assert_uniform(255 * draws['level'][gaussian], *table['noise'], 'noise')
  _assert_uniform(draws['level'][~gaussian], *table['poisson'], 'Poisson scale')
  for of in (gaussian, ~gaussian):
    _assert_share(draws['gray'][of] == 1, 0.4, 'gray')
  low, high = table['quality']
  assert draws['quality'].min() == low and draws['quality'].max() == high
  assert (draws['quality'] == np.round(draws['quality'])).all()
  assert draws['quality'].mean() == pytest.approx((low + high) / 2, abs=4 * (high - low) / np.sqrt(12 * _COUNT))


def test_the_last_filter_and_the_order_are_the_tables(drawn):
  draws = drawn[1]
  sinc = draws['final_sinc'] == 1
  _assert_share(sinc, 0.8, 'final sinc')
  _assert_uniform(draws['final_omega'][sinc], np.pi / 3, np.pi, 'final omega')
  for side in range(7, 22, 2):
    _assert_share(draws['final_side'][sinc] == side, 1 / 8, f'final side {side}')
  _assert_share(draws['jpeg_last'] == 1, 0.5, 'order')
  for i in range(3):
    _assert_share(draws['final_method'] == i, 1 / 3, f'final method {i}')


def test_stages_do_not_share_their_draws(drawn):
  draws = drawn[1]
  for what in ('level', 'factor', 'quality', 'method', 'kind', 'side'):
    assert abs(np.corrcoef(draws[f'first_{what}'], draws[f'second_{what}'])[0, 1]) < 0.06


def test_drawn_kernels_are_distributions_symmetric_and_of_their_size(drawn):
  draws = {name: jnp.asarray(value[:400]) for name, value in drawn[1].items()}
  for name, taps in jax.jit(realesrgan.kernels)(draws).items():
    taps = np.asarray(taps).reshape(-1, 21, 21)
    np.testing.assert_allclose(taps.sum((1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(taps, taps[:, ::-1, ::-1], atol=1e-6)  # through the middle
    kind = np.asarray(draws[f'{name}_kind']) if name != 'final' else np.where(draws['final_sinc'] == 1, 6, 7)
    assert (taps[kind != 6] >= 0).all() and (taps[kind == 6] < 0).any()
    reach = np.abs(np.mgrid[:21, :21] - 10).max(0)
    for one, side in zip(taps, np.asarray(draws[f'{name}_side']), strict=True):
      assert (one[reach > side // 2] == 0).all()
    assert (taps[kind == 7][:, 10, 10] == 1).all()


@pytest.fixture(scope='module', params=_NAMES)
def degraded(request):
  """A recipe, three different images with their keys, and what becomes of them; one compilation serves many tests."""
  keys = jax.random.split(jax.random.key(5), 3)
  photo = jnp.asarray(data.astronaut()[None, 20:84, 180:260], jnp.float32) / 255
  hr = jnp.concatenate([photo, photo[:, ::-1], photo[:, :, ::-1]])
  recipe = Recipe(request.param)
  return recipe, keys, hr, degrade(keys, hr, recipe)


def test_an_image_is_that_of_the_steps_by_numpy(degraded):
  """The chain without its canvases: SciPy's filters, loops for the resizes."""
  recipe, keys, hr, made = degraded
  kernels = jax.jit(realesrgan.kernels)(made.draws)
  largest = recipe.chain.first.factor[1], recipe.chain.second.factor[1]
  canvases = [tuple(int(factor * n) for n in size) for factor, size in zip(largest, ((64, 80), (16, 20)), strict=True)]
  for i in range(3):
    d = {name: np.asarray(value)[i] for name, value in made.draws.items()}
    taps = {name: np.asarray(value)[i].reshape(21, 21) for name, value in kernels.items()}
    noise_keys = jax.random.split(jax.random.split(keys[i])[1])

    x = np.asarray(made.target[i])
    np.testing.assert_allclose(x, np.asarray(sharpen.unsharp_mask(hr[i : i + 1]))[0], atol=1e-5)
    x = _filter(x, taps['first'])
    x = _resize(x, *(int(np.float32(d['first_factor']) * n) for n in (64, 80)), d['first_method'])
    x = _noisy(x, noise_keys[0], canvases[0], d, 'first')
    x = _jpeg(x, d['first_quality'])
    x = _filter(x, taps['second'])
    x = _resize(x, *(int(np.float32(d['second_factor']) * n) for n in (16, 20)), d['second_method'])
    before = x
    x = _noisy(x, noise_keys[1], canvases[1], d, 'second')
    assert float(made.noise_sigma[i]) >= 0.95 * np.sqrt(((x - before) ** 2).mean())  # clipping takes some of it away
    if d['jpeg_last']:
      x = _jpeg(np.clip(_filter(_resize(x, 16, 20, d['final_method']), taps['final']), 0, 1), d['second_quality'])
    else:
      x = np.clip(_filter(_resize(_jpeg(x, d['second_quality']), 16, 20, d['final_method']), taps['final']), 0, 1)
    difference = np.abs(np.rint(x * 255) - np.asarray(made.lr[i]) * 255)
    # A rounding that falls the other way in an early step, or in a DCT level, moves a few samples.
    assert np.median(difference) < 0.01 and difference.mean() < 0.15, (difference.mean(), difference.max())


def _filter(x, kernel):
  return np.stack([scipy.ndimage.correlate(x[..., c], kernel, mode='mirror') for c in range(3)], -1)


def _resize(x, height, width, method):
  return _resize_rows(_resize_rows(x, height, method).transpose(1, 0, 2), width, method).transpose(1, 0, 2)


def _resize_rows(x, n, method):
  """PyTorch's `interpolate` in area, bilinear and bicubic mode, by its formulas, one row at a time."""
  size, out = len(x), []
  for i in range(n):
    centre = (i + 0.5) * size / n - 0.5
    below = int(np.floor(centre))
    t = centre - below
    at = lambda j: x[np.clip(j, 0, size - 1)]
    if method == 0:
      out.append(x[int(np.floor(i * size / n)) : int(np.ceil((i + 1) * size / n))].mean(0))
    elif method == 1:
      out.append((1 - t) * at(below) + t * at(below + 1))
    else:
      cubic = lambda d: 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
      out.append(sum(cubic(abs(t - j)) * at(below + j) for j in range(-1, 3)))
  return np.stack(out)


def _noisy(x, key, canvas, d, stage):
  """Noise drawn on the canvas, of which the image's part is taken."""
  image = np.zeros((3, *canvas), np.float32)
  inside = np.zeros(canvas, bool)
  image[:, : x.shape[0], : x.shape[1]] = x.transpose(2, 0, 1)
  inside[: x.shape[0], : x.shape[1]] = True
  noise = _noise(key, image, inside, *(d[f'{stage}_{what}'] for what in ('gaussian', 'level', 'gray')))
  return np.clip(x + np.asarray(noise)[:, : x.shape[0], : x.shape[1]].transpose(1, 2, 0), 0, 1)


_noise = jax.jit(noise_lib.noise)


def _jpeg(x, quality):
  """Ours, on one canvas for all sizes; tests/image/test_jpeg.py compares it with the image cropped, and with Pillow."""
  canvas = np.full((1, 96, 120, 3), 0.3, np.float32)
  canvas[0, : x.shape[0], : x.shape[1]] = x
  size = jnp.array([x.shape[0]]), jnp.array([x.shape[1]])
  return np.asarray(_jpeg_on_canvas(canvas, quality, size))[0, : x.shape[0], : x.shape[1]]


_jpeg_on_canvas = jax.jit(jpeg_lib.jpeg)


def test_an_image_depends_on_its_own_key_only(degraded):
  recipe, keys, hr, made = degraded
  other = degrade(keys[jnp.array([2, 1, 1])], hr[jnp.array([2, 1, 0])], recipe)
  for ours, theirs in ((0, 2), (1, 1)):
    for name, value in made.draws.items():
      np.testing.assert_array_equal(other.draws[name][ours], value[theirs])
    np.testing.assert_array_equal(other.lr[ours], made.lr[theirs])
  assert not np.array_equal(other.lr[2], made.lr[0])  # the same image under another key


def test_what_is_returned(degraded):
  _, _, hr, made = degraded
  assert made.lr.shape == (3, 16, 20, 3) and made.target.shape == hr.shape
  assert made.kernels.shape == (3, 16, 20, 441) and made.lr_clean.shape == made.lr.shape
  np.testing.assert_allclose(made.kernels.sum(-1), 1, atol=1e-5)
  np.testing.assert_allclose(made.kernels, kernel_lib.gaussian_kernels(*made.field), atol=1e-6)
  np.testing.assert_allclose(made.lr_clean, blur.blur_downsample(hr, made.kernels, 4), atol=1e-5)
  for value in made.field:
    assert (value == value[:, :1, :1]).all()
  for value in made.field[:2]:
    assert float(value.min()) >= 0.7 - 1e-6 and float(value.max()) <= 10
  assert np.isfinite(made.lr).all() and float(made.lr.min()) >= 0 and float(made.lr.max()) <= 1
  np.testing.assert_allclose(made.lr * 255, jnp.round(made.lr * 255), atol=1e-3)
  np.testing.assert_array_equal(made.jpeg_quality, made.draws['second_quality'])


@pytest.mark.slow
@pytest.mark.parametrize('name', _NAMES)
def test_the_effective_kernel_is_the_response_to_a_spot(name, monkeypatch):
  """A Gaussian spot through the chain without noise, JPEG and sinc filters: what the chain adds to its covariance."""
  monkeypatch.setattr(realesrgan, '_jpeg', lambda planes, quality, size=None: planes)
  still = dict(sinc=0.0, kinds=(0.5, 0.5, 0.0, 0.0, 0.0, 0.0), gaussian=1.0, sigma_noise=(0.0, 0.0))
  chain = realesrgan.CHAINS[name]
  first, second = (dataclasses.replace(stage, **still) for stage in (chain.first, chain.second))
  chain = dataclasses.replace(chain, first=first, second=second, final_sinc=0.0, sharpen=False)
  count, side, variance = 16, 192, 144.0
  draws = dict(_draw(jax.random.split(jax.random.key(3), count), chain))
  # 'area' by a factor near 1 moves an edge by up to half a sample, by a distance that changes slowly over the image, so
  # that its blur depends on the place; bicubic's moment is negative and counts as zero. Half of the images go without
  # both and must agree well.
  smooth = np.arange(count) < count // 2
  for of in ('first', 'second', 'final'):
    draws[f'{of}_method'] = jnp.where(smooth, 1, draws[f'{of}_method'])
  run = jax.jit(lambda key, hr, draws: realesrgan.apply(key, hr, chain, 4, draws)[0])
  measured = np.zeros((count, 3))
  places = [(-14.3, 3.1), (2.4, 6.9), (7.7, -14.2), (-9.1, -3.8)]
  for place in places:
    y, x = (np.arange(side) - (side - 1) / 2 - shift for shift in place)
    spot = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * variance))
    hr = jnp.broadcast_to(jnp.asarray(spot[None, :, :, None], jnp.float32), (count, side, side, 3))
    for i, lr in enumerate(np.asarray(run(jax.random.split(jax.random.key(0), count), hr, draws), np.float64)):
      measured[i] += _gaussian_covariance(lr[..., 1]) / len(places)
  lambda1, lambda2, theta = np.asarray(realesrgan.effective_field(draws, chain, (side, side), 4, (-9.0, 1e6)))
  cos, sin = np.cos(theta), np.sin(theta)
  expected = np.stack(
    [lambda1 * sin**2 + lambda2 * cos**2, lambda1 * cos**2 + lambda2 * sin**2, (lambda1 - lambda2) * cos * sin], 1
  )
  plain = np.array([variance, variance, 0])
  error = np.abs(measured[:, :2] / (expected + plain)[:, :2] - 1)
  assert error[smooth].max() < 0.1 and np.quantile(error, 0.9) < 0.12 and error.max() < 0.25, error
  added, added_expected = (m[smooth, :2].sum(1) for m in (measured - plain, expected))
  np.testing.assert_allclose(added, added_expected, rtol=0.15, atol=0.5)
  np.testing.assert_allclose(measured[smooth, 2], expected[smooth, 2], rtol=0.15, atol=1)
  assert np.ptp(added_expected) > 4


def _gaussian_covariance(lr):
  """(yy, xx, xy) in HR pixels squared of the Gaussian that fits best; unlike a moment, rounded tails leave it alone."""
  height, width = lr.shape
  y, x = (a.ravel() * 4.0 for a in np.mgrid[:height, :width])
  seen = lr.ravel() > 0.1 * lr.max()
  y, x, weight = y[seen], x[seen], lr.ravel()[seen]
  y, x = y - y.mean(), x - x.mean()
  columns = np.stack([np.ones_like(y), y, x, y * y, x * x, y * x], 1) * weight[:, None]
  fit = np.linalg.lstsq(columns, np.log(weight) * weight, rcond=None)[0]
  covariance = np.linalg.inv(-np.array([[2 * fit[3], fit[5]], [fit[5], 2 * fit[4]]]))
  return np.array([covariance[0, 0], covariance[1, 1], covariance[0, 1]])


def test_the_middle_of_the_image_stays_where_it_is(degraded):
  """Resizes there and back, borders aligned: a bright square in the middle stays there."""
  recipe, *_ = degraded
  image = np.zeros((3, 64, 80, 3), np.float32)
  image[:, 20:44, 28:52] = 1
  keys = jax.random.split(jax.random.key(2), (12, 3))
  lr = np.concatenate([degrade(k, jnp.asarray(image), recipe).lr for k in keys]).mean(-1)
  lr = np.clip(lr - np.median(lr, (1, 2), keepdims=True) - 0.25, 0, None)
  total = lr.sum((1, 2))
  seen = total > 2  # the strongest noise hides the square
  y, x = (lr.sum(axis)[seen] @ (np.arange(n) - (n - 1) / 2) / total[seen] for axis, n in ((2, 16), (1, 20)))
  assert seen.mean() > 0.5
  assert abs(np.median(y)) < 0.15 and abs(np.median(x)) < 0.15
