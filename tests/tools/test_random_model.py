"""tools/random_model.py: what it writes is a whole model of the config's size."""

import numpy as np
import pytest

from configs import tiny
from ssr_jax.weights import format, store
from tools import random_model


def test_a_model_of_the_configs_size(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr('sys.argv', ['random_model.py', str(tmp_path / 'm'), '--config', 'tiny', '--seed', '3'])
  assert random_model.main() == 0
  model = store.load_model(tmp_path / 'm')
  config = tiny.get_config()
  assert list(model.config['parts']) == ['depth', 'dkenet', 'nbsr', 'vae', 'unet']
  assert model.config['schedule'] == config.schedule.to_dict()
  lines = capsys.readouterr().out.splitlines()
  for line, (part, entry) in zip(lines, model.config['parts'].items(), strict=True):
    assert line.startswith(f'{part}: {entry["parameters"]:,} parameters')
    for name, kernel in format.flatten(model.variables[part]).items():
      if name.endswith('kernel') and kernel.size > 500:
        assert kernel.std() * np.prod(kernel.shape[:-1]) ** 0.5 == pytest.approx(1, abs=0.15)
