"""DPT: sizes of the published models, the call all depth nets share, interpolation. Numbers: tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax import systems
from ssr_jax.nn.depth import dpt

SMALL = dict(
  resolution=(64, 32),
  width=16,
  layers=4,
  heads=2,
  hidden=24,
  taps=(0, 1, 2, 3),
  positions=4,
  neck=(8, 8, 8, 8),
  fusion=8,
  head=4,
)
COUNTS = {  # what transformers' classes have, less what they never use (the last norm, the first fusion's first unit)
  'dpt-large': 341_848_257,
  'dpt-beit-large-512': 342_807_233,
  'depth-anything-v2-small': 24_710_849,
  'depth-anything-v2-base': 97_174_849,
  'depth-anything-v2-large': 334_134_465,
}


@pytest.mark.slow
@pytest.mark.parametrize('name', dpt.SIZES)
def test_full_size_has_the_published_parameters(name):
  image = jax.ShapeDtypeStruct((1, 100, 120, 3), jnp.float32)
  module = systems.build('depth', family='dpt', **dpt.SIZES[name])
  v = jax.eval_shape(module.init, jax.random.key(0), image)
  assert sum(int(np.prod(a.shape)) for a in jax.tree.leaves(v)) == COUNTS[name]
  assert jax.eval_shape(module.apply, v, image).shape == (1, 100, 120, 1)


@pytest.fixture(scope='module')
def small():
  module = dpt.DPT(**SMALL)
  rng = np.random.default_rng(0)
  tree = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  v = jax.tree.map(lambda a: jnp.asarray(rng.normal(0.05, 0.2, a.shape), jnp.float32), tree)
  v['params']['head_3']['bias'] += 2
  return jax.jit(lambda image: module.apply(v, image)), jax.jit(lambda image: module.apply(v, image, raw=True))


@pytest.mark.parametrize('size', [(37, 51), (1, 5)])
def test_any_size_in_the_same_size_out(small, size):
  image = jax.random.uniform(jax.random.key(1), (2, *size, 3))
  out = small[0](image)
  assert out.shape == (2, *size, 1) and out.dtype == jnp.float32
  assert bool(jnp.isfinite(out).all()) and float(out.min()) >= 0 and float(out.max()) <= 1


def test_an_image_is_judged_by_itself_and_raw_is_not_normalised(small):
  image = jax.random.uniform(jax.random.key(1), (2, 40, 30, 3))
  out, raw = small[0](image), small[1](image)
  np.testing.assert_allclose(small[0](image.at[0].set(0.3))[1], out[1], atol=1e-4)
  assert float(raw.max()) > 1 and float(raw.min()) >= 0
  for a, b in zip(np.asarray(out), np.asarray(raw), strict=True):
    inside = (a > 0.05) & (a < 0.95)
    assert inside.mean() > 0.5 and np.corrcoef(a[inside], b[inside])[0, 1] > 0.999  # up to scale and shift


@pytest.mark.parametrize('method', ['bilinear', 'bicubic', 'corners'])
def test_interpolation_keeps_planes_and_its_own_size(method):
  rows, columns = np.meshgrid(np.arange(9.0), np.arange(7.0), indexing='ij')
  plane = jnp.asarray(2 * rows - columns, jnp.float32)[None, :, :, None]
  assert dpt.interpolate(plane, (9, 7), method) is plane
  large = np.asarray(dpt.interpolate(plane, (27, 21), method))[0, :, :, 0]
  if method == 'corners':
    expected = 2 * np.linspace(0, 8, 27)[:, None] - np.linspace(0, 6, 21)
    np.testing.assert_allclose(large, expected, atol=1e-5)
  else:  # half-pixel centres; every third sample is one of the old ones
    np.testing.assert_allclose(large[1::3, 1::3], plane[0, :, :, 0], atol=1e-5)
    if method == 'bilinear':
      np.testing.assert_allclose(large[4, 5], 2 * 1 - (5.5 / 3 - 0.5), atol=1e-5)


def test_bicubic_is_keys_kernel_with_minus_three_quarters():
  spike = jnp.zeros((1, 7, 1, 1)).at[0, 3].set(1.0)
  got = np.asarray(dpt.interpolate(spike, (28, 1), 'bicubic'))[0, :, 0, 0]
  a = -0.75
  for i, value in enumerate(got):
    d = abs((i + 0.5) / 4 - 0.5 - 3)
    expected = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0
    np.testing.assert_allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize('grid', [(3, 3), (2, 5), (1, 4)])
def test_relative_bias_is_the_tables_entry_of_every_pair(grid):
  """Pair by pair, as BEiT states it; where the grid is another, from a table that is interpolated first."""
  (h, w), p, heads = grid, 3, 2
  table = np.random.default_rng(0).standard_normal((25 + 3, heads)).astype(np.float32)
  got = np.asarray(dpt.relative_bias(jnp.asarray(table), p, grid))
  offsets = dpt.interpolate(jnp.asarray(table[:25].reshape(1, 5, 5, heads)), (2 * h - 1, 2 * w - 1), 'bilinear')[0]
  places = [(y, x) for y in range(h) for x in range(w)]
  assert got.shape == (heads, 1 + h * w, 1 + h * w)
  for i, (y, x) in enumerate(places):
    for j, (v, u) in enumerate(places):
      np.testing.assert_allclose(got[:, 1 + i, 1 + j], offsets[y - v + h - 1, x - u + w - 1], atol=1e-6)
  np.testing.assert_array_equal(got[:, 0, 1:], np.repeat(table[25][:, None], h * w, 1))  # class token to tokens
  np.testing.assert_array_equal(got[:, 1:, 0], np.repeat(table[26][:, None], h * w, 1))
  np.testing.assert_array_equal(got[:, 0, 0], table[27])


@pytest.mark.parametrize(
  'config, match',
  [
    (dict(resolution=(48, 32)), 'multiples of 32'),
    (dict(taps=(0, 1, 2, 4)), 'taps below 4'),
    (dict(heads=3), '3 heads'),
  ],
)
def test_what_does_not_fit_is_named(config, match):
  module = dpt.DPT(**{**SMALL, **config})
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_an_unknown_family_is_named():
  with pytest.raises(ValueError, match="'midas'; known: compact, dpt"):
    systems.build('depth', family='midas')
