"""Model directories: what is written is what is read, and nothing that is damaged is used."""

import json
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ssr_jax import systems
from ssr_jax.types import SSRError
from ssr_jax.weights import registry


class _Net(nn.Module):
  """Stands for a part: one of each collection."""

  features: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *_):
    if not 0 < self.features < 1000:
      raise ValueError('features')
    self.variable('constants', 'pca', lambda: jnp.zeros((3, 2)))
    return nn.BatchNorm(use_running_average=True, name='bn')(nn.Dense(self.features, dtype=self.dtype, name='out')(x))


@pytest.fixture(autouse=True)
def _parts_are_small(monkeypatch):
  registry._abstract_variables.cache_clear()
  monkeypatch.setattr(systems, 'build', lambda part, **config: _Net(**config))
  yield
  registry._abstract_variables.cache_clear()


def _variables(seed=0, features=4):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return {
    'params': {
      'out': {'kernel': draw(3, features), 'bias': draw(features)},
      'bn': {'scale': draw(features), 'bias': draw(features)},
    },
    'batch_stats': {'bn': {'mean': draw(features), 'var': draw(features) ** 2}},
    'constants': {'pca': draw(3, 2)},
  }


def test_flatten_and_back():
  tree = _variables()
  flat = registry.flatten(tree)
  assert sorted(flat) == [
    'batch_stats/bn/mean',
    'batch_stats/bn/var',
    'constants/pca',
    'params/bn/bias',
    'params/bn/scale',
    'params/out/bias',
    'params/out/kernel',
  ]
  again = registry.unflatten(flat)
  np.testing.assert_array_equal(again['params']['out']['kernel'], tree['params']['out']['kernel'])
  assert again.keys() == tree.keys()


def test_only_what_a_network_rounds_at_once_may_be_kept_in_its_dtype():
  shapes = registry.abstract_variables('dkenet', {'features': 4}, jnp.bfloat16)
  assert {name for name, x in shapes.items() if x.dtype == jnp.bfloat16} == {'params/out/kernel', 'params/out/bias'}
  assert {x.dtype for x in registry.abstract_variables('dkenet', {'features': 4}).values()} == {jnp.dtype('float32')}


def test_rounding_is_found_in_calls_and_loops():
  half = jnp.bfloat16

  def network(called, looped, twice, also_whole, summed_first, given, other_dtype, unused):
    called = jax.jit(lambda x: jax.checkpoint(lambda y: y.astype(half) + 1)(x))(called)
    looped = jax.lax.scan(lambda total, x: (total + x.astype(half), None), jnp.zeros((), half), looped)[0]
    twice = twice.astype(half) + jax.jit(lambda x: x.astype(half))(twice)
    also_whole = also_whole.astype(half) + also_whole.sum().astype(half)
    return called, looped, twice, also_whole, summed_first.sum().astype(half), given, other_dtype.astype(jnp.float16)

  program = jax.make_jaxpr(network)(*[jnp.zeros(3)] * 8).jaxpr
  rounded = registry._rounded(program, jnp.dtype(half))
  assert [variable in rounded for variable in program.invars] == [True, True, True, False, False, False, False, False]


def test_the_same_weights_are_the_same_file(tmp_path):
  save = lambda name: registry.save_part(tmp_path / name, 'dkenet', {'features': 4}, _variables())
  assert len({save(str(i)).read_bytes() for i in range(8)}) == 1


def test_written_then_read(tmp_path):
  tree = _variables()
  path = registry.save_part(tmp_path / 'm', 'dkenet', {'features': 4}, tree, {'steps': 7})
  on_disk = safetensors.numpy.load_file(path)
  assert on_disk['params/out/kernel'].dtype == np.float16
  assert on_disk['batch_stats/bn/mean'].dtype == on_disk['constants/pca'].dtype == np.float32

  model = registry.load_model(tmp_path / 'm')
  assert model.config['name'] == 'm' and model.config['parts']['dkenet']['training'] == {'steps': 7}
  got, want = registry.flatten(model.variables['dkenet']), registry.flatten(tree)
  assert got.keys() == want.keys()
  for key in want:
    assert got[key].dtype == np.float32
    expected = want[key].astype(np.float16).astype(np.float32) if key.startswith('params/') else want[key]
    np.testing.assert_array_equal(got[key], expected, err_msg=key)


def test_parts_come_one_after_the_other(tmp_path):
  for seed, part in enumerate(('nbsr', 'depth')):
    registry.save_part(tmp_path, part, {}, _variables(seed))
  model = registry.load_model(tmp_path)
  assert list(model.variables) == list(model.config['parts']) == ['depth', 'nbsr']
  with pytest.raises(SSRError, match=r"no part 'unet' \(has: depth, nbsr\)"):
    registry.load_model(tmp_path, parts=['unet'])
  registry.save_part(tmp_path, 'nbsr', {}, _variables(5))  # replaced, the other part untouched
  kernel = registry.load_model(tmp_path).variables['nbsr']['params']['out']['kernel']
  np.testing.assert_allclose(kernel, _variables(5)['params']['out']['kernel'], atol=2e-3)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['depth.safetensors', 'model.json', 'nbsr.safetensors']


def test_a_part_is_copied_as_it_is(tmp_path):
  registry.save_part(tmp_path / 'a', 'nbsr', {'features': 4}, _variables(1), {'steps': 3})
  registry.save_part(tmp_path / 'b', 'depth', {}, _variables(2))
  registry.copy_part(tmp_path / 'a', 'nbsr', tmp_path / 'b')
  a, b = (registry.read_config(tmp_path / name) for name in 'ab')
  assert b['parts']['nbsr'] == a['parts']['nbsr'] and list(b['parts']) == ['depth', 'nbsr'] and b['name'] == 'b'
  assert (tmp_path / 'b' / 'nbsr.safetensors').read_bytes() == (tmp_path / 'a' / 'nbsr.safetensors').read_bytes()
  assert registry.verify(tmp_path / 'b') == {'depth': None, 'nbsr': None}
  with pytest.raises(SSRError, match="no part 'vae'"):
    registry.copy_part(tmp_path / 'a', 'vae', tmp_path / 'b')


def test_a_damaged_file_is_not_used(tmp_path):
  path = registry.save_part(tmp_path, 'vae', {}, _variables())
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(SSRError, match=r'vae\.safetensors: corrupted: sha256 is \w{12}, expected \w{12}'):
    registry.load_model(tmp_path)
  assert 'corrupted' in registry.verify(tmp_path)['vae']
  path.unlink()
  with pytest.raises(SSRError, match=r'vae\.safetensors: cannot be read'):
    registry.load_model(tmp_path)


def test_names_and_shapes_must_fit_the_module(tmp_path):
  tree = _variables()
  tree['params']['extra'] = {'kernel': np.zeros(2, np.float32)}
  del tree['params']['out']['bias']
  with pytest.raises(SSRError, match=r'missing params/out/bias; unexpected params/extra/kernel'):
    registry.save_part(tmp_path, 'nbsr', {}, tree)
  with pytest.raises(SSRError, match=r'wrong shape .*params/out/kernel \(3, 4\) for \(3, 5\)'):
    registry.save_part(tmp_path, 'nbsr', {'features': 5}, _variables())
  assert not list(tmp_path.iterdir())


def test_unknown_config_field_is_named(tmp_path):
  registry.save_part(tmp_path, 'nbsr', {}, _variables())
  path = tmp_path / registry.MODEL_FILE
  model = json.loads(path.read_text())
  model['parts']['nbsr']['config'] = {'widht': 3}
  path.write_text(json.dumps(model))
  with pytest.raises(SSRError, match=r"part 'nbsr': .*'widht'.*; correct parts\.nbsr\.config in model\.json"):
    registry.load_model(tmp_path)


def test_a_model_reads_its_own_folder_only(tmp_path):
  registry.save_part(tmp_path / 'a', 'nbsr', {}, _variables())
  path = tmp_path / 'a' / registry.MODEL_FILE
  path.write_text(path.read_text().replace('"nbsr.safetensors"', '"../nbsr.safetensors"'))
  with pytest.raises(SSRError, match='must name a file beside it'):
    registry.load_model(tmp_path / 'a')


@pytest.mark.parametrize('value, words', [(np.inf, 'not finite'), (1e6, 'too large for float16')])
def test_weights_that_float16_cannot_hold_are_refused(tmp_path, value, words):
  tree = _variables()
  tree['params']['out']['kernel'][0, 0] = value
  with pytest.raises(SSRError, match=words):
    registry.save_part(tmp_path, 'nbsr', {}, tree)
  assert not list(tmp_path.iterdir())


def test_unknown_models_and_broken_model_files(tmp_path):
  with pytest.raises(SSRError, match=r"model 'nosuch': unknown model; known: compact"):
    registry.load_model('nosuch')
  with pytest.raises(SSRError, match='has no model.json'):
    registry.load_model(tmp_path)
  path = tmp_path / registry.MODEL_FILE
  for text, words in (
    ('{', 'not valid JSON'),
    ('{"format": 9}', 'format is 9'),
    ('[]', 'format is'),
    ('{"format": 1}', "field 'name' is missing"),
  ):
    path.write_text(text)
    with pytest.raises(SSRError, match=words):
      registry.load_model(tmp_path)
  with pytest.raises(SSRError, match="unknown part 'gan'"):
    registry.save_part(tmp_path, 'gan', {}, _variables())


def test_update_merges_sections(tmp_path):
  registry.save_part(tmp_path, 'nbsr', {}, _variables())
  registry.update(tmp_path, sampling={'steps': 3}, name='mine')
  config = registry.read_config(tmp_path)
  assert config['name'] == 'mine' and config['sampling']['steps'] == 3 and 'sampler' in config['sampling']
  with pytest.raises(SSRError, match="unknown field 'sampels'"):
    registry.update(tmp_path, sampels=3)


def test_a_failed_write_leaves_the_old_model(tmp_path, monkeypatch):
  registry.save_part(tmp_path, 'nbsr', {}, _variables(1))
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(registry.os, 'fsync', full)
  with pytest.raises(SSRError, match='No space left'):
    registry.save_part(tmp_path, 'nbsr', {}, _variables(2))
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
