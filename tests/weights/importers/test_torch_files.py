"""Weight files: what is read, and what is refused."""

import io
import json
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from ssr_jax.types import SSRError
from ssr_jax.weights.importers import torch_files


class _Storage:
  def __init__(self, key, array, kind='FloatStorage'):
    self.key, self.array, self.kind = key, array, kind


class _Tensor:
  def __init__(self, storage, offset, size, stride):
    self.arguments = (storage, offset, size, stride, False, None)

  def __reduce__(self):
    return sys.modules['torch._utils']._rebuild_tensor_v2, self.arguments


@pytest.fixture
def dump(monkeypatch):
  """Pickles as torch.save does, with stand-ins for torch's functions, so that torch need not be there."""
  fake, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in ('FloatStorage', 'HalfStorage'):
    setattr(fake, name, type(name, (), {'__module__': 'torch'}))

  def _rebuild_tensor_v2(*_):
    raise AssertionError('torch is not asked')

  _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  fake._utils = utils
  monkeypatch.setitem(sys.modules, 'torch', fake)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)

  class Pickler(pickle.Pickler):
    def persistent_id(self, value):
      if isinstance(value, _Storage):
        extra = (None,) if self.legacy else ()
        return ('storage', getattr(fake, value.kind), value.key, 'cpu', value.array.size, *extra)

  def to_bytes(value, legacy=False):
    buffer = io.BytesIO()
    pickler = Pickler(buffer, protocol=2)
    pickler.legacy = legacy
    pickler.dump(value)
    return buffer.getvalue()

  return to_bytes


def write_zip(path, table, storages):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', table)
    for key, array in storages.items():
      archive.writestr(f'archive/data/{key}', array.tobytes())


def test_torchs_files_are_read_without_torch(tmp_path, dump):
  """A view with strides and an offset, a shared storage, half precision; new format and old."""
  data, half = np.arange(24, dtype=np.float32), np.array([1, 2.5], np.float16)
  a, b = _Storage('0', data), _Storage('1', half, 'HalfStorage')
  tree = {'w': _Tensor(a, 4, (2, 3), (1, 2)), 'v': _Tensor(a, 0, (24,), (1,)), 'h': _Tensor(b, 0, (2,), (1,))}
  write_zip(tmp_path / 'new.pth', dump({'params': tree}), {'0': data, '1': half})
  old = b''.join(map(dump, (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}))) + dump(tree, legacy=True)
  old += dump(['0', '1']) + struct.pack('<q', 24) + data.tobytes() + struct.pack('<q', 2) + half.tobytes()
  (tmp_path / 'old.pth').write_bytes(old)
  for name in ('new.pth', 'old.pth'):
    tensors = torch_files.read(tmp_path / name)
    assert sorted(tensors) == ['h', 'v', 'w']
    np.testing.assert_array_equal(tensors['w'], [[4, 6, 8], [5, 7, 9]])
    np.testing.assert_array_equal(tensors['v'], data)
    assert tensors['h'].dtype == np.float16 and tensors['h'].tolist() == [1, 2.5]


class _Evil:
  def __init__(self, target):
    self.target = target

  def __reduce__(self):
    import pathlib

    return pathlib.Path.touch, (self.target,)


@pytest.mark.parametrize('legacy', [False, True])
def test_a_pickle_that_does_more_than_tensors_is_refused_and_not_run(tmp_path, dump, legacy):
  target = tmp_path / 'touched'
  table = dump({'w': _Evil(target)})
  if legacy:
    (tmp_path / 'evil.pth').write_bytes(table)
  else:
    write_zip(tmp_path / 'evil.pth', table, {})
  with pytest.raises(SSRError, match=r'evil.pth: asks for .*, which is no tensor; it was not run'):
    torch_files.read(tmp_path / 'evil.pth')
  assert not target.exists()


def test_attributes_cannot_be_planted(tmp_path):
  """BUILD sets attributes of whatever is on the pickle's stack: nothing that we hand out takes any."""
  for build in (
    b'ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00xK\x01sb.',
    b'ctorch\nFloatStorage\n}X\x01\x00\x00\x00xK\x01sb.',
  ):
    write_zip(tmp_path / 'a.pth', build, {})
    with pytest.raises(SSRError, match='not a PyTorch state dict'):
      torch_files.read(tmp_path / 'a.pth')


def test_a_tensor_stays_within_its_storage(tmp_path, dump):
  data = np.zeros(4, np.float32)
  for i, (offset, size, stride) in enumerate(
    [(0, (5,), (1,)), (2, (2, 2), (2, 1)), (-1, (1,), (1,)), (0, (2,), (-1,))]
  ):
    path = tmp_path / f'{i}.pth'
    write_zip(path, dump({'w': _Tensor(_Storage('0', data), offset, size, stride)}), {'0': data})
    with pytest.raises(SSRError, match='beyond its data|impossible shape'):
      torch_files.read(path)['w']


@pytest.mark.parametrize('content', [b'', b'hello', b'PK\x05\x06' + bytes(18), pickle.dumps([1, 2])])
def test_what_is_no_state_dict_is_named(tmp_path, content):
  (tmp_path / 'a.bin').write_bytes(content)
  with pytest.raises(SSRError, match=r'a\.bin: (not a PyTorch|holds no) state dict'):
    torch_files.read(tmp_path / 'a.bin')
  (tmp_path / 'a.safetensors').write_bytes(content)
  with pytest.raises(SSRError, match=r'a\.safetensors: not a safetensors file'):
    torch_files.read(tmp_path / 'a.safetensors')


def test_full_precision_and_safetensors_come_first(tmp_path):
  names = ['pytorch_model.bin', 'model.fp16.safetensors', 'model.safetensors.index.json', 'model.safetensors']
  for name in names:
    (tmp_path / name).touch()
    assert torch_files.find(tmp_path).name == name  # each is preferred to those before it
  with pytest.raises(SSRError, match='no weights here; put'):
    torch_files.find(tmp_path / 'absent')


def test_shards_and_those_that_are_missing(tmp_path):
  arrays = {'a': np.ones(2, np.float32), 'b': np.zeros(3, np.float16)}
  for name, array in arrays.items():
    safetensors.numpy.save_file({name: array}, tmp_path / f'{name}.safetensors')
  index = tmp_path / 'model.safetensors.index.fp16.json'
  index.write_text(json.dumps({'weight_map': {'a': 'a.safetensors', 'b': 'b.safetensors'}}))
  tensors = torch_files.read(tmp_path)
  assert {name: tensors[name].tolist() for name in tensors} == {'a': [1, 1], 'b': [0, 0, 0]}
  index.write_text(json.dumps({'weight_map': {'a': 'a.safetensors', 'c': 'b.safetensors'}}))
  with pytest.raises(SSRError, match='b.safetensors: lacks c'):
    torch_files.read(tmp_path)
  index.write_text(json.dumps({'weight_map': {'a': '../a.safetensors'}}))
  with pytest.raises(SSRError, match='must lie beside it'):
    torch_files.read(tmp_path)
  index.write_text(json.dumps({'weight_map': {'a': 'gone.safetensors'}}))
  with pytest.raises(SSRError, match='gone.safetensors: no such file'):
    torch_files.read(tmp_path)
