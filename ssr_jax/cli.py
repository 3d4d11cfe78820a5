"""The command `ssr`: upscale images, score images, look after weights.

Exit codes: 0 all done; 1 some inputs failed, each named on stderr in one line, the rest done; 2 wrong usage; 130
stopped by Ctrl-C. JAX and the networks are imported only by the command that needs them.
"""

import argparse
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
  ssr weights verify
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
  up.add_argument('--steps', type=int, metavar='N', help="diffusion steps (default: the model's)")
  up.add_argument('--seed', type=int, default=0, metavar='N', help='of the diffusion noise (default: 0)')
  up.add_argument('--scale', type=int, default=4, metavar='S', help='4 is what there is')
  up.add_argument('--sampler', metavar='NAME', help="ddpm, ddim or dpmpp_2m (default: the model's)")
  up.add_argument('--start', type=float, metavar='T',
                  help="1: from pure noise; less: from the restored image with that much noise (default: the model's)")
  up.add_argument('--colour-fix', metavar='HOW', help="none, adain or wavelet (default: the model's)")
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

  weights = commands.add_parser('weights', help='list or verify the weights')
  actions = weights.add_subparsers(title='actions', required=True, metavar='ACTION')
  for name, command, text in (('list', _weights_list, 'parts, sizes and parameters of a model'),
                              ('verify', _weights_verify, 'check every file against its sha256')):
    action = actions.add_parser(name, parents=[common], help=text, description=text)
    action.add_argument('model', nargs='?', default='compact', help='name or model directory (default: compact)')
    action.set_defaults(command=command)
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
    model.check(**{k: v for k, v in _options(arguments).items() if k != 'seed'})  # wrong options are told once, not for each image
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
  options = {name: getattr(arguments, name) for name in ('steps', 'seed', 'scale', 'sampler', 'start', 'colour_fix')}
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


# ---- weights ---------------------------------------------------------------------------------------------------------


def _weights_list(arguments: argparse.Namespace) -> int:
  from ssr_jax.weights import registry

  directory = registry.resolve(arguments.model)
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
  from ssr_jax.weights import registry

  found = registry.verify(arguments.model)
  for part, problem in found.items():
    if problem is None:
      print(f'{part}: ok')
    else:
      _say(problem)
  return 1 if any(found.values()) else 0


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
