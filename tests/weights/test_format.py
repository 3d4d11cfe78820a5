"""Model directories: what is written is what is read, and nothing that is damaged is used."""

import json
import sys
import types
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ssr_jax import systems, xla
from ssr_jax.systems import base
from ssr_jax.types import SSRError
from ssr_jax.weights import files, format, precision, store


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
  format._abstract_variables.cache_clear()
  build = systems.build
  small = lambda part, *, system, **config: _Net(**config) if system == 'ssr' else build(part, system=system, **config)
  monkeypatch.setattr(systems, 'build', small)
  yield
  format._abstract_variables.cache_clear()


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
  flat = format.flatten(tree)
  assert sorted(flat) == [
    'batch_stats/bn/mean',
    'batch_stats/bn/var',
    'constants/pca',
    'params/bn/bias',
    'params/bn/scale',
    'params/out/bias',
    'params/out/kernel',
  ]
  again = format.unflatten(flat)
  np.testing.assert_array_equal(again['params']['out']['kernel'], tree['params']['out']['kernel'])
  assert again.keys() == tree.keys()


def test_only_what_a_network_rounds_at_once_may_be_kept_in_its_dtype():
  shapes = format.abstract_variables('dkenet', {'features': 4}, jnp.bfloat16)
  assert {name for name, x in shapes.items() if x.dtype == jnp.bfloat16} == {'params/out/kernel', 'params/out/bias'}
  assert {x.dtype for x in format.abstract_variables('dkenet', {'features': 4}).values()} == {jnp.dtype('float32')}


def test_rounding_is_found_in_calls_and_loops():
  half = jnp.bfloat16

  def network(called, looped, twice, also_whole, summed_first, given, other_dtype, unused):
    called = jax.jit(lambda x: jax.checkpoint(lambda y: y.astype(half) + 1)(x))(called)
    looped = jax.lax.scan(lambda total, x: (total + x.astype(half), None), jnp.zeros((), half), looped)[0]
    twice = twice.astype(half) + jax.jit(lambda x: x.astype(half))(twice)
    also_whole = also_whole.astype(half) + also_whole.sum().astype(half)
    return called, looped, twice, also_whole, summed_first.sum().astype(half), given, other_dtype.astype(jnp.float16)

  program = jax.make_jaxpr(network)(*[jnp.zeros(3)] * 8).jaxpr
  rounded = precision.rounded_inputs(program, jnp.dtype(half))
  assert [variable in rounded for variable in program.invars] == [True, True, True, False, False, False, False, False]


def test_the_same_weights_are_the_same_file(tmp_path):
  save = lambda name: format.save_part(tmp_path / name, 'dkenet', {'features': 4}, _variables())
  assert len({save(str(i)).read_bytes() for i in range(8)}) == 1


def test_written_then_read(tmp_path):
  tree = _variables()
  path = format.save_part(tmp_path / 'm', 'dkenet', {'features': 4}, tree, {'steps': 7})
  on_disk = safetensors.numpy.load_file(path)
  assert on_disk['params/out/kernel'].dtype == np.float16
  assert on_disk['batch_stats/bn/mean'].dtype == on_disk['constants/pca'].dtype == np.float32

  model = store.load_model(tmp_path / 'm')
  assert model.config['name'] == 'm' and model.config['parts']['dkenet']['training'] == {'steps': 7}
  got, want = format.flatten(model.variables['dkenet']), format.flatten(tree)
  assert got.keys() == want.keys()
  for key in want:
    assert got[key].dtype == np.float32
    expected = want[key].astype(np.float16).astype(np.float32) if key.startswith('params/') else want[key]
    np.testing.assert_array_equal(got[key], expected, err_msg=key)


def test_parts_come_one_after_the_other(tmp_path):
  for seed, part in enumerate(('nbsr', 'depth')):
    format.save_part(tmp_path, part, {}, _variables(seed))
  model = store.load_model(tmp_path)
  assert list(model.variables) == list(model.config['parts']) == ['depth', 'nbsr']
  with pytest.raises(SSRError, match=r"no part 'unet' \(has: depth, nbsr\)"):
    store.load_model(tmp_path, parts=['unet'])
  format.save_part(tmp_path, 'nbsr', {}, _variables(5))  # replaced, the other part untouched
  kernel = store.load_model(tmp_path).variables['nbsr']['params']['out']['kernel']
  np.testing.assert_allclose(kernel, _variables(5)['params']['out']['kernel'], atol=2e-3)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['depth.safetensors', 'model.json', 'nbsr.safetensors']


def test_a_part_is_copied_as_it_is(tmp_path):
  format.save_part(tmp_path / 'a', 'nbsr', {'features': 4}, _variables(1), {'steps': 3})
  format.save_part(tmp_path / 'b', 'depth', {}, _variables(2))
  format.copy_part(tmp_path / 'a', 'nbsr', tmp_path / 'b')
  a, b = (format.read_config(tmp_path / name) for name in 'ab')
  assert b['parts']['nbsr'] == a['parts']['nbsr'] and list(b['parts']) == ['depth', 'nbsr'] and b['name'] == 'b'
  assert (tmp_path / 'b' / 'nbsr.safetensors').read_bytes() == (tmp_path / 'a' / 'nbsr.safetensors').read_bytes()
  assert store.verify(tmp_path / 'b') == {'depth': None, 'nbsr': None}
  with pytest.raises(SSRError, match="no part 'vae'"):
    format.copy_part(tmp_path / 'a', 'vae', tmp_path / 'b')


def test_a_damaged_file_is_not_used(tmp_path):
  path = format.save_part(tmp_path, 'vae', {}, _variables())
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  with pytest.raises(SSRError, match=r'vae\.safetensors: corrupted: sha256 is \w{12}, expected \w{12}'):
    store.load_model(tmp_path)
  assert 'corrupted' in store.verify(tmp_path)['vae']
  path.unlink()
  with pytest.raises(SSRError, match=r'vae\.safetensors: cannot be read'):
    store.load_model(tmp_path)


def test_names_and_shapes_must_fit_the_module(tmp_path):
  tree = _variables()
  tree['params']['extra'] = {'kernel': np.zeros(2, np.float32)}
  del tree['params']['out']['bias']
  with pytest.raises(SSRError, match=r'missing params/out/bias; unexpected params/extra/kernel'):
    format.save_part(tmp_path, 'nbsr', {}, tree)
  with pytest.raises(SSRError, match=r'wrong shape .*params/out/kernel \(3, 4\) for \(3, 5\)'):
    format.save_part(tmp_path, 'nbsr', {'features': 5}, _variables())
  assert not list(tmp_path.iterdir())


def test_unknown_config_field_is_named(tmp_path):
  format.save_part(tmp_path, 'nbsr', {}, _variables())
  path = tmp_path / format.MODEL_FILE
  model = json.loads(path.read_text())
  model['parts']['nbsr']['config'] = {'widht': 3}
  path.write_text(json.dumps(model))
  with pytest.raises(SSRError, match=r"part 'nbsr': .*'widht'.*; correct parts\.nbsr\.config in model\.json"):
    store.load_model(tmp_path)


def test_a_model_reads_its_own_folder_only(tmp_path):
  format.save_part(tmp_path / 'a', 'nbsr', {}, _variables())
  path = tmp_path / 'a' / format.MODEL_FILE
  path.write_text(path.read_text().replace('"nbsr.safetensors"', '"../nbsr.safetensors"'))
  with pytest.raises(SSRError, match='must name a file beside it'):
    store.load_model(tmp_path / 'a')


@pytest.mark.parametrize('value, words', [(np.inf, 'not finite'), (1e6, 'too large for float16')])
def test_weights_that_float16_cannot_hold_are_refused(tmp_path, value, words):
  tree = _variables()
  tree['params']['out']['kernel'][0, 0] = value
  with pytest.raises(SSRError, match=words):
    format.save_part(tmp_path, 'nbsr', {}, tree)
  assert not list(tmp_path.iterdir())


def test_update_merges_sections(tmp_path):
  format.save_part(tmp_path, 'nbsr', {}, _variables())
  format.update(tmp_path, sampling={'steps': 3}, name='mine')
  config = format.read_config(tmp_path)
  assert config['name'] == 'mine' and config['sampling']['steps'] == 3 and 'sampler' in config['sampling']
  with pytest.raises(SSRError, match="unknown field 'sampels'"):
    format.update(tmp_path, sampels=3)


def test_a_failed_write_leaves_the_old_model(tmp_path, monkeypatch):
  format.save_part(tmp_path, 'nbsr', {}, _variables(1))
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(files.os, 'fsync', full)
  with pytest.raises(SSRError, match='No space left'):
    format.save_part(tmp_path, 'nbsr', {}, _variables(2))
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# ---- systems ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_system(monkeypatch):
  """Registers a system 'other' with the parts 'judge' and 'net', and one section."""
  package, module = types.ModuleType('other_system'), types.ModuleType('other_system.system')
  module.Net = _Net
  part = base.Part({'plain': 'other_system.system:Net'}, lambda net: (jnp.zeros((1, 3)),), optional=('params/bn/',))
  module.SYSTEM = types.SimpleNamespace(
    name='other', parts={'judge': part, 'net': part}, sections={'guidance': {'w': 2}}, section_types={}
  )
  monkeypatch.setitem(sys.modules, 'other_system', package)
  monkeypatch.setitem(sys.modules, 'other_system.system', module)
  monkeypatch.setitem(systems.SYSTEMS, 'other', 'other_system')


def test_a_new_model_says_its_system_and_has_its_sections(tmp_path, other_system):
  format.save_part(tmp_path / 'a', 'nbsr', {}, _variables())
  a = json.loads((tmp_path / 'a' / format.MODEL_FILE).read_text())
  assert a['system'] == 'ssr' and a.keys() >= {'svkr', 'schedule', 'sampling'} and 'guidance' not in a
  format.save_part(tmp_path / 'b', 'net', {'features': 4}, _variables(), system='other')
  b = json.loads((tmp_path / 'b' / format.MODEL_FILE).read_text())
  assert b['system'] == 'other' and b['guidance'] == {'w': 2} and not b.keys() & {'svkr', 'schedule', 'sampling'}
  assert systems.get('other').sections == {'guidance': {'w': 2}}
  format.update(tmp_path / 'b', guidance={'w': 3})
  assert format.read_config(tmp_path / 'b')['guidance'] == {'w': 3}
  assert systems.get('other').sections == {'guidance': {'w': 2}}  # the defaults stay
  with pytest.raises(SSRError, match="unknown field 'svkr' of model.json; known: name, notes, scale, guidance"):
    format.update(tmp_path / 'b', svkr={})


def test_parts_of_another_system_are_saved_and_loaded(tmp_path, other_system):
  """Module, example inputs and optional variables are those of the model's own system."""
  tree = _variables()
  del tree['params']['bn']  # optional in this system
  format.save_part(tmp_path / 'm', 'net', {'family': 'plain', 'features': 4}, tree, system='other')
  format.save_part(tmp_path / 'm', 'judge', {'features': 5}, _variables(1, 5))  # of the system that model.json names
  model = store.load_model(tmp_path / 'm')
  assert list(model.variables) == ['judge', 'net'] and model.config['system'] == 'other'
  np.testing.assert_allclose(
    model.variables['net']['params']['out']['kernel'], tree['params']['out']['kernel'], atol=2e-3
  )
  assert store.verify(tmp_path / 'm') == {'judge': None, 'net': None}
  shapes = format.abstract_variables('judge', {'features': 5}, system='other')
  assert format.flatten(format.load_part(tmp_path / 'm', 'judge')).keys() == shapes.keys()
  format.copy_part(tmp_path / 'm', 'net', tmp_path / 'copy')
  assert format.read_config(tmp_path / 'copy')['system'] == 'other'
  with pytest.raises(SSRError, match='missing params/bn/bias'):  # not optional in the system 'ssr'
    format.save_part(tmp_path / 'ssr', 'nbsr', {}, tree)


def test_parts_of_two_systems_do_not_mix(tmp_path, other_system):
  format.save_part(tmp_path / 'ssr', 'nbsr', {}, _variables())
  format.save_part(tmp_path / 'other', 'net', {}, _variables(), system='other')
  before = {p.name: p.read_bytes() for p in (tmp_path / 'ssr').iterdir()}
  with pytest.raises(SSRError, match=r"ssr/model\.json: a model of the system 'ssr', not 'other'; choose another"):
    format.save_part(tmp_path / 'ssr', 'net', {}, _variables(), system='other')
  with pytest.raises(SSRError, match=r"ssr/model\.json: a model of the system 'ssr', not 'other'; choose another"):
    format.copy_part(tmp_path / 'other', 'net', tmp_path / 'ssr')
  with pytest.raises(SSRError, match="unknown part 'net'; known: depth, dkenet"):
    format.save_part(tmp_path / 'ssr', 'net', {}, _variables())
  assert {p.name: p.read_bytes() for p in (tmp_path / 'ssr').iterdir()} == before
  with pytest.raises(SSRError, match="unknown system 'third'; known: ssr, .*, other"):
    format.save_part(tmp_path / 'new', 'net', {}, _variables(), system='third')
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('system', ['nosuch', 3, ['ssr'], None])
def test_an_unknown_system_is_one_line(tmp_path, system):
  format.save_part(tmp_path, 'nbsr', {}, _variables())
  path = tmp_path / format.MODEL_FILE
  path.write_text(json.dumps(json.loads(path.read_text()) | {'system': system}))
  with pytest.raises(SSRError) as error:
    store.load_model(tmp_path)
  assert str(error.value).startswith(f'{path}: unknown system {system!r}; known: ssr') and '\n' not in str(error.value)


def test_a_file_without_a_system_is_of_the_default_one(tmp_path):
  format.save_part(tmp_path, 'nbsr', {}, _variables(1))
  path = tmp_path / format.MODEL_FILE
  old = json.loads(path.read_text())
  del old['system']
  path.write_text(json.dumps(old))
  model = store.load_model(tmp_path)
  assert model.config == old | {'system': systems.DEFAULT} and list(model.variables) == ['nbsr']
  format.save_part(tmp_path, 'depth', {}, _variables(2))  # a save writes the field
  assert json.loads(path.read_text())['system'] == systems.DEFAULT


def test_a_digest_saves_the_packages_own_models_the_check_of_shapes_and_only_that(tmp_path, monkeypatch):
  """A part is traced when it is saved, not when it is loaded; a changed config or another file's tensors are."""
  monkeypatch.setattr(format, 'BUNDLED', tmp_path)
  format.save_part(tmp_path, 'nbsr', {'features': 4}, _variables())
  path = tmp_path / format.MODEL_FILE
  traced = []
  original = format.abstract_variables
  monkeypatch.setattr(format, 'abstract_variables', lambda *a, **kw: traced.append(a) or original(*a, **kw))
  format.load_part(tmp_path, 'nbsr')
  assert not traced
  model = json.loads(path.read_text())
  model['parts']['nbsr']['config']['features'] = 5
  path.write_text(json.dumps(model))
  with pytest.raises(SSRError, match='does not fit the config'):
    format.load_part(tmp_path, 'nbsr')
  assert traced
  del model['parts']['nbsr']['layout']  # as in models before 0.2
  model['parts']['nbsr']['config']['features'] = 4
  path.write_text(json.dumps(model))
  format.load_part(tmp_path, 'nbsr')


def test_a_forged_digest_does_not_save_the_check_of_shapes(tmp_path):
  format.save_part(tmp_path, 'nbsr', {'features': 4}, _variables())
  path = tmp_path / format.MODEL_FILE
  model = json.loads(path.read_text())
  entry = model['parts']['nbsr']
  tensors = format.flatten(_variables(features=5))
  data = safetensors.numpy.save(tensors)
  (tmp_path / entry['file']).write_bytes(data)
  entry |= {
    'sha256': files.sha256(data),
    'bytes': len(data),
    'layout': format._layout('ssr', 'nbsr', entry['config'], tensors),
  }
  path.write_text(json.dumps(model))
  with pytest.raises(SSRError, match=r"does not fit the config of part 'nbsr': wrong shape .*\(3, 5\) for \(3, 4\)"):
    format.load_part(tmp_path, 'nbsr')


def test_a_model_that_was_checked_is_not_traced_again_on_this_machine(tmp_path, monkeypatch):
  monkeypatch.setattr(xla, '_lowered', tmp_path / 'cache' / 'lowered')
  format.save_part(tmp_path / 'model', 'nbsr', {'features': 4}, _variables())
  traced = []
  original = format.abstract_variables
  monkeypatch.setattr(format, 'abstract_variables', lambda *a, **kw: traced.append(a) or original(*a, **kw))
  for _ in range(2):
    format.load_part(tmp_path / 'model', 'nbsr')
  assert len(traced) == 1
  path = tmp_path / 'model' / format.MODEL_FILE
  path.write_text(path.read_text().replace('"features": 4', '"features": 5'))
  for _ in range(2):
    with pytest.raises(SSRError, match='does not fit the config'):
      format.load_part(tmp_path / 'model', 'nbsr')
  assert len(traced) == 3
