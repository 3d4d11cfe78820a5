"""Colour spaces against LittleCMS, which reads the same profiles, and the way there and back."""

import io as iolib

import numpy as np
from PIL import Image, ImageCms
import pytest

from ssr_jax.image import gamut
from tests.image import profiles

SPACES = {
  'Display P3': profiles.profile(),
  'Adobe RGB': profiles.profile(profiles.ADOBE, profiles.GAMMA),
  'linear': profiles.profile(profiles.P3, profiles.LINEAR),
  'a table': profiles.profile(profiles.ADOBE, profiles.TABLE),
  'parameters': profiles.profile(profiles.P3, profiles.PARAMETERS),
}


def _littlecms(rgb, icc):
  """8 bits, in sRGB."""
  source = ImageCms.ImageCmsProfile(iolib.BytesIO(icc))
  return np.asarray(
    ImageCms.profileToProfile(
      Image.fromarray(rgb), source, ImageCms.createProfile('sRGB'), ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
  )


@pytest.mark.parametrize('name', SPACES)
def test_rows_are_those_of_littlecms(name):
  """Within a level, which LittleCMS rounds to; its own clipping included."""
  rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  found, note = gamut.wide(rgb, SPACES[name])
  assert not note and found.shape == rgb.shape
  theirs = _littlecms(rgb, SPACES[name]).astype(int)
  assert abs(theirs - rgb.astype(int)).mean() > 2  # the profile matters
  np.testing.assert_allclose(255 * found[10:30], theirs[10:30], atol=1.01)


@pytest.mark.parametrize('name', SPACES)
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_there_and_back_is_what_it_was_outside_of_srgb_too(name, dtype):
  rgb = np.random.default_rng(1).random((24, 30, 3), np.float32)
  rgb[:8] = np.eye(3, dtype=np.float32)[np.arange(30) % 3]  # the most saturated there are
  rgb = np.rint(255 * rgb).astype(np.uint8) if dtype == np.uint8 else rgb
  found, _ = gamut.wide(rgb, SPACES[name])
  seen = found[:]
  assert seen.dtype == np.float32 and seen.min() == 0 and seen.max() == 1
  again = found.back(seen, 0, rgb.shape[:2])
  assert again.dtype == dtype
  np.testing.assert_allclose(again, rgb, atol=0 if dtype == np.uint8 else 2e-5)


def test_what_was_clipped_is_added_where_it_lies_in_a_larger_result_and_band_by_band():
  rgb = np.full((6, 8, 3), 0.5, np.float32)
  rgb[:, :4], rgb[3:, 4:] = (0, 1, 0), (1, 0, 0)
  found, _ = gamut.wide(rgb, SPACES['Display P3'])
  large = found[:].repeat(4, 0).repeat(4, 1)
  whole = found.back(large, 0, (24, 32))
  for y, x in ((1, 1), (1, 6), (5, 6), (4, 2)):  # pixels whose neighbours are like them
    np.testing.assert_allclose(
      whole[4 * y + 1 : 4 * y + 3, 4 * x + 1 : 4 * x + 3], np.broadcast_to(rgb[y, x], (2, 2, 3)), atol=2e-5
    )
  assert abs(found._space.encoded(gamut._linear_of_srgb(large) @ found._back) - whole).max() > 0.05  # it was needed
  bands = np.concatenate([found.back(large[a:b], a, (24, 32)) for a, b in ((0, 5), (5, 6), (6, 24))])
  np.testing.assert_array_equal(bands, whole)


@pytest.mark.parametrize(
  'icc, gray, note',
  [
    (None, False, ''),
    (ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes(), False, ''),
    (SPACES['Display P3'], True, ''),
    (profiles.profile(more={b'A2B0': bytes(40)}.items()), False, 'no primaries and curves'),
    (SPACES['Display P3'][:300], False, 'no primaries and curves'),
    (b'', False, 'no primaries and curves'),
    (profiles.profile(curve=b'what'), False, 'no primaries and curves'),
  ],
)
def test_what_stays_as_it_is(icc, gray, note):
  found, said = gamut.wide(np.zeros((4, 4, 3), np.uint8), icc, gray)
  assert found is None and note in said and bool(note) == bool(said)


@pytest.mark.parametrize('at', range(0, 460, 3))
def test_a_damaged_profile_is_read_or_refused(at):
  icc = bytearray(SPACES['a table'])
  icc[at % len(icc)] ^= 0x81
  found, _ = gamut.wide(np.full((2, 2, 3), 99, np.uint8), bytes(icc))
  assert found is None or np.isfinite(found[:]).all()
