"""`ssr weights` lists, verifies and imports weights; `ssr export` makes a model from a training checkpoint."""

import argparse
import pathlib
from typing import Any

from ssr_jax import systems
from ssr_jax.cli import console
from ssr_jax.types import SSRError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
  """Adds the commands `export` and `weights`, the latter with its actions.

  Args:
    commands: the subparsers of `ssr`.
    common: a parser with the options that all commands have.
  """
  export = commands.add_parser(
    'export',
    parents=[common],
    help='write a model from a training checkpoint',
    description="Writes the averaged weights of a run's checkpoint into a model directory, as safetensors with "
    'sha256. Other parts of the model do not change.',
  )
  export.add_argument('run', metavar='WORKDIR', help='the workdir of a training run')
  export.add_argument('directory', metavar='DIR', help='the model directory, created if absent')
  export.add_argument('--step', type=int, metavar='N', help='step of the checkpoint (default: the newest)')
  export.set_defaults(command=_export)

  weights = commands.add_parser('weights', help='list, verify, find or import weights')
  actions = weights.add_subparsers(title='actions', required=True, metavar='ACTION')
  for name, command, text in (
    (
      'list',
      _list,
      'parts and files of a model (`ssr info MODEL` says more); without MODEL, of all, and what can be imported',
    ),
    ('verify', _verify, 'compare every file with its sha256'),
    ('path', _path, 'print the directory of a model'),
  ):
    action = actions.add_parser(name, parents=[common], help=text, description=text)
    action.add_argument(
      'model', nargs='?', help='a model, or the name of a checkpoint that can be imported (default: compact)'
    )
    action.set_defaults(command=command)
  action = actions.add_parser(
    'import',
    parents=[common],
    help='import public weights into a model, or those of a metric',
    description='Writes the networks of Stable Diffusion 1.5 or 2.1, ControlNet, DPT, Depth Anything V2, MANet, '
    'BlindDiff or the ESRGAN family (.pth, .safetensors, or the .param of ncnn with its .bin beside it) into a model. '
    '`ssr weights import niqe FILE` keeps the published pristine model of NIQE, which is the default from then on; '
    "`ssr weights import lpips-vgg FILE FILE` (and lpips-alex) the weights of LPIPS, from the file of torchvision's "
    'classifier and that of the heads, or from one file that holds both.',
  )
  action.add_argument(
    'source',
    metavar='SOURCE',
    help='a folder in the layout of diffusers or transformers, a file, a name from `ssr weights list`, a hub id, or a '
    'model directory, whose parts are copied',
  )
  action.add_argument(
    'files', nargs='*', metavar='FILE', help="with SOURCE niqe, lpips-alex or lpips-vgg: the metric's published files"
  )
  action.add_argument(
    '--as',
    dest='name',
    metavar='NAME',
    help='the model to add the parts to: a name, or a path that contains / (default: the name of SOURCE)',
  )
  action.add_argument(
    '--prompt', default='', metavar='TEXT', help='the fixed text condition of the UNet (default: empty)'
  )
  action.add_argument(
    '--system',
    choices=list(systems.SYSTEMS),
    default='',
    help='the system of the model (default: that of the network, of a Stable Diffusion ssr)',
  )
  action.set_defaults(command=_import)


def _export(arguments: argparse.Namespace) -> int:
  from ssr_jax.training import export

  for path in export.export(arguments.run, arguments.directory, arguments.step):
    print(path)
  return 0


def _list(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import published, store

  if _is_checkpoint(arguments.model):
    _show_checkpoint(arguments.model)
    return 0
  if arguments.model:
    return _show(arguments.model)
  for name in store.known():
    _show(name)
  print('\navailable for import (ssr weights import NAME, or the path of its folder):')
  for name in published.PUBLISHED:
    _show_checkpoint(name)
  return 0


def _is_checkpoint(model: str | None) -> bool:
  """Whether the name is that of a published checkpoint; a model of the same name takes precedence."""
  from ssr_jax.weights import format, published, store

  exists = model in store.known() or (pathlib.Path(model or '') / format.MODEL_FILE).is_file()
  return model in published.PUBLISHED and not exists


def _show_checkpoint(name: str) -> None:
  """Prints a published checkpoint: its origin, licence and files, and whether it is on this machine."""
  from ssr_jax.weights import published

  entry, found = published.PUBLISHED[name], published.find_local(name)
  print(f'  {name:25}{entry.description}\n{"":27}{entry.licence}; {" or ".join(entry.places)}')
  print(f'{"":27}{f"found in {found}" if found else "not on this machine"}')
  for file in entry.files:
    size = 'size not published' if file.bytes is None else f'{file.bytes / 1e6:,.1f} MB'
    print(f'{"":27}{file.name}  {size}  sha256 {file.sha256[:12] if file.sha256 else "not published"}')


def _show(model: str) -> int:
  """Prints a model: its directory, and the size and sha256 of each part."""
  from ssr_jax.weights import format, store

  directory = store.resolve(model)
  config = format.read_config(directory)
  print(f'{config["name"]} (x{config["scale"]}) in {directory}')
  for part, entry in config['parts'].items():
    print(
      f'  {part:8}{entry["parameters"] / 1e6:9.2f} M parameters{entry["bytes"] / 1e6:9.2f} MB  '
      f'sha256 {entry["sha256"][:12]}  {entry["file"]}'
    )
  total = config['parts'].values()
  print(
    f'  {"all":8}{sum(e["parameters"] for e in total) / 1e6:9.2f} M parameters'
    f'{sum(e["bytes"] for e in total) / 1e6:9.2f} MB'
  )
  return 0


def _verify(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import published, store

  if _is_checkpoint(arguments.model):
    found = published.verify(arguments.model)
    for file in published.PUBLISHED[arguments.model].files:
      if file.name in found and found[file.name] is None and file.sha256 is None:
        del found[file.name]
        print(f'{file.name}: exists; no sha256 was published')
  else:
    found = store.verify(arguments.model or 'compact')
  for part, problem in found.items():
    if problem is None:
      print(f'{part}: ok')
    else:
      console.say(problem)
  return 1 if any(found.values()) else 0


def _path(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import published, store

  if _is_checkpoint(arguments.model):
    found = published.find_local(arguments.model)
    if found is None:
      return console.say(
        f'{arguments.model}: not on this machine; put its files into {published.downloads(arguments.model)}'
      )
    print(found)
    return 0
  print(store.resolve(arguments.model or 'compact'))
  return 0


def _import(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import importers, published, store
  from ssr_jax.weights.importers import lpips

  entry = published.PUBLISHED.get(arguments.source)
  if entry and entry.metric:
    if arguments.name or arguments.prompt or arguments.system:
      raise SSRError(f'{arguments.source}: weights of a metric, which become no part of a model; leave the options out')
    files = arguments.files or [published.fetch(arguments.source)]
    if arguments.source in lpips.BACKBONES:
      path = lpips.install(arguments.source, files)
    elif files[1:]:
      raise SSRError(f'{files[1]}: one file too many; {arguments.source} is one file')
    else:
      path = published.install(arguments.source, files[0])
    print(f"written to {path}; the metric '{entry.metric}' reads it by default")
    return 0
  if arguments.files:
    known = ', '.join(name for name, entry in published.PUBLISHED.items() if entry.metric)
    raise SSRError(
      f'{arguments.files[0]}: a second name goes with the weights of a metric ({known}) only; leave it out'
    )
  source = pathlib.Path(arguments.source)
  name = arguments.name or (source.stem if source.suffix in importers.SUFFIXES else source.name)
  if name in store.BUNDLED:
    raise SSRError(f"--as {name}: '{name}' is the bundled model and cannot be changed; choose another name")
  directory = pathlib.Path(name) if len(pathlib.PurePath(name).parts) > 1 else store.home() / name
  parts = importers.import_checkpoint(
    arguments.source,
    directory,
    prompt=arguments.prompt,
    system=arguments.system,
    report=lambda line: print(line, flush=True),
  )
  print(f'{", ".join(parts)} written to {directory}')
  return 0
