"""`ssr inspect` as a user meets it: what it prints and writes, and what it refuses."""

import json

import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax import cli, runtime
from ssr_jax.image import noise
from ssr_jax.weights import format
from tests import conftest

_models = {}


@pytest.fixture
def photo(tmp_path):
  path = tmp_path / 'cat.png'
  Image.fromarray(data.chelsea()[100:130, 100:140]).save(path)
  return path


@pytest.fixture
def ssr(tiny_model_dir, monkeypatch, capsys):
  """Runs the command with the tiny model, which is loaded once: (exit code, stdout, stderr)."""
  original = runtime.load
  monkeypatch.setattr(runtime, 'load', lambda name, **_: _models.setdefault(str(name), original(name)))

  def run(*arguments, model=tiny_model_dir):
    code = cli.main(['inspect', *map(str, arguments), '--model', str(model)])
    return code, *capsys.readouterr()

  return run


@pytest.mark.slow
def test_json_holds_what_sampling_finds(ssr, photo, tiny_model_dir):
  code, out, err = ssr(photo, '--at', '0,0', '--at', '39,7', '--json', '-')
  found = json.loads(out)
  assert code == 0 and not err and (found['width'], found['height'], found['scale']) == (40, 30, 4)
  assert found['system'] == 'ssr' and [(p['x'], p['y']) for p in found['points']] == [(0, 0), (39, 7)]
  lr = np.asarray(Image.open(photo))
  sampled = _models[str(tiny_model_dir)].sample(lr)
  taps = np.arange(21) - 11.5
  for point in found['points']:
    kernel = sampled.kernels[point['y'], point['x']].reshape(21, 21).astype(np.float64)
    np.testing.assert_allclose(point['kernel'], kernel, atol=2e-6)
    rows, columns = kernel.sum(1), kernel.sum(0)
    variance = [(p * taps**2).sum() - (p * taps).sum() ** 2 for p in (rows, columns)]
    assert point['blur'] == pytest.approx(np.sqrt(np.mean(variance)) / 4, abs=2e-3)
    assert point['short'] <= point['blur'] <= point['long'] and 0 <= point['angle'] < 180
    near = sampled.depth[4 * point['y'] : 4 * point['y'] + 4, 4 * point['x'] : 4 * point['x'] + 4]
    assert point['depth'] == pytest.approx(near.mean(), abs=0.02)
  assert found['blur']['least'] <= found['blur']['median'] <= found['blur']['most']
  assert min(p['blur'] for p in found['points']) >= found['blur']['least'] - 1e-3
  np.testing.assert_allclose(found['noise']['channels'], 255 * noise.noise_level(lr), atol=0.01)


def test_lines_and_picture(ssr, photo, tmp_path):
  sheet, report = tmp_path / 'new' / 'sheet.png', tmp_path / 'report.json'
  code, out, err = ssr(photo, '-o', sheet, '--json', report)
  lines = out.splitlines()
  assert code == 0 and not err and lines[0].startswith(f'{photo}: 40x30, noise ')
  assert lines[1].startswith('blur ') and 'depth' in lines[1] and len(lines) == 2 + 9
  points = [(p['x'], p['y']) for p in json.loads(report.read_text())['points']]
  assert points == [(x, y) for y in (5, 15, 25) for x in (6, 20, 33)]
  assert all(f'at {x},{y}: blur ' in line for (x, y), line in zip(points, lines[2:], strict=True))
  with Image.open(sheet) as picture:
    assert picture.width == 3 * 512 + 4 * 8


def test_nothing_is_replaced(ssr, photo, tmp_path):
  before, report = photo.read_bytes(), tmp_path / 'report.json'
  report.write_text('mine')
  for arguments, word in (
    (('-o', photo), 'would replace the input'),
    (('--json', photo, '--overwrite'), 'would replace the input'),
    (('--json', report), 'exists; use --overwrite'),
    (('-o', tmp_path / 'a.png', '--json', tmp_path / 'a.png'), 'would replace the file of -o'),
    (('-o', tmp_path / 'a.jpg'), 'end its name in .png'),
    (('--json', tmp_path), 'is a folder'),
    (('--at', '40,0'), 'pixels go from 0,0 to 39,29'),
    (('--max-pixels', '0'), 'must be at least 1'),
  ):
    code, out, err = ssr(photo, *arguments)
    assert code == 2 and not out and len(err.splitlines()) == 1 and word in err
  assert photo.read_bytes() == before and report.read_text() == 'mine' and sorted(tmp_path.iterdir()) == [photo, report]
  assert ssr(photo, '--json', report, '--overwrite')[0] == 0 and json.loads(report.read_text())['width'] == 40


def test_a_bad_photo_and_a_model_without_kernels_are_one_line(ssr, photo, tmp_path):
  bad = tmp_path / 'bad.png'
  bad.write_bytes(b'no picture')
  code, out, err = ssr(bad)
  assert code == 1 and not out and len(err.splitlines()) == 1 and str(bad) in err
  config = {'blocks': 1, 'features': 8, 'growth': 4}
  shapes = format.abstract_variables('restorer', config, system='esrgan')
  variables = {name: conftest._draw(np.random.default_rng(0), name, s.shape) for name, s in shapes.items()}
  model = tmp_path / 'sharp'
  format.save_part(model, 'restorer', config, format.unflatten(variables), {'steps': 0}, system='esrgan')
  code, out, err = ssr(photo, model=model)
  assert code == 2 and not out and len(err.splitlines()) == 1
  assert "ssr inspect needs blur kernels, which system 'esrgan'" in err
