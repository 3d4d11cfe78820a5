"""A record is a random crop of a photo, and what belongs to the photo is cut, turned and reduced with it."""

import re

import numpy as np
import pytest

from ssr_jax.data import records
from ssr_jax.types import SSRError


def test_a_crop_is_one_of_the_eight_views_of_the_photo():
  image = np.arange(30 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(30, 40, 3)
  image[..., 0] = np.arange(30)[:, None]
  image[..., 1] = np.arange(40)[None, :]
  seen = set()
  for seed in range(60):
    crop = records.photo_record(16)({'hr': image}, np.random.default_rng(seed))['hr'].astype(int)
    steps = tuple(crop[1, 0, :2] - crop[0, 0, :2]), tuple(crop[0, 1, :2] - crop[0, 0, :2])
    assert sorted(abs(v) for pair in steps for v in pair) == [0, 0, 1, 1]
    seen.add(steps)
  assert len(seen) == 8


def test_hr_lr_and_depth_are_cut_and_turned_together():
  y, x = np.mgrid[:48, :64].astype(np.uint8)
  hr = np.stack([y, x, y], -1)
  record = {'hr': hr, 'lr': hr[::4, ::4].copy(), 'depth': (y.astype(np.float32) * 64 + x) / 4096}
  corners = set()
  for seed in range(40):
    batch = records.photo_record(16)(record, np.random.default_rng(seed))
    np.testing.assert_allclose(batch['depth'] * 4096, batch['hr'][..., 0] * 64.0 + batch['hr'][..., 1])
    coarse = np.sort(batch['hr'].reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(4, 4, 16, 3), axis=2)[:, :, 0]
    np.testing.assert_array_equal(coarse, batch['lr'])  # its first pixel is the smallest, however it is turned
    corners.add(tuple(batch['lr'].min((0, 1))[:2]))
  assert len(corners) > 15
  with pytest.raises(SSRError, match='data.patch=18 is not a multiple of 4'):
    records.photo_record(18)(record, np.random.default_rng(0))


@pytest.mark.parametrize('shrink', [(1, 1), (0.5, 0.5)])
def test_records_with_depth_are_mirrored_left_right_and_never_turned(shrink):
  """Down in the patch is down in the photo, because that is a cue for depth; right may be left."""
  y, x = np.mgrid[:64, :80].astype(np.uint8)
  hr, depth = np.stack([2 * y, 2 * x, y], -1), x / np.float32(79)
  make = records.photo_record(16, shrink)
  mirrored = set()
  for seed in range(60):
    batch = make({'hr': hr, 'depth': depth}, np.random.default_rng(seed))
    patch = batch['hr'][2:-2, 2:-2].astype(int)
    down, right = np.diff(patch, axis=0), np.diff(patch, axis=1)
    assert (down[..., 0] > 0).all() and (down[..., 1] == 0).all() and (right[..., 0] == 0).all()
    sign = np.sign(right[..., 1])
    assert abs(sign[0, 0]) == 1 and (sign == sign[0, 0]).all()
    assert (np.sign(np.diff(batch['depth'], axis=1)) == sign[0, 0]).all()  # with its photo
    mirrored.add(sign[0, 0])
  assert mirrored == {-1, 1}


def test_photos_are_reduced_by_factors_over_the_whole_range_and_their_depth_with_them():
  """A ramp's slope in the patch tells by how much: with patches of 16 out of 64x80 by all of 1 to 0.4."""
  y, x = np.mgrid[:64, :80]
  record = {'hr': np.stack([2 * x, 2 * y, 2 * x], -1).astype(np.uint8), 'depth': x.astype(np.float32)}
  make = records.photo_record(16, shrink=(0.4, 1))
  factors = []
  for seed in range(300):
    batch = make(record, np.random.default_rng(seed))
    assert batch['hr'].shape == (16, 16, 3) and batch['hr'].dtype == np.uint8 and batch['depth'].dtype == np.float32
    inner = batch['depth'][3:-3, 3:-3]
    slope = max(abs(np.diff(inner, axis=axis).mean()) for axis in (0, 1))
    photo = batch['hr'][3:-3, 3:-3].astype(float)
    assert max(abs(np.diff(photo[..., 0], axis=axis).mean()) for axis in (0, 1)) == pytest.approx(2 * slope, abs=0.3)
    np.testing.assert_allclose(photo[..., 0], 2 * inner, atol=2.1)  # the same place, to a pixel of the photo
    factors.append(1 / slope)
  assert 0.4 - 0.02 < min(factors) < 0.45 and 0.95 < max(factors) < 1.02
  # The least that leaves a patch, where the photo is hardly larger.
  slopes = [
    np.diff(
      records.photo_record(60, (0.1, 0.1))(record, np.random.default_rng(s))['hr'][30, 5:55, :2].astype(float), axis=0
    )
    for s in range(20)
  ]
  assert max(np.abs(s.mean(0)).max() for s in slopes) < 2 * 64 / 60 + 0.05


def test_reducing_is_refused_where_it_cannot_be():
  for shrink in ((0, 1), (0.5, 1.5), (0.8, 0.4)):
    with pytest.raises(SSRError, match=re.escape(f'data.shrink={shrink}: must be two factors above 0 and up to 1')):
      records.photo_record(16, shrink)
  record = {'hr': np.zeros((64, 64, 3), np.uint8), 'lr': np.zeros((16, 16, 3), np.uint8)}
  with pytest.raises(SSRError, match='not for pairs'):
    records.photo_record(16, (0.5, 1))(record, np.random.default_rng(0))


def test_depth_patches_avoid_what_is_flat():
  depth = np.zeros((64, 64), np.float32)
  depth[:, 40:] = np.linspace(0, 1, 24)
  record = {'hr': np.zeros((64, 64, 3), np.uint8), 'depth': depth}
  flat = sum(np.ptp(records.photo_record(16)(record, np.random.default_rng(s))['depth']) < 0.02 for s in range(200))
  # Half of the places are flat; that four draws in a row are, 1/16 of the records; 27 is beyond 5 sigma of it.
  assert flat < 30
