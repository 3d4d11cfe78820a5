"""`ssr metrics`: with and without originals, its options, its tables, what it refuses."""

import csv
import dataclasses
import hashlib
import json
import math

import numpy as np
from PIL import Image
import pytest

from ssr_jax import cli, metrics
from ssr_jax.metrics import niqe, seam
from ssr_jax.weights import published
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


def test_a_model_that_cannot_be_read_is_one_line(folders, capsys):
  assert cli.main(['metrics', *map(str, folders), '--metrics', 'niqe', '--niqe-model', 'absent.npz']) == 2
  err = capsys.readouterr().err
  assert 'absent.npz: no pristine model of NIQE' in err and err.count('\n') == 1


def test_niqe_needs_no_file_and_no_originals(folders, capsys):
  _, sr = folders
  assert cli.main(['metrics', str(sr)]) == 0
  out = capsys.readouterr().out.splitlines()
  assert out[0] == 'niqe: NIQE (ssr_jax free photos)'
  expected = [niqe.niqe(np.asarray(Image.open(sr / f'{name}.png')), niqe.load_pristine(niqe.OWN)) for name in 'ab']
  assert [float(line.split()[1]) for line in out[2:4]] == pytest.approx(expected, abs=1e-3)
  assert out[4].split()[0] == 'mean'


def test_the_imported_model_is_the_default_then(folders, tmp_path, monkeypatch, capsys):
  """A model imported as the published one is found; --niqe-model still has precedence."""
  path = pristine.fit(tmp_path / 'niqe_pris_params.npz')
  content = path.read_bytes()
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'store'))
  file = published.File(path.name, len(content), hashlib.sha256(content).hexdigest())
  entry = dataclasses.replace(published.PUBLISHED['niqe'], files=(file,))
  monkeypatch.setitem(published.PUBLISHED, 'niqe', entry)
  assert cli.main(['weights', 'import', 'niqe', str(path)]) == 0
  capsys.readouterr()
  assert cli.main(['metrics', str(folders[1]), '--metrics', 'niqe']) == 0
  assert capsys.readouterr().out.startswith('niqe: NIQE (generated)')
  assert cli.main(['metrics', str(folders[1]), '--metrics', 'niqe', '--niqe-model', str(niqe.OWN)]) == 0
  assert capsys.readouterr().out.startswith('niqe: NIQE (ssr_jax free photos)')
  published.of_metric('niqe').write_bytes(b'changed')
  assert cli.main(['metrics', str(folders[1]), '--metrics', 'niqe']) == 2
  assert 'niqe_pris_params.npz: 7 bytes, published are' in capsys.readouterr().err


def test_csv_json_and_markdown(folders, tmp_path, capsys):
  hr, sr = folders
  names = ['psnr', 'ssim', 'gmsd', 'haarpsi', 'log_spectrum', 'niqe', 'seam']
  files = {form: tmp_path / f'scores.{form}' for form in ('csv', 'json', 'markdown')}
  options = ['--metrics', ','.join([*names, 'psnr']), '--space', 'rgb', '--crop', '4', '--seam-tile', '64']
  written = [word for form, path in files.items() for word in (f'--{form}', str(path))]
  assert cli.main(['metrics', str(hr), str(sr), *options, *written]) == 0
  printed = capsys.readouterr().out.splitlines()
  assert printed[1].split() == ['image', *names] and len(printed) == 5

  rows = list(csv.reader(files['csv'].open()))
  assert rows[0] == ['image', *names] and [row[0] for row in rows[1:]] == ['a', 'b', 'mean']
  image, reference = (np.asarray(Image.open(folder / 'a.png')) for folder in (sr, hr))
  inputs = dict(image=image, reference=reference, crop=4, space='rgb', borders=seam.borders(image.shape[:2], 64))
  expected = metrics.score(metrics.load(names), **inputs)
  assert [float(value) for value in rows[1][1:]] == pytest.approx(list(expected.values()), abs=1e-6)
  values = np.array([row[1:] for row in rows[1:]], float)
  np.testing.assert_allclose(values[2], values[:2].mean(axis=0), atol=1e-6)

  report = json.loads(files['json'].read_text())
  assert report['images'][0] == {'image': 'a', **{name: pytest.approx(expected[name]) for name in names}}
  assert report['mean']['psnr'] == pytest.approx(values[2, 0], abs=1e-6) and report['failures'] == []
  assert report['protocol']['metrics']['psnr'] == 'PSNR-RGB (dB)'
  assert report['protocol']['metrics']['niqe'] == 'NIQE (ssr_jax free photos)'
  assert (report['protocol']['crop'], report['protocol']['tile']) == (4, '64')

  head, _, first, *_ = files['markdown'].read_text().splitlines()
  assert head.startswith('| image | PSNR-RGB (dB) ↑ | SSIM-RGB ↑ | GMSD ↓ |') and 'NIQE (ssr_jax free photos) ↓' in head
  assert first.split(' | ')[:2] == ['| a', f'{expected["psnr"]:.2f}']


@pytest.mark.parametrize('form', ['csv', 'json', 'markdown'])
def test_a_form_on_stdout_stands_alone(folders, capsys, form):
  assert cli.main(['metrics', *map(str, folders), f'--{form}', '-']) == 0
  out = capsys.readouterr().out
  if form == 'csv':
    assert [row[0] for row in csv.reader(out.splitlines())] == ['image', 'a', 'b', 'mean']
  elif form == 'json':
    assert [row['image'] for row in json.loads(out)['images']] == ['a', 'b']
  else:
    lines = [line.split(' | ')[0] for line in out.splitlines()]
    assert [lines[0], *lines[2:]] == ['| image', '| a', '| b', '| mean']


@pytest.mark.parametrize('jobs', [1, 3])
def test_a_bad_file_does_not_stop_the_job(folders, tmp_path, capsys, jobs):
  hr, sr = folders
  for name in ('a0', 'c'):
    Image.new('RGB', (32, 32)).save(hr / f'{name}.png')
  (sr / 'a0.png').write_bytes(b'no image')
  Image.new('RGB', (32, 31)).save(sr / 'c.png')
  Image.new('RGB', (32, 31)).save(hr / 'd.png')
  Image.new('RGB', (32, 31)).save(sr / 'e.png')
  table = tmp_path / 'scores.json'
  assert cli.main(['metrics', str(hr), str(sr), '--jobs', str(jobs), '--json', str(table)]) == 1
  captured = capsys.readouterr()
  assert [line.split()[0] for line in captured.out.splitlines()] == ['image', 'a', 'b', 'mean']
  no_original, no_image, broken, size = captured.err.splitlines()
  assert 'e.png: no original' in no_original and 'no image named d' in no_image
  assert 'a0.png' in broken and 'c.png: 32x31' in size and 'is 32x32' in size
  assert len(json.loads(table.read_text())['failures']) == 3


def test_many_images_keep_their_order_and_their_own_values(tmp_path):
  """More than can wait at once, whose times differ."""
  for index in range(17):
    side = 96 if index % 3 == 0 else 16
    pixels = np.full((side, side, 3), 100, np.uint8)
    for folder, change in (('hr', 0), ('sr', index + 1)):
      (tmp_path / folder).mkdir(exist_ok=True)
      Image.fromarray(pixels + np.uint8(change)).save(tmp_path / folder / f'{index:02d}.png')
  table = tmp_path / 'scores.csv'
  options = ['--metrics', 'psnr', '--space', 'rgb', '--jobs', '4', '--csv', str(table)]
  assert cli.main(['metrics', str(tmp_path / 'hr'), str(tmp_path / 'sr'), *options]) == 0
  rows = list(csv.DictReader(table.open()))[:-1]
  assert [row['image'] for row in rows] == [f'{index:02d}' for index in range(17)]
  expected = [-10 * math.log10(((index + 1) / 255) ** 2 + 1e-8) for index in range(17)]
  assert [float(row['psnr']) for row in rows] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--metrics', 'psnr'], "metric 'psnr' needs the originals: ssr metrics HR_DIR SR_DIR"),
    (['--metrics', 'seam'], "metric 'seam' needs to know the tiles; give --seam-tile"),
    (['--metrics', 'seam', '--seam-tile', '8'], 'the side must be at least 16'),
    (['--metrics', 'seam', '--seam-tile', '64,64'], 'the overlap below the side'),
    (['--metrics', 'seam', '--seam-tile', 'x'], 'such as 512,64'),
    (['--csv', '-', '--json', '-'], 'only one of --csv, --json and --markdown'),
    (['--jobs', '0'], '--jobs 0: must be at least 1'),
    (['--crop', '-1'], '--crop -1: must not be negative'),
    (['more', 'most'], 'most: one folder too many'),
    (['nowhere'], 'nowhere: not a folder'),
  ],
)
def test_wrong_usage_is_one_line(folders, capsys, arguments, words):
  assert cli.main(['metrics', str(folders[1]), *arguments]) == 2
  err = capsys.readouterr().err
  assert words in err and err.count('\n') == 1


def test_files_that_could_both_be_meant_are_refused(folders, capsys):
  hr, sr = folders
  (hr / 'a.png').rename(hr / 'a_HR.png')
  (sr / 'a.png').rename(sr / 'a_SR.png')
  assert cli.main(['metrics', str(hr), str(sr)]) == 0
  (sr / 'a_x4.png').write_bytes((sr / 'a_SR.png').read_bytes())
  assert cli.main(['metrics', str(hr), str(sr)]) == 2
  err = capsys.readouterr().err
  assert 'a_SR.png' in err and 'a_x4.png' in err and 'both fit' in err and 'a_HR.png' in err


def test_published_values_by_the_command(data_dir, tmp_path):
  """OSEDiff's images of DRealSR and the metrics that its authors published; all 93 are in docs/results.md."""
  if not pristine.LIVE.is_file():
    pytest.skip(f'{pristine.LIVE} is absent: set SSR_DATA to the folder of the test data')
  with open(data_dir / 'drealsr' / 'osediff_metrics.csv') as file:
    published_rows = list(csv.DictReader(file))[5::24]
  for folder in ('hr', 'osediff'):
    (tmp_path / folder).mkdir()
    for row in published_rows:
      (tmp_path / folder / row['image']).symlink_to((data_dir / 'drealsr' / folder / row['image']).resolve())
  table = tmp_path / 'scores.csv'
  options = ['--metrics', 'psnr,ssim,niqe', '--niqe-model', str(pristine.LIVE), '--csv', str(table)]
  assert cli.main(['metrics', str(tmp_path / 'hr'), str(tmp_path / 'osediff'), *options]) == 0
  ours = {f'{row["image"]}.png': row for row in csv.DictReader(table.open())}
  for row in published_rows:
    for name, tolerance in (('psnr', 1e-3), ('ssim', 1e-3), ('niqe', 2e-2)):
      assert float(ours[row['image']][name]) == pytest.approx(float(row[name]), abs=tolerance), (row['image'], name)
