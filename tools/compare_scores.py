"""Compares tables of `ssr metrics --csv` with others of the same images: differences, and whether both rank alike.

  ssr metrics hr/ osediff/ --metrics psnr,ssim,niqe --csv ours.csv
  python tools/compare_scores.py ours.csv --with osediff_metrics.csv --tolerance psnr=1e-3,ssim=1e-3,niqe=2e-2
  python tools/compare_scores.py own_a.csv own_b.csv --with live_a.csv live_b.csv     # ranks over the images of both

Prints for each metric that both have: the number of images, the largest and the mean absolute difference, Spearman's
rank correlation over all images, and each image whose difference exceeds the tolerance. Exits with 1 if there is one.
"""

import argparse
import csv
import pathlib
import sys

import numpy as np
from scipy import stats

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from ssr_jax.cli import console
from ssr_jax.types import SSRError


def read(path: pathlib.Path) -> dict[str, dict[str, float]]:
  """{stem of the image: {metric: value}} of a table, without its row of means and its empty cells.

  Raises:
    SSRError: the file cannot be read, or is not such a table.
  """
  try:
    with open(path, newline='') as file:
      rows = list(csv.DictReader(file))
    return {
      pathlib.Path(row['image']).stem: {name: float(cell) for name, cell in row.items() if name != 'image' and cell}
      for row in rows
      if row['image'] != 'mean'
    }
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror})') from error
  except (KeyError, ValueError, TypeError, AttributeError) as error:
    raise SSRError(f"{path}: no table with a column 'image' and columns of numbers") from error


def compare(ours, theirs, tolerances: dict[str, float]) -> tuple[list[str], bool]:
  """The lines to print, and whether all differences are within their tolerances.

  Args:
    ours: [(table, image, {metric: value})].
    theirs: the same images in the same order.
    tolerances: {metric: largest difference}.
  """
  lines, within = [], True
  for name in [name for name in ours[0][2] if name in theirs[0][2]]:
    known = [(a, b) for a, b in zip(ours, theirs, strict=True) if name in a[2] and name in b[2]]
    x, y = (np.array([row[2][name] for row in column]) for column in zip(*known, strict=True))
    difference = np.abs(x - y)
    rank = stats.spearmanr(x, y).statistic if len(x) > 2 else float('nan')
    lines.append(
      f'{name}: {len(x)} images, means {x.mean():.4f} and {y.mean():.4f}, difference at most {difference.max():.6f}, '
      f'on average {difference.mean():.6f}, Spearman {rank:.4f}'
    )
    for index in np.argsort(-difference):
      if difference[index] > tolerances.get(name, np.inf):
        within = False
        lines.append(f'  {known[index][0][1]}: {x[index]:.6f} and {y[index]:.6f}')
  return lines, within


def main() -> int:
  """Prints the comparison."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('ours', nargs='+', type=pathlib.Path, metavar='CSV')
  parser.add_argument('--with', dest='theirs', nargs='+', type=pathlib.Path, required=True, metavar='CSV')
  parser.add_argument('--tolerance', default='', metavar='LIST', help='METRIC=VALUE, with commas')
  arguments = parser.parse_args()
  try:
    try:
      tolerances = {name: float(value) for name, value in (p.split('=') for p in arguments.tolerance.split(',') if p)}
    except ValueError as error:
      raise SSRError(f'--tolerance {arguments.tolerance}: give METRIC=VALUE, with commas') from error
    if len(arguments.ours) != len(arguments.theirs):
      raise SSRError(f'{len(arguments.ours)} tables with {len(arguments.theirs)}; give one for each')
    ours, theirs = [], []
    for mine, other in zip(arguments.ours, arguments.theirs, strict=True):
      a, b = read(mine), read(other)
      shared = [image for image in a if image in b]
      if not shared:
        raise SSRError(f'{mine} and {other} have no image in common')
      ours += [(mine, image, a[image]) for image in shared]
      theirs += [(other, image, b[image]) for image in shared]
    lines, within = compare(ours, theirs, tolerances)
  except SSRError as error:
    return console.say(str(error), 2)
  print('\n'.join(lines))
  return 0 if within else 1


if __name__ == '__main__':
  sys.exit(main())
