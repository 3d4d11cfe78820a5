"""evaluate.py as a command: exit codes, and a real model."""

import csv
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from skimage import data

from configs import common, compact
import evaluate
from ssr_jax import metrics, systems
from ssr_jax.evaluation import cases, protocol
from ssr_jax.weights import format
from tests.metrics import pristine


@pytest.fixture
def photos(tmp_path):
  """Two photos, one of a size that is no multiple of 4; both are cropped to 48x64."""
  folder = tmp_path / 'hr'
  folder.mkdir()
  Image.fromarray(data.astronaut()[100:148, 150:214]).save(folder / 'astronaut.png')
  Image.fromarray(data.chelsea()[100:151, 150:217]).save(folder / 'chelsea.png')
  return folder


def _command(monkeypatch, photos, workdir, **fields):
  """Runs evaluate.py with fields of config.eval; returns the exit code."""
  options = [f'--config.eval.{name}={value}' for name, value in fields.items()]
  dataset = f'--config.eval.dataset=folder:{photos}'
  argv = ['evaluate.py', f'--config={compact.__file__}', dataset, *options, f'--workdir={workdir}']
  monkeypatch.setattr(sys, 'argv', argv)
  with pytest.raises(SystemExit) as exit_:
    common.run(evaluate.main, evaluate.__doc__)
  return exit_.value.code


def test_one_bad_file_is_named_and_the_rest_done(photos, tmp_path, capsys, monkeypatch):
  (photos / 'broken.png').write_bytes(b'not an image')
  Image.new('RGB', (3, 80)).save(photos / 'thin.png')
  assert _command(monkeypatch, photos, tmp_path / 'out', models=('bicubic',), recipes=('smooth/no_noise',)) == 1
  written = capsys.readouterr()
  assert (
    'broken.png: cannot be read, not an image of a known format' in written.err
    and 'thin.png: 3x80 pixels' in written.err
  )
  assert 'failed: 2 of 4' in written.out and '| smooth/no_noise | bicubic |' in written.out
  assert f'written: {tmp_path / "out"}/index.html, table.md, table.tex, metrics.csv' in written.out
  page = (tmp_path / 'out' / 'index.html').read_text()
  assert 'Not evaluated: 2' in page and 'thin.png: 3x80 pixels' in page

  fields = dict(models=('bicubic',), recipes=('smooth/no_noise',), page=False)
  assert _command(monkeypatch, photos, tmp_path / 'without', **fields) == 1
  assert f'written: {tmp_path / "without"}/table.md, table.tex' in capsys.readouterr().out
  assert not (tmp_path / 'without' / 'index.html').exists()


@pytest.mark.parametrize('kind', ['fitted', 'LIVE'])
def test_niqe_reads_its_pristine_model(kind, tmp_path, monkeypatch, capsys):
  if kind == 'LIVE' and not pristine.LIVE.is_file():
    pytest.skip(f'{pristine.LIVE} is absent: set SSR_DATA to the folder of the test data')
  path = pristine.LIVE if kind == 'LIVE' else pristine.fit(tmp_path / 'fitted.npz')
  (tmp_path / 'hr').mkdir()
  Image.fromarray(data.astronaut()[:192, :192]).save(tmp_path / 'hr' / 'astronaut.png')
  fields = dict(models=('bicubic',), recipes=('smooth/no_noise',), metrics=('psnr', 'niqe'), niqe_params=path)
  assert _command(monkeypatch, tmp_path / 'hr', tmp_path / 'out', **fields) == 0
  assert 'NIQE' in capsys.readouterr().out
  (mean,) = json.loads((tmp_path / 'out' / 'metrics.json').read_text())['means']
  (case,) = cases.Dataset.parse(f'folder:{tmp_path / "hr"}', ['smooth/no_noise'], 0, 0).cases([])
  bicubic = np.asarray(Image.fromarray(case.lr).resize((192, 192), Image.Resampling.BICUBIC))
  assert mean['niqe'] == pytest.approx(metrics.niqe.niqe(bicubic, metrics.niqe.load_pristine(path)), rel=1e-9)

  assert _command(monkeypatch, tmp_path / 'hr', tmp_path / 'out', **{**fields, 'niqe_params': 'absent.npz'}) == 1
  assert 'absent.npz: no pristine model of NIQE' in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_directory_without_diffusion_from_the_command_line(photos, tmp_path, capsys, monkeypatch):
  """The real pipeline, nets of a few channels with random weights."""
  parts = {
    'depth': (dict(resolution=[32, 32], widths=[8, 8, 8, 8, 8], group=4, heads=2), (3,)),
    'dkenet': (dict(features=8, depth_features=4), (3, 1)),
    'nbsr': (dict(blocks=1, features=8, growth=4), (3, 441)),
  }
  rng = np.random.default_rng(0)
  for part, (fields, channels) in parts.items():
    inputs = [jax.ShapeDtypeStruct((1, 32, 32, c), jnp.float32) for c in channels]
    shapes = jax.eval_shape(systems.build(part, **fields).init, jax.random.key(0), *inputs)
    variables = jax.tree.map(lambda x: (0.05 * rng.standard_normal(x.shape)).astype(np.float32), shapes)
    format.save_part(tmp_path / 'model', part, fields, variables)
  fields = dict(model=tmp_path / 'model', models=('bicubic', 'restored'), recipes=('smooth/no_noise',), limit=1)
  code = _command(monkeypatch, photos, tmp_path / 'out', **fields)
  written = capsys.readouterr()
  assert code == 0, written.err
  assert '| smooth/no_noise | restored |' in written.out
  with open(tmp_path / 'out' / 'metrics.csv') as file:
    bicubic, restored = csv.DictReader(file)
  assert bicubic['image'] == restored['image'] == 'astronaut.png'
  assert float(restored['seconds']) > 0 and float(restored['lr_psnr']) > 10 and restored['psnr'] != bicubic['psnr']


@pytest.mark.parametrize(
  'written, names',
  [
    ('bicubic', ('bicubic',)),
    ('bicubic,runs/a b/model:restored,result+steps=4+kernels=x0.5', None),
    ("('bicubic','/a/b:result')", ('bicubic', '/a/b:result')),
    ("'bicubic,result'", ('bicubic', 'result')),
  ],
)
def test_columns_can_be_written_as_they_are(written, names):
  found = []
  argv = ['evaluate.py', f'--config={compact.__file__}', f'--config.eval.models={written}', '--workdir=x']
  with pytest.raises(SystemExit) as exit_:
    common.run(lambda config, workdir: found.append(protocol.Settings.from_config(config.eval).models), '', argv)
  assert exit_.value.code == 0 and found == [names or tuple(written.split(','))]
