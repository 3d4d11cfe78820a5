"""The array JPEG against real JPEG files written and read by Pillow."""

import io

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax.image import jpeg as jpeg_lib

_jpeg = jax.jit(jpeg_lib.jpeg)


def _run(images, quality):
  out = _jpeg(jnp.asarray(images, jnp.float32) / 255, jnp.asarray(quality))
  return np.rint(np.asarray(out) * 255).astype(np.int32)


def _pillow(image, quality):
  """uint8 [H, W, 3] through a JPEG file in memory."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'JPEG', quality=int(quality), subsampling='4:2:0')
  return np.asarray(Image.open(buffer).convert('RGB'))


@pytest.mark.parametrize('quality', [5, 30, 60, 90, 100])
@pytest.mark.parametrize('photo', ['astronaut', 'chelsea'])
def test_equals_pillow_on_a_photo(photo, quality):
  image = getattr(data, photo)()[100:228, 120:280]
  expected = _pillow(image, quality).astype(np.int32)
  difference = np.abs(_run(image[None], [quality])[0] - expected)
  # libjpeg's 13-bit DCT and ours round apart on few pixels, by little.
  assert difference.mean() < 0.06
  assert difference.max() <= 12


@pytest.mark.parametrize('size', [(37, 51), (50, 34), (1, 1), (3, 4)])
def test_any_size_has_libjpegs_borders(size):
  H, W = size
  image = data.astronaut()[200 : 200 + H, 200 : 200 + W]
  expected = _pillow(image, 50).astype(np.int32)
  assert np.abs(_run(image[None], [50])[0] - expected).mean() < 0.1


def test_each_image_has_its_own_quality():
  image = data.astronaut()[:64, :64]
  both = _run(np.stack([image, image]), [20, 95])
  np.testing.assert_array_equal(both[0], _run(image[None], [20])[0])
  np.testing.assert_array_equal(both[1], _run(image[None], [95])[0])
  assert np.abs(both[0] - image).mean() > 2 * np.abs(both[1] - image).mean()


def test_vmap_over_another_axis():
  images = np.stack([data.astronaut()[:32, :32], data.astronaut()[64:96, :32]])[:, None]
  quality = jnp.array([[30.0], [80.0]])
  mapped = jax.jit(jax.vmap(jpeg_lib.jpeg))(jnp.asarray(images, jnp.float32) / 255, quality)
  np.testing.assert_array_equal(np.rint(np.asarray(mapped) * 255)[:, 0], _run(images[:, 0], quality[:, 0]))


def test_an_image_on_a_larger_canvas_is_coded_as_if_cropped():
  """The borders of each size come out as libjpeg's; what lies around the image must not matter."""
  rng = np.random.default_rng(0)
  sizes = [(37, 51), (50, 34), (3, 4), (72, 80), (64, 63)]
  quality = [30, 60, 90, 50, 75]
  canvas = rng.integers(256, size=(len(sizes), 72, 80, 3)).astype(np.float32)
  for i, (h, w) in enumerate(sizes):
    canvas[i, :h, :w] = data.astronaut()[200 : 200 + h, 200 : 200 + w]
  out = np.asarray(_jpeg(canvas / 255, jnp.array(quality), tuple(jnp.array(n) for n in zip(*sizes, strict=True))))
  for i, (h, w) in enumerate(sizes):
    expected = _pillow(canvas[i, :h, :w].astype(np.uint8), quality[i]).astype(np.int32)
    difference = np.abs(np.rint(out[i, :h, :w] * 255) - expected)
    assert difference.mean() < 0.1 and difference[-1].mean() < 0.3 and difference[:, -1].mean() < 0.3, sizes[i]


def test_quantisation_tables_are_those_in_pillows_files():
  for quality in (1, 10, 49, 50, 51, 75, 99, 100):
    buffer = io.BytesIO()
    Image.new('RGB', (16, 16)).save(buffer, 'JPEG', quality=quality)
    tables = Image.open(buffer).quantization
    for base, key in ((jpeg_lib._LUMINANCE, 0), (jpeg_lib._CHROMINANCE, 1)):
      ours = np.asarray(jpeg_lib.quantisation_table(base, jnp.array([quality])))[0]
      assert sorted(ours.ravel().astype(int)) == sorted(tables[key])


def test_refuses_other_shapes():
  with pytest.raises(ValueError, match=r'\[b, H, W, 3\]'):
    jpeg_lib.jpeg(jnp.zeros((8, 8, 3)), 50)
