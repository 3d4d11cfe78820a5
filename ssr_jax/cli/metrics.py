"""`ssr metrics`: scores of images that exist."""

import argparse
import csv
import io as iolib
import pathlib

from ssr_jax.cli import console
from ssr_jax.image import io
from ssr_jax.types import SSRError


def add(commands, common: argparse.ArgumentParser) -> None:
  """Adds `metrics` to the parsers of `ssr`; `common` has the options that all share."""
  score = commands.add_parser(
    'metrics',
    parents=[common],
    help='score images that exist against their originals',
    description='Scores images: pairs have the same file name up to the suffix. PSNR and SSIM are on Y of YCbCr.',
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
  originals, scored = ({path.stem: path for path in console.images(folder, False)} for folder in folders)
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
      console.say(console.line_of(error, original))
    else:
      rows.append((stem, [values[name] for name in names]))
  if rows:
    rows.append(('mean', [sum(column) / len(rows) for column in zip(*(values for _, values in rows), strict=True)]))
  width = max([len(name) for name, _ in rows] + [5])
  print('image'.ljust(width), *(name.rjust(12) for name in names))
  for name, values in rows:
    digits = [chosen[metric].digits for metric in names]
    print(name.ljust(width), *(f'{value:12.{places}f}' for value, places in zip(values, digits, strict=True)))
  if arguments.csv:
    table = iolib.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(['image', *names])
    writer.writerows([name, *(f'{value:.6f}' for value in values)] for name, values in rows)
    io.write_bytes(arguments.csv, table.getvalue().encode())
  return 1 if failed else 0


def _size(image) -> str:
  return f'{image.shape[1]}x{image.shape[0]}'
