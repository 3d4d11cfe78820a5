"""`ssr metrics`: scores images against their originals."""

import argparse
import math
import pathlib

import numpy as np

from ssr_jax.cli import console, terminal
from ssr_jax.image import io
from ssr_jax.types import SSRError, one_line


def add(commands, common: argparse.ArgumentParser) -> None:
  """Adds `metrics` to the parsers of `ssr`; `common` has the options of all commands."""
  score = commands.add_parser(
    'metrics',
    parents=[common],
    help='score images against their originals',
    description='Scores images against originals of the same file name; suffixes may differ. PSNR and SSIM are on Y '
    'of YCbCr.',
  )
  score.add_argument('hr', metavar='HR_DIR', help='folder of the originals')
  score.add_argument('sr', metavar='SR_DIR', help='folder of the images to score')
  score.add_argument('--metrics', default='psnr,ssim', metavar='LIST', help='names, with commas (default: psnr,ssim)')
  score.add_argument('--csv', metavar='FILE', help='write a table: image, the metrics; last row mean')
  score.add_argument('--crop', type=int, default=0, metavar='N', help='border left out, in pixels (default: 0)')
  score.add_argument('--niqe-model', metavar='FILE', help="NIQE's pristine model, an .npz file")
  score.set_defaults(command=_score)


def _score(arguments: argparse.Namespace) -> int:
  from ssr_jax import metrics
  from ssr_jax.evaluation.report import tables

  names = [name.strip() for name in arguments.metrics.split(',') if name.strip()]
  scorers = _load(names, {'niqe': arguments.niqe_model})
  pairs, failed = _pairs(pathlib.Path(arguments.hr), pathlib.Path(arguments.sr))
  rows = []
  for original, scored in pairs:
    try:
      reference, image = io.read(original).rgb, io.read(scored).rgb
      if reference.shape != image.shape:
        raise SSRError(f'{scored}: {_size(image)}, but {original} is {_size(reference)}; sizes must be the same')
      values = metrics.score(scorers, image=image, reference=reference, crop=arguments.crop)
    except Exception as error:
      terminal.check_stopped()
      if arguments.debug and not isinstance(error, SSRError):
        raise
      failed += 1
      console.say(console.line_of(error, original))
    else:
      rows.append({'image': one_line(original.stem), **values})
      if unknown := [name for name, value in values.items() if math.isnan(value)]:
        console.say(f'{scored}: no {", ".join(unknown)} for this image; the mean leaves it out')
  if rows:
    rows.append({'image': 'mean', **tables.means(rows, (), names)[0]})
  _print(rows, names, [metric.digits for metric in scorers.values()])
  if arguments.csv:
    io.write_bytes(arguments.csv, tables.to_csv(rows, ('image', *names)).encode())
  return 1 if failed else 0


def _load(names: list[str], weights: dict[str, str | None]):
  """The metrics ready to use.

  Raises:
    SSRError: an unknown metric, one that needs more than two images, or weights that are missing or cannot be read.
  """
  from ssr_jax import metrics

  for name, metric in metrics.get(names).items():
    lacking = sorted(set(metric.needs) - {'image', 'reference'})
    if lacking:
      raise SSRError(f"metric '{name}' needs {', '.join(lacking)}, which two folders do not hold; leave it out")
    if metric.weights and not weights.get(name):
      raise SSRError(f"metric '{name}' needs its {metric.weights}; give --{name}-model FILE")
  return metrics.load(names, weights)


def _pairs(hr: pathlib.Path, sr: pathlib.Path) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], int]:
  """(original, image to score) by file name, and the number of originals without an image, each named on stderr.

  Raises:
    SSRError: a folder does not exist, or has no images.
  """
  for folder in (hr, sr):
    if not folder.is_dir():
      raise SSRError(f'{folder}: not a folder')
  originals, scored = ({path.stem: path for path in console.images(folder, False)} for folder in (hr, sr))
  for stem, original in originals.items():
    if stem not in scored:
      line = SSRError(f'{sr}: no image named {stem}; names must be those of {hr}')
      console.say(console.line_of(line, original))
  pairs = [(original, scored[stem]) for stem, original in originals.items() if stem in scored]
  return pairs, len(originals) - len(pairs)


def _print(rows: list[dict], names: list[str], digits: list[int]) -> None:
  width = max([len(row['image']) for row in rows] + [5])
  print('image'.ljust(width), *(name.rjust(12) for name in names))
  for row in rows:
    print(row['image'].ljust(width), *(f'{row[name]:12.{places}f}' for name, places in zip(names, digits, strict=True)))


def _size(image: np.ndarray) -> str:
  return f'{image.shape[1]}x{image.shape[0]}'
