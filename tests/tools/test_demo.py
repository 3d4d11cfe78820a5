"""tools/demo.py from its arguments to its pictures, with a tiny model and small photos."""

import sys

import numpy as np
from PIL import Image
import pytest

from ssr_jax.weights import format
from tools import demo


@pytest.mark.slow
@pytest.mark.parametrize('restores_only', [False, True])
def test_it_writes_its_pictures_and_prints_the_mean(restores_only, tiny_model_dir, tmp_path, monkeypatch, capsys):
  model = tiny_model_dir
  if restores_only:
    model = tmp_path / 'restorer'
    for part in ('depth', 'dkenet', 'nbsr'):
      format.copy_part(tiny_model_dir, part, model)
  monkeypatch.setattr(demo, 'SIDE', 128)
  photos = demo.photos()
  monkeypatch.setattr(demo, 'photos', lambda: {name: photos[name] for name in ('coffee', 'motorcycle')})
  monkeypatch.setattr(sys, 'argv', ['demo.py', '--output', str(tmp_path / 'out'), '--model', str(model)])
  assert demo.main() == 0
  printed = capsys.readouterr().out
  assert ('has no diffusion part' in printed) == restores_only
  mean = next(line for line in printed.splitlines() if line.startswith('mean'))
  assert np.isfinite([float(word) for word in mean.split()[1:]]).all()
  for name in ('coffee', 'motorcycle'):
    assert Image.open(tmp_path / 'out' / f'{name}_x4.png').size == (128, 128)
  assert (tmp_path / 'out' / 'comparison.png').exists()
