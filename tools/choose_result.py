"""Chooses how much of the student's change a model shows, how smooth and how sharpened, on validation pairs.

    python tools/choose_result.py HR_DIR,LR_DIR [HR_DIR2,LR_DIR2 ...] [--model compact] --output choice/

Every combination of `STRENGTHS`, `SMOOTHS` and `SHARPENS` (`sampling.student` of model.json) is made from one restored
image and one full change of each pair, and scored as 8-bit images. The rule, which stands before any figure is known:

1. A candidate is out if, on any set, its mean PSNR is below bicubic enlargement's, or its mean `grid` exceeds the
   restored image's by more than two standard errors of the paired difference: dots and squares are seen at once.
2. The others are ranked on each set by each of PSNR, SSIM, GMSD, HaarPSI, log-spectrum distance, and the distance of
   the mean NIQE from the originals'. The lowest mean of these ranks is chosen. None of the numbers decides alone.

Prints the best ten with the current values, and writes OUTPUT/choice.csv with all candidates and OUTPUT/choice.md.
Nothing is changed: the values are for model.json, after a look at the pictures (tools/crops.py).
"""

import argparse
from collections.abc import Mapping, Sequence
import csv
import itertools
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
from PIL import Image
from scipy import stats

import ssr_jax
from ssr_jax import metrics, xla
from ssr_jax.cli import console
from ssr_jax.evaluation.report import figures
from ssr_jax.image import edges, io
from ssr_jax.weights import store

STRENGTHS = (0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
SMOOTHS = (0.0, 0.8, 1.2, 1.6)
SHARPENS = (0.0, 0.5, 1.0, 1.5)
_SHARE = 0.125  # of the change, by which an image keeps clear of black and white, where it would be cut
NAMES = ('psnr', 'ssim', 'gmsd', 'haarpsi', 'log_spectrum', 'niqe', 'grid')

Setting = tuple[float, float, float]
"""Strength, smooth, sharpen."""


def main(argv: Sequence[str] | None = None) -> int:
  """Scores the candidates and prints the best."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('sets', nargs='+', metavar='HR_DIR,LR_DIR', help='validation pairs; no test set')
  parser.add_argument('--model', default='compact', help='name or directory (default: compact)')
  parser.add_argument('--limit', type=int, default=0, help='pairs of each set; 0 for all (default)')
  parser.add_argument('--output', required=True, metavar='DIR', help='folder for the tables')
  arguments = parser.parse_args(argv)
  try:
    print(run(arguments))
  except ssr_jax.SSRError as error:
    print(f'choose_result: {error}', file=sys.stderr)
    return 1
  return 0


def run(arguments: argparse.Namespace) -> str:
  """Scores all candidates and writes the tables; returns the short one.

  Raises:
    SSRError: folders, images or a model that cannot be read, or a model without a student.
  """
  xla.enable_compilation_cache()
  loaded = metrics.load(NAMES)
  settings = list(itertools.product(STRENGTHS, SMOOTHS, SHARPENS))
  scores, now = [], None
  with tempfile.TemporaryDirectory() as folder:
    model, now = _unfinished(arguments.model, pathlib.Path(folder) / 'model')
    for place in arguments.sets:
      scores.append(_scores(model, place, settings, loaded, arguments.limit))
  rows = choose(settings, scores)
  output = pathlib.Path(arguments.output)
  output.mkdir(parents=True, exist_ok=True)
  text = _table(rows, scores, arguments.sets, now)
  with (output / 'choice.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['strength', 'smooth', 'sharpen', 'set', *NAMES, 'rank', 'out'])
    for setting, rank, why in rows:
      for place, scored in zip(arguments.sets, scores, strict=True):
        writer.writerow([*setting, place, *scored[setting].mean(0).round(5), round(rank, 3), why])
  io.write_bytes(output / 'choice.md', text.encode())
  return text


def choose(
  settings: Sequence[Setting], scores: Sequence[Mapping[object, np.ndarray]]
) -> list[tuple[Setting, float, str]]:
  """The rule of this file.

  Args:
    settings: the candidates.
    scores: of each set, {setting, 'bicubic', 'restored' or 'truth': [pairs, len(NAMES)]}.

  Returns:
    (setting, mean rank, why it is out or ''), those that are in first, each part by rank.
  """
  out = dict.fromkeys(settings, '')
  ranks = []
  column = {name: index for index, name in enumerate(NAMES)}
  for scored in scores:
    for setting in settings:
      difference = (scored[setting] - scored['restored'])[:, column['grid']]
      if scored[setting][:, column['psnr']].mean() < scored['bicubic'][:, column['psnr']].mean():
        out[setting] = 'PSNR below bicubic'
      elif difference.mean() > 2 * difference.std(ddof=1) / len(difference) ** 0.5:
        out[setting] = 'grid'
  kept = [setting for setting in settings if not out[setting]]
  for scored in scores:
    means = {setting: scored[setting].mean(0) for setting in kept}
    for name in NAMES[:-1]:
      values = np.array([means[setting][column[name]] for setting in kept])
      if name == 'niqe':
        values = np.abs(values - scored['truth'][:, column[name]].mean())
      higher = metrics.METRICS[name].higher_is_better
      ranks.append(stats.rankdata(-values if higher else values))
  mean = dict(zip(kept, np.mean(ranks, 0), strict=True)) if kept else {}
  rows = [(setting, float(mean.get(setting, np.nan)), out[setting]) for setting in settings]
  return sorted(rows, key=lambda row: (bool(row[2]), row[1] if not row[2] else 0.0))


def _unfinished(name: str, folder: pathlib.Path) -> tuple[ssr_jax.Restorer, Setting]:
  """The model with `_SHARE` of its student's change, neither smoothed nor sharpened; and the setting that it has."""
  shutil.copytree(store.resolve(name), folder)
  path = folder / 'model.json'
  settings = json.loads(path.read_text())
  student = settings['sampling'].get('student')
  if student is None:
    raise ssr_jax.SSRError(f'{name}: the model has no student, of whose change something could be chosen')
  now = (float(student.get('strength', 1)), float(student.get('smooth', 0)), float(student.get('sharpen', 0)))
  student.update(strength=_SHARE, smooth=0.0, sharpen=0.0)
  path.write_text(json.dumps(settings))
  return ssr_jax.load(str(folder)), now


def _scores(
  model: ssr_jax.Restorer, place: str, settings: Sequence[Setting], loaded: Mapping[str, metrics.Metric], limit: int
) -> dict[object, np.ndarray]:
  """{setting, 'bicubic', 'restored' or 'truth': [pairs, len(NAMES)]} of one set."""
  hr, comma, lr = place.partition(',')
  if not (hr and comma and lr):
    raise ssr_jax.SSRError(f'{place}: give HR_DIR,LR_DIR')
  truths = {path.stem: path for path in console.images(pathlib.Path(hr), False)}
  pairs = [(truths[path.stem], path) for path in console.images(pathlib.Path(lr), False) if path.stem in truths]
  if len(pairs) < 2:
    raise ssr_jax.SSRError(f'{place}: {len(pairs)} images of one name; two are needed at least')
  rows: dict[object, list[list[float]]] = {}
  for count, (truth, photo) in enumerate(pairs[: limit or None], 1):
    reference, small = io.read(truth).rgb, io.read(photo).rgb
    found = model.sample(small.astype(np.float32) / 255)  # floats come back unrounded
    restored = found.restored
    change = (found.image - restored) / np.float32(_SHARE)
    height, width, _ = restored.shape
    bicubic = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    images: dict[object, np.ndarray] = {'truth': reference, 'bicubic': bicubic, 'restored': restored}
    for smooth in SMOOTHS:
      softer = edges.smooth(change, smooth) if smooth else change
      for strength, sharpen in itertools.product(STRENGTHS, SHARPENS):
        image = restored + np.float32(strength) * softer
        images[strength, smooth, sharpen] = edges.steepen(image, sharpen) if sharpen else image
    for key, image in images.items():
      pixels = image if image.dtype == np.uint8 else figures.to_uint8(image)
      if pixels.shape != reference.shape:
        raise ssr_jax.SSRError(f'{photo}: enlarged {pixels.shape[:2]}, the original has {reference.shape[:2]}')
      values = metrics.score(loaded, image=pixels, reference=reference)
      rows.setdefault(key, []).append([values[name] for name in NAMES])
    print(f'{place}: {count} of {len(pairs[: limit or None])}', file=sys.stderr)
  return {key: np.array(values) for key, values in rows.items()}


def _table(
  rows: Sequence[tuple[Setting, float, str]],
  scores: Sequence[Mapping[object, np.ndarray]],
  sets: Sequence[str],
  now: Setting | None,
) -> str:
  """Markdown: the best ten, the present setting, and what they are compared with, on each set."""
  lines = []
  for place, scored in zip(sets, scores, strict=True):
    lines += [f'{place}, {len(scored["truth"])} pairs\n', f'| strength, smooth, sharpen | rank | {" | ".join(NAMES)} |']
    lines.append('|---|---:|' + '---:|' * len(NAMES))
    for name in ('truth', 'bicubic', 'restored'):
      lines.append(f'| {name} | | {_cells(scored[name])} |')
    shown = [row for row in rows if not row[2]][:10] + [row for row in rows if row[0] == now]
    for setting, rank, why in dict.fromkeys(shown):
      label = ', '.join(f'{value:g}' for value in setting) + (' (now)' if setting == now else '')
      lines.append(f'| {label} | {why or f"{rank:.2f}"} | {_cells(scored[setting])} |')
    lines.append('')
  kept = [row for row in rows if not row[2]]
  lines.append(f'{len(kept)} of {len(rows)} candidates are in.')
  return '\n'.join(lines)


def _cells(values: np.ndarray) -> str:
  digits = {'psnr': 2, 'ssim': 4, 'gmsd': 4, 'haarpsi': 4}
  return ' | '.join(f'{mean:.{digits.get(name, 2)}f}' for name, mean in zip(NAMES, values.mean(0), strict=True))


if __name__ == '__main__':
  sys.exit(main())
