"""Checkpoints that a disk, a user or a broken figure has damaged: none is read, none is deleted, no best is lost."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.training import checkpoint, export, manifest
from ssr_jax.types import SSRError
from tools.attacks import checkpoints as attack

ABOUT = {
  'config': {},
  'export': {'name': 'm', 'system': 'ssr', 'parts': {'net': {}}, 'sections': {}, 'training': {'validation': {}}},
}


def _state(value):
  rng = np.random.default_rng(value)
  tree = lambda: {'net': {'w': rng.normal(size=(40, 50)).astype(np.float32)}}
  return {
    'step': np.array(value, np.int32),
    'params': tree(),
    'stats': {'net': {}},
    'ema': tree(),
    'ema_stats': {'net': {}},
  }


CONSTANTS = {'net': {'pca': np.arange(3, dtype=np.float32)}}


def _open(folder, higher_is_better=True):
  return checkpoint.Checkpoints(folder, 2, 'psnr', higher_is_better)


def _save(folder, steps, **options):
  store = _open(folder, **options)
  for step, psnr in steps.items():
    store.save(step, _state(step), CONSTANTS, {'next': step}, ABOUT, psnr and {'psnr': psnr})
  store.close()


def _steps(folder):
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def _assert_is(found, step):
  state, constants, data, about = found
  assert data == {'next': step} and about == ABOUT
  for name, value in manifest.names(_state(step)).items():
    np.testing.assert_array_equal(manifest.names(state)[name], value)
  np.testing.assert_array_equal(constants['net']['pca'], CONSTANTS['net']['pca'])


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """Checkpoints of the steps 1 and 2; copy, do not change."""
  folder = tmp_path_factory.mktemp('run') / 'checkpoints'
  _save(folder, {1: 20.0, 2: None})
  return folder


def test_no_flipped_bit_is_restored(two, tmp_path):
  """Of 25 flips, by the attack of tools/fuzz.py, none gives other numbers than those that were saved."""
  counts = attack.flip_bits(two, tmp_path, 25, np.random.default_rng(0))
  assert not any(counts[outcome] for outcome in attack.BAD), counts
  assert counts['noticed'] > 10 and sum(counts.values()) == 25


KINDS = {
  'truncated array': lambda step: _truncate(_largest(step)),
  'deleted array': lambda step: _largest(step).unlink(),
  'garbled array': lambda step: _largest(step).write_bytes(b'\xff' * _largest(step).stat().st_size),
  'garbled tree': lambda step: (step / 'state' / '_METADATA').write_text('{"a": '),
  'no state': lambda step: shutil.rmtree(step / 'state'),
  'empty state': lambda step: [shutil.rmtree(step / 'state'), (step / 'state').mkdir()],
  'garbled position': lambda step: (step / 'data' / 'metadata').write_text('{"next": 7}'),
  'truncated config': lambda step: _truncate(step / 'about' / 'metadata'),
  'no config': lambda step: shutil.rmtree(step / 'about'),
  'no manifest': lambda step: shutil.rmtree(step / manifest.NAME),
  'other manifest': lambda step: _change_manifest(step / manifest.NAME / 'metadata'),
  'garbled list of items': lambda step: (step / '_CHECKPOINT_METADATA').write_text('{'),
  'nothing in it': lambda step: [shutil.rmtree(step), step.mkdir()],
}


def _largest(step):
  return max((p for p in (step / 'state').rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def _truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _change_manifest(path):
  body = json.loads(path.read_text())
  body['metrics'] = {'psnr': 99.0}
  path.write_text(json.dumps(body))


@pytest.mark.parametrize('kind', KINDS)
def test_a_damaged_newest_one_is_set_aside_and_the_one_before_is_read(kind, two, tmp_path, capsys):
  folder = pathlib.Path(shutil.copytree(two, tmp_path / 'checkpoints'))
  KINDS[kind](folder / '2')
  store = _open(folder)
  assert store.latest() == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len([line for line in said if '/2: not a whole checkpoint (' in line and 'from step 1' in line]) == 1, said
  assert (folder / '2.damaged').is_dir() and _steps(folder) == [1]
  _assert_is(store.restore(1, _state(0), CONSTANTS), 1)
  store.save(2, _state(2), CONSTANTS, {'next': 2}, ABOUT)  # the step can be made again
  store.close()
  assert _steps(folder) == [1, 2] and (folder / '2.damaged').is_dir()


def test_a_stray_empty_directory_or_file_does_not_block_a_run(two, tmp_path):
  folder = pathlib.Path(shutil.copytree(two, tmp_path / 'checkpoints'))
  (folder / '99').mkdir()
  (folder / '98').write_text('')
  store = _open(folder)
  assert store.latest() == 2 and _steps(folder) == [1, 2]
  store.close()
  (tmp_path / 'fresh' / '99').mkdir(parents=True)
  store = _open(tmp_path / 'fresh')
  assert store.latest() is None
  store.close()


def test_where_all_are_damaged_the_run_does_not_start_from_scratch(two, tmp_path):
  folder = pathlib.Path(shutil.copytree(two, tmp_path / 'checkpoints'))
  for step in (1, 2):
    _truncate(_largest(folder / str(step)))
  for _ in range(2):
    with pytest.raises(SSRError, match='no checkpoint is whole .step 2: '):
      _open(folder)
  assert _steps(folder) == [1, 2]
  with pytest.raises(SSRError, match='/1: not a whole checkpoint'):
    checkpoint.read_weights(folder)


def test_weights_are_read_from_the_newest_whole_one(two, tmp_path, capsys):
  folder = pathlib.Path(shutil.copytree(two, tmp_path / 'checkpoints'))
  _truncate(_largest(folder / '2'))
  variables, about, step = checkpoint.read_weights(folder)
  assert step == 1 and about == ABOUT and '/2: not a whole checkpoint' in capsys.readouterr().err
  np.testing.assert_array_equal(variables['net']['params']['w'], _state(1)['ema']['net']['w'])
  with pytest.raises(SSRError, match='/2: not a whole checkpoint'):
    checkpoint.read_weights(folder, 2)
  assert _steps(folder) == [1, 2]  # who reads renames nothing


@pytest.mark.parametrize('higher', [True, False])
def test_a_figure_that_is_not_a_number_is_never_the_best(higher, tmp_path):
  folder = tmp_path / 'c'
  best = 30.0 if higher else 10.0
  nan, inf = float('nan'), float('inf') if higher else -float('inf')
  _save(folder, {1: 20.0, 2: best, 3: nan, 4: inf, 5: 20.0, 6: nan}, higher_is_better=higher)
  assert _steps(folder) == [2, 5, 6]


def test_the_best_one_is_still_known_when_the_run_goes_on(tmp_path):
  _save(tmp_path / 'c', {1: 20.0, 2: 30.0, 3: None, 4: 25.0})
  _save(tmp_path / 'c', {5: None, 6: None, 7: 24.0})
  assert _steps(tmp_path / 'c') == [2, 6, 7]


def test_an_average_that_is_not_finite_is_neither_saved_nor_exported(tmp_path):
  folder = tmp_path / 'c'
  _save(folder, {1: 20.0, 2: 30.0, 3: None})
  store = _open(folder)
  broken = _state(4)
  broken['ema']['net']['w'][3, 4] = np.nan
  with pytest.raises(SSRError, match='step 4: ema/net/w is not finite.*step 3 is the last good one'):
    store.save(4, broken, CONSTANTS, {}, ABOUT)
  wrong = {'net': {'pca': np.array([0, np.inf, 2], np.float32)}}
  with pytest.raises(SSRError, match='step 4: constants/net/pca is not finite.*step 3 is the last good one'):
    store.save(4, _state(4), wrong, {}, ABOUT)
  store.close()
  assert _steps(folder) == [2, 3]
  with pytest.raises(SSRError, match='not exported: net/constants/pca is not finite'):
    export.write({'net': {'constants': wrong['net']}}, ABOUT['export'], tmp_path / 'model')
  with pytest.raises(SSRError, match='not exported: net/params/w is not finite'):
    export.write({'net': {'params': broken['ema']['net']}}, ABOUT['export'], tmp_path / 'model')
  figure = ABOUT['export'] | {'training': {'validation': {'psnr': float('nan')}}}
  with pytest.raises(SSRError, match='the validation figure psnr is not finite'):
    export.write({'net': {'params': _state(4)['ema']['net']}}, figure, tmp_path / 'model')
  assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_a_nan_is_found_in_every_type_of_float(dtype, tmp_path):
  """NumPy does not count bfloat16 among its own floats."""
  state = _state(1)
  state['ema']['net']['w'] = state['ema']['net']['w'].astype(jnp.dtype(dtype))
  assert manifest.not_finite({'state': state}) is None
  state['ema']['net']['w'][3, 4] = np.nan
  assert manifest.not_finite({'state': state}) == 'state/ema/net/w'
  with pytest.raises(SSRError, match='not exported: net/params/w is not finite'):
    export.write({'net': {'params': state['ema']['net']}}, ABOUT['export'], tmp_path / 'model')
  assert not (tmp_path / 'model').exists()


def test_nothing_is_deleted_before_the_newer_one_is_verified(tmp_path, monkeypatch):
  """The disk garbles what is written: what was there stays, however many are kept."""
  folder = tmp_path / 'c'
  _save(folder, {1: 20.0, 2: None})
  store = _open(folder)
  read = manifest.read

  def garbled(directory):
    if directory.name == '3':
      _truncate(_largest(directory))
    return read(directory)

  monkeypatch.setattr(manifest, 'read', garbled)
  store.save(3, _state(3), CONSTANTS, {'next': 3}, ABOUT)
  with pytest.raises(SSRError, match='/3: written, but it does not read back .*step 2 is the last good one'):
    store.wait()
  assert {1, 2} <= set(_steps(folder))
  store.close()
  monkeypatch.undo()
  store = _open(folder)
  _assert_is(store.restore(store.latest(), _state(0), CONSTANTS), 2)
  store.close()


def test_one_from_before_there_were_manifests_is_read_with_a_line(two, tmp_path, capsys):
  folder = pathlib.Path(shutil.copytree(two, tmp_path / 'checkpoints'))
  shutil.rmtree(folder / '2' / manifest.NAME)
  items = folder / '2' / '_CHECKPOINT_METADATA'
  listed = json.loads(items.read_text())
  del listed['item_handlers'][manifest.NAME]
  items.write_text(json.dumps(listed))
  store = _open(folder)
  assert store.latest() == 2
  assert 'it is readable, but cannot be verified' in capsys.readouterr().err
  _assert_is(store.restore(2, _state(0), CONSTANTS), 2)
  store.close()


@pytest.mark.parametrize('shape', [(20, 50), (40, 60)])
def test_a_forged_manifest_does_not_pass_an_array_for_one_of_another_shape(shape, two, tmp_path):
  """Orbax does not compare shapes, and a checksum does not tell them."""
  folder = pathlib.Path(shutil.copytree(two, tmp_path / 'checkpoints'))
  store = _open(folder)
  path = folder / '2' / manifest.NAME / 'metadata'
  body = json.loads(path.read_text())
  del body['sha256']
  body['arrays']['state/params/net/w']['shape'] = list(shape)
  path.write_text(json.dumps(body | {'sha256': manifest._sha256_of_json(body)}))
  target = _state(0)
  target['params']['net']['w'] = np.zeros(shape, np.float32)
  with pytest.raises(SSRError, match=r'/2: damaged .array state/params/net/w is \(\(40, 50\).*the manifest says'):
    store.restore(2, target, CONSTANTS)
  store.close()


def test_another_config_is_no_damage(two, tmp_path):
  folder = pathlib.Path(shutil.copytree(two, tmp_path / 'checkpoints'))
  store = _open(folder)
  other = _state(0)
  other['params']['net']['w'] = np.zeros((3, 3), np.float32)
  with pytest.raises(SSRError, match=r'does not fit the config .state/params/net/w is \(40, 50\)'):
    store.restore(2, other, CONSTANTS)
  other['params']['net']['w'] = np.zeros((40, 50), np.float16)
  with pytest.raises(SSRError, match=r'net/w is \(40, 50\) float32, the config says \(40, 50\) float16'):
    store.restore(2, other, CONSTANTS)
  store.close()
  assert _steps(folder) == [1, 2]
