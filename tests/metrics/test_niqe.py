"""NIQE against published values, and its parts against other formulations."""

import numpy as np
import pytest
from scipy import stats
from skimage import data, filters

from ssr_jax.metrics import niqe as niqe_lib
from ssr_jax.types import SSRError


@pytest.fixture(scope='module')
def pristine():
  """A model to run with where LIVE's is absent: its numbers mean nothing."""
  window = np.outer(*[np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))] * 2)
  return niqe_lib.Pristine(np.ones(36), np.eye(36), window / window.sum())


def test_published_values(published, live):
  """Within one per mille on most; flat regions amplify float32 rounding of the published implementation."""
  errors = np.array([niqe_lib.niqe(result, live) / row['niqe'] - 1 for result, _, row in published])
  assert np.median(np.abs(errors)) < 1e-3
  assert np.abs(errors).max() < 0.01


def test_blur_and_noise_are_worse_than_the_photo(live):
  photo = data.astronaut()[:288, :288] / 255
  noisy = np.clip(photo + np.random.default_rng(0).normal(0, 0.1, photo.shape), 0, 1)
  score = niqe_lib.niqe(photo, live)
  assert score < niqe_lib.niqe(filters.gaussian(photo, 2, channel_axis=-1), live)
  assert score < niqe_lib.niqe(noisy, live)


def test_fit_recovers_a_generalised_gaussian():
  values = stats.gennorm.rvs(0.8, size=200_000, random_state=0)
  alpha, left, right = niqe_lib._fit(np.where(values < 0, values, 2 * values))
  assert alpha == pytest.approx(0.8, abs=0.05)
  assert right / left == pytest.approx(2, rel=0.05)


def test_half_size_equals_a_direct_antialiased_cubic():
  image = np.random.default_rng(0).uniform(0, 255, (12, 16))

  def cubic(t):
    t = abs(t)
    if t <= 1:
      return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

  def shrink(line):
    n = len(line)
    mirrored = np.concatenate([line[::-1], line, line[::-1]])
    out = []
    for i in range(n // 2):
      weights = {j: cubic((2 * i + 0.5 - j) / 2) for j in range(2 * i - 4, 2 * i + 6)}
      out.append(sum(w * mirrored[n + j] for j, w in weights.items()) / sum(weights.values()))
    return np.array(out)

  expected = np.apply_along_axis(shrink, 1, np.apply_along_axis(shrink, 0, image))
  np.testing.assert_allclose(niqe_lib._half_size(image), expected, atol=1e-9)


def test_bytes_and_floats_agree_and_flat_blocks_are_left_out(pristine):
  photo = data.astronaut()[:96, :384].copy()
  assert niqe_lib.niqe(photo, pristine) == pytest.approx(niqe_lib.niqe(photo / 255, pristine), rel=1e-9)
  assert np.isnan(niqe_lib.niqe(photo[:, :96], pristine))  # a single block has no covariance
  assert np.isnan(niqe_lib.niqe(np.zeros((192, 192, 3), np.uint8), pristine))


def test_a_file_that_is_no_model_is_one_clear_line(tmp_path):
  with pytest.raises(SSRError, match='absent.npz: no pristine model'):
    niqe_lib.load_pristine(tmp_path / 'absent.npz')
  (tmp_path / 'text.npz').write_text('not an archive')
  with pytest.raises(SSRError, match='no pristine model'):
    niqe_lib.load_pristine(tmp_path / 'text.npz')
  np.savez(tmp_path / 'other.npz', mu_pris_param=np.ones(3), cov_pris_param=np.eye(3), gaussian_window=np.eye(7))
  with pytest.raises(SSRError, match='other shapes'):
    niqe_lib.load_pristine(tmp_path / 'other.npz')
  (tmp_path / 'empty.npz').touch()
  (tmp_path / 'cut.npz').write_bytes((tmp_path / 'other.npz').read_bytes()[:100])
  np.save(tmp_path / 'array.npy', np.ones(36))
  for name in ('empty.npz', 'cut.npz', 'array.npy'):
    with pytest.raises(SSRError, match=f'{name}: no pristine model'):
      niqe_lib.load_pristine(tmp_path / name)
