"""Which part of a photo becomes a patch: of several places drawn, the one with the most detail."""

import numpy as np
import pytest

from ssr_jax.data import records
from ssr_jax.types import SSRError


def _photo():
  """Gray, with noise in the right quarter."""
  photo = np.full((64, 256, 3), 128, np.uint8)
  photo[:, 192:] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
  return photo


def _share(places, shrink=(1.0, 1.0)):
  """The share of patches with noise in them."""
  make = records.photo_record(16, shrink, places)
  patches = [make({'hr': _photo()}, np.random.default_rng(seed))['hr'] for seed in range(200)]
  return np.mean([patch.std() > 1 for patch in patches])


def test_more_places_give_more_patches_with_detail():
  one = 64 / 241  # of the 241 columns that a patch may begin at, those from 177 on reach the noise
  assert abs(_share(1) - one) < 0.1
  assert abs(_share(4) - (1 - (1 - one) ** 4)) < 0.1
  assert _share(4, (0.5, 0.5)) > _share(1, (0.5, 0.5)) + 0.2


def test_no_places_are_refused_in_words():
  with pytest.raises(SSRError, match=r'data\.places=0'):
    records.photo_record(16, places=0)
