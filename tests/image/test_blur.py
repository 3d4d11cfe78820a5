"""The spatially variant operator against a plain loop, its adjoint, and the alignment of the kernels it is given."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import scipy.ndimage

from ssr_jax.image import blur


def _reference(image, field, scale):
  """Eq. 1 with Python loops: replicate border, correlation, sample at [0::s]."""
  b, H, W, c = image.shape
  k = round(field.shape[-1] ** 0.5)
  r = k // 2
  out = np.zeros((b, H // scale, W // scale, c))
  for n in range(b):
    for i in range(H // scale):
      for j in range(W // scale):
        for y in range(k):
          for x in range(k):
            pixel = image[n, np.clip(scale * i + y - r, 0, H - 1), np.clip(scale * j + x - r, 0, W - 1)]
            out[n, i, j] += field[n, i, j, y * k + x] * pixel
  return out


@pytest.mark.parametrize(
  'scale,k,size', [(4, 21, (12, 8)), (2, 5, (6, 10)), (3, 7, (9, 6)), (1, 3, (5, 4)), (4, 3, (8, 8))]
)
def test_matches_loops(scale, k, size):
  rng = np.random.default_rng(0)
  image = rng.random((2, *size, 3), np.float32)
  field = rng.normal(size=(2, size[0] // scale, size[1] // scale, k * k)).astype(np.float32)
  out = jax.jit(blur.blur_downsample, static_argnums=2)(image, field, scale)
  np.testing.assert_allclose(out, _reference(image, field, scale), atol=2e-5)


def test_one_kernel_per_image_is_the_constant_field():
  rng = np.random.default_rng(1)
  image = rng.random((2, 16, 12, 3), np.float32)
  kernel = rng.random((2, 1, 1, 441), np.float32)
  field = np.broadcast_to(kernel, (2, 4, 3, 441))
  np.testing.assert_allclose(blur.blur_downsample(image, kernel, 4), blur.blur_downsample(image, field, 4), atol=2e-5)


def test_adjoint_and_gradients_satisfy_the_dot_product_test():
  rng = np.random.default_rng(2)
  x = jnp.asarray(rng.normal(size=(2, 24, 16, 3)), jnp.float32)
  field = jnp.asarray(rng.normal(size=(2, 6, 4, 441)), jnp.float32)
  y = jnp.asarray(rng.normal(size=(2, 6, 4, 3)), jnp.float32)
  forward = jax.jit(blur.blur_downsample, static_argnums=2)(x, field, 4)
  inner = float((forward * y).sum())
  (adjoint,) = jax.jit(lambda y: jax.linear_transpose(lambda x: blur.blur_downsample(x, field, 4), x)(y))(y)
  assert float((x * adjoint).sum()) == pytest.approx(inner, rel=1e-4)
  gradients = jax.jit(jax.grad(lambda x, k: (blur.blur_downsample(x, k, 4) * y).sum(), argnums=(0, 1)))
  to_image, to_kernels = gradients(x, field)
  assert float((x * to_image).sum()) == pytest.approx(inner, rel=1e-4)
  assert float((field * to_kernels).sum()) == pytest.approx(inner, rel=1e-4)


def test_needs_no_array_of_all_taps_at_hr_size():
  """512x512 needs the image and the field, not 512*512*441 floats (462 MB), also in the backward pass."""
  image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
  field = jax.ShapeDtypeStruct((1, 128, 128, 441), jnp.float32)
  gradient = jax.grad(lambda x, k: (blur.blur_downsample(x, k, 4) ** 2).sum(), argnums=(0, 1))
  memory = jax.jit(gradient).lower(image, field).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 200e6


def test_rows_in_blocks_are_the_rows():
  """17 rows are blocks of one, 18 of six, 16 of eight: each is the loop's result."""
  rng = np.random.default_rng(3)
  for rows in (17, 18, 16):
    image = rng.random((2, 2 * rows, 6, 1), np.float32)
    field = rng.normal(size=(2, rows, 3, 25)).astype(np.float32)
    out = jax.jit(blur.blur_downsample, static_argnums=2)(image, field, 2)
    np.testing.assert_allclose(out, _reference(image, field, 2), atol=2e-5)


def test_convolve_is_scipys_on_the_image_that_a_canvas_holds():
  rng = np.random.default_rng(4)
  sizes = [(37, 51), (50, 34), (3, 4), (52, 60), (1, 5)]
  canvas = rng.random((len(sizes), 3, 52, 60), np.float32)
  field = rng.normal(size=(len(sizes), 441)).astype(np.float32) / 21
  out = np.asarray(jax.jit(blur.convolve)(canvas, field, tuple(jnp.array(n) for n in zip(*sizes, strict=True))))
  for i, (h, w) in enumerate(sizes):
    for c in range(3):
      expected = scipy.ndimage.correlate(canvas[i, c, :h, :w], field[i].reshape(21, 21), mode='mirror')
      np.testing.assert_allclose(out[i, c, :h, :w], expected, atol=5e-6)
  whole = np.asarray(blur.convolve(canvas[3:4], field[3:4]))
  np.testing.assert_allclose(whole[0], out[3], atol=5e-6)


def test_sizes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match='multiple of the scale'):
    blur.blur_downsample(jnp.zeros((1, 10, 8, 3)), jnp.zeros((1, 2, 2, 441)), 4)
  with pytest.raises(ValueError, match='do not fit'):
    blur.blur_downsample(jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 3, 2, 441)), 4)
  with pytest.raises(ValueError, match='k odd'):
    blur.blur_downsample(jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 2, 2, 400)), 4)


@pytest.mark.parametrize('down', blur.REDUCTIONS)
def test_reduction_after_a_blur_is_scipys_and_pillows(down):
  """Correlation with SciPy's 'mirror' border, then Pillow's antialiased bicubic on floats, or every fourth pixel."""
  rng = np.random.default_rng(3)
  image, kernels = rng.random((2, 24, 36, 3), np.float32), rng.random((2, 81), np.float32)
  kernels /= kernels.sum(-1, keepdims=True)
  found = jax.jit(blur.blur_reduce, static_argnums=(2, 3))(image, kernels, 4, down)
  assert found.shape == (2, 6, 9, 3)
  for n in range(2):
    for c in range(3):
      plane = scipy.ndimage.correlate(image[n, ..., c], kernels[n].reshape(9, 9), mode='mirror')
      small = np.asarray(Image.fromarray(plane).resize((9, 6), Image.Resampling.BICUBIC))
      expected = small if down == 'bicubic' else plane[::4, ::4]
      np.testing.assert_allclose(found[n, ..., c], expected, atol=2e-6)


def test_reduction_without_a_kernel_and_its_adjoint():
  """No kernel is that of one tap; the gradient is the adjoint, for the image and for the kernels."""
  rng = np.random.default_rng(4)
  x = jnp.asarray(rng.normal(size=(2, 24, 16, 3)), jnp.float32)
  kernels = jnp.asarray(rng.normal(size=(2, 441)), jnp.float32)
  y = jnp.asarray(rng.normal(size=(2, 6, 4, 3)), jnp.float32)
  one = jnp.zeros((2, 441)).at[:, 220].set(1.0)
  apply = jax.jit(blur.blur_reduce, static_argnums=2)
  np.testing.assert_allclose(apply(x, one, 4), apply(x, None, 4), atol=1e-5)
  inner = float((apply(x, kernels, 4) * y).sum())
  to_image, to_kernels = jax.jit(jax.grad(lambda x, k: (blur.blur_reduce(x, k, 4) * y).sum(), argnums=(0, 1)))(
    x, kernels
  )
  assert float((x * to_image).sum()) == pytest.approx(inner, rel=1e-4)
  assert float((kernels * to_kernels).sum()) == pytest.approx(inner, rel=1e-4)
  for down, size in (('area', 24), ('stride', 22)):
    with pytest.raises(ValueError, match='known: bicubic, stride|multiple of the scale'):
      blur.blur_reduce(x[:, :size], None, 4, down)


@pytest.mark.parametrize('down', ['bicubic', 'stride'])
@pytest.mark.parametrize('scale', [1, 2, 4])
def test_gathered_kernels_are_blur_and_reduction_in_one(down, scale):
  rng = np.random.default_rng(scale)
  image = rng.random((1, 24 * scale, 30 * scale, 3)).astype(np.float32)
  kernel = rng.random((1, 81)).astype(np.float32)
  kernel /= kernel.sum()
  wanted = np.asarray(blur.blur_reduce(image, kernel, scale, down))
  wide = blur.gathered_kernels(kernel[:, None, None], scale, down)
  np.testing.assert_allclose(wide.sum(-1), 1, atol=1e-5)
  found = np.asarray(blur.blur_downsample(image, wide, scale))
  border = 10
  np.testing.assert_allclose(
    found[:, border:-border, border:-border], wanted[:, border:-border, border:-border], atol=1e-5
  )
