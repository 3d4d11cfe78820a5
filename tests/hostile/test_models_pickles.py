"""PyTorch files that were made to hang or to fill memory."""

import io
import pickle
import time
import zipfile

import pytest

from ssr_jax.types import SSRError
from ssr_jax.weights.importers import pickles, torch_files

STORAGE = b'((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ'
STORAGE = STORAGE[1:]  # one mark: the persistent id's tuple


def _tensor(size: bytes, stride: bytes) -> bytes:
  """A tensor of storage '0' of 16 numbers."""
  return b'ctorch._utils\n_rebuild_tensor_v2\n(' + STORAGE + b'K\x00' + size + b'\x85' + stride + b'\x85\x89NtR'


def _zip(path, table: bytes, *, compress=zipfile.ZIP_STORED, data=bytes(64)):
  with zipfile.ZipFile(path, 'w', compress) as archive:
    archive.writestr('a/data.pkl', table)
    archive.writestr('a/data/0', data)
  return path


def _dict(tensor: bytes, count=1) -> bytes:
  items = b''.join(b'X\x04\x00\x00\x00%04d' % i + tensor for i in range(count))
  return b'\x80\x02}(' + items + b'u.'


def test_a_plain_tensor_is_read(tmp_path):
  found = torch_files.read(_zip(tmp_path / 'a.pth', _dict(_tensor(b'K\x10', b'K\x01'))))
  assert found['0000'].shape == (16,)


@pytest.mark.parametrize(
  'table, words',
  [
    (b'\x80\x02}r\xff\xff\xff\x0f.', 'memo number'),
    (b'\x80\x02' + b')' + b'\x85' * 100_000 + b'.', 'nested more than'),
    (b'\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.', 'within itself'),
    (b'\x80\x02]q\x00' + b''.join(b'](h' + bytes([i]) + b'h' + bytes([i]) + b'eq' + bytes([i + 1]) for i in range(200)) + b'.', 'nested'),  # noqa: E501
    (_dict(_tensor(b'J\xff\xff\xff\x7f', b'K\x00')), 'its tensors have'),
    (_dict(_tensor(b'K\x10', b'K\x01'), 1000)[:-1] + b'.', 'its tensors have|numbers'),
    (b'\x80\x02}' + b'K\x00' * 3 + b'\x93.', 'not a PyTorch state dict|holds no'),
  ],
)  # fmt: skip
def test_a_hostile_table_is_refused_at_once(tmp_path, table, words):
  began = time.monotonic()
  data = bytes(64)
  path = _zip(tmp_path / 'a.pth', table, data=data)
  if 'numbers' in words:  # a thousand tensors of one storage of a file that is large enough for none of them
    table = _dict(_tensor(b'M\x00\x40', b'K\x01'), 1000)
    path = _zip(tmp_path / 'a.pth', table, data=bytes(4 * 0x4000))
  with pytest.raises(SSRError, match=words):
    torch_files.read(path)
  assert time.monotonic() - began < 5


def test_compressed_data_are_refused(tmp_path):
  path = _zip(tmp_path / 'a.pth', _dict(_tensor(b'K\x10', b'K\x01')), compress=zipfile.ZIP_DEFLATED, data=bytes(10**6))
  with pytest.raises(SSRError, match='is compressed'):
    torch_files.read(path)


def test_pickles_of_every_protocol_that_saves_tensors_pass():
  for protocol in range(2, 6):
    file = io.BytesIO(pickle.dumps({'a': [1, (2, 3.0)], 'b': {'c': None, 'd': True}}, protocol) + b'rest')
    if protocol < 5:
      pickles.check(file)
      assert file.tell() == 0
