"""`ssr info`: what a system or a model is."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
from typing import Any

from ssr_jax import systems
from ssr_jax.cli import console
from ssr_jax.types import SSRError

SIDE = 128
"""Side of the LR image whose restoration is counted."""

_Found = dict[str, Any]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
  """Adds `info` to the parsers of `ssr`; `common` has the options that all share."""
  info = commands.add_parser(
    'info',
    parents=[common],
    help='describe a system or a model',
    description='Describes a system (its parts, outputs, options, stages and sizes) or a model (its parts, files, '
    f'training and own options), with the operations of restoring one image of {SIDE}x{SIDE}: those of matrix products '
    'and convolutions, two for each multiply-add. Nothing is run.',
  )
  info.add_argument(
    'what',
    metavar='SYSTEM_OR_MODEL',
    help=f'a system ({", ".join(systems.SYSTEMS)}), or the name or directory of a model',
  )
  info.add_argument('--size', metavar='NAME', help='of a system: only this size (default: all)')
  info.add_argument('--json', action='store_true', help='print JSON')
  info.set_defaults(command=_info)


def _info(arguments: argparse.Namespace) -> int:
  what, size = arguments.what, arguments.size
  if what in systems.SYSTEMS:
    found = of_system(what, size)
    lines = _system_lines(found)
  else:
    if size:
      raise SSRError(f'--size {size}: {what!r} is no system; known: {", ".join(systems.SYSTEMS)}')
    found = of_model(what)
    lines = _model_lines(found)
  if arguments.json:
    print(json.dumps(found, indent=2))
  else:
    for line in lines:
      console.tell(line)
  return 0


# -- What there is to say ----------------------------------------------------------------------------------------------


def of_system(name: str, size: str | None = None) -> _Found:
  """All about a system, as plain values.

  Args:
    name: of the system.
    size: which of its sizes; None: all.

  Raises:
    SSRError: an unknown system or size.
  """
  from ssr_jax.systems.base import KINDS
  from ssr_jax.weights import format

  system = systems.get(name)
  if size is not None and size not in system.sizes:
    raise SSRError(f'--size {size}: unknown size of {name!r}; known: {", ".join(system.sizes)}')
  kinds = systems.option_kinds(name)
  sizes = {}
  for each, fields in system.sizes.items():
    if size in (None, each):
      shapes = {part: format.abstract_variables(part, config, system=name) for part, config in fields.items()}
      sizes[each] = {
        'parts': {part: _weights(_parameters(shapes[part])) | _groups(system, part, shapes[part]) for part in fields},
        'restoring': _restoring(system, format.new_config(each, name), fields),
      }
  return {
    'system': name,
    'about': _first_line(type(system)),
    'parts': {part: {'families': list(entry.families)} for part, entry in system.parts.items()},
    'outputs': [dataclasses.asdict(output) | {'shape': KINDS[output.kind]} for output in system.outputs],
    'variants': {variant: dataclasses.asdict(entry) for variant, entry in system.variants.items()},
    'options': {
      field.name: {'kind': kinds[field.name].__name__, 'default': field.default, **field.metadata}
      for field in dataclasses.fields(system.Options)
    },
    'stages': {
      stage: {
        'about': _first_line(entry),
        'trains': list(entry.trains),
        'needs': list(entry.needs),
        'metric': entry.metric,
        'higher_is_better': entry.higher_is_better,
      }
      for stage, entry in system.stages.items()
    },
    'sizes': sizes,
  }


def of_model(name: str) -> _Found:
  """All about a model, as plain values; its weights are not read.

  Raises:
    SSRError: there is no such model, or its model.json cannot be used.
  """
  from ssr_jax.weights import format, store

  try:
    directory = store.resolve(name)
  except SSRError as error:
    raise SSRError(f'{error}; systems: {", ".join(systems.SYSTEMS)}') from error
  config = format.read_config(directory)
  system = systems.get(config['system'])
  parts = {}
  for part, entry in config['parts'].items():
    file = directory / entry['file']
    count = entry.get('parameters')
    if count is None:
      count = _parameters(format.abstract_variables(part, entry['config'], system=system.name))
    parts[part] = {
      'family': entry['config'].get('family', next(iter(system.parts[part].families))),
      **_weights(count),
      'file': entry['file'],
      'bytes': entry['bytes'],
      'sha256': entry['sha256'],
      'intact': file.stat().st_size == entry['bytes'] if file.is_file() else False,
      'training': entry.get('training', {}),
    }
  return {
    'model': config['name'],
    'directory': str(directory),
    'system': system.name,
    'scale': config['scale'],
    **({'notes': config['notes']} if 'notes' in config else {}),
    'parts': parts,
    'sections': {section: config[section] for section in system.sections},
    'restoring': _restoring(system, config, {part: entry['config'] for part, entry in config['parts'].items()}),
  }


def _weights(parameters: int) -> _Found:
  return {'parameters': parameters, 'float32_bytes': 4 * parameters, 'bfloat16_bytes': 2 * parameters}


def _parameters(shapes: Mapping[str, Any]) -> int:
  return sum(shape.size for name, shape in shapes.items() if name.startswith('params/'))


def _groups(system: Any, part: str, shapes: Mapping[str, Any]) -> _Found:
  """Parameters of the groups that a part names."""
  import re

  patterns = system.parts[part].groups
  groups = {
    label: _parameters({name: shape for name, shape in shapes.items() if re.match(pattern, name)})
    for label, pattern in patterns.items()
  }
  return {'groups': groups} if groups else {}


def _restoring(system: Any, config: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> _Found:
  """For each variant: the options that it is made with and the operations of each part, or the parts that it lacks."""
  from ssr_jax import xla
  from ssr_jax.weights import format

  modules = {part: format.build(part, fields, system=system.name) for part, fields in parts.items()}
  found = {}
  with xla.compiling_for('cpu'):  # in operations that can be counted: a hand-written kernel shows none
    for name, variant in system.variants.items():
      options = system.Options(**variant.options)
      lacking = [part for part in system.required(config, modules, options) if part not in modules]
      if lacking:
        found[name] = {'lacks': lacking}
        continue
      plan = system.plan(config, modules, options)
      flops = _flops(system, modules, parts, plan)
      found[name] = {
        'options': systems.chosen(type(options), plan),
        'flops': {part: flops.get(part, 0) for part in plan.parts} | {'other': flops.get('', 0)},
      }
  return found


def _flops(
  system: Any, modules: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]], plan: Any
) -> dict[str, int]:
  """Operations of each part, of restoring an image that is a single tile."""
  import jax
  import numpy as np

  from ssr_jax.diffusion.noise import NoiseField
  from ssr_jax.systems.base import Window
  from ssr_jax.training import flops
  from ssr_jax.weights import format

  variables = {
    part: format.unflatten(format.abstract_variables(part, parts[part], system=system.name)) for part in plan.parts
  }
  counted = {part: _Counted(part, modules[part]) for part in plan.parts}
  zero = np.zeros(2, np.int32)
  window, noise = Window(np.array([SIDE, SIDE], np.int32), zero), NoiseField(np.zeros((), np.uint32), zero)

  def restore(variables, lr, window, noise):
    return system.restore(counted, variables, lr, window, None, noise, plan)

  return flops.count_by(restore, variables, jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32), window, noise)


class _Counted:
  """A module whose calls are counted under its part's name."""

  def __init__(self, part: str, module: Any):
    from ssr_jax.training import flops

    self._module, self.apply = module, flops.labelled(part, module.apply)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._module, name)


def _first_line(thing: Any) -> str:
  return (thing.__doc__ or '').strip().splitlines()[0]


# -- As text -----------------------------------------------------------------------------------------------------------


def _system_lines(found: _Found) -> Iterator[str]:
  yield f'{found["system"]}: {found["about"]}'
  yield from ('', 'parts, and the families of networks that each can be')
  yield from _table([(part, ', '.join(entry['families'])) for part, entry in found['parts'].items()])
  yield from ('', 'outputs')
  yield from _table([(o['name'], o['kind'], o['shape'], f'shown as {o["label"]!r}') for o in found['outputs']])
  yield from ('', 'variants that an evaluation scores')
  yield from _table([(name, v['output'], _words(v['options'])) for name, v in found['variants'].items()])
  yield from ('', 'options of sample and of ssr upscale')
  yield from _table([(name, o['kind'], o['help']) for name, o in found['options'].items()] or [('none',)])
  yield from ('', 'stages')
  rows = []
  for name, stage in found['stages'].items():
    best = f'{"highest" if stage["higher_is_better"] else "lowest"} {stage["metric"]}'
    needs = f'needs {", ".join(stage["needs"])}' if stage['needs'] else ''
    rows.append((name, f'trains {", ".join(stage["trains"])}', needs, f'best is the {best}'))
  yield from _table(rows or [('none',)])
  for name, size in found['sizes'].items():
    yield from ('', f'size {name}')
    yield from _weight_lines(size['parts'], size['restoring'])


def _model_lines(found: _Found) -> Iterator[str]:
  yield f'{found["model"]}: a model of {found["system"]}, x{found["scale"]}, in {found["directory"]}'
  if 'notes' in found:
    yield found['notes']
  yield ''
  yield from _weight_lines(found['parts'], found['restoring'])
  yield from ('', 'files')
  rows = [('part', 'MB', 'sha256', 'file')]
  for part, entry in found['parts'].items():
    state = entry['file'] if entry['intact'] else f'{entry["file"]}, which is missing or has another length'
    rows.append((part, f'{entry["bytes"] / 1e6:,.2f}', entry['sha256'][:12], state))
  yield from _table(rows, right=(1,))
  yield from ('', 'training')
  yield from _table([(part, _words(entry['training']) or 'not recorded') for part, entry in found['parts'].items()])
  yield from ('', 'its own settings')
  yield from _table([(section, _words(values) or 'defaults') for section, values in found['sections'].items()])


def _weight_lines(parts: _Found, restoring: _Found) -> Iterator[str]:
  """A table of parts with their parameters and operations, and what they were counted for."""
  able = {name: entry for name, entry in restoring.items() if 'flops' in entry}
  heads = ('part', 'parameters', 'MB float32', 'MB bfloat16', *(f'GFLOP {name}' for name in able))
  rows: list[Sequence[str]] = [heads]
  for part, entry in parts.items():
    work = (f'{e["flops"][part] / 1e9:,.1f}' if part in e['flops'] else '' for e in able.values())
    rows.append((part, *_sizes(entry['parameters']), *work))
    rows += [(f'  {label}', *_sizes(count), *[''] * len(able)) for label, count in entry.get('groups', {}).items()]
  rest = (f'{e["flops"]["other"] / 1e9:,.1f}' for e in able.values())
  rows.append(('other', '', '', '', *rest))
  total = (f'{sum(e["flops"].values()) / 1e9:,.1f}' for e in able.values())
  rows.append(('all', *_sizes(sum(entry['parameters'] for entry in parts.values())), *total))
  yield from _table(rows, right=range(1, len(heads)))
  for name, entry in restoring.items():
    if 'flops' in entry:
      yield f'  {name}: one image of {SIDE}x{SIDE}' + (f', with {_words(entry["options"])}' if entry['options'] else '')
    else:
      yield f'  {name}: not without {", ".join(entry["lacks"])}'


def _sizes(parameters: int) -> tuple[str, str, str]:
  return f'{parameters:,}', f'{4 * parameters / 1e6:,.1f}', f'{2 * parameters / 1e6:,.1f}'


def _words(values: Mapping[str, Any], prefix: str = '') -> str:
  """{'steps': 2, 'validation': {'psnr': 25}} -> 'steps 2, validation.psnr 25'."""
  words = []
  for name, value in values.items():
    if isinstance(value, Mapping):
      words.append(_words(value, f'{prefix}{name}.'))
    else:
      words.append(f'{prefix}{name} {value}')
  return ', '.join(word for word in words if word)


def _table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
  """Aligned lines, indented by two; the columns `right` are aligned to the right."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
  for row in rows:
    cells = [
      cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ]
    yield ('  ' + '  '.join(cells)).rstrip()
