"""The learned metrics of pyiqa, with a stand-in for pyiqa: batches, what is missing, sets. With pyiqa: test_pyiqa."""

import json
import math
import sys
import types
import urllib.error

import numpy as np
from PIL import Image
import pytest
from scipy import linalg

from ssr_jax import cli, metrics
from ssr_jax.evaluation import runner
from ssr_jax.evaluation.protocol import Settings
from ssr_jax.metrics import iqa
from ssr_jax.types import SSRError


class _Inception:
  """Four 'features': means of the channels and the deviation; from pixels between -1 and 1."""

  def __call__(self, x, resize, normalize):
    assert x.shape[1:] == (3, 12, 12) and not resize and not normalize and np.abs(x).max() <= 1
    return [np.concatenate([x.mean((2, 3)), x.std((1, 2, 3))[:, None]], 1)[:, :, None, None]]


class _Net:
  """A metric of pyiqa: brightness, or the distance to the reference; remembers the batches."""

  def __init__(self, call):
    self.call, self.shapes = call, []
    self.net = types.SimpleNamespace(model=_Inception(), test_img_size=(12, 12))

  def __call__(self, image, reference=None):
    assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1 and image.shape[1] == 3
    self.shapes.append(image.shape)
    values = image.mean((1, 2, 3)) if reference is None else np.abs(image - reference).mean((1, 2, 3))
    return values[:, None]  # as some metrics of pyiqa return them


@pytest.fixture
def pyiqa(monkeypatch):
  """A stand-in for pyiqa and torch; `made` has the metrics by pyiqa's name."""
  module = types.SimpleNamespace(made={}, without=())

  def create_metric(call):
    if call in module.without:
      print(f'Downloading: "https://host/{call}.pth" to /cache/pyiqa/{call}.pth\n')
      raise urllib.error.URLError('no network')
    return module.made.setdefault(call, _Net(call))

  def run(net, *arrays, options=()):
    out = net(*(np.ascontiguousarray(x, np.float32) for x in arrays), *options)
    return out[0] if isinstance(out, list) else out

  module.create_metric = create_metric
  monkeypatch.setitem(sys.modules, 'pyiqa', module)
  monkeypatch.setattr(iqa, 'run', run)
  monkeypatch.setattr(iqa, 'version', lambda: '0.0')
  return module


@pytest.fixture
def folders(tmp_path):
  """Eleven images, two of another size, and their originals."""
  rng = np.random.default_rng(0)
  for index in range(11):
    shape = (20, 24, 3) if index in (3, 7) else (16, 20, 3)
    original = rng.integers(0, 256, shape, np.uint8)
    changed = np.clip(original + rng.normal(10 * index, 20, shape), 0, 255).astype(np.uint8)
    for folder, image in (('hr', original), ('sr', changed)):
      (tmp_path / folder).mkdir(exist_ok=True)
      Image.fromarray(image).save(tmp_path / folder / f'{index:02d}.png')
  return tmp_path / 'hr', tmp_path / 'sr'


def _read(folder):
  return [np.asarray(Image.open(path)) / 255 for path in sorted(folder.iterdir())]


def _json(arguments, capsys):
  code = cli.main(['metrics', *map(str, arguments), '--json', '-'])
  captured = capsys.readouterr()
  return code, json.loads(captured.out), captured.err


def test_batches_have_one_size_and_each_image_its_own_value(folders, pyiqa, capsys):
  hr, sr = folders
  (sr / '05.png').write_bytes(b'no image')
  code, report, err = _json([hr, sr, '--metrics', 'dists,musiq,psnr', '--jobs', '1'], capsys)
  assert code == 1 and '05.png' in err and err.count('\n') == 1  # the others of its batch are scored
  (sr / '05.png').unlink(), (hr / '05.png').unlink()
  expected = {
    'dists': [np.abs(a - b).mean() for a, b in zip(_read(sr), _read(hr), strict=True)],
    'musiq': [a.mean() for a in _read(sr)],
  }
  assert [row['image'] for row in report['images']] == [path.stem for path in sorted(sr.iterdir())]
  for name, values in expected.items():
    assert [row[name] for row in report['images']] == pytest.approx(values, abs=1e-5)
    assert report['mean'][name] == pytest.approx(np.mean(values), abs=1e-5)
    sizes = pyiqa.made[name].shapes
    assert (5, 3, 16, 20) in sizes and (2, 3, 20, 24) in sizes and len(sizes) == 3
  assert report['protocol']['metrics']['dists'] == 'DISTS (pyiqa 0.0)'


def test_crop_is_for_what_compares(folders, pyiqa, capsys):
  _, report, _ = _json([*folders, '--metrics', 'dists,pyiqa-lpips,musiq', '--crop', '2'], capsys)
  expected = [np.abs(a - b)[2:-2, 2:-2].mean() for a, b in zip(_read(folders[1]), _read(folders[0]), strict=True)]
  assert [row['dists'] for row in report['images']] == pytest.approx(expected, abs=1e-5)
  assert [row['pyiqa-lpips'] for row in report['images']] == pytest.approx(expected, abs=1e-5)
  whole = [image.mean() for image in _read(folders[1])]  # needs no original and loses nothing where there is one
  assert [row['musiq'] for row in report['images']] == pytest.approx(whole, abs=1e-5)
  assert set(pyiqa.made) == {'dists', 'lpips', 'musiq'}


def test_names_are_those_of_pyiqa():
  calls = {metric.name: metric.call for metric in iqa.ALL}
  assert calls == {
    'dists': 'dists',
    'musiq': 'musiq',
    'clipiqa': 'clipiqa',
    'maniqa': 'maniqa-pipal',
    'pyiqa-lpips': 'lpips',
    'pyiqa-lpips-vgg': 'lpips-vgg',
    'fid': 'fid',
  }


def test_without_weights_the_run_goes_on_and_tables_say_so(folders, pyiqa, tmp_path, capsys, monkeypatch):
  pyiqa.without = ('dists',)
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'empty'))
  table, page = tmp_path / 'scores.csv', tmp_path / 'scores.md'
  arguments = ['metrics', *map(str, folders), '--metrics', 'dists,psnr,lpips,musiq', '--csv', str(table)]
  assert cli.main([*arguments, '--markdown', str(page)]) == 0
  out, err = capsys.readouterr()
  dists, lpips = err.splitlines()
  assert dists == (
    'ssr: dists: no weights: https://host/dists.pth cannot be downloaded (<urlopen error no network>); pyiqa looks for '
    'it at /cache/pyiqa/dists.pth'
  )
  assert "metric 'lpips' has no weights; import them with `ssr weights import lpips-alex FILE FILE`" in lpips
  rows = [line.split(',') for line in table.read_text().splitlines()]
  assert rows[0] == ['image', 'dists', 'psnr', 'lpips', 'musiq'] and len(rows) == 1 + 11 + 1
  assert all(row[1] == row[3] == 'no weights' and float(row[2]) > 0 and float(row[4]) > 0 for row in rows[1:])
  assert page.read_text().count('| no weights |') == 2 * 12 and 'DISTS ↓' in page.read_text()
  assert all('no weights' in line for line in out.splitlines() if line.startswith(('00', 'mean')))
  assert cli.main([*arguments[:3], '--metrics', 'dists']) == 2  # nothing is left to do
  assert 'pyiqa looks for' in capsys.readouterr().err


@pytest.mark.parametrize('what', ['absent', 'broken'])
def test_without_pyiqa_one_line_says_what_to_install(folders, tmp_path, monkeypatch, capsys, what):
  if what == 'absent':
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
  else:
    (tmp_path / 'pyiqa.py').write_text('raise RuntimeError("operator torchvision::nms\\ndoes not exist")')
    monkeypatch.delitem(sys.modules, 'pyiqa', raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
  code, report, err = _json([*folders, '--metrics', 'psnr,musiq'], capsys)
  assert code == 0 and err.count('\n') == 1
  words = (
    "pip install 'ssr-jax[iqa]'" if what == 'absent' else 'musiq: pyiqa cannot be imported: operator torchvision::nms'
  )
  assert words in err and {row['musiq'] for row in report['images']} == {'not installed'}


def test_other_failures_and_weights_elsewhere_are_one_line_too(pyiqa, monkeypatch):
  def create_metric(call):
    errors = {'musiq': ValueError('a damaged\nfile'), 'clipiqa': urllib.error.URLError('no network')}
    raise errors.get(call, FileNotFoundError('no hub'))

  monkeypatch.setattr(pyiqa, 'create_metric', create_metric)
  with pytest.raises(metrics.Missing, match=r'musiq: no weights: they cannot be loaded \(ValueError: a damaged'):
    metrics.load(['musiq'])
  with pytest.raises(
    metrics.Missing, match=r"maniqa: no weights: timm's vit_base_patch8_224; .*/hub; it cannot be.*no hub"
  ):
    metrics.load(['maniqa'])
  with pytest.raises(metrics.Missing, match=r'clipiqa: no weights: RN50.pt of CLIP; .*hub/clip; it cannot be.*no net'):
    metrics.load(['clipiqa'])
  with pytest.raises(SSRError, match="metric 'musiq' takes its weights from pyiqa; leave out x.pth"):
    metrics.load(['musiq'], {'musiq': 'x.pth'})


def test_the_frechet_distance_is_that_of_the_formula():
  rng = np.random.default_rng(0)
  for n, m, d in ((40, 30, 5), (5, 7, 12), (30, 6, 12)):
    a, b = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)), 0.5 + 2 * rng.standard_normal((m, d))
    first, second = (np.cov(x, rowvar=False) for x in (a, b))
    middle = np.trace(linalg.sqrtm(first @ second)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * middle
    assert iqa.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
  assert iqa.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
  assert iqa.frechet_distance(a, a + 2) == pytest.approx(4 * 12, rel=1e-6)


def _fid(images, originals):
  def resized(image):
    planes = [Image.fromarray((255 * image[..., c]).astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(plane.resize((12, 12), Image.Resampling.BICUBIC)).clip(0, 255) for plane in planes])

  stacks = (np.stack([resized(image) for image in several]) for several in (images, originals))
  return iqa.frechet_distance(*(_Inception()((x - 128) / 128, False, False)[0][:, :, 0, 0] for x in stacks))


def test_fid_is_a_number_of_the_set_and_of_no_image(folders, pyiqa, capsys):
  hr, sr = folders
  code, report, err = _json([hr, sr, '--metrics', 'fid,psnr'], capsys)
  assert code == 0 and not err
  assert {row['fid'] for row in report['images']} == {None}
  assert report['mean']['fid'] == pytest.approx(_fid(_read(sr), _read(hr)), rel=1e-4) and report['mean']['fid'] > 1e-3
  for index in range(1, 11):
    (hr / f'{index:02d}.png').unlink()
  assert math.isnan(float(_json([hr, sr, '--metrics', 'fid,psnr'], capsys)[1]['mean']['fid'] or 'nan'))


def _settings(folders, names):
  return Settings(
    f'folder:{folders[0]},{folders[1]}', ('bicubic',), names, {}, (), outputs=f'theirs:{folders[0].parent / "out"}'
  )


@pytest.fixture
def pairs(tmp_path):
  """Three photos of 64x64, LR images of 16x16, and another tool's images."""
  rng = np.random.default_rng(0)
  for name in 'abc':
    photo = rng.integers(0, 256, (64, 64, 3), np.uint8)
    images = {'hr': photo, 'lr': photo[::4, ::4], 'out': photo // 2 + 30}
    for folder, image in images.items():
      (tmp_path / folder).mkdir(exist_ok=True)
      Image.fromarray(image).save(tmp_path / folder / f'{name}.png')
  return tmp_path / 'hr', tmp_path / 'lr'


def test_an_evaluation_scores_the_columns_of_a_case_together_and_goes_on(pairs, pyiqa, tmp_path, monkeypatch):
  settings = _settings(pairs, ('musiq', 'fid', 'dists', 'psnr'))
  run = tmp_path / 'run'
  whole = runner.evaluate(settings, run)
  assert pyiqa.made['musiq'].shapes == pyiqa.made['dists'].shapes == [(2, 3, 64, 64)] * 3
  hr, out = _read(pairs[0]), _read(pairs[0].parent / 'out')
  theirs = next(row for row in whole.means() if row['model'] == 'theirs')
  assert theirs['fid'] == pytest.approx(_fid(out, hr), rel=1e-4)
  assert theirs['musiq'] == pytest.approx(np.mean([image.mean() for image in out]), rel=1e-4)
  assert theirs['dists'] == pytest.approx(
    np.mean([np.abs(a - b).mean() for a, b in zip(out, hr, strict=True)]), rel=1e-4
  )
  assert all(math.isnan(row['fid']) for row in whole.rows)
  bicubic = next(row for row in whole.means() if row['model'] == 'bicubic')
  assert bicubic['fid'] > 0 and bicubic['fid'] != theirs['fid']
  assert 'DISTS (pyiqa 0.0)' in whole.protocol['measured']

  lines = (run / 'rows.jsonl').read_bytes().splitlines(keepends=True)  # stopped after the first image
  (run / 'rows.jsonl').write_bytes(b''.join(lines[:2]))
  pyiqa.made.clear()
  again = runner.evaluate(settings, run)
  assert len(pyiqa.made['musiq'].shapes) == 2
  for a, b in zip(again.means(), whole.means(), strict=True):
    assert {k: v for k, v in a.items() if k != 'seconds'} == {k: v for k, v in b.items() if k != 'seconds'}
  assert next(row for row in runner.evaluate(settings).means() if row['model'] == 'theirs')['fid'] == theirs['fid']
  next((run / 'features').iterdir()).unlink()
  with pytest.raises(SSRError, match=r'npz: no features of the images that are done; remove .*rows.jsonl'):
    runner.evaluate(settings, run)


def test_an_evaluation_without_weights_says_so_in_every_file(pairs, pyiqa, tmp_path, capsys):
  pyiqa.without = ('musiq', 'fid')
  settings = _settings(pairs, ('musiq', 'psnr', 'fid'))
  run = tmp_path / 'run'
  report = runner.evaluate(settings, run)
  err = capsys.readouterr().err
  assert 'pyiqa looks for it at /cache/pyiqa/musiq.pth' in err and '/cache/pyiqa/fid.pth' in err
  assert report.names == ('musiq', 'psnr', 'fid') and 'musiq.pth' in report.protocol['not measured']
  assert all(row['musiq'] == row['fid'] == 'no weights' and row['psnr'] > 0 for row in report.means())
  for name, count in (('table.md', 4), ('table.tex', 4), ('metrics.csv', 12)):
    assert (run / name).read_text().count('no weights') - (run / name).read_text().count(': no weights:') == count, name
  assert {row['musiq'] for row in json.loads((run / 'metrics.json').read_text())['means']} == {'no weights'}
  pyiqa.without = ()
  with pytest.raises(SSRError, match='holds rows of other settings .*metrics without weights'):
    runner.evaluate(settings, run)
