"""NIQE against published values, and its parts against other formulations."""

import os

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage import data, filters

from ssr_jax.metrics import niqe as niqe_lib
from ssr_jax.types import SSRError
from tests.metrics import pristine as pristine_files


@pytest.fixture(scope='module')
def pristine():
  """A model to run with where LIVE's is absent: its numbers mean nothing."""
  window = np.outer(*[np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))] * 2)
  return niqe_lib.Pristine(np.ones(36), np.eye(36), window / window.sum())


def test_published_values(published, live):
  """Smooth regions amplify float32 rounding of the published implementation; none of the three such images is here."""
  errors = np.array([niqe_lib.niqe(result, live) - row['niqe'] for result, _, row in published])
  assert np.median(np.abs(errors)) < 5e-3
  assert np.abs(errors).max() < 0.02


def test_the_packages_model_ranks_drealsr_as_the_published_one(published, live):
  """Results, originals and blurred originals; all of the set are in docs/results.md."""
  own = niqe_lib.NIQE.load().pristine
  images = [
    image for result, hr, _ in published[:6] for image in (result, hr, filters.gaussian(hr, 2, channel_axis=-1))
  ]
  values = [[niqe_lib.niqe(image, model) for image in images] for model in (own, live)]
  assert stats.spearmanr(*values).statistic > 0.95


def test_blur_and_noise_are_worse_than_the_photo(live):
  photo = data.astronaut()[:288, :288] / 255
  noisy = np.clip(photo + np.random.default_rng(0).normal(0, 0.1, photo.shape), 0, 1)
  score = niqe_lib.niqe(photo, live)
  assert score < niqe_lib.niqe(filters.gaussian(photo, 2, channel_axis=-1), live)
  assert score < niqe_lib.niqe(noisy, live)


def test_fitting_takes_sharp_blocks_alone():
  """Of a photo that is half out of focus, the half in focus counts."""
  photo = pristine_files.generated(np.random.default_rng(0), (768, 672))
  blurred = photo.copy()
  blurred[:, 480:] = ndimage.gaussian_filter(photo, (4, 4, 0))[:, 480:]
  sharp, all_of_it = (niqe_lib.fit([blurred], 'half', sharpness) for sharpness in (0.6, 0))
  window = sharp.window
  np.testing.assert_allclose(window, np.outer(window.sum(0), window.sum(1)), atol=1e-15)
  assert window.sum() == pytest.approx(1) and window[3, 3] / window[3, 4] == pytest.approx(np.exp(18 / 49))
  features = niqe_lib.block_features(blurred, window)
  in_focus = features.reshape(8, 7, 36)[:, :5].reshape(-1, 36)
  assert sharp.name == 'half' and np.isfinite(features).all()
  for model, expected in ((sharp, in_focus), (all_of_it, features)):
    np.testing.assert_allclose(model.mean, expected.mean(0), atol=1e-9)
    np.testing.assert_allclose(model.covariance, np.cov(expected, rowvar=False), atol=1e-9)
  _, levels = niqe_lib._features_and_sharpness(blurred, window)
  bound = np.sort(levels)[9]
  bounded = niqe_lib.fit([blurred], 'half', 0, contrast=bound)
  np.testing.assert_allclose(bounded.mean, features[levels > bound].mean(0), atol=1e-9)
  with pytest.raises(ValueError, match='^[12] sharp blocks of 96x96 pixels; a pristine model needs at least 37'):
    niqe_lib.fit([blurred], 'half', 0.9999)


def test_a_model_is_read_as_it_was_written(tmp_path):
  rng = np.random.default_rng(0)
  model = niqe_lib.Pristine(rng.normal(size=36), rng.normal(size=(36, 36)), rng.uniform(size=(7, 7)), 'mine\n')
  for name in ('a.npz', 'b.npz'):
    niqe_lib.save_pristine(tmp_path / name, model)
  read = niqe_lib.load_pristine(tmp_path / 'a.npz')
  for ours, theirs in zip(read[:3], model[:3], strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert read.name == r'mine\n' and (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()


def test_the_packages_model_ranks_distortions_as_the_published_one(live):
  """Six versions of each of three photos: the ranks of all eighteen agree."""
  own = niqe_lib.NIQE.load().pristine
  assert own.name == 'ssr_jax free photos'
  rng, versions = np.random.default_rng(0), []
  for photo in (data.astronaut()[:288, :288], data.coffee()[50:338, 100:388], data.chelsea()[:288, 50:338]):
    photo = photo / 255
    for sigma in (0, 1, 2, 3):
      versions.append(filters.gaussian(photo, sigma, channel_axis=-1))
    for noise in (0.04, 0.1):
      versions.append(np.clip(photo + rng.normal(0, noise, photo.shape), 0, 1))
  values = [[niqe_lib.niqe(image, model) for image in versions] for model in (own, live)]
  assert stats.spearmanr(*values).statistic > 0.9


def test_fit_recovers_a_generalised_gaussian():
  values = stats.gennorm.rvs(0.8, size=200_000, random_state=0)
  (alpha,), (left,), (right,) = niqe_lib._fit(np.where(values < 0, values, 2 * values)[None])
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
  os.mkfifo(tmp_path / 'pipe.npz')
  with pytest.raises(SSRError, match='pipe.npz: no pristine model.*: a pipe or a device'):  # and it is not waited for
    niqe_lib.load_pristine(tmp_path / 'pipe.npz')
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
