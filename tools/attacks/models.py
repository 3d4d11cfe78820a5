"""Damages a model's model.json and weights, and PyTorch files that are imported, and loads them.

A third of the cases each: model.json with other values, types, names and nesting; a safetensors file with flipped bits,
NaN, another header or another end, most with the sha256 that fits; a PyTorch file with a changed or hostile pickle.
Outcomes: 'accepted', it loads, and every twentieth with other weights makes an image; 'refused', one line that names
the file; 'executed', a pickle's code ran; the others are `attacks.BROKEN`.
"""

import contextlib
import copy
import functools
import io as iolib
import json
import os
import pathlib
import struct
import tempfile
from typing import Any
import zipfile

import numpy as np

from configs import tiny
from ssr_jax import cli, runtime, systems, xla
from ssr_jax.types import SSRError
from ssr_jax.weights import files, format
from ssr_jax.weights.importers import torch_files
from tools import attacks, random_model

BAD = (*attacks.BROKEN, 'executed')
_SECONDS, _GIGABYTES = 300.0, 4.0
_IMAGE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)

_PARTS = ('depth', 'dkenet', 'nbsr')
_VALUES: list[Any] = [
  None, True, '', 'x', '\x00', '../x', 'é' * 10_000, -1, 0, 1, 3, 0.5, 2**31, 2**63, 10**30, -1e308, 1e-320,
  float('nan'), float('inf'), [], {}, [[]], [1] * 1000, [float('nan')], {'a': 1}, [10**6, 10**6],
]  # fmt: skip


def run(count: int, rng: np.random.Generator) -> dict[str, int]:
  """Loads `count` damaged models and PyTorch files; {outcome: how often}."""
  with tempfile.TemporaryDirectory() as folder:
    model = write_model(pathlib.Path(folder) / 'model')
    return attacks.count(attempt, damaged(count, model, rng), ('accepted', 'refused'), _SECONDS, _GIGABYTES, BAD)


def write_model(directory: pathlib.Path) -> pathlib.Path:
  """The restoring parts of configs/tiny.py with random weights."""
  for part in _PARTS:
    fields = tiny.get_config().model[part].to_dict()
    tensors = random_model.draw(format.abstract_variables(part, fields, system=systems.DEFAULT), 0)
    format.save_part(directory, part, fields, format.unflatten(tensors), {'steps': 0})
  return directory


def damaged(count: int, model: pathlib.Path, rng: np.random.Generator):
  """Yields (name of the file to load, {name: bytes of the files there}, whether to restore an image)."""
  described = json.loads((model / format.MODEL_FILE).read_text())
  whole = {entry['file']: (model / entry['file']).read_bytes() for entry in described['parts'].values()}
  for number in range(count):
    contents, text = dict(whole), json.dumps(described)
    if number % 3 == 2:
      yield 'a.pth', {'a.pth': _torch_file(rng)}, False
      continue
    if number % 3 == 0:
      text = _changed_json(described, rng)
    else:
      fitting = copy.deepcopy(described)
      entry = fitting['parts'][_PARTS[rng.integers(len(_PARTS))]]
      data = contents[entry['file']] = _changed_weights(whole[entry['file']], rng)
      if rng.integers(4):  # else the sha256 tells
        entry |= {'sha256': files.sha256(data), 'bytes': len(data)}
        text = json.dumps(fitting)
    yield format.MODEL_FILE, {format.MODEL_FILE: text.encode()} | contents, number % 60 == 1


def attempt(name: str, contents: dict[str, bytes], restores: bool) -> tuple[str, str]:
  """Loads a model or a PyTorch file; what comes of it, and what was said."""
  with tempfile.TemporaryDirectory(dir=_folder().name) as place:
    folder = pathlib.Path(place)
    os.chdir(folder)  # where a pickle's code would leave its mark
    for file, data in contents.items():
      (folder / file).write_bytes(data)
    try:
      refused = _import(folder / name) if name.endswith('.pth') else _load(folder, restores)
    finally:
      os.chdir(_folder().name)
    if (folder / 'ran').exists():
      return 'executed', repr(contents[name][:200])
    if refused is None:
      return 'accepted', ''
    if folder.name not in refused or not refused.isprintable():
      return 'unnamed', refused
    return 'refused', refused


def _load(folder: pathlib.Path, restores: bool) -> str | None:
  """What the refusal of a model says; None if there is none."""
  said = iolib.StringIO()
  with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    codes = [cli.main(command) for command in (['weights', 'verify', str(folder)], ['info', str(folder)])]
  if 'internal error' in said.getvalue() or not {0, 1, 2}.issuperset(codes):
    raise AssertionError(said.getvalue())
  try:
    model = runtime.load(folder)
    model.check(steps=0)
    if restores:
      xla.enable_compilation_cache(pathlib.Path(_folder().name) / 'cache')
      image = model.sample(_IMAGE, steps=0).image
      assert image.shape == (32, 32, 3) and image.dtype == np.uint8
  except SSRError as error:
    return str(error)
  return None


def _import(path: pathlib.Path) -> str | None:
  """What the refusal of a PyTorch file says; None if its tensors can be read."""
  try:
    found = torch_files.read(path)
    for name in found:
      np.asarray(found[name]).sum()
  except SSRError as error:
    return str(error)
  return None


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
  return tempfile.TemporaryDirectory()


def _paths(value: Any, path: tuple = ()):
  if path:
    yield path
  if isinstance(value, dict | list):
    for key in value if isinstance(value, dict) else range(len(value)):
      yield from _paths(value[key], (*path, key))


def _changed_json(described: dict[str, Any], rng: np.random.Generator) -> str:
  """The text of a model.json in which fields are other values, gone, new, or nested; or which is cut or garbled."""
  changed = copy.deepcopy(described)
  for _ in range(int(rng.integers(1, 3))):
    paths = [path for path in _paths(changed) if 'training' not in path]
    path = paths[rng.integers(len(paths))]
    owner = changed
    for key in path[:-1]:
      owner = owner[key]
    value = copy.deepcopy(_VALUES[rng.integers(len(_VALUES))])
    match int(rng.integers(6)):
      case 0:
        del owner[path[-1]]
      case 1:
        owner[path[-1]] = {str(path[-1]): owner[path[-1]]}
      case 2 if isinstance(owner, dict):
        owner[f'x{rng.integers(99)}'] = value
      case _:
        owner[path[-1]] = value
    if not changed:
      break
  text = json.dumps(changed)
  match int(rng.integers(12)):
    case 0:
      return text[: int(rng.integers(len(text)))]
    case 1:
      at = int(rng.integers(len(text)))
      return text[:at] + chr(int(rng.integers(32, 127))) + text[at + 1 :]
    case 2:
      return '[' * 100_000 + text
  return text


def _changed_weights(data: bytes, rng: np.random.Generator) -> bytes:
  """A safetensors file with other numbers, another header, or another end."""
  size = struct.unpack('<Q', data[:8])[0]
  header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
  names = [name for name in header if name != '__metadata__']
  entry = header[names[rng.integers(len(names))]]
  begin, end = entry['data_offsets']
  match int(rng.integers(9)):
    case 0:  # bits anywhere
      changed = bytearray(data)
      for at in rng.integers(len(changed), size=int(rng.integers(1, 5))):
        changed[at] ^= 1 << int(rng.integers(8))
      return bytes(changed)
    case 1:
      return data[: int(rng.integers(len(data)))]
    case 2:  # bits of a number
      body[int(rng.integers(begin, end))] ^= 1 << int(rng.integers(8))
    case 3:  # NaN, infinity, the largest, the smallest
      width = {'F16': 2, 'F32': 4}[entry['dtype']]
      at = begin + width * int(rng.integers((end - begin) // width))
      value = np.array((np.nan, np.inf, -np.inf, 65504.0, 1e-8)[int(rng.integers(5))], f'<f{width}')
      body[at : at + width] = value.tobytes()
    case 4:
      entry['dtype'] = ('F64', 'I64', 'BF16', 'BOOL', 'F8_E4M3', 'X', 'F32', 'F16')[int(rng.integers(8))]
    case 5:
      entry['shape'] = [[2**40, 2**40], [-1], [], [0], entry['shape'][::-1], [2**63]][int(rng.integers(6))]
    case 6:
      entry['data_offsets'] = [[0, 2**62], [end, begin], [begin + 1, end + 1], [-1, 1], [0, 0]][int(rng.integers(5))]
    case 7:  # another name
      header['params/x' if rng.integers(2) else 'params/\x1b[2J\n'] = header.pop(names[0])
    case 8:
      size_said = (0, 2**62, size + 8, size - 8)[int(rng.integers(4))]
      return struct.pack('<Q', size_said) + data[8:]
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + bytes(body)


_STORAGE = b'(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x10tQ'  # '0', 16 numbers
_RUN = b'cposix\nmkdir\n(X\x03\0\0\0rantR'  # what runs must not
_TABLES = (
  b'\x80\x02}q\0(X\x01\0\0\0w' + _RUN + b'u.',
  b"\x80\x02cbuiltins\neval\n(X\x1a\0\0\0__import__('os').mkdir('ran')tR.",
  b'\x80\x02(X\x03\0\0\0ranios\nmkdir\n.',
  b'\x80\x04\x8c\x05posix\x8c\x05mkdir\x93\x8c\x03ran\x85R.',
  b'\x80\x02ccollections\nOrderedDict\n)R' + _RUN + b'b.',
  b'\x80\x02}r\xff\xff\xff\x0f.',
  b'\x80\x02' + b')' + b'\x85' * 50_000 + b'.',
  b'\x80\x02}q\0X\x05\0\0\0modelh\0s.',
  b'\x80\x02' + b']' * 50_000 + b'a' * 49_999 + b'.',
  b'\x80\x02\x8a\xff' + b'\x7f' * 255 + b'.',
  b'\x80\x04\x8d' + struct.pack('<Q', 2**40) + b'x.',
)


def _table(rng: np.random.Generator) -> bytes:
  """The pickle of a state dict of three tensors, with numbers that may be impossible."""

  def number() -> bytes:
    value = (16, 4, 1, 0, 255, 2**31 - 1, -1)[int(rng.choice(7, p=(0.6, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05)))]
    return b'J' + struct.pack('<i', value)

  items = b''
  for i in range(3):
    tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + _STORAGE + b'K\0' + number() + b'\x85K\x01\x85\x89NtR'
    items += b'X\x01\0\0\0' + b'abc'[i : i + 1] + tensor
  return b'\x80\x02}(' + items + b'u.'


def _torch_file(rng: np.random.Generator) -> bytes:
  """A PyTorch file, zip or of the older kind, that is hostile or in which bytes are changed."""
  table = bytearray(_TABLES[rng.integers(len(_TABLES))] if rng.integers(4) == 0 else _table(rng))
  for _ in range(int(rng.integers(0, 4))):
    at = int(rng.integers(len(table)))
    match int(rng.integers(3)):
      case 0:
        table[at] = int(rng.integers(256))
      case 1:
        del table[at : at + int(rng.integers(1, 9))]
      case 2:
        table[at:at] = _RUN if rng.integers(2) else rng.bytes(int(rng.integers(1, 9)))
    table = table or bytearray(b'.')
  if rng.integers(4) == 0:  # before PyTorch 1.6
    magic, one = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.', b'\x80\x02M\xe9\x03.'
    system, keys = b'\x80\x02}.', b'\x80\x02]X\x01\0\0\x000a.'
    return magic + one + system + bytes(table) + keys + struct.pack('<q', 16) + bytes(64)
  buffer = iolib.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_STORED if rng.integers(8) else zipfile.ZIP_DEFLATED) as archive:
    for name, content in (('a/data.pkl', bytes(table)), ('a/data/0', bytes(64))):
      entry = zipfile.ZipInfo(name)  # of a fixed date: the same seed makes the same bytes
      entry.compress_type = archive.compression
      archive.writestr(entry, content)
  data = bytearray(buffer.getvalue())
  if rng.integers(4) == 0:
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
  return bytes(data)
