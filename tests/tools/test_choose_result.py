"""tools/choose_result.py: its rule on made-up scores, and that its images are those that the model would show."""

import json
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

import ssr_jax
from ssr_jax.weights import format as weights_format
from ssr_jax.weights import store
from tools import choose_result
from tools.choose_result import NAMES

A, B, C, D = (0.2, 0.0, 0.0), (0.4, 0.8, 0.0), (0.6, 0.8, 1.0), (1.0, 0.0, 1.5)


def _scored(**values):
  """Three pairs' scores about the given ones, in the order psnr, ssim, gmsd, haarpsi, log_spectrum, niqe, grid."""
  spread = np.array([-0.1, 0, 0.1])[:, None]
  return {key: np.array(row, float) + spread for key, row in values.items()}


def test_the_rule():
  base = {
    'truth': (100, 1, 0, 1, 0, 6, 0),
    'bicubic': (25, 0.7, 0.2, 0.6, 9, 9, 5),
    'restored': (27, 0.8, 0.1, 0.7, 6, 8, 1),
  }
  scored = _scored(**base)
  scored |= {
    A: scored['restored'] + np.array([0, 0, 0, 0, -1, -1, 0]),  # better in the log spectrum and in NIQE
    B: scored['restored'] + np.array([0.1, 0.1, -0.01, 0.1, -2, -4.5, 0]),  # its NIQE of 3.5 lies below the truth's
    C: scored['restored'] + np.array([-3, 0, 0, 0, 0, 0, 0]),
    D: scored['restored'] + np.array([1, 1, -1, 1, -5, -2, 0.01]),  # best in all, but for the grid
  }
  rows = choose_result.choose([A, B, C, D], [scored])
  assert [setting for setting, *_ in rows[:2]] == [B, A]
  # B is first in five of six, A in NIQE.
  assert rows[0][1:] == (pytest.approx(7 / 6), '') and rows[1][1:] == (pytest.approx(11 / 6), '')
  assert {setting: why for setting, _, why in rows[2:]} == {C: 'PSNR below bicubic', D: 'grid'}

  # A grid that differs between pairs by more than its mean is chance.
  scored[D] = (
    scored['restored']
    + np.array([1, 1, -1, 1, -5, -2, 0])
    + np.array([[0.3], [-0.3], [0.1]]) * (np.array(NAMES) == 'grid')
  )
  assert choose_result.choose([A, B, C, D], [scored])[0][0] == D
  # Each set counts, and so does what is out on one of them.
  other = dict(scored)
  other[D] = other['restored'] + np.array([-3, 0, 0, 0, 0, 0, 0])
  assert {row[0]: row[2] for row in choose_result.choose([A, B, C, D], [scored, other])}[D] == 'PSNR below bicubic'


@pytest.fixture
def student_dir(tiny_model_dir, tmp_path):
  """The tiny model with a student, whose weights are other ones than the UNet's."""
  directory = shutil.copytree(tiny_model_dir, tmp_path / 'model')
  variables = store.load_model(directory, parts=['unet']).variables['unet']
  config = json.loads((directory / 'model.json').read_text())
  student = jax.tree.map(lambda x: np.asarray(1.2 * x), variables)
  weights_format.save_part(directory, 'student', config['parts']['unet']['config'], student)
  own = {
    'steps': 1,
    'start': 0.1,
    'noise': 0.0,
    'wavelet_levels': 2,
    'chroma_levels': 1,
    'strength': 0.4,
    'smooth': 1.2,
    'sharpen': 1.0,
  }
  weights_format.update(directory, sampling={**config['sampling'], 'student': own})
  return directory


@pytest.mark.slow
def test_its_images_are_those_that_a_model_with_the_setting_shows(student_dir, tmp_path, monkeypatch, capsys):
  draw = np.random.default_rng(0)
  for folder, side in (('lr', 16), ('hr', 64)):
    (tmp_path / folder).mkdir()
    for name in ('one', 'two'):
      Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).save(tmp_path / folder / f'{name}.png')
  seen = []

  def score(loaded, *, image, reference):
    seen.append(image)
    return dict.fromkeys(loaded, float(len(seen)))

  monkeypatch.setattr(choose_result.metrics, 'score', score)
  monkeypatch.setattr(choose_result, 'STRENGTHS', (0.5,))
  monkeypatch.setattr(choose_result, 'SMOOTHS', (0.8,))
  monkeypatch.setattr(choose_result, 'SHARPENS', (0.0, 1.5))
  place = f'{tmp_path}/hr,{tmp_path}/lr'
  assert choose_result.main([place, '--model', str(student_dir), '--output', str(tmp_path / 'out')]) == 0
  assert (tmp_path / 'out' / 'choice.csv').read_text().count('\n') == 3
  assert '0.4, 1.2, 1 (now)' not in (tmp_path / 'out' / 'choice.md').read_text()  # not among the candidates here
  lr = np.asarray(Image.open(tmp_path / 'lr' / 'one.png'))
  for sharpen, image in zip((0.0, 1.5), seen[3:5], strict=True):
    model = shutil.copytree(student_dir, tmp_path / f'model-{sharpen}')
    sampling = json.loads((model / 'model.json').read_text())['sampling']
    sampling['student'] |= {'strength': 0.5, 'smooth': 0.8, 'sharpen': sharpen}
    weights_format.update(model, sampling=sampling)
    shown = ssr_jax.load(str(model)).sample(lr).image
    np.testing.assert_allclose(choose_result.figures.to_uint8(image).astype(int), shown, atol=1)
  assert 'truth' in capsys.readouterr().out


def test_what_cannot_be_done_is_one_line(tmp_path, tiny_model_dir, capsys):
  run = lambda *words: choose_result.main([*words, '--output', str(tmp_path / 'out')])
  assert run('photos', '--model', str(tiny_model_dir)) == 1
  assert 'the model has no student' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
