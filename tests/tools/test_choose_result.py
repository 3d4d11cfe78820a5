"""tools/choose_result.py: its rule on made-up scores, and that its images are those that the model would show."""

import itertools
import json
import pathlib
import types

import numpy as np
from PIL import Image
import pytest

from ssr_jax.evaluation.report import figures
from ssr_jax.systems.ssr.system import SSRSystem
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


def test_its_images_are_those_that_sampling_finishes(tmp_path, monkeypatch, capsys):
  """Of a stand-in for a model whose restored image and result are given."""
  draw = np.random.default_rng(0)
  for folder, side in (('lr', 16), ('hr', 64)):
    (tmp_path / folder).mkdir()
    for name in ('one', 'two'):
      Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).save(tmp_path / folder / f'{name}.png')
  restored = draw.uniform(0.3, 0.7, (64, 64, 3)).astype(np.float32)
  whole = restored + draw.uniform(-0.2, 0.2, restored.shape).astype(np.float32)
  share = np.float32(choose_result._SHARE)
  found = types.SimpleNamespace(restored=restored, image=restored + share * (whole - restored))
  seen, given = [], []

  def score(loaded, *, image, reference):
    seen.append(image)
    return dict.fromkeys(loaded, float(len(seen)))

  def load(path):
    student = json.loads((pathlib.Path(path) / 'model.json').read_text())['sampling']['student']
    assert [student[name] for name in ('strength', 'smooth', 'sharpen')] == [choose_result._SHARE, 0, 0]
    return types.SimpleNamespace(sample=lambda lr: given.append(lr) or found)

  monkeypatch.setattr(choose_result.metrics, 'score', score)
  monkeypatch.setattr(choose_result.ssr_jax, 'load', load)
  monkeypatch.setattr(choose_result, 'STRENGTHS', (0.5, 1.0))
  monkeypatch.setattr(choose_result, 'SMOOTHS', (0.0, 0.8))
  monkeypatch.setattr(choose_result, 'SHARPENS', (0.0, 1.5))
  place = f'{tmp_path}/hr,{tmp_path}/lr'
  assert choose_result.main([place, '--output', str(tmp_path / 'out')]) == 0
  assert given[0].dtype == np.float32 and given[0].max() <= 1  # else the images would come back rounded
  assert (tmp_path / 'out' / 'choice.csv').read_text().count('\n') == 9
  assert 'truth' in capsys.readouterr().out

  np.testing.assert_array_equal(seen[2], figures.to_uint8(restored))
  shown = {}
  for smooth, strength, sharpen in itertools.product((0.0, 0.8), (0.5, 1.0), (0.0, 1.5)):
    plan = types.SimpleNamespace(
      steps=1, colour_fix='none', levels=(0, None), blend=strength, smooth=smooth, sharpen=sharpen
    )
    shown[smooth, strength, sharpen] = SSRSystem().finish({'restored': restored, 'image': whole}, plan)['image']
  for image, (key, expected) in zip(seen[3:11], shown.items(), strict=True):
    assert np.abs(image.astype(float) - figures.to_uint8(expected)).max() <= 1, key


def test_what_cannot_be_done_is_one_line(tmp_path, tiny_model_dir, capsys):
  run = lambda *words: choose_result.main([*words, '--output', str(tmp_path / 'out')])
  assert run('photos', '--model', str(tiny_model_dir)) == 1
  assert 'the model has no student' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
