"""A model.json that anybody may have written: each change of it is a valid model or one line that names the field."""

import copy
import json
import math
import os
import random
import struct

import numpy as np
import pytest
import safetensors.numpy

from ssr_jax import systems
from ssr_jax.systems.ssr.sizes import SIZES
from ssr_jax.types import SSRError
from ssr_jax.weights import files, format, store

BUNDLED = json.loads((store.BUNDLED['compact'] / format.MODEL_FILE).read_text())
VALUES = [
  None, True, '', 'x', '\x00', -1, 0, 0.5, 2**31, 10**30, -1e308, 1e-320, math.nan, math.inf, [], {}, [[]], [1] * 1000,
  [math.nan], {'a': 1}, 'é' * 10_000,
]  # fmt: skip


def _paths(value, path=()):
  if path:
    yield path
  if isinstance(value, dict | list):
    for key in value if isinstance(value, dict) else range(len(value)):
      yield from _paths(value[key], (*path, key))


def _mutants(count=400):
  rng = random.Random(0)
  paths = [p for p in _paths(BUNDLED) if 'training' not in p]
  for number in range(count):
    model = copy.deepcopy(BUNDLED)
    path = rng.choice(paths)
    owner = model
    for key in path[:-1]:
      owner = owner[key]
    how = rng.choice(('set', 'set', 'set', 'remove', 'add', 'nest'))
    if how == 'remove':
      del owner[path[-1]]
    elif how == 'add' and isinstance(owner, dict):
      owner[f'extra{number}'] = rng.choice(VALUES)
    elif how == 'nest':
      owner[path[-1]] = {str(path[-1]): owner[path[-1]]}
    else:
      owner[path[-1]] = rng.choice(VALUES)
    yield model


def _load(directory, text):
  (directory / format.MODEL_FILE).write_text(text)
  model = format.read_config(directory)
  for part, entry in model['parts'].items():
    format.build(part, entry['config'], system=model['system'])
  return model


def test_a_changed_model_json_is_valid_or_one_line(tmp_path):
  refused = 0
  for model in _mutants():
    try:
      _load(tmp_path, json.dumps(model))
    except SSRError as error:
      refused += 1
      message = str(error)
      assert message.startswith(str(tmp_path / format.MODEL_FILE)) and '\n' not in message, message
      assert "'" in message or 'format is' in message or 'not valid JSON' in message, message
  assert 250 < refused < 400


@pytest.mark.parametrize(
  'path, value, words',
  [
    ('svkr.gamma', math.nan, 'NaN is no number'),
    ('svkr.gamma', 1.5, "field 'svkr.gamma'"),
    ('svkr.rule', '', "field 'svkr.rule'"),
    ('svkr.iterations', 10**6, "field 'svkr.iterations'"),
    ('schedule.steps', 10**9, "field 'schedule.steps'"),
    ('sampling.wavelet_levels', 40, "field 'sampling.wavelet_levels'"),
    ('sampling.student.strength', '1', "field 'sampling.student.strength'"),
    ('parts.vae.config.scaling_factor', 0, "part 'vae': field 'scaling_factor'"),
    ('parts.vae.config.channels', [48, 9.5], r"part 'vae': field 'channels\[1\]'"),
    ('parts.depth.config.resolution', [10**6, 10**6], r"part 'depth': field 'resolution\[0\]'"),
    ('parts.nbsr.config.blocks', 10**6, "part 'nbsr': field 'blocks'"),
    ('parts.nbsr.file', '..', "'parts.nbsr.file' must name|not a regular"),
    ('scale', True, "field 'scale'"),
    ('name', 'a\nb', "field 'name'"),
  ],
)
def test_the_field_is_named(tmp_path, path, value, words):
  model = copy.deepcopy(BUNDLED)
  *owners, last = path.split('.')
  owner = model
  for key in owners:
    owner = owner[key]
  owner[last] = value
  (tmp_path / format.MODEL_FILE).write_text(json.dumps(model))
  with pytest.raises(SSRError, match=words):
    store.load_model(tmp_path, parts=['nbsr'])


@pytest.mark.parametrize(
  'text, words',
  [
    ('{"format": 1, "format": 1}', "field 'format' twice"),
    ('[' * 200_000, 'nested too deeply|not valid JSON'),
    ('{"format": 1, "name": "\\ud800"}', 'not valid JSON'),
    ('{"format": ' + '1' * 5000 + '}', 'not valid JSON'),
    (' ' * (files.JSON_BYTES + 1), 'larger than 4 MiB'),
  ],
)
def test_text_that_is_no_plain_json(tmp_path, text, words):
  with pytest.raises(SSRError, match=words):
    _load(tmp_path, text)


def test_published_sizes_are_within_the_limits():
  assert format.read_config(store.BUNDLED['compact'])['name'] == 'compact'
  for size in SIZES.values():
    for part, config in size.items():
      systems.get('ssr').parts[part].check(part, json.loads(json.dumps(config)), '')


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / format.MODEL_FILE)
  with pytest.raises(SSRError, match='not a regular file'):
    format.read_config(tmp_path)
  os.mkfifo(tmp_path / 'nbsr.safetensors')
  with pytest.raises(SSRError, match='nbsr.safetensors: cannot be read .not a regular file'):
    files.read_verified(tmp_path / 'nbsr.safetensors', '0' * 64, 0)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
  source = store.BUNDLED['compact']
  tensors = safetensors.numpy.load_file(source / 'dkenet.safetensors')
  name = sorted(n for n in tensors if n.startswith('params/'))[3]
  tensors[name].flat[-1] = value
  data = safetensors.numpy.save(tensors)
  (tmp_path / 'dkenet.safetensors').write_bytes(data)
  entry = BUNDLED['parts']['dkenet'] | {'sha256': files.sha256(data), 'bytes': len(data)}
  (tmp_path / format.MODEL_FILE).write_text(json.dumps(BUNDLED | {'parts': {'dkenet': entry}}))
  with pytest.raises(SSRError, match=rf"tensor '{name}' has values that are not finite"):
    store.load_model(tmp_path)
  assert 'not finite' in store.verify(tmp_path)['dkenet']


def test_large_finite_weights_are_not_refused(tmp_path):
  """Their squares overflow float32."""
  format._check_finite(tmp_path, {'a': np.full(3, struct.unpack('f', b'\xff\xff\x7f\x7f')[0], np.float32)})
