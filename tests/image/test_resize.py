"""Resizing against Pillow and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax.image import resize


@pytest.mark.parametrize('method,pillow', [('bicubic', Image.BICUBIC), ('bilinear', Image.BILINEAR)])
@pytest.mark.parametrize('size', [(512, 512), (64, 96), (200, 37), (32, 32)])
def test_equals_pillow(method, pillow, size):
  """Within rounding of Pillow's 8-bit result where rounded as it rounds, and of its float result where not."""
  image = data.astronaut()[100:228, 100:228]
  levels = image.astype(np.float32) / 255
  theirs = np.asarray(Image.fromarray(image).resize(size[::-1], pillow), np.float32) / 255
  assert np.abs(np.asarray(resize.resize(levels, size, method, eight_bit=True)) - theirs).max() <= 1.01 / 255
  theirs = np.asarray(Image.fromarray(levels[..., 1]).resize(size[::-1], pillow))
  assert np.abs(np.asarray(resize.resize(levels, size, method))[..., 1] - theirs).max() <= 1e-5


def test_area_is_the_mean_of_cells_and_refuses_others():
  image = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)
  out = np.asarray(resize.resize(image, (4, 3), 'area'))
  np.testing.assert_allclose(out[1, 2, 1], image[1, 4:6, 4:8].mean((0, 1)), rtol=1e-5)
  with pytest.raises(ValueError, match='whole cells'):
    resize.resize(image, (3, 3), 'area')
  with pytest.raises(ValueError, match='unknown resize method'):
    resize.resize(image, (4, 4), 'lanczos')


_weights = jax.jit(jax.vmap(functools.partial(resize.resampling_weights, columns=24, rows=31), (0, None, None)))


def _interpolated(x, n, method):
  """A row resized to n samples by the formulas of PyTorch's `interpolate`, sample by sample."""
  size, out = len(x), []
  for i in range(n):
    centre = (i + 0.5) * size / n - 0.5
    below = int(np.floor(centre))
    t = centre - below
    at = lambda j: x[min(max(j, 0), size - 1)]
    if method == 'area':
      out.append(x[int(np.floor(i * size / n)) : int(np.ceil((i + 1) * size / n))].mean())
    elif method == 'bilinear':
      out.append((1 - t) * at(below) + t * at(below + 1))
    else:
      cubic = lambda d: 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
      out.append(sum(cubic(abs(t - j)) * at(below + j) for j in range(-1, 3)))
  return np.array(out)


@pytest.mark.parametrize('source,target', [(24, 31), (24, 24), (24, 7), (17, 31), (17, 16), (5, 1), (1, 4), (2, 3)])
def test_sizes_drawn_on_the_device_give_what_fixed_ones_would(source, target):
  row = np.random.default_rng(source).random(24).astype(np.float32)
  for method, weights in zip(resize.RESAMPLING, np.asarray(_weights(jnp.arange(3), source, target)), strict=True):
    expected = _interpolated(row[:source].astype(np.float64), target, method)
    np.testing.assert_allclose((weights @ row)[:target], expected, atol=2e-6)
    assert (weights[target:] == 0).all() and (weights[:, source:] == 0).all()


def test_resampling_area_and_bilinear_agree_with_pillow_where_their_definitions_meet():
  """Whole cells for Pillow's BOX; enlarging, where Pillow's BILINEAR is not widened."""
  image = data.astronaut()[100:124, 100:124, 1].astype(np.float32) / 255
  for method, n, pillow in ((0, 8, Image.BOX), (1, 31, Image.BILINEAR)):
    weights = _weights(jnp.arange(3), 24, n)[method][None]
    ours = resize.resample(jnp.asarray(image)[None, None], weights, weights)[0, 0, :n, :n]
    np.testing.assert_allclose(ours, np.asarray(Image.fromarray(image).resize((n, n), pillow)), atol=1e-5)


def test_depth_to_space_is_torchs_order_and_inverts():
  """Channel c, offsets (y, x) of torch's pixel_shuffle sit at input channel c*s*s + y*s + x."""
  x = np.arange(2 * 3 * 8, dtype=np.float32).reshape(1, 2, 3, 8)
  out = np.asarray(resize.depth_to_space(x, 2))
  for c in range(2):
    for y in range(2):
      for dx in range(2):
        np.testing.assert_array_equal(out[0, y::2, dx::2, c], x[0, :, :, c * 4 + y * 2 + dx])
  np.testing.assert_array_equal(resize.space_to_depth(out, 2), x)
