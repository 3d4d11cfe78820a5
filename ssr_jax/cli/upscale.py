"""`ssr upscale`: super-resolves images."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import itertools
import os
import pathlib
import re
import time

from ssr_jax.cli import console, terminal, upscaling
from ssr_jax.cli import options as system_options
from ssr_jax.cli.upscaling import Job
from ssr_jax.image import io, opening
from ssr_jax.nn import DTYPES
from ssr_jax.types import SSRError, one_line


def add(commands, common: argparse.ArgumentParser) -> None:
  """Adds `upscale` to the parsers of `ssr`; `common` has the options of all commands."""
  up = commands.add_parser(
    'upscale',
    parents=[common],
    help='super-resolve images',
    description='Makes images four times as large, or of another size. Writes PNG, TIFF, JPEG, WebP or AVIF; '
    'orientation, colour profile, EXIF, XMP, resolution, transparency, gray and, in PNG and TIFF, 16 bits are kept.',
  )
  up.add_argument('inputs', nargs='+', metavar='IN', help='image files and folders of images')
  up.add_argument(
    '-o',
    '--output',
    metavar='OUT',
    help=f'a folder; or, for one input file, a file name ending in {", ".join(io.WRITABLE)} (default, for files: '
    'beside each input, with _upscaled in its name)',
  )
  up.add_argument('-r', '--recursive', action='store_true', help='include subfolders of folders')
  up.add_argument(
    '--model', default='compact', help="'compact', a model directory, or org/model on the Hugging Face hub"
  )
  up.add_argument(
    '--seed',
    type=int,
    default=0,
    metavar='N',
    help='seed of the diffusion noise; no effect for a student without noise, see --steps (default: 0)',
  )
  up.add_argument(
    '--scale',
    type=float,
    metavar='S',
    help="of the result, 1 to 8; 1 restores at the input's size (default: the model's)",
  )
  up.add_argument(
    '--size',
    type=_size,
    metavar='WxH|N',
    help='the largest size that fits into W x H pixels, or whose longer side is N, instead of a scale',
  )
  system_options.add(up)
  up.add_argument(
    '--dtype',
    default='float32',
    choices=DTYPES,
    help='dtype of the computation; bfloat16 is for GPUs and TPUs (default: float32)',
  )
  up.add_argument(
    '--devices',
    type=int,
    metavar='N',
    help='GPUs or TPU cores that tiles and small images are spread over, one on each (default: all of this machine)',
  )
  up.add_argument(
    '--figures',
    action='store_true',
    help="also write NAME_figure.png: LR, the model's estimates (depth, kernels, restored image), result",
  )
  up.add_argument(
    '--keep-defocus',
    type=float,
    metavar='K',
    help='how much of the defocus to keep, 0 to 1: with 1, what lies out of focus stays as in the photo, and the rest '
    'is restored (default: 0)',
  )
  up.add_argument(
    '--trust',
    metavar='PATH',
    help='also draw what was found in the photo and what was invented, and tell the invented share: a folder for '
    'NAME_trust.png, or, for one input file, a file ending in .png',
  )
  up.add_argument(
    '--format',
    choices=('png', 'tif', 'jpg', 'webp', 'avif'),
    help='format of files in an output folder (default: as the input)',
  )
  up.add_argument(
    '--quality', type=int, default=95, metavar='Q', help='quality of JPEG, WebP and AVIF, 1 to 100 (default: 95)'
  )
  up.add_argument(
    '--frames',
    action='store_true',
    help='do animated images frame by frame, into an animated .png or .webp; without it they are refused',
  )
  up.add_argument('--tile', type=int, metavar='N', help='largest LR side without tiling; smaller needs less memory')
  up.add_argument(
    '--max-pixels',
    type=int,
    metavar='N',
    help='refuse images of more pixels, which a damaged or malicious file may claim to have '
    f'(default: {opening.MAX_PIXELS})',
  )
  up.add_argument(
    '--jobs',
    type=int,
    default=2,
    metavar='N',
    help='images that are read, and results that are written, beside the model (default: 2)',
  )
  up.add_argument(
    '--no-metadata',
    action='store_true',
    help="write pixels, colour profile and nothing else: neither the input's EXIF and XMP, nor model and settings",
  )
  up.add_argument('--overwrite', action='store_true', help='replace outputs that exist')
  up.add_argument('--skip-existing', action='store_true', help='skip inputs whose output exists')
  up.add_argument('-q', '--quiet', action='store_true', help='print errors only')
  up.set_defaults(command=_upscale)


def _size(text: str) -> tuple[int, int]:
  """(width, height) of the box that '640x480' or '640' names."""
  found = re.fullmatch(r'(\d+)(?:x(\d+))?', text.lower())
  box = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
  if min(box) < 1:
    raise argparse.ArgumentTypeError(f'{text!r}: give WIDTHxHEIGHT or one number, in pixels')
  return box


def _upscale(arguments: argparse.Namespace) -> int:
  if arguments.scale is not None and arguments.size:
    raise SSRError('--scale and --size exclude each other; give one')
  if arguments.frames and (arguments.figures or arguments.trust):
    raise SSRError('--frames makes neither --figures nor --trust, which show one image; leave them out')
  if not 1 <= arguments.quality <= 100:
    raise SSRError(f'--quality {arguments.quality}: must be from 1 to 100')
  if not 1 <= arguments.jobs <= 64:
    raise SSRError(f'--jobs {arguments.jobs}: must be from 1 to 64')
  system_options.given(arguments)  # a contradiction among them is said before any file is looked at
  if arguments.max_pixels is not None and arguments.max_pixels < 1:
    raise SSRError(f'--max-pixels {arguments.max_pixels}: must be at least 1')
  begun = time.monotonic()
  jobs, failures, skipped = _jobs(arguments)
  for line in failures:
    console.say(line)
  done, failed, shares = 0, len(failures), []
  summary = lambda: _tell_summary(arguments, done, skipped, failed, shares, time.monotonic() - begun)
  if not jobs:
    summary()
    return 1 if failures else 0
  console.check_writable(sorted({path.parent for job in jobs for path in job.outputs.values()}))

  from tqdm import tqdm

  from ssr_jax import runtime, xla
  from ssr_jax.runtime import spread
  from ssr_jax.weights import store

  xla.enable_compilation_cache()
  store.resolve(arguments.model)
  spread.local(arguments.devices)  # a usage error, unlike a damaged model
  try:
    model = runtime.load(arguments.model, dtype=arguments.dtype, devices=arguments.devices)
  except SSRError as error:  # a damaged model is not a usage error
    return console.say(str(error), 1)
  # Report wrong options once, not for each image.
  options = _options(arguments)
  model.check(**{k: v for k, v in options.items() if k != 'seed'})
  made_by = None if arguments.no_metadata else upscaling.made_by(model, options)
  pixels = {job: _pixels(job.source) for job in jobs}
  ends = dict(zip(jobs, itertools.accumulate(pixels.values()), strict=True))
  hidden = True if arguments.quiet else None  # None: hidden if stderr is no terminal
  bar = tqdm(total=sum(pixels.values()), unit='px', unit_scale=True, disable=hidden, leave=False)

  def progress(job, tiles_done, tiles):
    bar.set_description(one_line(job.source.name[-24:]), refresh=False)
    bar.update(max(ends[job] - pixels[job] * (tiles - tiles_done) / tiles - bar.n, 0))

  settings = upscaling.Settings(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(upscaling.Settings)})
  upscaler = upscaling.Upscaler(model, settings, options, made_by)
  begun = time.monotonic()  # images a second are those of a model that is loaded
  try:
    with bar:
      for job, found in upscaling.run(upscaler, jobs, arguments.jobs, progress, model.at_once):
        if isinstance(found, Exception):
          terminal.check_stopped()
          if arguments.debug and not isinstance(found, SSRError):
            raise found
          failed += 1
          progress(job, 1, 1)
          with bar.external_write_mode():
            console.say(console.line_of(found, job.source))
          continue
        done += 1
        shares += [] if found.invented is None else [found.invented]
        if not arguments.quiet:
          with bar.external_write_mode():
            height, width = found.size
            told = '' if found.invented is None else f', {100 * found.invented:.0f} % invented'
            console.tell(f'{job.source} -> {job.target} ({width}x{height}, {found.seconds:.1f} s{told})')
            for note in found.notes:
              console.say(f'{job.source}: note: {note}')
  except KeyboardInterrupt:
    return console.say(f'stopped; {upscaler.written} of {len(jobs)} images done', 130)
  summary()
  return 1 if failed else 0


def _tell_summary(
  arguments: argparse.Namespace, done: int, skipped: int, failed: int, shares: list[float], seconds: float
) -> None:
  """One line about a run of several images; `shares` are what was invented of each that was measured."""
  if not arguments.quiet and done + skipped + failed > 1:
    rate = f', {done / seconds:.3g} images/s' if done else ''
    invented = f'; {100 * sum(shares) / len(shares):.0f} % invented on average' if shares else ''
    console.tell(f'{done} done, {skipped} skipped, {failed} failed in {seconds:.1f} s{rate}{invented}')


def _options(arguments) -> dict:
  """Arguments of `Restorer.sample`, without the options that were not given."""
  options = {'seed': arguments.seed} | ({} if arguments.scale is None else {'scale': arguments.scale})
  options |= system_options.given(arguments)
  options |= {'trust': True} if arguments.trust else {}
  options |= {'keep_defocus': arguments.keep_defocus} if arguments.keep_defocus else {}
  return options | ({'tile': arguments.tile} if arguments.tile else {})


def _jobs(arguments) -> tuple[list[Job], list[str], int]:
  """The jobs, an error line for each input that cannot be processed, and how many are skipped.

  No file of a job is an input, a file of another job, or, without --overwrite, a file that exists.
  """
  pairs, failures = _pairs(arguments)
  inputs = {console.identity(source): source for source, _ in pairs}
  jobs: list[Job] = []
  taken: dict[tuple, Job] = {}
  skipped = 0
  trust = _trust_target(arguments, pairs)
  for source, target in pairs:
    figure = target.with_name(f'{target.stem}_figure.png') if arguments.figures else None
    job = Job(source, target, figure, trust(target) if trust else None)
    same = taken.get(console.identity(target))
    if same and same.target == target and console.identity(same.source) == console.identity(source):
      continue  # the same input given twice
    problem = _clash(job, inputs, taken)
    if not problem and os.path.lexists(target) and arguments.skip_existing:
      skipped += 1
      continue
    if not problem and not arguments.overwrite:
      existing = [path for path in job.outputs.values() if os.path.lexists(path)]
      problem = f'{source}: {existing[0]} exists; use --overwrite or --skip-existing' if existing else None
    if problem:
      failures.append(problem)
      continue
    taken |= {console.identity(path): job for path in job.outputs.values()}
    jobs.append(job)
  return jobs, failures, skipped


def _pairs(arguments) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], list[str]]:
  """(input, output) of all images, and an error line for each folder without any."""
  inputs = [pathlib.Path(name) for name in arguments.inputs]
  if arguments.output is None:
    if folders := list(filter(os.path.isdir, inputs)):
      raise SSRError(f'{folders[0]}: is a folder; say with -o where the results of a folder go')
    named = ((given, pathlib.Path(_name(given, arguments.format))) for given in inputs)
    return [(given, given.with_name(f'{given.stem}_upscaled{name.suffix}')) for given, name in named], []
  output = pathlib.Path(arguments.output)
  to_file = output.suffix.lower() in io.WRITABLE and not os.path.isdir(output)
  if to_file and (len(inputs) > 1 or os.path.isdir(inputs[0])):
    raise SSRError(f'-o {output}: several inputs need a folder')
  if not to_file and os.path.exists(output) and not os.path.isdir(output):
    raise SSRError(f'-o {output}: not a folder; name a folder, or a file ending in {", ".join(io.WRITABLE)}')
  pairs, failures = [], []
  for given in inputs:
    if not os.path.isdir(given):
      pairs.append((given, output if to_file else output / _name(given, arguments.format)))
      continue
    try:
      found = console.images(given, arguments.recursive)
    except SSRError as error:
      failures.append(str(error))
    else:
      pairs += [(path, output / path.relative_to(given).parent / _name(path, arguments.format)) for path in found]
  return pairs, failures


def _trust_target(
  arguments: argparse.Namespace, pairs: Sequence[tuple[pathlib.Path, pathlib.Path]]
) -> Callable[[pathlib.Path], pathlib.Path] | None:
  """(path of a result) -> path of its map; None without --trust."""
  if arguments.trust is None:
    return None
  place = pathlib.Path(arguments.trust)
  output = None if arguments.output is None else pathlib.Path(arguments.output)
  if place.suffix.lower() == '.png' and not os.path.isdir(place):
    if len(arguments.inputs) > 1 or os.path.isdir(arguments.inputs[0]):
      raise SSRError(f'--trust {place}: several inputs need a folder')
    return lambda target: place
  if os.path.exists(place) and not os.path.isdir(place):
    raise SSRError(f'--trust {place}: not a folder; name a folder, or a file ending in .png')
  if output is None or all(target == output for _, target in pairs):
    return lambda target: place / f'{target.stem}_trust.png'
  return lambda target: place / target.relative_to(output).parent / f'{target.stem}_trust.png'


def _clash(job: Job, inputs: Mapping[tuple, pathlib.Path], taken: Mapping[tuple, Job]) -> str | None:
  """A line about a file of the job that is an input, or another file of it or of an earlier job; None for none."""
  own: dict[tuple, str] = {}
  for what, path in job.outputs.items():
    identity = console.identity(path)
    if own.setdefault(identity, what) != what:
      return f'{job.source}: its {what} {path} would replace its {own[identity]}; choose another path'
    if identity in inputs:
      other = inputs[identity]
      which = 'the input' if console.identity(job.source) == identity else f'the input {other}'
      return f'{job.source}: the {what} {path} would replace {which}; choose another -o'
    if identity in taken:
      other = taken[identity].source
      return f'{job.source}: its {what} {path} is also that of {other}; rename one or use another folder'
  return None


def _name(source: pathlib.Path, form: str | None) -> str:
  if form:
    return f'{source.stem}.{form}'
  return source.name if source.suffix.lower() in io.WRITABLE else f'{source.stem}.png'


def _pixels(path: pathlib.Path) -> int:
  size = io.size(path)
  return size[0] * size[1] if size else 0
