"""`ssr metrics` with NIQE, which needs a pristine model."""

import csv

import numpy as np
from PIL import Image
import pytest

from ssr_jax import cli
from ssr_jax.metrics import niqe
from tests.metrics import pristine


@pytest.fixture
def folders(tmp_path):
  """Generated originals, and the same with noise."""
  rng = np.random.default_rng(1)
  for name in ('a', 'b'):
    image = pristine.generated(rng, (192, 208))
    noisy = np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    for folder, pixels in (('hr', image), ('sr', noisy)):
      (tmp_path / folder).mkdir(exist_ok=True)
      Image.fromarray(pixels).save(tmp_path / folder / f'{name}.png')
  return tmp_path / 'hr', tmp_path / 'sr'


def _niqe(model, hr, sr, table):
  """Scores by the command line; returns {image: NIQE}."""
  assert (
    cli.main(['metrics', str(hr), str(sr), '--metrics', 'psnr,niqe', '--niqe-model', str(model), '--csv', table]) == 0
  )
  with open(table) as file:
    return {row['image']: float(row['niqe']) for row in csv.DictReader(file)}


@pytest.mark.parametrize('kind', ['fitted', 'LIVE'])
def test_niqe_reads_its_pristine_model(folders, kind, tmp_path):
  if kind == 'LIVE' and not pristine.LIVE.is_file():
    pytest.skip(f'{pristine.LIVE} is absent: set SSR_DATA to the folder of the test data')
  path = pristine.LIVE if kind == 'LIVE' else pristine.fit(tmp_path / 'fitted.npz')
  hr, sr = folders
  noisy, clean = _niqe(path, hr, sr, str(tmp_path / 'noisy.csv')), _niqe(path, hr, hr, str(tmp_path / 'clean.csv'))
  model = niqe.load_pristine(path)
  for name in ('a', 'b'):
    assert noisy[name] == pytest.approx(niqe.niqe(np.asarray(Image.open(sr / f'{name}.png')), model), abs=1e-6)
    assert noisy[name] > clean[name]
  assert noisy['mean'] == pytest.approx((noisy['a'] + noisy['b']) / 2, abs=1e-6)


def test_an_image_too_small_for_niqe_is_named_and_left_out_of_the_mean(folders, tmp_path, capsys):
  hr, sr = folders
  for folder in folders:
    Image.new('RGB', (32, 32)).save(folder / 'c.png')
  table = tmp_path / 'scores.csv'
  path = pristine.fit(tmp_path / 'fitted.npz')
  arguments = ['metrics', str(hr), str(sr), '--metrics', 'niqe', '--niqe-model', str(path), '--csv', str(table)]
  assert cli.main(arguments) == 0
  assert 'c.png: no niqe for this image' in capsys.readouterr().err
  a, b, c, mean = (row['niqe'] for row in csv.DictReader(table.open()))
  assert c == '' and float(mean) == pytest.approx((float(a) + float(b)) / 2, abs=1e-6)


@pytest.mark.parametrize(
  'model, words',
  [
    (None, "metric 'niqe' needs its pristine model, an .npz file; give --niqe-model FILE"),
    ('absent.npz', 'absent.npz: no pristine model of NIQE'),
  ],
)
def test_niqe_without_its_model_is_one_line(folders, capsys, model, words):
  arguments = ['metrics', *map(str, folders), '--metrics', 'niqe', *(['--niqe-model', model] if model else [])]
  assert cli.main(arguments) == 2
  err = capsys.readouterr().err
  assert words in err and err.count('\n') == 1
