"""One field of noise for an image in tiles: the parts of it that its windows' tests in tests/runtime do not show."""

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.diffusion.noise import NoiseField


def _window(seed, origin, shape=(8, 8, 2), lr_rows=8):
  return NoiseField(jnp.uint32(seed), jnp.array(origin)).window(shape, lr_rows)


def test_what_a_sampler_draws_later_depends_on_seed_and_place():
  keys = [_window(seed, (y, x))[1] for seed in (1, 2) for y in (0, 8) for x in (0, 8)]
  assert len({tuple(np.asarray(jax.random.key_data(key)).ravel()) for key in keys}) == 8


def test_later_draws_are_not_the_field_again():
  field, key = _window(1, (0, 0))
  again = jax.random.normal(key, field.shape)
  assert abs(np.corrcoef(np.ravel(field), np.ravel(again))[0, 1]) < 0.3


def test_a_window_begins_at_its_latent_pixel():
  """Latents of half and of twice the LR image's size: origin (16, 32) is latent pixel (8, 16), or (32, 64)."""
  for factor, first in ((0.5, (8, 16)), (2, (32, 64))):
    side = int(16 * factor)
    found, _ = _window(3, (16, 32), (side, side, 2), 16)
    whole, _ = _window(3, (0, 0), (96, 96, 2), 96)
    np.testing.assert_array_equal(found, whole[first[0] : first[0] + side, first[1] : first[1] + side])


def test_a_window_over_the_seams_of_blocks_is_normal_noise_without_repeats():
  field = np.asarray(_window(5, (0, 0), (150, 150, 1), 150)[0])[..., 0]
  assert abs(field.mean()) < 0.03 and abs(field.std() - 1) < 0.03
  blocks = [field[y : y + 64, x : x + 64].ravel() for y in (0, 64) for x in (0, 64)]
  correlations = np.corrcoef(blocks)[np.triu_indices(4, 1)]
  assert np.abs(correlations).max() < 0.08
