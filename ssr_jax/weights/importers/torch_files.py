"""Reads tensors of public checkpoints: safetensors, single or sharded, and PyTorch's pickles, without torch.

Unpickling a `.pth` or `.bin` file executes any function that the file names. The reader here allows only the functions
that rebuild tensors. Any other function is an error that names it, and is not called.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import functools
import io
import math
import pathlib
import pickle
import re
from typing import IO, Any, NamedTuple
import zipfile

import ml_dtypes
import numpy as np
import safetensors

from ssr_jax.types import SSRError
from ssr_jax.weights.importers import pickles
from ssr_jax.weights.importers.fields import read_json

SUFFIXES = ('.safetensors', '.bin', '.pth', '.pt', '.ckpt')
"""File name suffixes of checkpoints."""

_STEMS = ('diffusion_pytorch_model', 'model', 'pytorch_model')  # names that diffusers and transformers give the files
_NESTED = ('params_ema', 'params', 'state_dict', 'model')  # keys under which BasicSR and others nest the state dict
_MAX_NESTED = 4  # how often they can be nested in each other
_MAX_TABLE = 2**25  # bytes of the pickles of a file; Stable Diffusion's have some hundred kilobytes
_MAX_SHARING = 2  # how many times a file's bytes its tensors can have together: one that is there twice shares its data
_MAX_TENSORS = 100_000
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_STORAGES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}


class Tensors(Mapping[str, np.ndarray]):
  """Tensors of a checkpoint by name; each one is read from disk at every access."""

  def __init__(self, readers: Mapping[str, Callable[[], np.ndarray]]):
    self._readers = dict(readers)

  def __getitem__(self, name: str) -> np.ndarray:
    return self._readers[name]()

  def __iter__(self) -> Iterator[str]:
    return iter(self._readers)

  def __len__(self) -> int:
    return len(self._readers)


def find(folder: pathlib.Path) -> pathlib.Path:
  """The weight file, or the index of weight shards, in a network's folder of diffusers or transformers.

  safetensors files are preferred to pickles, and full precision to a variant such as fp16.

  Raises:
    SSRError: the folder has no such file.
  """
  patterns = []
  for variant in (r'', r'\.\w+'):
    for stem in _STEMS:
      patterns.append(rf'{stem}{variant}\.safetensors')
      # diffusers and transformers differ in where the variant stands.
      patterns.append(rf'{stem}{variant}\.safetensors\.index\.json|{stem}\.safetensors\.index{variant}\.json')
  for variant in (r'', r'\.\w+'):
    for stem in _STEMS:
      patterns.append(rf'{stem}{variant}\.(?:bin|pth|pt)')
      patterns.append(rf'{stem}{variant}\.bin\.index\.json|{stem}\.bin\.index{variant}\.json')
  names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
  for pattern in patterns:
    for name in names:
      if re.fullmatch(pattern, name):
        return folder / name
  raise SSRError(f'{folder}: no weights here; put {_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors into this folder')


def read(path: pathlib.Path) -> Tensors:
  """The tensors of a file, of all shards of an index file, or of a network's folder.

  Raises:
    SSRError: no such file, a damaged file, a missing shard, or a pickle that holds more than tensors.
  """
  if path.is_dir():
    path = find(path)
  if path.name.endswith('.json'):
    return _sharded(path)
  if not path.is_file():
    raise SSRError(f'{path}: no such file; fetch it and put it there')
  return _safetensors(path) if path.suffix == '.safetensors' else _pickled(path)


def _sharded(index: pathlib.Path) -> Tensors:
  """The tensors of all shards of an index file."""
  try:
    places = read_json(index)['weight_map']
    if not all(isinstance(shard, str) for shard in places.values()):
      raise ValueError('a shard is no file name')
  except (ValueError, KeyError, AttributeError) as error:  # SSRError is a ValueError
    raise SSRError(f'{index}: not an index of shards ({error}); fetch it again') from error
  readers = {}
  for shard in sorted(set(places.values())):
    if pathlib.PurePath(shard).name != shard:
      raise SSRError(f'{index}: a shard must lie beside it; got {shard!r}')
    tensors = read(index.parent / shard)
    for name in (n for n, place in places.items() if place == shard):
      if name not in tensors:
        raise SSRError(f'{index.parent / shard}: lacks {name}, which {index.name} lists; fetch the file again')
      readers[name] = functools.partial(tensors.__getitem__, name)
  return Tensors(readers)


def _safetensors(path: pathlib.Path) -> Tensors:
  try:
    file = safetensors.safe_open(path, framework='numpy')
    return Tensors({name: functools.partial(file.get_tensor, name) for name in file.keys()})  # noqa: SIM118, no dict
  except (safetensors.SafetensorError, OSError) as error:
    raise SSRError(f'{path}: not a safetensors file ({error}); fetch it again') from error


# ---- PyTorch's files -------------------------------------------------------------------------------------------------


class _Storage(NamedTuple):
  """A block of numbers of one type in the file."""

  kind: str
  key: str
  length: int


class _Tensor(NamedTuple):
  """A strided view of a storage."""

  storage: _Storage
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]


class _RebuildTensor:
  """Stands in for torch._utils._rebuild_tensor_v2; returns a description, so the data can be read later."""

  __slots__ = ()

  def __call__(self, storage, offset, size, stride, *_) -> _Tensor:
    return _Tensor(storage, offset, tuple(size), tuple(stride))


class _RebuildParameter:
  """Stands in for torch._utils._rebuild_parameter; returns its tensor."""

  __slots__ = ()

  def __call__(self, data, *_):
    return data


# What a pickle may use. Pickles can set attributes, so none of these objects has any that can be set.
_ALLOWED = {
  ('torch._utils', '_rebuild_tensor_v2'): _RebuildTensor(),
  ('torch._utils', '_rebuild_parameter'): _RebuildParameter(),
  ('collections', 'OrderedDict'): collections.OrderedDict,
  **{('torch', name): name for name in _STORAGES},
}


def _unpickle(path: pathlib.Path, file: IO[bytes]) -> Any:
  """The next object in a file in memory, checked before it is loaded."""
  pickles.check(file)
  return _Unpickler(path, file).load()


class _Unpickler(pickle.Unpickler):
  """Unpickles tensors in dicts and lists only: a pickle can call no function that `find_class` does not return."""

  def __init__(self, path: pathlib.Path, file: IO[bytes]):
    super().__init__(file)
    self._path = path

  def find_class(self, module: str, name: str) -> Any:
    """The stand-in for a global name in the pickle.

    Raises:
      SSRError: a name that rebuilding tensors does not need.
    """
    if (module, name) not in _ALLOWED:
      raise SSRError(
        f'{self._path}: asks for {module}.{name}, which is no tensor; it was not run. Save only model.state_dict()'
      )
    return _ALLOWED[module, name]

  def persistent_load(self, pid: Any) -> _Storage:
    """The storage that a persistent id describes: ('storage', kind, key, device, length, ...).

    Raises:
      ValueError: something other than a storage.
    """
    name, kind, key, _, count, *_ = pid
    if name != 'storage' or kind not in _STORAGES or not isinstance(count, int) or count < 0:
      raise ValueError('an unknown kind of storage')
    return _Storage(kind, str(key), count)


def _pickled(path: pathlib.Path) -> Tensors:
  """The tensors of a PyTorch file."""
  try:
    with open(path, 'rb') as file:
      zipped = zipfile.is_zipfile(file)
      file.seek(0)
      tree, load = (_open_zip if zipped else _open_legacy)(path, file)
  except SSRError:
    raise
  except Exception as error:  # a damaged pickle can raise any exception
    raise SSRError(f'{path}: not a PyTorch state dict ({type(error).__name__}: {error}); fetch it again') from error
  for _ in range(_MAX_NESTED):
    if not isinstance(tree, dict) or any(isinstance(value, _Tensor) for value in tree.values()):
      break
    inner = [tree[key] for key in _NESTED if isinstance(tree.get(key), dict)]
    if not inner:
      break
    tree = inner[0]
  if not isinstance(tree, dict) or not tree or not all(isinstance(value, _Tensor) for value in tree.values()):
    raise SSRError(f'{path}: holds no state dict (names and tensors only); save model.state_dict()')
  _check_sizes(path, tree)
  return Tensors({str(name): functools.partial(_view, path, str(name), value, load) for name, value in tree.items()})


def _check_sizes(path: pathlib.Path, tensors: Mapping[Any, _Tensor]) -> None:
  """SSRError if tensors have impossible shapes, or together many more numbers than the file can hold."""
  if len(tensors) > _MAX_TENSORS:
    raise SSRError(f'{path}: {len(tensors):,} tensors; at most {_MAX_TENSORS:,} are read')
  total = 0
  for name, (storage, offset, size, stride) in tensors.items():
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride) or len(size) > 32:
      raise SSRError(f'{path}: {name} has an impossible shape; fetch the file again')
    total += math.prod(size) * np.dtype(_STORAGES[storage.kind]).itemsize
  if total > _MAX_SHARING * path.stat().st_size:
    raise SSRError(f'{path}: its tensors have {total:,} bytes, the file {path.stat().st_size:,}; fetch it again')


def _view(path: pathlib.Path, name: str, tensor: _Tensor, load: Callable[[_Storage], np.ndarray]) -> np.ndarray:
  """The array that a tensor describes, checked against its storage."""
  _, offset, size, stride = tensor
  try:
    storage = load(tensor.storage)
  except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
    raise SSRError(f'{path}: the data of {name} cannot be read ({error}); fetch the file again') from error
  if 0 not in size and offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= storage.size:
    raise SSRError(f'{path}: {name} extends beyond its data; fetch the file again')
  steps = tuple(step * storage.itemsize for step in stride)
  return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _open_zip(path: pathlib.Path, file: IO[bytes]) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
  """The pickled tree and the reader of its storages, from the zip archives of PyTorch 1.6 and later."""
  with zipfile.ZipFile(file) as archive:
    for entry in archive.infolist():  # PyTorch compresses nothing; what is compressed could be of any size
      if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f'{entry.filename} is compressed')
    names = archive.namelist()
    (table,) = [name for name in names if name.endswith('/data.pkl') or name == 'data.pkl']
    prefix = table.removesuffix('data.pkl')
    little = f'{prefix}byteorder' not in names or archive.read(f'{prefix}byteorder') == b'little'
    if archive.getinfo(table).file_size > _MAX_TABLE:
      raise ValueError(f'{table} is larger than {_MAX_TABLE >> 20} MiB')
    tree = _unpickle(path, io.BytesIO(archive.read(table)))
  _check_order(path, little)

  def load(storage: _Storage) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
      entry = archive.getinfo(f'{prefix}data/{storage.key}')
      if entry.file_size > path.stat().st_size:
        raise ValueError(f'{entry.filename} is larger than the file')
      return np.frombuffer(archive.read(entry), _STORAGES[storage.kind], storage.length)

  return tree, load


def _open_legacy(path: pathlib.Path, file: IO[bytes]) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
  """As `_open_zip`, for files before PyTorch 1.6: five pickles, then the length and the bytes of each storage."""
  head = io.BytesIO(file.read(_MAX_TABLE))
  magic, _, system, tree, keys = (_unpickle(path, head) for _ in range(5))
  if magic != _LEGACY_MAGIC:
    raise ValueError('no magic number')
  _check_order(path, system.get('little_endian', True))
  kinds = {}  # the storage records in the file do not give their type, only the tensors do
  for tensor in _tensors(tree):
    kinds[tensor.storage.key] = np.dtype(_STORAGES[tensor.storage.kind])
  places = {}
  end, place = path.stat().st_size, head.tell()
  for key in keys:
    file.seek(place)
    count = int.from_bytes(file.read(8), 'little', signed=True)
    places[str(key)] = place + 8, count
    place += 8 + count * kinds[str(key)].itemsize
    if count < 0 or place > end:
      raise ValueError(f'the data of storage {key} lie outside of the file')

  def load(storage: _Storage) -> np.ndarray:
    place, count = places[storage.key]
    with open(path, 'rb') as file:
      file.seek(place)
      dtype = np.dtype(_STORAGES[storage.kind])
      return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)

  return tree, load


def _tensors(tree: Any) -> Iterator[_Tensor]:
  """All tensors in nested dicts, lists and tuples; an object that is there many times is searched once."""
  seen, waiting = {id(tree)}, [tree]
  while waiting:
    value = waiting.pop()
    if isinstance(value, _Tensor):
      yield value
    elif isinstance(value, (dict, list, tuple)):
      for inner in value.values() if isinstance(value, dict) else value:
        if id(inner) not in seen:
          seen.add(id(inner))
          waiting.append(inner)


def _check_order(path: pathlib.Path, little: bool) -> None:
  """SSRError for big-endian data."""
  if not little:
    raise SSRError(f'{path}: written on a big-endian machine, which is not supported; save it as safetensors')
