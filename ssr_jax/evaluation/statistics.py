"""What repeated and paired measurements say: the deviation over seeds, and whether two columns differ."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

from ssr_jax import metrics

Row = Mapping[str, Any]


def over_seeds(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
  """One row per case and model, the mean over seeds of each metric; NaN is left out, and the result where all are.

  Args:
    rows: with 'case', 'recipe', 'model', 'seed' and `names`.
    names: of numeric columns.
  """
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    groups.setdefault((row['case'], row['recipe'], row['model']), []).append(row)
  means = []
  for group in groups.values():
    mean = {name: _mean([row[name] for row in group]) for name in names}
    means.append({**group[0], **mean, 'seed': None})
  return means


def deviations(rows: Sequence[Row], names: Sequence[str]) -> dict[tuple[str, str], dict[str, float]]:
  """How far means over images move with the seed.

  Args:
    rows: as of `over_seeds`.
    names: of numeric columns.

  Returns:
    {(recipe, model): {name: standard deviation over seeds (n - 1) of the mean over images}}, NaN for a single seed.
  """
  groups: dict[tuple[str, str], dict[Any, list[Row]]] = {}
  for row in rows:
    groups.setdefault((row['recipe'], row['model']), {}).setdefault(row['seed'], []).append(row)
  found = {}
  for key, seeds in groups.items():
    found[key] = {}
    for name in names:
      means = np.array([_mean([row[name] for row in group]) for group in seeds.values()])
      finite = len(means) > 1 and bool(np.isfinite(means).all())
      found[key][name] = float(means.std(ddof=1)) if finite else math.nan
  return found


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Two columns on the same images.

  Attributes:
    recipe, metric, first, second: what is compared.
    images: pairs of finite values.
    difference: mean of first minus second.
    error: its standard error; NaN for less than two pairs.
    wins: pairs in which the first is better.
    losses: pairs in which the second is.
    t_p: two-sided p of the paired t test; NaN where the differences do not vary.
    wilcoxon_p: two-sided p of Wilcoxon's signed-rank test, pairs without a difference left out; NaN where all are.
  """

  recipe: str
  metric: str
  first: str
  second: str
  images: int
  difference: float
  error: float
  wins: int
  losses: int
  t_p: float
  wilcoxon_p: float


def compare(rows: Sequence[Row], first: str, second: str, names: Sequence[str]) -> list[Comparison]:
  """Paired tests of two columns, for each recipe and metric that both have values of.

  Args:
    rows: of `over_seeds`: a case counts once, however many seeds it was sampled with.
    first: a value of 'model'.
    second: another.
    names: metrics.
  """
  found = []
  for recipe in dict.fromkeys(row['recipe'] for row in rows):
    ones, twos = (
      {row['case']: row for row in rows if row['recipe'] == recipe and row['model'] == model}
      for model in (first, second)
    )
    for name, metric in metrics.get(names).items():
      pairs = [(ones[case][name], twos[case][name]) for case in ones if case in twos]
      finite = np.array([pair for pair in pairs if np.isfinite(pair).all()], float).reshape(-1, 2)
      if len(finite):
        difference = finite[:, 0] - finite[:, 1]
        found.append(Comparison(recipe, name, first, second, *_paired(difference, metric.higher_is_better)))
  return found


def _paired(difference: np.ndarray, higher_is_better: bool) -> tuple[int, float, float, int, int, float, float]:
  n, better = len(difference), difference if higher_is_better else -difference
  mean = float(difference.mean())
  error = float(difference.std(ddof=1)) / n**0.5 if n > 1 else math.nan
  # Equal differences leave rounding errors as their deviation.
  varies = n > 1 and error > 1e-9 * max(abs(mean), np.abs(difference).max())
  t_p = 2 * float(stats.t.sf(abs(mean) / error, n - 1)) if varies else math.nan
  moved = difference[difference != 0]
  wilcoxon: Any = stats.wilcoxon(moved) if len(moved) else None
  wins, losses = int((better > 0).sum()), int((better < 0).sum())
  return n, mean, error, wins, losses, t_p, math.nan if wilcoxon is None else float(wilcoxon.pvalue)


def deviations_table(means: Sequence[Row], names: Sequence[str]) -> str:
  """Markdown: mean +- deviation over seeds of each recipe and model that was sampled with several."""
  known = metrics.get(names)
  rows = []
  for row in means:
    spread = row.get('deviation', {})
    if any(not math.isnan(value) for value in spread.values()):
      cells = [
        f'{row[name]:.{metric.digits}f} ± {spread[name]:.{metric.digits + 1}f}' if spread[name] >= 0 else '–'
        for name, metric in known.items()
      ]
      rows.append([row['recipe'], row['model'], *cells])
  return _markdown(['recipe', 'model', *(metric.label for metric in known.values())], rows)


def comparisons_table(found: Sequence[Comparison]) -> str:
  """Markdown: the paired tests."""
  heads = ['recipe', 'metric', 'columns', 'difference', 'wins', 'losses', 'images', 'p (t)', 'p (Wilcoxon)']
  rows = []
  for c in found:
    metric = metrics.METRICS[c.metric]
    digits = metric.digits + 1
    difference = f'{c.difference:+.{digits}f}' + (f' ± {c.error:.{digits}f}' if c.error >= 0 else '')
    columns = f'{c.first} − {c.second}'
    rows.append([c.recipe, metric.label, columns, difference, c.wins, c.losses, c.images, _p(c.t_p), _p(c.wilcoxon_p)])
  return _markdown(heads, rows)


def _p(value: float) -> str:
  return '–' if math.isnan(value) else f'{value:.2g}'


def _mean(values: Sequence[float]) -> float:
  known = [value for value in values if not math.isnan(value)]
  return math.fsum(known) / len(known) if known else math.nan


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  lines = [heads, ['---'] * len(heads), *rows]
  return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines) + '\n' if rows else ''
