"""`ssr degrade`: LR images for benchmarks, and a photo under every recipe."""

import argparse
import io as iolib
import os
import pathlib

import ssr_jax
from ssr_jax.cli import console, terminal
from ssr_jax.image import io, opening
from ssr_jax.types import SSRError, one_line


def add(commands, common: argparse.ArgumentParser) -> None:
  """Adds `degrade` to the parsers of `ssr`; `common` has the options of all commands."""
  down = commands.add_parser(
    'degrade',
    parents=[common],
    help='make LR images for a benchmark',
    description='Degrades images by a recipe and writes LR images, kernels, depth and a manifest, from which the same '
    'set can be made again. An image depends only on the seed and its file name.',
    epilog='recipes: FIELD/MODE, such as smooth/noise_jpeg, or realesrgan, realesrgan-light, real. Fields: invariant, '
    'smooth, mode1 to mode6, depth, motion, depth_motion, mixed. Modes: no_noise, no_jpeg, noise_jpeg, mixed, and isp '
    '(what a camera does). For benchmarks invariant-L1-L2-DEGREES, noise-SIGMA and jpeg-QUALITY, with numbers. '
    "'real' draws among mixed/mixed, mixed/isp and both chains for each image.",
  )
  down.add_argument('inputs', nargs='+', metavar='IN', help='image files and folders of images')
  down.add_argument('-o', '--output', required=True, metavar='OUT', help='a folder; with --preview a .png file')
  down.add_argument('-r', '--recursive', action='store_true', help='include subfolders of folders')
  how = down.add_mutually_exclusive_group(required=True)
  how.add_argument('--recipe', metavar='NAME', help='the degradation')
  how.add_argument('--remake', metavar='MANIFEST', help='make the set of a manifest.json again and compare every file')
  how.add_argument('--preview', action='store_true', help='write one picture that shows IN under every recipe')
  down.add_argument('--seed', type=int, metavar='N', help='seed of all draws (default: 0)')
  depth = down.add_mutually_exclusive_group()
  depth.add_argument(
    '--depth', metavar='DIR', help='distance maps with the names of the images: 8- or 16-bit PNG, PFM or NPY'
  )
  depth.add_argument('--inverse-depth', metavar='DIR', help='the same, but large values are near')
  down.add_argument(
    '--model',
    default='compact',
    metavar='M',
    help='the model whose depth net is used where a recipe needs depth and no maps are given',
  )
  down.add_argument('--write-hr', action='store_true', help='also write the HR images, cropped as they were degraded')
  down.add_argument(
    '--overwrite', action='store_true', help='make images again that are already in the set; replace a preview'
  )
  down.add_argument('-q', '--quiet', action='store_true', help='print errors only')
  down.set_defaults(command=_degrade)


def _degrade(arguments: argparse.Namespace) -> int:
  if arguments.remake and (arguments.seed is not None or arguments.depth or arguments.inverse_depth):
    raise SSRError('--remake takes seed and depth from the manifest; leave --seed and depth maps out')
  from ssr_jax import xla

  paths, failures = [], []
  for given in map(pathlib.Path, arguments.inputs):
    try:
      paths += console.images(given, arguments.recursive) if os.path.isdir(given) else [given]
    except SSRError as error:
      failures.append(str(error))
  xla.enable_compilation_cache()
  return _preview(arguments, paths) if arguments.preview else _degrade_all(arguments, paths, failures)


def _degrade_all(arguments: argparse.Namespace, paths: list[pathlib.Path], failures: list[str]) -> int:
  from tqdm import tqdm

  from ssr_jax.degrade import lr_set, recipes

  manifest = None
  if arguments.remake:
    manifest = lr_set.read_manifest(arguments.remake)
    recipe, seed = lr_set.recipe_of(manifest, arguments.remake), manifest['seed']
    there = {path.name for path in paths}
    lost = [name for name in manifest['images'] if name not in there]
    failures += [f'{name}: in the manifest, but not among the inputs' for name in lost]
    paths = [path for path in paths if path.name in manifest['images']]
  else:
    recipe, seed = recipes.Recipe.parse(arguments.recipe), arguments.seed or 0
    if (arguments.depth or arguments.inverse_depth) and not recipe.takes_depth:
      raise SSRError(f'--depth: recipe {recipe.name} uses no depth; leave the maps out or choose another recipe')
  made = lr_set.LRSet(arguments.output, recipe, seed, _versions())
  for line in failures:
    console.say(line)
  failed, done, kept = len(failures), 0, 0
  names = {}
  estimate = None
  with tqdm(total=len(paths), unit='image', disable=True if arguments.quiet else None, leave=False) as bar:
    try:
      for path in paths:
        bar.set_description(one_line(path.name[-24:]))
        try:
          if path.name in names:
            raise SSRError(f'{path}: has the name of {names[path.name]}; use sets of their own')
          names[path.name] = path
          if made.has(path) and not arguments.overwrite and not arguments.remake:
            kept += 1
            bar.update()
            continue
          depth, depth_from = None, None
          if manifest and 'depth' in manifest['images'][path.name]:
            entry = manifest['images'][path.name]['depth']
            depth, depth_from = lr_set.read_depth(pathlib.Path(arguments.remake).parent / entry['file']), entry['from']
          elif arguments.depth or arguments.inverse_depth:
            depth, depth_from = _depth_map(path, arguments)
          elif recipe.needs_depth:
            estimate = estimate or _depth_net(arguments.model)
            depth, depth_from = estimate(path)
          entry = made.add(path, depth, depth_from, arguments.write_hr)
          done += 1
          made.checkpoint()
          if manifest:
            _compare(entry, manifest['images'][path.name], path, manifest['versions'])
        except Exception as error:
          terminal.check_stopped()
          if arguments.debug and not isinstance(error, SSRError):
            raise
          failed += 1
          with bar.external_write_mode():
            console.say(console.line_of(error, path))
        else:
          if not arguments.quiet:
            for note in entry['notes']:
              with bar.external_write_mode():
                console.say(f'{path}: note: {note}')
        bar.update()
    finally:
      made.save()  # also after Ctrl-C
  if not arguments.quiet:
    console.tell(
      f'{made.directory}: {done} images made by {recipe.name}, seed {seed}'
      + (f'; {kept} were there' if kept else '')
      + ('; all as in the manifest' if manifest and not failed else '')
    )
  return 1 if failed else 0


def _compare(entry: dict, expected: dict, path: pathlib.Path, versions: dict) -> None:
  """SSRError that says how a remade image differs from the manifest."""
  if entry['source']['sha256'] != expected['source']['sha256']:
    raise SSRError(f'{path}: not the file that the set was made from; find the original')
  if entry['lr']['pixels_sha256'] != expected['lr']['pixels_sha256'] or entry['draws'] != expected['draws']:
    then = ', '.join(f'{name} {version}' for name, version in expected.get('versions', versions).items())
    raise SSRError(f'{path}: came out differently; the set was made with {then}')


def _depth_map(path: pathlib.Path, arguments: argparse.Namespace):
  """A photo's depth map as relative inverse depth [H, W], and a line that says where it comes from."""
  from ssr_jax.data import sources

  folder = pathlib.Path(arguments.depth or arguments.inverse_depth)
  found = [p for p in sorted(folder.glob('*')) if p.stem == path.stem and p.suffix.lower() in sources.DEPTH_SUFFIXES]
  if not found:
    known = ', '.join(sources.DEPTH_SUFFIXES)
    raise SSRError(f'{path}: no depth map of this name in {folder}; known suffixes: {known}')
  kind = 'depth' if arguments.depth else 'inverse'
  return sources.decode_depth(opening.read_bytes(found[0]), kind, str(found[0])), f'{kind} map {found[0].name}'


def _depth_net(name: str):
  """A function from a photo's path to a model's estimate of its inverse depth [H, W], and a line that names the net."""
  import numpy as np

  from ssr_jax import systems, xla
  from ssr_jax.weights import format, store

  system = format.read_config(store.resolve(name))['system']
  part = systems.get(system).depth_part
  if part is None:
    raise SSRError(f'--model {name}: the system {system!r} estimates no depth; give depth maps or another model')
  model = store.load_model(name, [part])
  entry = model.config['parts'][part]
  run = xla.jit(format.build(part, entry['config'], system=system).apply)

  def estimate(path: pathlib.Path):
    rgb = io.read(path).rgb
    image = rgb.astype(np.float32) / (255 if rgb.dtype == np.uint8 else 1)
    return np.asarray(run(model.variables[part], image[None]))[0, ..., 0], (
      f'depth net of {model.config["name"]}, sha256 {entry["sha256"][:12]}'
    )

  return estimate


def _preview(arguments: argparse.Namespace, paths: list[pathlib.Path]) -> int:
  from ssr_jax.evaluation.report import contact_sheet

  output = pathlib.Path(arguments.output)
  if len(paths) != 1:
    raise SSRError(f'--preview: takes one image; got {len(paths)}')
  if output.suffix.lower() != '.png':
    raise SSRError(f'-o {output}: a preview is one picture; name a .png file')
  if os.path.exists(output) and os.path.exists(paths[0]) and os.path.samefile(output, paths[0]):
    raise SSRError(f'-o {output}: the preview would replace the photo; choose another -o')
  if os.path.lexists(output) and not arguments.overwrite:
    raise SSRError(f'-o {output}: exists; use --overwrite')
  console.check_writable([output.parent])
  try:
    if arguments.depth or arguments.inverse_depth:
      depth, _ = _depth_map(paths[0], arguments)
    else:
      depth, _ = _depth_net(arguments.model)(paths[0])
    rgb = io.read(paths[0]).rgb
    if rgb.dtype != 'uint8':
      rgb = (rgb * 255).round().astype('uint8')
    if depth.shape != rgb.shape[:2]:
      raise SSRError(f'{paths[0]}: its depth map has another size')
    if min(rgb.shape[:2]) < 32:
      raise SSRError(f'{paths[0]}: smaller than 32 pixels; take a larger photo')
  except SSRError as error:
    return console.say(console.line_of(error, paths[0]), 1)
  sheet = contact_sheet.contact_sheet(rgb, depth, paths[0].name, arguments.seed or 0)
  buffer = iolib.BytesIO()
  sheet.save(buffer, 'PNG')
  io.write_bytes(output, buffer.getvalue(), replace=arguments.overwrite)
  if not arguments.quiet:
    console.tell(f'{paths[0]} -> {output} ({sheet.width}x{sheet.height})')
  return 0


def _versions() -> dict[str, str]:
  """Versions of everything that can change the pixels."""
  import importlib.metadata
  import platform

  import jax
  import numpy
  import PIL

  return {
    'ssr-jax': ssr_jax.__version__,
    'python': platform.python_version(),
    'jax': jax.__version__,
    'jaxlib': importlib.metadata.version('jaxlib'),
    'numpy': numpy.__version__,
    'pillow': PIL.__version__,
    'device': jax.devices()[0].device_kind,
  }
