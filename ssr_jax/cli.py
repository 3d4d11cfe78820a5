"""The command `ssr`: upscale images, score images, degrade images, look after data and weights.

Exit codes: 0 all done; 1 some inputs failed, each named on stderr in one line, the rest done; 2 wrong usage; 130
stopped by Ctrl-C. JAX and the networks are imported only by the command that needs them.
"""

import argparse
import contextlib
import csv
import dataclasses
import io as iolib
import os
import pathlib
import sys
import time
from typing import Iterable, Sequence

import ssr_jax
from ssr_jax.image import io
from ssr_jax.types import SSRError

_EXAMPLES = """examples:
  ssr upscale photo.jpg -o photo_x4.png          one photo
  ssr upscale photos/ more/a.png -o out/         folders and files into a folder
  ssr upscale photo.jpg -o out/ --figures        depth, kernels and restored image in one picture as well
  ssr upscale photo.jpg -o out/ --restored-only  without diffusion: faster, closer to the pixels, less detail
  ssr metrics hr/ out/ --metrics psnr,ssim --csv scores.csv
  ssr degrade photos/ -o set/ --recipe smooth/noise_jpeg --seed 0   LR images for a benchmark
  ssr data check folder:photos/ --min-side 128   what should not be trained on
  ssr data pack folder:photos/ shards/           ArrayRecord shards, which load faster from a shared disk
  ssr export runs/nbsr my_model/                 the weights of a training run
  ssr weights verify
  ssr weights import stable-diffusion-2-1-base/ --as big
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  try:
    arguments = _parser().parse_args(argv)
  except SystemExit as stop:  # argparse has said what is wrong, or printed the help
    return stop.code or 0
  try:
    return arguments.command(arguments)
  except SSRError as error:
    return _say(str(error), 2)
  except KeyboardInterrupt:
    return _say('stopped', 130)
  except BrokenPipeError:  # the reader of our output has gone, as with `| head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except Exception as error:
    if arguments.debug:
      raise
    return _say(f'internal error: {_first_line(error)}; run again with --debug and report what it prints', 1)


def _parser() -> argparse.ArgumentParser:
  common = argparse.ArgumentParser(add_help=False)
  common.add_argument('--debug', action='store_true', help='show the whole Python traceback of an error')
  parser = argparse.ArgumentParser(
      prog='ssr', description='Super-resolution (x4) of photos with spatially variant blur.', epilog=_EXAMPLES,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--version', action='version', version=f'ssr-jax {ssr_jax.__version__}')
  commands = parser.add_subparsers(title='commands', required=True, metavar='COMMAND')

  up = commands.add_parser(
      'upscale', parents=[common], help='make images four times as large, and sharp',
      description='Makes images four times as large. PNG, JPEG and WebP out; orientation, colour profile, EXIF, '
      'transparency and gray are kept.')
  up.add_argument('inputs', nargs='+', metavar='IN', help='image files and folders of images')
  up.add_argument('-o', '--output', required=True, metavar='OUT',
                  help='a folder; or, for one input file, a file name ending in .png, .jpg or .webp')
  up.add_argument('-r', '--recursive', action='store_true', help="take a folder's sub-folders too")
  up.add_argument('--model', default='compact', help="'compact', or the path of a model directory (default: compact)")
  up.add_argument('--steps', type=int, metavar='N',
                  help="diffusion steps, by the UNet (default: the model's own way, by its student where it has one)")
  up.add_argument('--seed', type=int, default=0, metavar='N',
                  help="of the diffusion noise, of which a model's own way may have none: try it with --steps (default: 0)")
  up.add_argument('--scale', type=int, default=4, metavar='S', help='4 is what there is')
  up.add_argument('--sampler', metavar='NAME', help="ddpm, ddim or dpmpp_2m (default: the model's)")
  up.add_argument('--start', type=float, metavar='T',
                  help="1: from pure noise; less: from the restored image with that much noise (default: the model's)")
  up.add_argument('--colour-fix', metavar='HOW', help="none, adain or wavelet (default: the model's)")
  up.add_argument('--strength', type=float, metavar='S',
                  help="how much of diffusion's detail to keep, 0 (none) to 1 (default: the model's)")
  up.add_argument('--restored-only', action='store_true', help='stop before diffusion (the same as --steps 0)')
  up.add_argument('--figures', action='store_true',
                  help='also write NAME_figure.png: LR | depth | kernels | restored | result')
  up.add_argument('--format', choices=('png', 'jpg', 'webp'),
                  help='of files in an output folder (default: as the input)')
  up.add_argument('--quality', type=int, default=95, metavar='Q', help='of JPEG and WebP, 1 to 100 (default: 95)')
  up.add_argument('--tile', type=int, metavar='N', help='largest LR side in one piece; smaller needs less memory')
  up.add_argument('--overwrite', action='store_true', help='replace outputs that exist')
  up.add_argument('--skip-existing', action='store_true', help='leave out inputs whose output exists')
  up.add_argument('-q', '--quiet', action='store_true', help='print errors only')
  up.set_defaults(command=_upscale)

  score = commands.add_parser(
      'metrics', parents=[common], help='score images that exist against their originals',
      description='Scores images: pairs have the same file name up to the suffix. PSNR and SSIM are on Y of YCbCr.')
  score.add_argument('hr', metavar='HR_DIR', help='folder of the originals')
  score.add_argument('sr', metavar='SR_DIR', help='folder of the images to score')
  score.add_argument('--metrics', default='psnr,ssim', metavar='LIST', help='names, with commas (default: psnr,ssim)')
  score.add_argument('--csv', metavar='FILE', help='write a table: image, the metrics; last row mean')
  score.add_argument('--crop', type=int, default=0, metavar='N', help='border left out, in pixels (default: 0)')
  score.add_argument('--niqe-model', metavar='FILE', help="NIQE's pristine model, an .npz file")
  score.set_defaults(command=_metrics)

  down = commands.add_parser(
      'degrade', parents=[common], help='make LR images for a benchmark',
      description='Degrades images by a recipe and writes LR images, kernels, depth and a manifest, by which the same '
      'set can be made again. An image depends on the seed and its file name alone.',
      epilog='recipes: FIELD/MODE, such as smooth/noise_jpeg, or realesrgan, realesrgan-light. Fields: invariant, '
      'smooth, mode1 to mode6, depth, motion, depth_motion, mixed. Modes: no_noise, no_jpeg, noise_jpeg, mixed.')
  down.add_argument('inputs', nargs='+', metavar='IN', help='image files and folders of images')
  down.add_argument('-o', '--output', required=True, metavar='OUT', help='a folder; with --preview a .png file')
  down.add_argument('-r', '--recursive', action='store_true', help="take a folder's sub-folders too")
  how = down.add_mutually_exclusive_group(required=True)
  how.add_argument('--recipe', metavar='NAME', help='what degradation to draw')
  how.add_argument('--remake', metavar='MANIFEST', help='make the set of a manifest.json again and compare every file')
  how.add_argument('--preview', action='store_true', help='write one picture: IN under every recipe')
  down.add_argument('--seed', type=int, metavar='N', help='of all draws (default: 0)')
  depth = down.add_mutually_exclusive_group()
  depth.add_argument('--depth', metavar='DIR', help='distance maps named as the images: 8- or 16-bit PNG, PFM or NPY')
  depth.add_argument('--inverse-depth', metavar='DIR', help='the same, where large is near')
  down.add_argument('--model', default='compact', metavar='M',
                    help='whose depth net sees the images where a recipe needs depth and no maps are given')
  down.add_argument('--write-hr', action='store_true', help='also write the HR images as they were degraded')
  down.add_argument('--overwrite', action='store_true', help='make images again that the set holds')
  down.add_argument('-q', '--quiet', action='store_true', help='print errors only')
  down.set_defaults(command=_degrade)

  data = commands.add_parser('data', help='list, check and pack image sets')
  actions = data.add_subparsers(title='actions', required=True, metavar='ACTION')
  root = argparse.ArgumentParser(add_help=False)
  root.add_argument('--root', metavar='DIR', help='where the ready sets lie (default: $SSR_DATA, else data)')
  work = argparse.ArgumentParser(add_help=False)
  work.add_argument('--workers', type=int, metavar='N', help="threads (default: the machine's cores)")
  work.add_argument('-q', '--quiet', action='store_true', help='no progress bar')
  source = "a source such as folder:DIR; paired:HR_DIR,LR_DIR; rgbd:DIR; tfds:NAME; array_record:GLOB; several joined by ';'"

  ready = actions.add_parser(
      'list', parents=[common, root], help='ready definitions of known sets: what, how many, where',
      description='Lists the sets that are known by name, where each is expected below the root, and what is there.')
  ready.set_defaults(command=_data_list)
  check = actions.add_parser(
      'check', parents=[common, root, work], help='find unreadable, small and duplicate images, and what a set lacks',
      description='Decodes every image; names those that are unreadable, too small, or have the pixels of another. '
      'Of a set that is known by name it also says what is missing.')
  check.add_argument('source', metavar='SRC', help=f'{source}; or the name of a ready set')
  check.add_argument('--min-side', type=int, default=0, metavar='N', help='smallest side of an image (default: any)')
  check.set_defaults(command=_data_check)
  pack = actions.add_parser(
      'pack', parents=[common, work], help='write ArrayRecord shards',
      description='Packs images, their bytes as they are, into ArrayRecord shards with a manifest of sha256. Stopped at '
      'any moment, the same command goes on. What cannot be read is named and left out.')
  pack.add_argument('source', metavar='SRC', help=source)
  pack.add_argument('dest', metavar='DEST', help='a folder; with --tfds, the tfds data directory')
  pack.add_argument('--tfds', metavar='NAME', help="make it a tfds set, which 'tfds:NAME' reads without TensorFlow")
  pack.add_argument('--split', default='train', metavar='NAME', help='of the tfds set (default: train)')
  pack.add_argument('--shard-records', type=int, default=128, metavar='N', help='records a shard (default: 128)')
  pack.set_defaults(command=_data_pack)

  export = commands.add_parser(
      'export', parents=[common], help='make a model of a training checkpoint',
      description="Writes the averaged weights of a run's checkpoint into a model directory, as safetensors with sha256; "
      'parts that the directory has besides stay.')
  export.add_argument('run', metavar='WORKDIR', help='the workdir of a training run')
  export.add_argument('directory', metavar='DIR', help='the model directory, made when absent')
  export.add_argument('--step', type=int, metavar='N', help='of the checkpoint (default: the newest)')
  export.set_defaults(command=_export)

  weights = commands.add_parser('weights', help='list, verify, find or import weights')
  actions = weights.add_subparsers(title='actions', required=True, metavar='ACTION')
  for name, command, text in (
      ('list', _weights_list, 'parts, sizes and parameters of a model; without one, also what can be imported'),
      ('verify', _weights_verify, 'check every file against its sha256'),
      ('path', _weights_path, 'print the folder of a model')):
    action = actions.add_parser(name, parents=[common], help=text, description=text)
    action.add_argument('model', nargs='?', help='a model, or a name that can be imported (default: compact)')
    action.set_defaults(command=command)
  action = actions.add_parser(
      'import', parents=[common], help='make a model of public weights',
      description='Reads Stable Diffusion 1.5 or 2.1, DPT, Depth Anything V2 or MANet and writes our parts of it.')
  action.add_argument('source', metavar='SOURCE',
                      help='a folder of diffusers or transformers, a file, a name from `ssr weights list`, or a hub id')
  action.add_argument('--as', dest='name', metavar='NAME',
                      help='model to add the parts to: a name, or a folder with a / in it (default: the name of SOURCE)')
  action.add_argument('--prompt', default='', metavar='TEXT', help='fixed text condition of the UNet (default: empty)')
  action.set_defaults(command=_weights_import)
  return parser


# ---- upscale ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Job:
  source: pathlib.Path
  target: pathlib.Path

  @property
  def figure(self) -> pathlib.Path:
    return self.target.with_name(f'{self.target.stem}_figure.png')


def _upscale(arguments: argparse.Namespace) -> int:
  if not 1 <= arguments.quality <= 100:
    raise SSRError(f'--quality {arguments.quality}: must be from 1 to 100')
  if arguments.restored_only and arguments.steps:
    raise SSRError('--restored-only and --steps exclude each other; give one')
  jobs, failures = _jobs(arguments)
  for line in failures:
    _say(line)
  if jobs:
    _check_writable(sorted({job.target.parent for job in jobs}))

  from tqdm import tqdm

  from ssr_jax import pipeline, xla
  from ssr_jax.weights import registry

  total = {job.source: _pixels(job.source) for job in jobs}
  failed, done = len(failures), 0
  if jobs:
    xla.enable_compilation_cache()
    registry.resolve(arguments.model)
    try:
      model = pipeline.load(arguments.model)
    except SSRError as error:  # a damaged model is no wrong usage
      return _say(str(error), 1)
    # Wrong options are told once, not for each image.
    model.check(**{k: v for k, v in _options(arguments).items() if k != 'seed'})
  hidden = True if arguments.quiet else None  # None: hidden where stderr is no terminal
  bar = tqdm(total=sum(total.values()), unit='px', unit_scale=True, disable=hidden, leave=False)
  try:
    with bar:
      for job in jobs:
        bar.set_description(job.source.name[-24:])
        goal = bar.n + total[job.source]
        start = time.monotonic()

        def progress(tiles_done, tiles, job=job, goal=goal):
          bar.update(goal - total[job.source] * (tiles - tiles_done) / tiles - bar.n)

        try:
          height, width, notes = _upscale_one(model, job, arguments, progress)
        except Exception as error:
          if arguments.debug and not isinstance(error, SSRError):
            raise
          failed += 1
          with bar.external_write_mode():
            _say(_line(error, job.source))
        else:
          done += 1
          if not arguments.quiet:
            with bar.external_write_mode():
              seconds = time.monotonic() - start
              print(f'{job.source} -> {job.target} ({width}x{height}, {seconds:.1f} s)', flush=True)
              for note in notes:
                _say(f'{job.source}: note: {note}')
        bar.update(goal - bar.n)
  except KeyboardInterrupt:
    return _say(f'stopped; {done} of {len(jobs)} images done', 130)
  return 1 if failed else 0


def _upscale_one(model, job: _Job, arguments, progress) -> tuple[int, int, list[str]]:
  """Reads, super-resolves and writes one image; returns the result's height and width and what could not be kept."""
  from ssr_jax import pipeline

  picture = io.read(job.source, max_pixels=pipeline.MAX_PIXELS)
  height, width = (model.config['scale'] * side for side in picture.rgb.shape[:2])
  io.check_format(job.target, height, width)  # told now, not after minutes of work
  result = model.sample(picture.rgb, progress=progress, keep_kernels=arguments.figures, **_options(arguments))
  alpha = None if picture.alpha is None else io.upscale_alpha(picture.alpha, model.config['scale'])
  larger = dataclasses.replace(picture, rgb=result.image, alpha=alpha)
  sheet = None
  if arguments.figures:  # drawn before anything is written: a failure must not leave one file of two
    from ssr_jax.report import figures

    buffer = iolib.BytesIO()
    figures.figure(picture.rgb, result.depth, result.kernels, result.restored, result.image).save(buffer, 'PNG')
    sheet = buffer.getvalue()
  notes = picture.notes + io.write(job.target, larger, arguments.quality)
  if sheet is not None:
    io.write_bytes(job.figure, sheet)
  return height, width, notes


def _options(arguments) -> dict:
  names = ('steps', 'seed', 'scale', 'sampler', 'start', 'colour_fix', 'strength')
  options = {name: getattr(arguments, name) for name in names}
  if arguments.restored_only:
    options['steps'] = 0
  return options | ({'tile': arguments.tile} if arguments.tile else {})


def _jobs(arguments) -> tuple[list[_Job], list[str]]:
  """What is to be done, and a line for each input that is out from the start."""
  output = pathlib.Path(arguments.output)
  inputs = [pathlib.Path(name) for name in arguments.inputs]
  to_file = output.suffix.lower() in io.WRITABLE and not output.is_dir()
  if to_file and (len(inputs) > 1 or inputs[0].is_dir()):
    raise SSRError(f'-o {output}: several inputs need a folder')
  if not to_file and output.exists() and not output.is_dir():
    raise SSRError(f"-o {output}: no folder; name a folder, or a file ending in {', '.join(io.WRITABLE)}")

  jobs, failures, taken = [], [], {}
  for given in inputs:
    if given.is_dir():
      found = _images(given, arguments.recursive)
      if not found:
        failures.append(f'{given}: no images in this folder; known suffixes: {", ".join(io.READABLE)}')
      pairs = [(path, output / path.relative_to(given).parent / _name(path, arguments.format)) for path in found]
    else:
      pairs = [(given, output if to_file else output / _name(given, arguments.format))]
    for source, target in pairs:
      clash = taken.get(target)
      if clash is not None:
        failures.append(f'{source}: its output {target} is also that of {clash}; rename one or use another folder')
      elif target.exists() and source.exists() and os.path.samefile(source, target):
        failures.append(f'{source}: the output would replace the input; choose another -o')
      elif target.exists() and arguments.skip_existing:
        continue
      elif target.exists() and not arguments.overwrite:
        failures.append(f'{source}: {target} exists; use --overwrite or --skip-existing')
      else:
        taken[target] = source
        jobs.append(_Job(source, target))
  return jobs, failures


def _images(folder: pathlib.Path, recursive: bool) -> list[pathlib.Path]:
  paths = folder.rglob('*') if recursive else folder.iterdir()
  return sorted(path for path in paths if path.suffix.lower() in io.READABLE and path.is_file())


def _name(source: pathlib.Path, form: str | None) -> str:
  if form:
    return f'{source.stem}.{form}'
  return source.name if source.suffix.lower() in io.WRITABLE else f'{source.stem}.png'


def _check_writable(folders: Iterable[pathlib.Path]) -> None:
  """Makes the output folders and tries a file in each, before any work is done for nothing."""
  for folder in folders:
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise SSRError(f'-o {folder}: cannot be made ({error.strerror}); choose another place') from error
    probe = folder / f'.ssr-{os.getpid()}.tmp'
    try:
      probe.touch()
      probe.unlink()
    except OSError as error:
      raise SSRError(f'-o {folder}: cannot be written to ({error.strerror}); choose another place') from error


def _pixels(path: pathlib.Path) -> int:
  size = io.size(path)
  return size[0] * size[1] if size else 0


# ---- metrics ---------------------------------------------------------------------------------------------------------


def _metrics(arguments: argparse.Namespace) -> int:
  from ssr_jax import metrics

  names = [name.strip() for name in arguments.metrics.split(',') if name.strip()]
  chosen = metrics.get(names)
  have = {'image', 'reference'} | ({'pristine'} if arguments.niqe_model else set())
  for name, metric in chosen.items():
    lacking = set(metric.needs) - have
    if lacking == {'pristine'}:
      raise SSRError(f"metric '{name}' needs its pristine model; give --niqe-model FILE")
    if lacking:
      raise SSRError(f"metric '{name}' needs {', '.join(sorted(lacking))}, which two folders do not hold; leave it out")
  pristine = metrics.load_pristine(arguments.niqe_model) if arguments.niqe_model else None
  folders = [pathlib.Path(arguments.hr), pathlib.Path(arguments.sr)]
  for folder in folders:
    if not folder.is_dir():
      raise SSRError(f'{folder}: not a folder')
  originals, scored = ({path.stem: path for path in _images(folder, False)} for folder in folders)
  if not originals:
    raise SSRError(f'{folders[0]}: no images in this folder; known suffixes: {", ".join(io.READABLE)}')

  rows, failed = [], 0
  for stem, original in originals.items():
    try:
      if stem not in scored:
        raise SSRError(f'{folders[1]}: no image named {stem}; names must be those of {folders[0]}')
      reference, image = io.read(original).rgb, io.read(scored[stem]).rgb
      if reference.shape != image.shape:
        raise SSRError(f'{scored[stem]}: {_size(image)}, but {original} is {_size(reference)}; sizes must be the same')
      values = metrics.score(names, image=image, reference=reference, pristine=pristine, crop=arguments.crop)
    except Exception as error:
      if arguments.debug and not isinstance(error, SSRError):
        raise
      failed += 1
      _say(_line(error, original))
    else:
      rows.append((stem, [values[name] for name in names]))
  if rows:
    rows.append(('mean', [sum(column) / len(rows) for column in zip(*(values for _, values in rows))]))
  width = max([len(name) for name, _ in rows] + [5])
  print('image'.ljust(width), *(name.rjust(12) for name in names))
  for name, values in rows:
    digits = [chosen[metric].digits for metric in names]
    print(name.ljust(width), *(f'{value:12.{places}f}' for value, places in zip(values, digits)))
  if arguments.csv:
    table = iolib.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(['image', *names])
    writer.writerows([name, *(f'{value:.6f}' for value in values)] for name, values in rows)
    io.write_bytes(arguments.csv, table.getvalue().encode())
  return 1 if failed else 0


def _size(image) -> str:
  return f'{image.shape[1]}x{image.shape[0]}'


# ---- degrade ---------------------------------------------------------------------------------------------------------


def _degrade(arguments: argparse.Namespace) -> int:
  if arguments.remake and (arguments.seed is not None or arguments.depth or arguments.inverse_depth):
    raise SSRError('--remake takes seed and depth from the manifest; leave --seed and depth maps out')
  from ssr_jax import xla

  paths, failures = [], []
  for given in map(pathlib.Path, arguments.inputs):
    found = _images(given, arguments.recursive) if given.is_dir() else [given]
    if not found:
      failures.append(f'{given}: no images in this folder; known suffixes: {", ".join(io.READABLE)}')
    paths += found
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
    _say(line)
  failed, done, kept = len(failures), 0, 0
  names = {}
  estimate = None
  with tqdm(total=len(paths), unit='image', disable=True if arguments.quiet else None, leave=False) as bar:
    try:
      for path in paths:
        bar.set_description(path.name[-24:])
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
          if manifest:
            _compare(entry, manifest['images'][path.name], path, manifest['versions'])
        except Exception as error:
          if arguments.debug and not isinstance(error, SSRError):
            raise
          failed += 1
          with bar.external_write_mode():
            _say(_line(error, path))
        else:
          if not arguments.quiet:
            for note in entry['notes']:
              with bar.external_write_mode():
                _say(f'{path}: note: {note}')
        bar.update()
    finally:
      made.save()  # also after Ctrl-C: what is made is made
  if not arguments.quiet:
    print(f'{made.directory}: {done} images made by {recipe.name}, seed {seed}'
          + (f'; {kept} were there' if kept else '') + ('; all as in the manifest' if manifest and not failed else ''))
  return 1 if failed else 0


def _compare(entry: dict, expected: dict, path: pathlib.Path, versions: dict) -> None:
  """SSRError that says what of a remade image is not what the manifest says."""
  if entry['source']['sha256'] != expected['source']['sha256']:
    raise SSRError(f'{path}: not the file that the set was made from; find the original')
  if entry['lr']['pixels_sha256'] != expected['lr']['pixels_sha256'] or entry['draws'] != expected['draws']:
    then = ', '.join(f'{name} {version}' for name, version in expected.get('versions', versions).items())
    raise SSRError(f'{path}: came out differently; the set was made with {then}')


def _depth_map(path: pathlib.Path, arguments: argparse.Namespace):
  """A photo's depth map, relative inverse depth [H, W], and where it came from."""
  from ssr_jax.data import sources

  folder = pathlib.Path(arguments.depth or arguments.inverse_depth)
  found = [p for p in sorted(folder.glob('*')) if p.stem == path.stem and p.suffix.lower() in sources.DEPTH_SUFFIXES]
  if not found:
    known = ', '.join(sources.DEPTH_SUFFIXES)
    raise SSRError(f'{path}: no depth map of this name in {folder}; known suffixes: {known}')
  kind = 'depth' if arguments.depth else 'inverse'
  return sources.decode_depth(found[0].read_bytes(), kind, str(found[0])), f'{kind} map {found[0].name}'


def _depth_net(name: str):
  """A function from a photo's path to the net's relative inverse depth [H, W] and a line that names the net."""
  import numpy as np

  from ssr_jax import models, xla
  from ssr_jax.weights import registry

  model = registry.load_model(name, ['depth'])
  entry = model.config['parts']['depth']
  run = xla.jit(models.build('depth', **entry['config']).apply)

  def estimate(path: pathlib.Path):
    rgb = io.read(path).rgb
    image = rgb.astype(np.float32) / (255 if rgb.dtype == np.uint8 else 1)
    return np.asarray(run(model.variables['depth'], image[None]))[0, ..., 0], (
        f"depth net of {model.config['name']}, sha256 {entry['sha256'][:12]}")

  return estimate


def _preview(arguments: argparse.Namespace, paths: list[pathlib.Path]) -> int:
  from ssr_jax.report import contact_sheet

  output = pathlib.Path(arguments.output)
  if len(paths) != 1:
    raise SSRError(f'--preview: takes one image; got {len(paths)}')
  if output.suffix.lower() != '.png':
    raise SSRError(f'-o {output}: a preview is one picture; name a .png file')
  _check_writable([output.parent])
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
    return _say(_line(error, paths[0]), 1)
  sheet = contact_sheet.contact_sheet(rgb, depth, paths[0].name, arguments.seed or 0)
  buffer = iolib.BytesIO()
  sheet.save(buffer, 'PNG')
  io.write_bytes(output, buffer.getvalue())
  if not arguments.quiet:
    print(f'{paths[0]} -> {output} ({sheet.width}x{sheet.height})')
  return 0


def _versions() -> dict[str, str]:
  """Of what has a say in the pixels."""
  import platform

  import jax
  import jaxlib
  import numpy
  import PIL

  return {'ssr-jax': ssr_jax.__version__, 'python': platform.python_version(), 'jax': jax.__version__,
          'jaxlib': jaxlib.__version__, 'numpy': numpy.__version__, 'pillow': PIL.__version__,
          'device': jax.devices()[0].device_kind}


# ---- data ------------------------------------------------------------------------------------------------------------


def _data_list(arguments: argparse.Namespace) -> int:
  from ssr_jax.data import datasets

  root = datasets.root_of(arguments.root)
  print(f"{'set':20}{'count':>6}  {'found':14}what")
  for name, definition in datasets.DEFINITIONS.items():
    status = datasets.status(name, root)
    found = 'complete' if not status.problem else 'absent' if status.place is None else f'{status.found}, incomplete'
    print(f'{name:20}{definition.count:6}  {found:14}{definition.what}')
    print(f"{'':28}{' or '.join(definition.places)}")
    print(f"{'':28}{definition.home}  (licence: {definition.licence or 'see there'})")
  print(f"below {root}; use one as 'set:NAME', see what one lacks with 'ssr data check NAME'")
  return 0


def _data_check(arguments: argparse.Namespace) -> int:
  from ssr_jax.data import datasets, pack, sources

  problems, spec = 0, arguments.source
  name = spec.removeprefix('set:')
  if ':' not in name:
    if name not in datasets.DEFINITIONS and pathlib.Path(name).is_dir():
      raise SSRError(f"source '{name}': a folder reads 'folder:{name}'")
    status = datasets.status(name, arguments.root)
    if status.problem:
      problems += 1
      _say(f'{name}: {status.problem}; get it from {status.definition.home}')
    if not status.found:
      return 1
    spec = status.place
  source = sources.from_spec(spec)
  _check_workers(arguments)
  with _bar(len(source), arguments) as progress:
    found = pack.check(source, arguments.min_side, arguments.workers, progress)
  for line in found.problems:
    _say(line)
  if len(found.sizes):
    (low_h, low_w), (high_h, high_w) = found.sizes.min(0), found.sizes.max(0)
    print(f'{found.records} records, {len(found.sizes)} readable, {len(found.problems)} problems; heights {low_h} to '
          f'{high_h}, widths {low_w} to {high_w}')
  return 1 if problems or found.problems else 0


def _data_pack(arguments: argparse.Namespace) -> int:
  from ssr_jax.data import pack, sources

  _check_workers(arguments)
  total = len(sources.from_spec(arguments.source))
  try:
    with _bar(total, arguments) as progress:
      done = pack.pack(
          arguments.source, arguments.dest, tfds_name=arguments.tfds, split=arguments.split,
          shard_records=arguments.shard_records, workers=arguments.workers, progress=progress)
  except pack.WriteError as error:  # no wrong usage
    return _say(str(error), 1)
  for line in done.left_out:
    _say(f'left out {line}')
  print(f'{done.records} records, {done.size / 1e6:.1f} MB, {done.shards} shards in {done.directory}'
        + (f', {done.kept} of them from before' if done.kept else '')
        + (f'; {done.recoded} images stored as PNG' if done.recoded else ''))
  print(f"read it as '{done.spec}'" + (f' with TFDS_DATA_DIR={arguments.dest}' if arguments.tfds else ''))
  return 1 if done.left_out else 0


def _check_workers(arguments: argparse.Namespace) -> None:
  if arguments.workers is not None and arguments.workers < 1:
    raise SSRError(f'--workers {arguments.workers}: must be 1 or more')


@contextlib.contextmanager
def _bar(total: int, arguments: argparse.Namespace):
  """A progress bar, as the function that moves it."""
  from tqdm import tqdm

  with tqdm(total=total, unit='image', disable=True if arguments.quiet else None, leave=False) as bar:
    yield lambda done, _: bar.update(done - bar.n)


# ---- weights ---------------------------------------------------------------------------------------------------------


def _export(arguments: argparse.Namespace) -> int:
  from ssr_jax.training import export

  for path in export.export(arguments.run, arguments.directory, arguments.step):
    print(path)
  return 0


def _weights_list(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import public, registry

  if _is_public(arguments.model):
    _weights_published(arguments.model)
    return 0
  if arguments.model:
    return _weights_show(arguments.model)
  for name in registry.known():
    _weights_show(name)
  print('\ncan be imported (ssr weights import NAME, or the folder that holds it):')
  for name in public.PUBLIC:
    _weights_published(name)
  return 0


def _is_public(model: str | None) -> bool:
  """Whether it is a published checkpoint's name, and no model of that name has been made of it."""
  from ssr_jax.weights import public, registry

  made = model in registry.known() or (pathlib.Path(model or '') / registry.MODEL_FILE).is_file()
  return model in public.PUBLIC and not made


def _weights_published(name: str) -> None:
  from ssr_jax.weights import public

  entry, found = public.PUBLIC[name], public.here(name)
  print(f"  {name:25}{entry.what}\n{'':27}{entry.licence}; {' or '.join(entry.places)}")
  print(f"{'':27}{f'here: {found}' if found else 'not on this machine'}")
  for file in entry.files:
    size = 'size not published' if file.bytes is None else f'{file.bytes / 1e6:,.1f} MB'
    print(f"{'':27}{file.name}  {size}  sha256 {file.sha256[:12] if file.sha256 else 'not published'}")


def _weights_show(model: str) -> int:
  from ssr_jax.weights import registry

  directory = registry.resolve(model)
  config = registry.read_config(directory)
  print(f"{config['name']} (x{config['scale']}) in {directory}")
  for part, entry in config['parts'].items():
    print(f"  {part:8}{entry['parameters'] / 1e6:9.2f} M parameters{entry['bytes'] / 1e6:9.2f} MB  "
          f"sha256 {entry['sha256'][:12]}  {entry['file']}")
  total = config['parts'].values()
  print(f"  {'all':8}{sum(e['parameters'] for e in total) / 1e6:9.2f} M parameters"
        f"{sum(e['bytes'] for e in total) / 1e6:9.2f} MB")
  return 0


def _weights_verify(arguments: argparse.Namespace) -> int:
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
      _say(problem)
  return 1 if any(found.values()) else 0


def _weights_path(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import public, registry

  if _is_public(arguments.model):
    found = public.here(arguments.model)
    if found is None:
      return _say(f'{arguments.model}: not on this machine; put its files into {public.downloads(arguments.model)}')
    print(found)
    return 0
  print(registry.resolve(arguments.model or 'compact'))
  return 0


def _weights_import(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import importing, registry, torch_files

  source = pathlib.Path(arguments.source)
  name = arguments.name or (source.stem if source.suffix in torch_files.SUFFIXES else source.name)
  if name in registry.BUNDLED:
    raise SSRError(f"--as {name}: '{name}' comes with the package and stays as it is; choose another name")
  directory = pathlib.Path(name) if len(pathlib.PurePath(name).parts) > 1 else registry.home() / name
  parts = importing.import_checkpoint(
      arguments.source, directory, prompt=arguments.prompt, report=lambda line: print(line, flush=True))
  print(f"{', '.join(parts)} written to {directory}")
  return 0


# ---- what is said ----------------------------------------------------------------------------------------------------


def _say(line: str, code: int = 1) -> int:
  print(f'ssr: {line}', file=sys.stderr, flush=True)
  return code


def _line(error: BaseException, source: pathlib.Path) -> str:
  """One line that names the file, whatever went wrong with it."""
  if isinstance(error, SSRError):
    line = str(error)
    return line if str(source) in line else f'{source}: {line}'
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
    return f'{source}: out of memory; use a smaller --tile or a smaller image'
  return f'{source}: internal error: {_first_line(error)}; run again with --debug and report what it prints'


def _first_line(error: BaseException) -> str:
  return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'


if __name__ == '__main__':
  sys.exit(main())
