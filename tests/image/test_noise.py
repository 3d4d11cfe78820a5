"""The estimate of noise against noise that is known."""

import numpy as np
import pytest
from skimage import data

from ssr_jax.image.noise import noise_level


def _noisy(image, sigma, seed=0):
  return image + np.float32(sigma) * np.random.default_rng(seed).standard_normal(image.shape, np.float32)


@pytest.mark.parametrize('sigma', [2, 10, 30])
def test_noise_on_a_ramp_is_found(sigma):
  """Without texture: as exact as a median of so many samples is."""
  ramp = np.linspace(0.3, 0.7, 256, dtype=np.float32)[None, :, None].repeat(256, 0).repeat(3, -1)
  found = noise_level(_noisy(ramp, sigma / 255 / 2 * np.array([1, 2, 3], np.float32)))
  np.testing.assert_allclose(found * 255, sigma / 2 * np.array([1, 2, 3]), rtol=0.05)


@pytest.mark.parametrize('photo', [data.chelsea, data.coffee, data.astronaut, data.rocket])
@pytest.mark.parametrize('sigma', [5, 10, 25])
def test_noise_on_a_photo_is_found(photo, sigma):
  """On photos with texture and noise of their own, whose variance adds to what was added."""
  clean = photo().astype(np.float32) / 255
  own = noise_level(clean)
  noisy = np.clip(_noisy(clean, sigma / 255), 0, 1)
  np.testing.assert_allclose(noise_level(noisy), np.hypot(own, sigma / 255), rtol=0.1)
  assert (own < 3 / 255).all()


def test_flat_blocks_are_chosen_by_what_does_not_bias_the_estimate():
  """White noise alone: the flattest quarter by the diagonal details themselves would give less than half."""
  noise = _noisy(np.full((400, 400, 3), 0.5, np.float32), 0.05)
  np.testing.assert_allclose(noise_level(noise), 0.05, rtol=0.03)


def test_stripes_and_checkers_beside_a_flat_part_are_no_noise():
  image = np.full((64, 256, 1), 0.5, np.float32)
  image[:, :150] += 0.2 * (np.indices((64, 150)).sum(0) % 2)[..., None].astype(np.float32)  # all diagonal detail
  image[:, :150:4] -= 0.2
  np.testing.assert_allclose(noise_level(_noisy(image, 0.01)), 0.01, rtol=0.15)


def test_clipped_pixels_do_not_count():
  image = _noisy(np.full((512, 512, 1), 0.5, np.float32), 0.04)
  image[:256] = 1
  image[:128] = 0
  np.testing.assert_allclose(noise_level(image), 0.04, rtol=0.1)
  assert noise_level(np.ones((8, 8, 3), np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize('dtype, top', [(np.uint8, 255), (np.uint16, 65535)])
def test_whole_numbers_rows_and_odd_sides(dtype, top):
  image = np.clip(_noisy(np.full((1201, 65, 3), 0.5, np.float32), 0.05), 0, 1)
  whole = np.rint(image * top).astype(dtype)

  class Rows:
    shape, dtype, asked = whole.shape, whole.dtype, []

    def __getitem__(self, rows):
      self.asked.append(rows.stop - rows.start)
      return whole[rows]

  np.testing.assert_allclose(noise_level(whole), noise_level(image), atol=5e-4)
  rows = Rows()
  np.testing.assert_array_equal(noise_level(rows), noise_level(whole))
  assert max(rows.asked) <= 512 and sum(rows.asked) == 1201


@pytest.mark.parametrize('shape', [(1, 9, 3), (9, 1, 3), (2, 2, 3)])
def test_an_image_too_small_for_more_than_a_block(shape):
  assert np.isfinite(noise_level(np.full(shape, 0.5, np.float32))).all()
