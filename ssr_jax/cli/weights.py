"""`ssr weights` and `ssr export`: models, and what they are made of."""

import argparse
import pathlib

from ssr_jax.cli import console
from ssr_jax.types import SSRError


def add(commands, common: argparse.ArgumentParser) -> None:
  """Adds `weights` with its actions, and `export` to the parsers of `ssr`; `common` has the options that all share."""
  export = commands.add_parser(
    'export',
    parents=[common],
    help='make a model of a training checkpoint',
    description="Writes the averaged weights of a run's checkpoint into a model directory, as safetensors with "
    'sha256; parts that the directory has besides stay.',
  )
  export.add_argument('run', metavar='WORKDIR', help='the workdir of a training run')
  export.add_argument('directory', metavar='DIR', help='the model directory, made when absent')
  export.add_argument('--step', type=int, metavar='N', help='of the checkpoint (default: the newest)')
  export.set_defaults(command=_export)

  weights = commands.add_parser('weights', help='list, verify, find or import weights')
  actions = weights.add_subparsers(title='actions', required=True, metavar='ACTION')
  for name, command, text in (
    ('list', _list, 'parts, sizes and parameters of a model; without one, also what can be imported'),
    ('verify', _verify, 'check every file against its sha256'),
    ('path', _path, 'print the folder of a model'),
  ):
    action = actions.add_parser(name, parents=[common], help=text, description=text)
    action.add_argument('model', nargs='?', help='a model, or a name that can be imported (default: compact)')
    action.set_defaults(command=command)
  action = actions.add_parser(
    'import',
    parents=[common],
    help='make a model of public weights',
    description='Reads Stable Diffusion 1.5 or 2.1, DPT, Depth Anything V2 or MANet and writes our parts of it.',
  )
  action.add_argument(
    'source',
    metavar='SOURCE',
    help='a folder of diffusers or transformers, a file, a name from `ssr weights list`, or a hub id',
  )
  action.add_argument(
    '--as',
    dest='name',
    metavar='NAME',
    help='model to add the parts to: a name, or a folder with a / in it (default: the name of SOURCE)',
  )
  action.add_argument('--prompt', default='', metavar='TEXT', help='fixed text condition of the UNet (default: empty)')
  action.set_defaults(command=_import)


def _export(arguments: argparse.Namespace) -> int:
  from ssr_jax.training import export

  for path in export.export(arguments.run, arguments.directory, arguments.step):
    print(path)
  return 0


def _list(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import public, registry

  if _is_public(arguments.model):
    _show_published(arguments.model)
    return 0
  if arguments.model:
    return _show(arguments.model)
  for name in registry.known():
    _show(name)
  print('\ncan be imported (ssr weights import NAME, or the folder that holds it):')
  for name in public.PUBLIC:
    _show_published(name)
  return 0


def _is_public(model: str | None) -> bool:
  """Whether it is a published checkpoint's name, and no model of that name has been made of it."""
  from ssr_jax.weights import public, registry

  made = model in registry.known() or (pathlib.Path(model or '') / registry.MODEL_FILE).is_file()
  return model in public.PUBLIC and not made


def _show_published(name: str) -> None:
  from ssr_jax.weights import public

  entry, found = public.PUBLIC[name], public.here(name)
  print(f'  {name:25}{entry.what}\n{"":27}{entry.licence}; {" or ".join(entry.places)}')
  print(f'{"":27}{f"here: {found}" if found else "not on this machine"}')
  for file in entry.files:
    size = 'size not published' if file.bytes is None else f'{file.bytes / 1e6:,.1f} MB'
    print(f'{"":27}{file.name}  {size}  sha256 {file.sha256[:12] if file.sha256 else "not published"}')


def _show(model: str) -> int:
  from ssr_jax.weights import registry

  directory = registry.resolve(model)
  config = registry.read_config(directory)
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
  from ssr_jax.weights import public, registry

  if _is_public(arguments.model):
    found = public.verify(arguments.model)
    for file in public.PUBLIC[arguments.model].files:
      if found[file.name] is None and file.sha256 is None:
        del found[file.name]
        print(f'{file.name}: there; no sha256 is published to compare with')
  else:
    found = registry.verify(arguments.model or 'compact')
  for part, problem in found.items():
    if problem is None:
      print(f'{part}: ok')
    else:
      console.say(problem)
  return 1 if any(found.values()) else 0


def _path(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import public, registry

  if _is_public(arguments.model):
    found = public.here(arguments.model)
    if found is None:
      return console.say(
        f'{arguments.model}: not on this machine; put its files into {public.downloads(arguments.model)}'
      )
    print(found)
    return 0
  print(registry.resolve(arguments.model or 'compact'))
  return 0


def _import(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import importing, registry, torch_files

  source = pathlib.Path(arguments.source)
  name = arguments.name or (source.stem if source.suffix in torch_files.SUFFIXES else source.name)
  if name in registry.BUNDLED:
    raise SSRError(f"--as {name}: '{name}' comes with the package and stays as it is; choose another name")
  directory = pathlib.Path(name) if len(pathlib.PurePath(name).parts) > 1 else registry.home() / name
  parts = importing.import_checkpoint(
    arguments.source, directory, prompt=arguments.prompt, report=lambda line: print(line, flush=True)
  )
  print(f'{", ".join(parts)} written to {directory}')
  return 0
