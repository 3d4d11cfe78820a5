"""Model directories: where a model's parts lie on disk, how they are written, checked and read.

A model directory holds `model.json` and one safetensors file per part (`PARTS`).
Tensors are named by their '/'-joined path in the Flax variables dict, collection first ('params/conv_in/kernel').
Parameters are float16 on disk and float32 in memory; batch statistics and constants stay float32, for they are few and
a rounding of them moves every pixel. `model.json` records each file's sha256, and nothing is used before it matches.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import tempfile
from typing import Any

from flax import traverse_util
from flax.core import unfreeze
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ssr_jax import systems
from ssr_jax.types import SSRError

FORMAT = 1
MODEL_FILE = 'model.json'
PARTS = tuple(systems.get(systems.DEFAULT).parts)

# What a new model.json says about the stages between the parts; `update` changes it.
DEFAULTS: dict[str, Any] = {
  'scale': 4,
  'svkr': {'iterations': 3, 'gamma': 0.9, 'rule': 'algorithm1'},
  'schedule': {},
  'sampling': {'sampler': 'dpmpp_2m', 'steps': 8, 'start': 0.5},
}

BUNDLED = {'compact': pathlib.Path(__file__).parent / 'bundled'}
_LISTED = 6  # names shown in an error before it says how many more there are


@dataclasses.dataclass(frozen=True)
class Model:
  """A model as read from disk.

  Attributes:
    config: the content of model.json.
    variables: per part, its Flax variables dict of float32 NumPy arrays.
    directory: where it came from.
  """

  config: dict[str, Any]
  variables: dict[str, dict[str, Any]]
  directory: pathlib.Path


def home() -> pathlib.Path:
  """The folder of imported models: $SSR_WEIGHTS, else `ssr_jax` under the user's data directory."""
  if 'SSR_WEIGHTS' in os.environ:
    return pathlib.Path(os.environ['SSR_WEIGHTS'])
  return pathlib.Path(os.environ.get('XDG_DATA_HOME', pathlib.Path.home() / '.local' / 'share')) / 'ssr_jax'


def known() -> list[str]:
  """Names that `resolve` accepts besides paths: the bundled model's and those of imported ones."""
  imported = (path.parent.name for path in home().glob(f'*/{MODEL_FILE}'))
  return sorted({*BUNDLED, *imported})


def resolve(name_or_path: str | os.PathLike) -> pathlib.Path:
  """The directory of a model given by name ('compact', or an imported one) or by path.

  Raises:
    SSRError: neither a known name nor a directory with a model.json.
  """
  if str(name_or_path) in BUNDLED:
    directory = BUNDLED[str(name_or_path)]
    if not (directory / MODEL_FILE).is_file():
      raise SSRError(f"model '{name_or_path}': {directory / MODEL_FILE} is missing; install the package again")
    return directory
  directory = pathlib.Path(name_or_path)
  if directory.name == MODEL_FILE:
    directory = directory.parent
  if (directory / MODEL_FILE).is_file():
    return directory
  if len(directory.parts) == 1 and (home() / directory / MODEL_FILE).is_file():
    return home() / directory
  what = f'the directory has no {MODEL_FILE}' if directory.is_dir() else 'unknown model'
  raise SSRError(f"model '{name_or_path}': {what}; known: {', '.join(known())}, or the path of a model directory")


def flatten(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """{'params': {'conv': {'kernel': x}}} -> {'params/conv/kernel': x}, arrays as NumPy."""
  flat = traverse_util.flatten_dict(unfreeze(variables), sep='/')
  return {name: np.asarray(value) for name, value in flat.items()}


def flatten_shapes(shapes: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
  """`flatten` for what `jax.eval_shape` gives."""
  return traverse_util.flatten_dict(unfreeze(shapes), sep='/')


def unflatten(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`."""
  return traverse_util.unflatten_dict(dict(tensors), sep='/')


def read_config(directory: str | os.PathLike) -> dict[str, Any]:
  """The checked content of a directory's model.json.

  Raises:
    SSRError: the file is missing, is no JSON, is of another format or lacks a field.
  """
  path = pathlib.Path(directory) / MODEL_FILE
  try:
    config = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror}); is this a model directory?') from error
  except ValueError as error:
    raise SSRError(f'{path}: not valid JSON ({error}); restore the file') from error
  if not isinstance(config, dict) or config.get('format') != FORMAT:
    found = config.get('format') if isinstance(config, dict) else type(config).__name__
    raise SSRError(f'{path}: format is {found!r}, this version reads {FORMAT}; get the matching ssr_jax or weights')
  fields = {'format', 'name', 'parts', *DEFAULTS}
  for field in sorted(fields - config.keys()):
    raise SSRError(f"{path}: field '{field}' is missing; restore the file")
  for field in sorted(config.keys() - fields - {'notes'}):
    raise SSRError(f"{path}: unknown field '{field}'; known: {', '.join(sorted(fields | {'notes'}))}")
  for part, entry in config['parts'].items():
    if part not in PARTS:
      raise SSRError(f"{path}: unknown part '{part}'; known: {', '.join(PARTS)}")
    for field in ('config', 'file', 'sha256', 'bytes'):
      if field not in entry:
        raise SSRError(f"{path}: field 'parts.{part}.{field}' is missing; restore the file")
    if pathlib.PurePath(entry['file']).name != entry['file']:
      raise SSRError(f"{path}: field 'parts.{part}.file' must name a file beside it; got {entry['file']!r}")
  return config


def save_part(
  directory: str | os.PathLike,
  part: str,
  config: Mapping[str, Any],
  variables: Mapping[str, Any],
  training: Mapping[str, Any] | None = None,
  *,
  name: str | None = None,
) -> pathlib.Path:
  """Writes one part's weights and its entry in model.json; both appear whole or not at all.

  Args:
    directory: model directory, made when absent; its other parts stay.
    part: one of `PARTS`.
    config: keyword arguments of `systems.build(part, **config)`; plain JSON values.
    variables: the Flax variables dict ('params', 'batch_stats', 'constants').
    training: what made them (data, steps, machine, metrics), for the model card; plain JSON values.
    name: the model's name when model.json is new; default the directory's.

  Returns:
    the path of the safetensors file.

  Raises:
    SSRError: an unknown part, values that float16 cannot hold or that are not finite, names that the module of `config`
      does not have, or a directory that cannot be written.
  """
  directory = pathlib.Path(directory)
  if part not in PARTS:
    raise SSRError(f"unknown part '{part}'; known: {', '.join(PARTS)}")
  tensors = flatten(variables)
  _check_names(f"part '{part}'", part, config, tensors)
  on_disk = {key: _to_disk(key, value) for key, value in tensors.items()}
  # One entry only: their order is left to chance, and the same weights are to have the same sha256.
  data = safetensors.numpy.save(on_disk, metadata={'format': 'flax'})
  entry = {
    'config': dict(config),
    'file': f'{part}.safetensors',
    'sha256': hashlib.sha256(data).hexdigest(),
    'bytes': len(data),
    'parameters': sum(v.size for k, v in tensors.items() if k.startswith('params/')),
    'training': dict(training or {}),
  }
  return _put(directory, part, entry, data, name)


def copy_part(
  source: str | os.PathLike, part: str, directory: str | os.PathLike, name: str | None = None
) -> pathlib.Path:
  """Takes one part of a model over into another model directory, byte for byte, with its entry in model.json.

  Raises:
    SSRError: the part is not there, damaged, or does not fit its config; or the directory cannot be written.
  """
  source = resolve(source)
  load_part(source, part)  # nothing unverified is passed on
  entry = read_config(source)['parts'][part]
  return _put(pathlib.Path(directory), part, entry, _verified_bytes(source / entry['file'], entry), name)


def _put(directory: pathlib.Path, part: str, entry: dict[str, Any], data: bytes, name: str | None) -> pathlib.Path:
  try:
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
      if (directory / MODEL_FILE).exists():
        model = read_config(directory)
      else:
        model = {'format': FORMAT, 'name': name or directory.resolve().name, **copy.deepcopy(DEFAULTS), 'parts': {}}
      model['parts'][part] = entry
      model['parts'] = {p: model['parts'][p] for p in PARTS if p in model['parts']}
      text = _dump(model)  # before anything is written: a value that is no JSON must not leave half a change
      _write(directory / entry['file'], data)
      _write(directory / MODEL_FILE, text)
  except OSError as error:
    raise SSRError(f'{directory}: cannot be written ({error.strerror}); choose another directory') from error
  return directory / entry['file']


def update(directory: str | os.PathLike, **sections: Any) -> dict[str, Any]:
  """Changes fields of model.json outside the parts ('name', 'scale', 'svkr', 'schedule', 'sampling', 'notes').

  A dict is merged into the section that is there, anything else replaces it. Returns the new content.
  """
  directory = pathlib.Path(directory)
  with _locked(directory):
    model = read_config(directory)
    for field, value in sections.items():
      if field not in {'name', 'notes', *DEFAULTS}:
        raise SSRError(f"unknown field '{field}' of {MODEL_FILE}; known: name, notes, {', '.join(DEFAULTS)}")
      old = model.get(field)
      model[field] = {**old, **value} if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    _write(directory / MODEL_FILE, _dump(model))
  return model


def load_part(directory: str | os.PathLike, part: str, entry: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """One part's variables, float32, checked against the file's sha256 and the module's own names and shapes.

  Raises:
    SSRError: the part or its file is missing, the file is not the one that was written, or it does not fit the module.
  """
  directory = pathlib.Path(directory)
  if entry is None:
    parts = read_config(directory)['parts']
    if part not in parts:
      have = ', '.join(parts) or 'none'
      raise SSRError(f"{directory}: the model has no part '{part}' (has: {have}); train it or choose another model")
    entry = parts[part]
  path = directory / entry['file']
  data = _verified_bytes(path, entry)
  try:
    tensors = safetensors.numpy.load(data)
  except (safetensors.SafetensorError, ValueError, KeyError) as error:
    raise SSRError(f'{path}: not a safetensors file ({error}); restore the file') from error
  del data
  _check_names(str(path), part, entry['config'], tensors)
  return unflatten({key: value.astype(_memory_dtype(value)) for key, value in tensors.items()})


def load_model(name_or_path: str | os.PathLike, parts: Sequence[str] | None = None) -> Model:
  """Reads a model by name or path.

  Args:
    name_or_path: 'compact', or the path of a model directory.
    parts: the parts to read; default all that the model has (a model in training may not have all).

  Raises:
    SSRError: see `resolve`, `read_config` and `load_part`.
  """
  directory = resolve(name_or_path)
  config = read_config(directory)
  for part in parts or ():
    if part not in config['parts']:
      have = ', '.join(config['parts']) or 'none'
      raise SSRError(f"{directory}: the model has no part '{part}' (has: {have}); train it or choose another model")
  wanted = config['parts'] if parts is None else parts
  variables = {part: load_part(directory, part, config['parts'][part]) for part in wanted}
  return Model(config=config, variables=variables, directory=directory)


def verify(name_or_path: str | os.PathLike) -> dict[str, str | None]:
  """Reads and checks every part; {part: None, or the line that says what is wrong}."""
  directory = resolve(name_or_path)
  found: dict[str, str | None] = {}
  for part, entry in read_config(directory)['parts'].items():
    try:
      load_part(directory, part, entry)
      found[part] = None
    except SSRError as error:
      found[part] = str(error)
  return found


def abstract_variables(
  part: str, config: Mapping[str, Any], dtype: Any = jnp.float32
) -> dict[str, jax.ShapeDtypeStruct]:
  """Flat names, shapes and dtypes of the variables that `systems.build(part, **config)` has; nothing is computed.

  Args:
    part: as of `systems.build`.
    config: likewise.
    dtype: what the network computes in. Variables are float32, but for those that a network of this dtype rounds to it
      before anything else: these may as well be kept in it, which halves their memory and changes no result.

  Raises:
    SSRError: a config field that the part does not know, or a value that it refuses.
  """
  return dict(_abstract_variables(part, json.dumps(config), jnp.dtype(dtype).name))


@functools.lru_cache(maxsize=64)
def _abstract_variables(part: str, config: str, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
  """`abstract_variables` of a config as JSON, remembered: tracing a large UNet takes a second."""
  module = build(part, json.loads(config), dtype=jnp.dtype(dtype))
  inputs = systems.get(systems.DEFAULT).parts[part].example(module)
  variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  if dtype != 'float32':
    leaves, structure = jax.tree.flatten(variables)
    program = jax.make_jaxpr(lambda *leaves: module.apply(structure.unflatten(leaves), *inputs))(*leaves).jaxpr
    rounded = _rounded(program, jnp.dtype(dtype))
    variables = structure.unflatten(
      [
        jax.ShapeDtypeStruct(leaf.shape, dtype) if variable in rounded else leaf
        for variable, leaf in zip(program.invars, leaves, strict=True)
      ]
    )
  return flatten_shapes(variables)


def _rounded(program: Any, dtype: Any) -> set[Any]:
  """The inputs of a program that it uses, and converts to `dtype` wherever it uses them."""
  uses = {variable: [] for variable in program.invars}
  for equation in program.eqns:
    called = [getattr(value, 'jaxpr', value) for value in equation.params.values()]
    called = [value for value in called if hasattr(value, 'eqns')]
    converts = equation.primitive.name == 'convert_element_type' and equation.params['new_dtype'] == dtype
    if len(called) == 1 and len(called[0].invars) == len(equation.invars):  # calls and scans hand on what they get
      inside = _rounded(called[0], dtype)
      fine = [own in inside for own in called[0].invars]
    else:
      fine = [converts] * len(equation.invars)
    for variable, rounded in zip(equation.invars, fine, strict=True):
      if isinstance(variable, jax.extend.core.Var) and variable in uses:
        uses[variable].append(rounded)
  given = {v for v in program.outvars if isinstance(v, jax.extend.core.Var)}
  return {variable for variable, found in uses.items() if found and all(found) and variable not in given}


def build(part: str, config: Mapping[str, Any], **more: Any) -> Any:
  """`systems.build(part, **config, **more)`, its complaints turned into one line that names the part and field."""
  try:
    return systems.build(part, **config, **more)
  except (TypeError, ValueError) as error:  # SSRError is a ValueError
    message = (str(error).splitlines() or [''])[0]
    raise SSRError(f"part '{part}': {message}; correct parts.{part}.config in {MODEL_FILE}") from error


def _check_names(where: str, part: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
  expected = abstract_variables(part, config)
  wrong = []
  optional = systems.get(systems.DEFAULT).parts[part].optional
  missing = {key for key in expected.keys() - tensors.keys() if not key.startswith(optional)}
  for what, names in (('missing', missing), ('unexpected', tensors.keys() - expected.keys())):
    if names:
      wrong.append(f'{what} {_some(names)}')
  shapes = [
    f'{k} {tensors[k].shape} for {expected[k].shape}'
    for k in sorted(expected.keys() & tensors.keys())
    if tensors[k].shape != expected[k].shape
  ]
  if shapes:
    wrong.append(f'wrong shape {_some(shapes)}')
  if wrong:
    raise SSRError(f"{where}: does not fit the config of part '{part}': {'; '.join(wrong)}; both must match")


def _some(names) -> str:
  names = sorted(names)
  more = f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
  return ', '.join(names[:_LISTED]) + more


def _keeps_float32(key: str) -> bool:
  return not key.startswith('params/')


def _to_disk(key: str, value: np.ndarray) -> np.ndarray:
  if not jnp.issubdtype(value.dtype, jnp.floating):
    return np.ascontiguousarray(value)
  value = value.astype(np.float32)
  if not np.isfinite(value).all():
    raise SSRError(f"'{key}' is not finite; the training that made it has diverged, so nothing was written")
  if _keeps_float32(key):
    return np.ascontiguousarray(value)
  if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
    raise SSRError(f"'{key}' is too large for float16 ({np.abs(value).max():.3g}); nothing was written")
  return np.ascontiguousarray(value.astype(np.float16))


def _memory_dtype(value: np.ndarray) -> np.dtype:
  return np.dtype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value.dtype


def _verified_bytes(path: pathlib.Path, entry: Mapping[str, Any]) -> bytes:
  try:
    data = path.read_bytes()
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror}); restore it or install the package again') from error
  actual = hashlib.sha256(data).hexdigest()
  if actual != entry['sha256']:
    raise SSRError(
      f'{path}: corrupted: sha256 is {actual[:12]}, expected {entry["sha256"][:12]} ({len(data)} bytes of '
      f'{entry["bytes"]}); restore the file or install the package again'
    )
  return data


def _dump(model: Mapping[str, Any]) -> bytes:
  return (json.dumps(model, indent=2, sort_keys=False) + '\n').encode('utf-8')


def _write(path: pathlib.Path, data: bytes) -> None:
  """Writes beside the target, then renames: a reader sees the old file or the new one."""
  descriptor, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
  try:
    with os.fdopen(descriptor, 'wb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    raise


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[None]:
  """One writer of model.json at a time: two stages may finish training together."""
  try:
    import fcntl
  except ImportError:  # not a POSIX system
    yield
    return
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
  finally:
    os.close(descriptor)
