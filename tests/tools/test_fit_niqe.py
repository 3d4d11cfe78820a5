"""tools/fit_niqe.py: the model is that of the photos, and what it refuses."""

import sys

import numpy as np
from PIL import Image
import pytest

from ssr_jax.metrics import niqe
from tests.metrics import pristine
from tools import fit_niqe


@pytest.fixture
def photos(tmp_path):
  rng = np.random.default_rng(0)
  for index in range(3):
    path = tmp_path / 'photos' / 'inner' / f'{index}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pristine.generated(rng, (400, 480))).save(path)
  return tmp_path / 'photos'


def _run(monkeypatch, *arguments):
  monkeypatch.setattr(sys, 'argv', ['fit_niqe.py', *map(str, arguments)])
  return fit_niqe.main()


def test_fits_the_photos(photos, tmp_path, monkeypatch, capsys):
  out = tmp_path / 'model.npz'
  assert _run(monkeypatch, photos, '-o', out, '--name', 'three', '--sharpness', 0.5) == 0
  assert f'{out}: fitted to 3 photos' in capsys.readouterr().out
  files = sorted(photos.rglob('*.png'))
  expected = niqe.fit([np.asarray(Image.open(path)) for path in files], 'three', 0.5)
  found = niqe.load_pristine(out)
  assert found.name == 'three'
  np.testing.assert_array_equal(found.mean, expected.mean)
  np.testing.assert_array_equal(found.covariance, expected.covariance)

  (photos / 'broken.png').write_bytes(b'no image')
  assert _run(monkeypatch, photos, '-o', tmp_path / 'again.npz', '--name', 'three', '--sharpness', 0.5) == 1
  assert 'broken.png' in capsys.readouterr().err
  assert (tmp_path / 'again.npz').read_bytes() == out.read_bytes()


def test_shrinks(photos, tmp_path, monkeypatch):
  out = tmp_path / 'model.npz'
  photo = Image.open(photos / 'inner' / '0.png').resize((1344, 1344))
  photo.save(tmp_path / 'large.png')
  assert _run(monkeypatch, tmp_path / 'large.png', '-o', out, '--name', 'x', '--shrink', 2, '--sharpness', 0) == 0
  half = np.asarray(photo.resize((672, 672), Image.Resampling.BICUBIC))
  np.testing.assert_array_equal(niqe.load_pristine(out).mean, niqe.fit([half], 'x', 0).mean)


@pytest.mark.parametrize(
  'options, words',
  [
    (['--shrink', '0'], '--shrink must be at least 1'),
    (['--sharpness', '1'], '--sharpness at least 0 and below 1'),
    (['--shrink', '4'], 'blocks of 96x96 pixels; a pristine model needs at least 37; give more or larger photos'),
  ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(photos, tmp_path, monkeypatch, capsys, options, words):
  out = tmp_path / 'model.npz'
  assert _run(monkeypatch, photos, '-o', out, '--name', 'x', *options) == 2
  err = capsys.readouterr().err
  assert words in err and not out.exists()
