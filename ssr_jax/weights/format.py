"""The format of a model directory: how it is written, checked and read.

A model directory holds model.json and one safetensors file per part. The fields of model.json:

  format    1
  name      the model's name
  system    name of the system that the parts belong to; absent means `systems.DEFAULT`
  scale     upscaling factor
  ...       one field per section of the system, such as 'schedule': its settings
  parts     {part: {config, file, sha256, bytes, parameters, training}}
  notes     free text, optional

A part is only read if its file matches the sha256 and its tensors match the module that `config` builds. Tensors are
named by their '/'-joined path in the Flax variables, collection first: 'params/conv_in/kernel'. Parameters are float16
on disk and float32 in memory. Batch statistics and constants are float32 in both: they are few, and rounding them
changes every pixel.
"""

from collections.abc import Iterable, Mapping
import copy
import functools
import json
import os
import pathlib
from typing import Any

from flax import traverse_util
from flax.core import unfreeze
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ssr_jax import systems, xla
from ssr_jax.types import SSRError
from ssr_jax.weights import envelope, files, precision

FORMAT = envelope.FORMAT
MODEL_FILE = envelope.MODEL_FILE
BUNDLED = pathlib.Path(__file__).parent / 'bundled'
"""The model directory that the package ships."""


# ---- variables -------------------------------------------------------------------------------------------------------


def flatten(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """{'params': {'conv': {'kernel': x}}} -> {'params/conv/kernel': x}, arrays as NumPy."""
  return {name: np.asarray(value) for name, value in flatten_shapes(variables).items()}


def flatten_shapes(shapes: Mapping[str, Any]) -> dict[str, Any]:
  """`flatten` for the result of `jax.eval_shape`; leaves stay as they are."""
  return dict(traverse_util.flatten_dict(unfreeze(dict(shapes)), sep='/'))


def unflatten(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten` and `flatten_shapes`."""
  return traverse_util.unflatten_dict(dict(tensors), sep='/')


def build(part: str, config: Mapping[str, Any], *, system: str = systems.DEFAULT, **more: Any) -> Any:
  """`systems.build(part, system=system, **config, **more)` for a config read from model.json.

  Raises:
    SSRError: the module cannot be built; the message names the part and the field of model.json to correct.
  """
  try:
    return systems.build(part, system=system, **config, **more)
  except (TypeError, ValueError) as error:  # SSRError is a ValueError
    message = (str(error).splitlines() or [''])[0]
    raise SSRError(f"part '{part}': {message}; correct parts.{part}.config in {MODEL_FILE}") from error


def abstract_variables(
  part: str, config: Mapping[str, Any], dtype: Any = jnp.float32, *, system: str = systems.DEFAULT
) -> dict[str, jax.ShapeDtypeStruct]:
  """Flat names, shapes and dtypes of a part's variables; nothing is computed.

  Args:
    part: a part of the system.
    config: keyword arguments of `systems.build`; plain JSON values.
    dtype: what the network computes in. Variables are float32, except those that the network rounds to `dtype` before
      any other use. Storing these in `dtype` halves their memory and does not change the result.
    system: name of the system.

  Raises:
    SSRError: an unknown part or field, or a value that the module rejects.
  """
  return dict(_abstract_variables(system, part, json.dumps(dict(config)), jnp.dtype(dtype).name))


@functools.lru_cache(maxsize=64)  # tracing a large UNet takes a second
def _abstract_variables(system: str, part: str, config: str, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
  fields = json.loads(config)
  try:
    systems.get(system).parts[part].check(part, fields, '')
  except (KeyError, SSRError) as error:
    message = f'unknown part; known: {", ".join(systems.get(system).parts)}' if isinstance(error, KeyError) else error
    raise SSRError(f"part '{part}': {message}; correct parts.{part}.config in {MODEL_FILE}") from error
  module = build(part, fields, system=system, dtype=jnp.dtype(dtype))
  inputs = systems.get(system).parts[part].example(module)
  try:
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  except Exception as error:  # fields that do not fit together can fail anywhere in the network
    message = (str(error).splitlines() or [type(error).__name__])[0]
    raise SSRError(f"part '{part}': {message}; correct parts.{part}.config in {MODEL_FILE}") from error
  if dtype != 'float32':
    leaves, structure = jax.tree.flatten(variables)
    program = jax.make_jaxpr(lambda *leaves: module.apply(structure.unflatten(leaves), *inputs))(*leaves).jaxpr
    rounded = precision.rounded_inputs(program, jnp.dtype(dtype))
    variables = structure.unflatten(
      [
        jax.ShapeDtypeStruct(leaf.shape, dtype) if variable in rounded else leaf
        for variable, leaf in zip(program.invars, leaves, strict=True)
      ]
    )
  return flatten_shapes(variables)


# ---- model.json ------------------------------------------------------------------------------------------------------


def new_config(name: str, system: str = systems.DEFAULT) -> dict[str, Any]:
  """The content of model.json for a model without parts: the defaults of its system.

  Raises:
    SSRError: an unknown system.
  """
  sections = copy.deepcopy(dict(systems.get(system).sections))
  return {'format': FORMAT, 'name': name, 'system': system, 'scale': 4, **sections, 'parts': {}}


def read_config(directory: str | os.PathLike) -> dict[str, Any]:
  """The content of a directory's model.json, checked; the field 'system' is filled in where the file has none.

  Raises:
    SSRError: the file is missing or is not JSON; for the rest see `envelope.check`.
  """
  config = envelope.read(pathlib.Path(directory) / MODEL_FILE)
  system = config.get('system', systems.DEFAULT)
  return {'format': FORMAT, 'name': config['name'], 'system': system, **config}


def update(directory: str | os.PathLike, **fields: Any) -> dict[str, Any]:
  """Changes fields of model.json besides its parts: 'name', 'scale', 'notes' and the sections of the system.

  A dict is merged into the section; any other value replaces the field.

  Returns:
    the new content.

  Raises:
    SSRError: an unknown field, a value that `envelope.check` refuses, or a directory that cannot be read or written.
  """
  directory = pathlib.Path(directory)
  with files.locked(directory):
    model = read_config(directory)
    known = ('name', 'notes', 'scale', *systems.get(model['system']).sections)
    for field, value in fields.items():
      if field not in known:
        raise SSRError(f"unknown field '{field}' of {MODEL_FILE}; known: {', '.join(known)}")
      old = model.get(field)
      model[field] = {**old, **value} if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    envelope.check(directory / MODEL_FILE, model)
    files.write(directory / MODEL_FILE, _dump(model))
  return model


# ---- parts -----------------------------------------------------------------------------------------------------------


def save_part(
  directory: str | os.PathLike,
  part: str,
  config: Mapping[str, Any],
  variables: Mapping[str, Any],
  training: Mapping[str, Any] | None = None,
  *,
  name: str | None = None,
  system: str | None = None,
) -> pathlib.Path:
  """Writes one part: its safetensors file and its entry in model.json. Other parts stay.

  Args:
    directory: the model directory, created if absent.
    part: a part of the system.
    config: keyword arguments of `systems.build`; plain JSON values.
    variables: the Flax variables ('params', 'batch_stats', 'constants').
    training: how the weights were made (data, steps, machine, metrics), for the model card; plain JSON values.
    name: the model's name if model.json is new; default the name of the directory.
    system: the system that the part belongs to; default that of model.json, or `systems.DEFAULT` if it is new.

  Returns:
    the path of the safetensors file.

  Raises:
    SSRError: an unknown system or part, a directory with a model of another system, values that are not finite or too
      large for float16, tensors that do not match the module of `config`, or a directory that cannot be written.
  """
  directory = pathlib.Path(directory)
  system = _system_of(directory, system)
  parts = systems.get(system).parts
  if part not in parts:
    raise SSRError(f"unknown part '{part}'; known: {', '.join(parts)}")
  tensors = flatten(variables)
  _check_tensors(f"part '{part}'", system, part, config, tensors)
  on_disk = {key: _to_disk(key, value) for key, value in tensors.items()}
  # A single metadata entry: safetensors writes several in random order, and equal weights must have equal sha256.
  data = safetensors.numpy.save(on_disk, metadata={'format': 'flax'})
  entry = {
    'config': dict(config),
    'file': f'{part}.safetensors',
    'sha256': files.sha256(data),
    'bytes': len(data),
    'layout': _layout(system, part, config, tensors),
    'parameters': sum(v.size for k, v in tensors.items() if k.startswith('params/')),
    'training': dict(training or {}),
  }
  return _put(directory, part, entry, data, name, system)


def load_part(
  directory: str | os.PathLike, part: str, *, model: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
  """Reads the variables of one part as float32 NumPy arrays, and checks them.

  Args:
    directory: the model directory.
    part: a part of the model.
    model: the result of `read_config(directory)`, if the caller has it already.

  Raises:
    SSRError: the model has no such part, the file is missing or does not match its sha256, its tensors do not match
      the module that the part's config builds, or one of them is not finite; the message names it.
  """
  directory = pathlib.Path(directory)
  model = read_config(directory) if model is None else model
  entry = part_entry(directory, model, part)
  path = directory / entry['file']
  data = files.read_verified(path, entry['sha256'], entry['bytes'])
  try:
    tensors = safetensors.numpy.load(data)
  except (safetensors.SafetensorError, ValueError, KeyError) as error:
    raise SSRError(f'{path}: not a safetensors file ({error}); restore the file') from error
  del data
  # Tracing a module to learn its shapes takes a second. `save_part` has done it for the package's own models, and says
  # so in 'layout'; in any other model that could be forged.
  layout = _layout(model['system'], part, entry['config'], tensors)
  if entry.get('layout') != layout or directory.resolve() != BUNDLED.resolve():
    xla.once(layout, lambda: _check_tensors(str(path), model['system'], part, entry['config'], tensors))
  tensors = {key: value.astype(_memory_dtype(value)) for key, value in tensors.items()}
  _check_finite(path, tensors)
  return unflatten(tensors)


def copy_part(
  source: str | os.PathLike, part: str, directory: str | os.PathLike, name: str | None = None, system: str | None = None
) -> pathlib.Path:
  """Copies one part of a model directory into another, with its entry in model.json; the file is the same bytes.

  Args:
    source: the model directory to copy from.
    part: a part of that model.
    directory: the model directory to copy to, created if absent.
    name: the model's name if its model.json is new; default the name of the directory.
    system: that of the target, which must have the same part (`systems.shared`); default that of the source.

  Returns:
    the path of the new file.

  Raises:
    SSRError: see `load_part` for the source and `save_part` for the target; a part that the systems do not share.
  """
  source, model = pathlib.Path(source), read_config(source)
  load_part(source, part, model=model)  # a damaged part must not spread
  if part not in systems.shared(model['system'], system or model['system']):
    raise SSRError(f"part '{part}' of the system '{model['system']}' is not one of '{system}'")
  entry = model['parts'][part]
  data = files.read_verified(source / entry['file'], entry['sha256'], entry['bytes'])
  return _put(pathlib.Path(directory), part, entry, data, name, system or model['system'])


def part_entry(directory: pathlib.Path, model: Mapping[str, Any], part: str) -> dict[str, Any]:
  """A part's entry in model.json.

  Raises:
    SSRError: the model has no such part; the message lists those that it has.
  """
  if part not in model['parts']:
    have = ', '.join(model['parts']) or 'none'
    raise SSRError(f"{directory}: the model has no part '{part}' (has: {have}); train it or choose another model")
  return model['parts'][part]


def _system_of(directory: pathlib.Path, system: str | None) -> str:
  """The system that a part saved in the directory belongs to; SSRError if the model there is of another one."""
  if not (directory / MODEL_FILE).exists():
    return system or systems.DEFAULT
  found = read_config(directory)['system']
  if system not in (None, found):
    raise SSRError(
      f"{directory / MODEL_FILE}: a model of the system '{found}', not '{system}'; choose another directory"
    )
  return found


def _put(
  directory: pathlib.Path, part: str, entry: dict[str, Any], data: bytes, name: str | None, system: str
) -> pathlib.Path:
  """Writes a part's file, then model.json: readers see the old part or the new one."""
  with files.locked(directory, create=True):
    if (directory / MODEL_FILE).exists():
      _system_of(directory, system)
      model = read_config(directory)
    else:
      model = new_config(name or directory.resolve().name, system)
    model['parts'][part] = entry
    model['parts'] = {p: model['parts'][p] for p in systems.get(system).parts if p in model['parts']}
    text = _dump(model)  # before the first write, so that a value that is not JSON changes no file
    envelope.check(directory / MODEL_FILE, json.loads(text))
    files.write(directory / entry['file'], data)
    files.write(directory / MODEL_FILE, text)
  return directory / entry['file']


# ---- checks ----------------------------------------------------------------------------------------------------------


def some_of(names: Iterable[str], limit: int = 6) -> str:
  """Sorted names for a message: the first `limit`, then how many more there are."""
  names = sorted(names)
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(names[:limit]) + more


def _layout(system: str, part: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
  """A digest of a config and of the names and shapes that go with it."""
  shapes = sorted((name, list(value.shape)) for name, value in tensors.items())
  return files.sha256(json.dumps([system, part, dict(config), shapes], sort_keys=True).encode())


def _check_tensors(
  where: str, system: str, part: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
  """SSRError that starts with `where` unless names and shapes are those of the module."""
  expected = abstract_variables(part, config, system=system)
  optional = systems.get(system).parts[part].optional
  missing = {key for key in expected.keys() - tensors.keys() if not key.startswith(optional)}
  shapes = [
    f'{k} {tensors[k].shape} for {expected[k].shape}'
    for k in expected.keys() & tensors.keys()
    if tensors[k].shape != expected[k].shape
  ]
  problems = [
    f'{what} {some_of(names)}'
    for what, names in (
      ('missing', missing),
      ('unexpected', tensors.keys() - expected.keys()),
      ('wrong shape', shapes),
    )
    if names
  ]
  if problems:
    raise SSRError(f"{where}: does not fit the config of part '{part}': {'; '.join(problems)}; both must match")


def _check_finite(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  """SSRError, naming the tensor, if one of these has a value that is not finite."""
  for name, value in tensors.items():
    if not jnp.issubdtype(value.dtype, jnp.floating):
      continue
    flat = value.reshape(-1)
    with np.errstate(all='ignore'):
      finite = np.isfinite(np.dot(flat, flat))  # several times as fast as isfinite of each; can overflow itself
    if not finite and not np.isfinite(value).all():
      raise SSRError(f"{path}: tensor '{name}' has values that are not finite; restore the file or train it again")


def _to_disk(key: str, value: np.ndarray) -> np.ndarray:
  """The array as it is stored: parameters float16, other floats float32, integers unchanged."""
  if not jnp.issubdtype(value.dtype, jnp.floating):
    return np.ascontiguousarray(value)
  value = value.astype(np.float32)
  if not np.isfinite(value).all():
    raise SSRError(f"'{key}' is not finite; the training that made it has diverged, so nothing was written")
  if not key.startswith('params/'):
    return np.ascontiguousarray(value)
  if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
    raise SSRError(f"'{key}' is too large for float16 ({np.abs(value).max():.3g}); nothing was written")
  return np.ascontiguousarray(value.astype(np.float16))


def _memory_dtype(value: np.ndarray) -> np.dtype:
  return np.dtype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value.dtype


def _dump(model: Mapping[str, Any]) -> bytes:
  return (json.dumps(model, indent=2, sort_keys=False) + '\n').encode('utf-8')
