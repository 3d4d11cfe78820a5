"""`ssr metrics`: scores images that exist, with or without their originals."""

import argparse
import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import math
import os
import pathlib
import queue
import threading
from typing import Any, cast

import numpy as np

from ssr_jax.cli import console, pairs, terminal
from ssr_jax.image import io
from ssr_jax.types import SSRError, one_line

Job = tuple[pathlib.Path | None, pathlib.Path]
"""An original, None where there is none, and the image to score."""

_WIDTH = 12  # of a printed column

_EXAMPLES = """examples:
  ssr metrics hr/ out/                              PSNR and SSIM on Y, by file name
  ssr metrics hr/ out/ --metrics psnr,ssim --space rgb --crop 4
  ssr metrics hr/ out/ --metrics psnr,gmsd,haarpsi,log_spectrum,niqe --csv scores.csv --markdown scores.md
  ssr metrics out/ --metrics niqe                   no originals needed
  ssr metrics out/ --metrics seam --seam-tile 512,64
  ssr metrics hr/ out/ --metrics lpips,dists,musiq,clipiqa,maniqa,fid      learned; see the README

names: 0801.png belongs to 0801.png; where there is none, to 0801x4.png, 0801_SR.png, 0801-x4_out.png and the like;
two files that could be meant are an error.
"""


def add(commands, common: argparse.ArgumentParser) -> None:
  """Adds `metrics` to the parsers of `ssr`; `common` has the options of all commands."""
  score = commands.add_parser(
    'metrics',
    parents=[common],
    help='score images, against their originals or without',
    usage='ssr metrics [options] [HR_DIR] SR_DIR',
    description='Scores images of any origin. PSNR and SSIM are on Y of YCbCr unless --space says otherwise.',
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  score.add_argument(
    'folders', nargs='+', metavar='DIR', help='the folder of the originals, if there are any; that of the images'
  )
  score.add_argument(
    '--metrics', metavar='LIST', help='names, with commas (default: psnr,ssim; without originals niqe)'
  )
  score.add_argument('--csv', metavar='FILE', help='write a table: image, the metrics; last row mean; - is stdout')
  score.add_argument('--json', metavar='FILE', help='write images, means and how they were measured; - is stdout')
  score.add_argument('--markdown', metavar='FILE', help='write the table as Markdown; - is stdout')
  score.add_argument('--crop', type=int, default=0, metavar='N', help='border left out, in pixels (default: 0)')
  score.add_argument('--space', choices=('y', 'rgb'), default='y', help='of PSNR and SSIM (default: y)')
  score.add_argument(
    '--niqe-model', metavar='FILE', help="NIQE's pristine model, an .npz file (default: the imported one, else ours)"
  )
  score.add_argument(
    '--seam-tile', metavar='N[,M]', help='for seam: side of the tiles and their overlap in pixels of the images'
  )
  score.add_argument('--jobs', type=int, metavar='N', help='images scored at once (default: the number of cores)')
  score.add_argument('-q', '--quiet', action='store_true', help='no progress bar')
  score.set_defaults(command=_score)


def _score(arguments: argparse.Namespace) -> int:
  from ssr_jax import metrics
  from ssr_jax.evaluation.report import tables

  outputs = {form: getattr(arguments, form) for form in ('csv', 'json', 'markdown')}
  _check(arguments, outputs)
  names = list(dict.fromkeys(name.strip() for name in (arguments.metrics or '').split(',') if name.strip()))
  names = names or (['psnr', 'ssim'] if len(arguments.folders) == 2 else ['niqe'])
  names = list(metrics.get(names))
  tile = _tile(arguments.seam_tile)
  scorers, missing = _load(names, len(arguments.folders) == 2, tile is not None, arguments.niqe_model)
  for line in missing.values():
    console.say(str(line))
  jobs, failures = _jobs([pathlib.Path(folder) for folder in arguments.folders])
  for line in failures:
    console.say(line)

  options = {'crop': arguments.crop, 'space': arguments.space}
  rows: list[dict[str, Any]] = []
  features: dict[str, list[Any]] = {name: [] for name, scorer in scorers.items() if scorer.of_sets}
  size = max(scorer.batched for scorer in scorers.values())
  batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
  with console.progress_bar(len(jobs), arguments) as progress:
    scored = _in_order(lambda batch: _values(scorers, batch, tile, options), batches, arguments.jobs or _cores())
    results = (result for batch in scored for result in _whole(batch))
    for index, ((original, image), result) in enumerate(zip(jobs, results, strict=True)):
      progress(index + 1, len(jobs))
      if isinstance(result, Exception):
        terminal.check_stopped()
        if arguments.debug and not isinstance(result, SSRError):
          raise result
        failures.append(console.line_of(result, original or image))
        _say_above_the_bar(failures[-1])
        continue
      values, found = result
      rows.append({'image': one_line((original or image).stem), **values})
      for name, of_image in found.items():
        features[name].append(of_image)
      if unknown := [name for name, value in values.items() if math.isnan(value) and name not in features]:
        _say_above_the_bar(f'{image}: no {", ".join(unknown)} for this image; the mean leaves it out')
  if rows:
    whole = {name: cast(metrics.SetMetric, scorers[name]).distance(found) for name, found in features.items()}
    rows.append({'image': 'mean', **tables.means(rows, (), list(scorers))[0], **whole})
    cells = {name: error.cell for name, error in missing.items()}
    rows = [{**row, **cells} for row in rows]

  heads = {
    name: scorers[name].heading(arguments.space) if name in scorers else metric.label
    for name, metric in metrics.get(names).items()
  }
  texts: dict[str, Callable[[], str]] = {
    'csv': lambda: tables.to_csv(rows, ('image', *names)),
    'json': lambda: tables.to_json(_report(arguments, heads, rows, failures)),
    'markdown': lambda: _markdown(rows, heads),
  }
  if '-' not in outputs.values():
    _print(rows, scorers, heads)
  for form, target in outputs.items():
    if target == '-':
      print(texts[form](), end='')
    elif target:
      io.write_bytes(target, texts[form]().encode())
  return 1 if failures else 0


def _say_above_the_bar(line: str) -> None:
  from tqdm import tqdm

  with tqdm.external_write_mode():
    console.say(line)


def _check(arguments: argparse.Namespace, outputs: Mapping[str, str | None]) -> None:
  """SSRError for options that do not fit together."""
  if len(arguments.folders) > 2:
    raise SSRError(f'{arguments.folders[2]}: one folder too many; give [HR_DIR] SR_DIR')
  if list(outputs.values()).count('-') > 1:
    raise SSRError('only one of --csv, --json and --markdown can go to stdout (-); give the others a file')
  if arguments.jobs is not None and arguments.jobs < 1:
    raise SSRError(f'--jobs {arguments.jobs}: must be at least 1')
  if arguments.crop < 0:
    raise SSRError(f'--crop {arguments.crop}: must not be negative')


def _load(names: list[str], originals: bool, tiles: bool, niqe_model: str | None):
  """The metrics ready to use, and by name what is missing of those that have no weights.

  Raises:
    SSRError: an unknown metric, one that lacks an input, weights that cannot be read, or not one metric is left.
  """
  from ssr_jax import metrics
  from ssr_jax.weights import published

  for name, metric in metrics.get(names).items():
    lacking = sorted(set(metric.needs) - {'image', 'reference', 'borders'})
    if lacking:
      raise SSRError(f"metric '{name}' needs {', '.join(lacking)}, which folders of images do not hold; leave it out")
    if 'reference' in metric.needs and not originals:
      raise SSRError(f"metric '{name}' needs the originals: ssr metrics HR_DIR SR_DIR; or leave it out")
    if 'borders' in metric.needs and not tiles:
      raise SSRError(f"metric '{name}' needs to know the tiles; give --seam-tile N or N,OVERLAP")
  weights = {name: published.of_metric(name) for name in names} | ({'niqe': niqe_model} if niqe_model else {})
  missing: dict[str, metrics.Missing] = {}
  loaded = metrics.load(names, weights, missing)
  if not loaded:
    raise next(iter(missing.values()))
  return loaded, missing


def _tile(text: str | None) -> tuple[int, int] | None:
  """--seam-tile as (side, overlap).

  Raises:
    SSRError: it is none.
  """
  if text is None:
    return None
  numbers = text.split(',')
  if len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
    raise SSRError(f'--seam-tile {text}: give the side of the tiles, or side,overlap, such as 512,64')
  side, overlap = int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0
  if side < 16 or overlap >= side:
    raise SSRError(f'--seam-tile {text}: the side must be at least 16, the overlap below the side')
  return side, overlap


def _jobs(folders: Sequence[pathlib.Path]) -> tuple[list[Job], list[str]]:
  """What to score, and one line for each original without an image.

  Raises:
    SSRError: a folder does not exist or has no images, or it is not clear which files belong together.
  """
  for folder in folders:
    if not folder.is_dir():
      raise SSRError(f'{folder}: not a folder')
  found = [console.images(folder, False) for folder in folders]
  if len(found) == 1:
    return [(None, path) for path in found[0]], []
  paired = pairs.match(*found)
  if paired.images:
    others = f' and {len(paired.images) - 1} more' if len(paired.images) > 1 else ''
    console.say(f'{paired.images[0]}{others}: no original in {folders[0]}; left out')
  lines = [
    f'{original}: {folders[1]}: no image named {original.stem}; names must be those of {folders[0]}'
    for original in paired.originals
  ]
  return list(paired.matched), lines


def _values(scorers, jobs: Sequence[Job], tile: tuple[int, int] | None, options: Mapping[str, Any]) -> list[Any]:
  """For each image its metrics and its features for metrics of sets, or the error that it caused.

  Learned metrics take several images at once. Where that fails each is tried alone, to know which one it was.
  """
  from ssr_jax import metrics

  inputs = [_attempt(lambda job: {**_inputs(job, tile), **options}, job) for job in jobs]
  good = [one for one in inputs if not isinstance(one, Exception)]
  together = _attempt(lambda images: metrics.score_all(scorers, images), good)
  alone = isinstance(together, Exception)
  results = iter(good if alone else together)

  def finish(one):
    values = metrics.score_all(scorers, [one])[0] if alone else next(results)
    return values, metrics.features(scorers, one)

  return [one if isinstance(one, Exception) else _attempt(finish, one) for one in inputs]


def _whole(batch: Any) -> list[Any]:
  """The results of a batch; raises what made all of it fail."""
  if isinstance(batch, Exception):
    raise batch
  return batch


def _inputs(job: Job, tile: tuple[int, int] | None) -> dict[str, Any]:
  """What the metrics of an image are computed from.

  Raises:
    SSRError: a file that cannot be read, or sizes that differ.
  """
  from ssr_jax.metrics import seam

  original, scored = job
  image, reference = io.read(scored).rgb, None
  if original is not None:
    reference = io.read(original).rgb
    if reference.shape != image.shape:
      raise SSRError(f'{scored}: {_size(image)}, but {original} is {_size(reference)}; sizes must be the same')
  borders = tile and seam.borders(image.shape[:2], *tile)
  return {'image': image, 'reference': reference, 'borders': borders}


def _in_order(function: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
  """The results of `function`, or the errors that it raised, in the order of the jobs.

  Threads, because the metrics spend their time in NumPy and SciPy, which let other threads run; processes took half as
  much processor time again. Daemons, because Ctrl-C must not wait for a large image. At most two jobs a worker wait.
  """
  if workers == 1:
    yield from (_attempt(function, job) for job in jobs)
    return
  tasks: queue.SimpleQueue[tuple[Any, futures.Future] | None] = queue.SimpleQueue()
  stopped = threading.Event()

  def work() -> None:
    while (task := tasks.get()) and not stopped.is_set():
      job, result = task
      result.set_result(_attempt(function, job))

  workers = min(workers, len(jobs))
  for _ in range(workers):
    threading.Thread(target=work, name='ssr-metrics', daemon=True).start()
  try:
    waiting: collections.deque[futures.Future] = collections.deque()
    for job in jobs:
      waiting.append(futures.Future())
      tasks.put((job, waiting[-1]))
      if len(waiting) > 3 * workers:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    stopped.set()
    for _ in range(workers):
      tasks.put(None)


def _attempt(function: Callable[[Any], Any], job: Any) -> Any:
  try:
    return function(job)
  except Exception as error:
    return error


def _cores() -> int:
  """The cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _print(rows: Sequence[Mapping[str, Any]], scorers: Mapping[str, Any], heads: Mapping[str, str]) -> None:
  from ssr_jax import metrics
  from ssr_jax.evaluation.report import tables

  for name, scorer in scorers.items():
    if scorer.weights:
      console.tell(f'{name}: {heads[name]}')
  width = max([len(row['image']) for row in rows] + [5])
  known = metrics.get(heads)
  print('image'.ljust(width), *(name.rjust(_WIDTH) for name in known))
  for row in rows:
    cells = (tables.number(row[name], metric.digits) for name, metric in known.items())
    wide = (cell.rjust(max(_WIDTH, len(name))) for cell, name in zip(cells, known, strict=True))
    print(row['image'].ljust(width), *wide)


def _markdown(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str]) -> str:
  from ssr_jax import metrics
  from ssr_jax.evaluation.report import tables

  known = metrics.get(heads)
  arrows = {name: '↑' if metric.higher_is_better else '↓' for name, metric in known.items()}
  lines = ['| image | ' + ' | '.join(f'{heads[name]} {arrows[name]}' for name in known) + ' |']
  lines.append('|---|' + '---:|' * len(known))
  for row in rows:
    cells = [tables.number(row[name], metric.digits) for name, metric in known.items()]
    lines.append('| ' + ' | '.join([row['image'].replace('|', r'\|'), *cells]) + ' |')
  return '\n'.join(lines) + '\n'


def _report(arguments: argparse.Namespace, heads: Mapping[str, str], rows: list, failures: list[str]) -> dict[str, Any]:
  """The content of --json."""
  return {
    'protocol': {
      'originals': arguments.folders[0] if len(arguments.folders) == 2 else None,
      'images': arguments.folders[-1],
      'crop': arguments.crop,
      'tile': arguments.seam_tile,
      'metrics': heads,
    },
    'images': rows[:-1],
    'mean': rows[-1] if rows else None,
    'failures': [one_line(line) for line in failures],
  }


def _size(image: np.ndarray) -> str:
  return f'{image.shape[1]}x{image.shape[0]}'
