"""RRDBNet's files: three generations of names, strictly and both ways, from a file to a model that runs."""

import json

import numpy as np
import pytest
import safetensors.numpy

import ssr_jax
from ssr_jax import cli, systems
from ssr_jax.types import SSRError
from ssr_jax.weights import format, importers, store
from ssr_jax.weights.importers import esrgan

TINY = dict(blocks=2, features=8, growth=4, unshuffle=1)

# Names of ESRGAN's first files and of its repository since 2020, for those of BasicSR; two blocks.
OLD = {
  'conv_first': 'model.0',
  'conv_body': 'model.1.sub.2',
  'conv_up1': 'model.3',
  'conv_up2': 'model.6',
  'conv_hr': 'model.8',
  'conv_last': 'model.10',
  **{
    f'body.{i}.rdb{n}.conv{m}': f'model.1.sub.{i}.RDB{n}.conv{m}.0'
    for i in (0, 1)
    for n in (1, 2, 3)
    for m in (1, 2, 3, 4, 5)
  },
}
SECOND = {
  'conv_first': 'conv_first',
  'conv_body': 'trunk_conv',
  'conv_up1': 'upconv1',
  'conv_up2': 'upconv2',
  'conv_hr': 'HRconv',
  'conv_last': 'conv_last',
  **{
    f'body.{i}.rdb{n}.conv{m}': f'RRDB_trunk.{i}.RDB{n}.conv{m}'
    for i in (0, 1)
    for n in (1, 2, 3)
    for m in (1, 2, 3, 4, 5)
  },
}


def drawn(config=None, seed=0):
  """A state dict by BasicSR's names."""
  rng = np.random.default_rng(seed)
  shapes = format.abstract_variables('restorer', {**TINY, **(config or {})}, system='esrgan')
  ours = {name: rng.normal(0, 0.1, shape.shape).astype(np.float32) for name, shape in shapes.items()}
  return importers.rrdbnet_table().to_theirs(ours)


def _renamed(state, names):
  return {f'{names[k.rpartition(".")[0]]}.{k.rpartition(".")[2]}': v for k, v in state.items()}


def _save(path, state):
  safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, path)
  return path


def test_names_and_sizes_are_the_published_ones():
  shapes = format.abstract_variables('restorer', {}, system='esrgan')
  ours = {name: np.broadcast_to(np.float32(0), shape.shape) for name, shape in shapes.items()}
  theirs = {name: array.shape for name, array in importers.rrdbnet_table().to_theirs(ours).items()}
  expected = {
    'conv_first.weight': (64, 3, 3, 3),
    'body.0.rdb1.conv1.weight': (32, 64, 3, 3),
    'body.22.rdb3.conv4.weight': (32, 160, 3, 3),
    'body.11.rdb2.conv5.weight': (64, 192, 3, 3),
    'conv_body.weight': (64, 64, 3, 3),
    'conv_up1.weight': (64, 64, 3, 3),
    'conv_up2.bias': (64,),
    'conv_hr.weight': (64, 64, 3, 3),
    'conv_last.weight': (3, 64, 3, 3),
  }
  assert {name: theirs[name] for name in expected} == expected and len(theirs) == 702
  assert sum(np.prod(shape) for shape in theirs.values()) == 16_697_987


@pytest.mark.parametrize('names', [None, OLD, SECOND], ids=['basicsr', 'first', 'second'])
def test_a_file_becomes_a_model_and_goes_back(names, tmp_path, capsys):
  state = drawn()
  path = _save(tmp_path / 'net.safetensors', _renamed(state, names) if names else state)
  assert cli.main(['weights', 'import', str(path), '--as', str(tmp_path / 'model')]) == 0, capsys.readouterr().err
  model = store.load_model(tmp_path / 'model')
  assert model.config['system'] == 'esrgan' and model.config['scale'] == 4
  assert model.config['parts']['restorer']['config'] == TINY
  back = importers.rrdbnet_table().to_theirs(format.flatten(model.variables['restorer']))
  assert back.keys() == state.keys()
  for name, array in state.items():
    np.testing.assert_array_equal(back[name], array.astype(np.float16), err_msg=name)  # as it is stored


def test_of_the_weights_of_a_training_the_averaged_ones_are_read(tmp_path):
  torch = pytest.importorskip('torch')
  averaged, last = drawn(seed=1), drawn(seed=2)
  both = {
    key: {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
    for key, state in (('params', last), ('params_ema', averaged))
  }
  for keys, expected in ((('params', 'params_ema'), averaged), (('params',), last)):
    torch.save({key: both[key] for key in keys}, tmp_path / 'net.pth')
    importers.import_checkpoint(tmp_path / 'net.pth', tmp_path / '-'.join(keys))
    model = store.load_model(tmp_path / '-'.join(keys))
    back = importers.rrdbnet_table().to_theirs(format.flatten(model.variables['restorer']))
    np.testing.assert_array_equal(back['conv_hr.weight'], expected['conv_hr.weight'].astype(np.float16))


@pytest.mark.parametrize(
  'names,change,match',
  [
    (None, lambda s: s.pop('conv_hr.bias'), 'missing conv_hr.bias'),
    (None, lambda s: s.pop('body.1.rdb3.conv5.weight'), 'missing body.1.rdb3.conv5.weight'),
    (None, lambda s: s.update({'conv_up3.weight': s['conv_hr.weight']}), 'no place for conv_up3.weight'),
    (None, lambda s: s.update({'model.8.weight': s['conv_hr.weight']}), 'no place for'),  # conv_hr, twice
    (None, lambda s: s.update({'body.0.rdb2.conv3.weight': s['conv_hr.weight']}), r'shape of body.0.rdb2.conv3.weight'),
    (None, lambda s: s.pop('conv_first.weight'), 'without a conv_first.weight of four axes'),
    (None, lambda s: s.update({'conv_first.weight': s['conv_first.bias']}), 'without a conv_first.weight of four axes'),
    (None, lambda s: s.update({'conv_first.weight': np.zeros((8, 4, 3, 3), np.float32)}), 'with 4 input channels'),
    (None, lambda s: [s.pop(k) for k in [*s] if k.startswith('conv_up2')], 'other than two enlargements'),
    (None, lambda s: s.update({'body.70.rdb1.conv1.weight': s['body.0.rdb1.conv1.weight']}), "'blocks'.*<= 64"),
    (OLD, lambda s: s.update({'model.1.sub.5.bias': s.pop('model.1.sub.2.bias')}), 'sub.5.bias follows 2 blocks'),
    (SECOND, lambda s: s.update({'HRconv.0.bias': s.pop('HRconv.bias')}), 'no place for HRconv.0.bias'),
  ],
)
def test_another_network_is_refused(names, change, match, tmp_path):
  state = drawn()
  state = _renamed(state, names) if names else state
  change(state)
  path = _save(tmp_path / 'net.safetensors', state)
  with pytest.raises(SSRError, match=match):
    importers.import_checkpoint(path, tmp_path / 'model')
  assert not (tmp_path / 'model').exists()


def test_a_network_with_sft_is_manets():
  assert esrgan.holds(drawn()) and esrgan.holds(_renamed(drawn(), SECOND))
  shapes = format.abstract_variables('nbsr', dict(blocks=1, features=8, growth=4))
  ours = {k: np.zeros(v.shape, np.float32) for k, v in shapes.items() if k.startswith('params/')}
  assert not esrgan.holds(importers.rrdb_sft_table().to_theirs(ours))


def test_real_esrgans_x2_says_its_factor(tmp_path):
  path = _save(tmp_path / 'net.safetensors', drawn(dict(unshuffle=2)))
  importers.import_checkpoint(path, tmp_path / 'model')
  restorer = ssr_jax.load(tmp_path / 'model')
  assert restorer.config['scale'] == 2 and restorer.modules['restorer'].unshuffle == 2
  assert systems.get('esrgan').alignment(restorer.modules, restorer.check()) == 2
  changed = json.loads((tmp_path / 'model' / 'model.json').read_text()) | {'scale': 4}
  (tmp_path / 'model' / 'model.json').write_text(json.dumps(changed))
  with pytest.raises(SSRError, match='scale is 4, but its restorer with unshuffle 2 makes a factor of 2'):
    ssr_jax.load(tmp_path / 'model')
