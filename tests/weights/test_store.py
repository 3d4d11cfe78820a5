"""Models by name: the bundled one, imported ones, and what is no model."""

import json
import shutil

import numpy as np
import pytest

from ssr_jax import systems
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store


def test_unknown_models_and_broken_model_files(tmp_path):
  with pytest.raises(SSRError, match=r"model 'nosuch': unknown model; known: compact"):
    store.load_model('nosuch')
  with pytest.raises(SSRError, match='has no model.json'):
    store.load_model(tmp_path)
  path = tmp_path / format.MODEL_FILE
  for text, words in (
    ('{', 'not valid JSON'),
    ('{"format": 9}', 'format is 9'),
    ('[]', 'format is'),
    ('{"format": 1}', "field 'name' is missing"),
  ):
    path.write_text(text)
    with pytest.raises(SSRError, match=words):
      store.load_model(tmp_path)
  with pytest.raises(SSRError, match="unknown part 'gan'"):
    format.save_part(tmp_path / 'new', 'gan', {}, {})
  assert not (tmp_path / 'new').exists()
  with pytest.raises(SSRError, match="field 'name' is missing"):  # the file says the system, so it is read first
    format.save_part(tmp_path, 'nbsr', {}, {})


def test_the_bundled_model_loads_unchanged():
  published = json.loads((store.resolve('compact') / format.MODEL_FILE).read_text())
  model = store.load_model('compact')
  assert model.config == published
  assert list(model.variables) == list(published['parts'])
  for part, entry in published['parts'].items():
    tensors = format.flatten(model.variables[part])
    assert sum(x.size for name, x in tensors.items() if name.startswith('params/')) == entry['parameters']
    assert {x.dtype for x in tensors.values()} == {np.dtype(np.float32)}
  assert store.verify('compact') == dict.fromkeys(published['parts'])
  assert set(published) == set(format.new_config('compact', systems.DEFAULT))


def test_a_model_without_a_system_is_read_as_one_of_ssr(tiny_model_dir, tmp_path):
  """Models written before 0.2 have no such field."""
  shutil.copytree(tiny_model_dir, tmp_path / 'old')
  file = tmp_path / 'old' / format.MODEL_FILE
  config = json.loads(file.read_text())
  del config['system']
  file.write_text(json.dumps(config))
  assert store.load_model(tmp_path / 'old').config['system'] == 'ssr'


def test_names_and_paths_of_a_model(tmp_path, monkeypatch):
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path))
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / format.MODEL_FILE).write_text('{}')
  assert store.home() == tmp_path and store.known() == ['compact', 'mine']
  for name in ('mine', tmp_path / 'mine', tmp_path / 'mine' / format.MODEL_FILE):
    assert store.resolve(name) == tmp_path / 'mine'
  assert store.resolve('compact') == store.BUNDLED['compact']
