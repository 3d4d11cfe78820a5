"""Deviations and paired tests against SciPy and analytic values."""

import math

import numpy as np
import pytest
from scipy import stats

from ssr_jax.evaluation import statistics


def _rows(model, values, seed=0, name='psnr', recipe='r'):
  return [
    {'case': i, 'recipe': recipe, 'model': model, 'seed': seed, 'image': f'{i}.png', name: value}
    for i, value in enumerate(values)
  ]


def test_a_paired_test_is_scipys():
  rng = np.random.default_rng(3)
  a = rng.normal(28, 3, 40)
  b = a + rng.normal(-0.1, 0.3, 40)
  b[5] = a[5]  # a tie, which Wilcoxon's test leaves out
  (found,) = statistics.compare(_rows('a', a) + _rows('b', b)[::-1], 'a', 'b', ['psnr'])
  assert found.difference == pytest.approx(np.mean(a - b)) and found.images == 40
  assert found.error == pytest.approx(stats.sem(a - b))
  assert found.t_p == pytest.approx(stats.ttest_rel(a, b).pvalue)
  assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(np.delete(a - b, 5)).pvalue)
  assert (found.wins, found.losses) == ((a > b).sum(), (a < b).sum()) and found.wins + found.losses == 39
  (lower,) = statistics.compare(_rows('a', a, name='niqe') + _rows('b', b, name='niqe'), 'a', 'b', ['niqe'])
  assert (lower.wins, lower.losses) == (found.losses, found.wins)  # lower is better


def test_values_that_are_not_finite_are_left_out():
  a, b = [30.0, math.inf, math.nan, 31.0, 29.0], [29.0, 30.0, 30.0, 29.5, 29.0]
  (found,) = statistics.compare(_rows('a', a) + _rows('b', b), 'a', 'b', ['psnr'])
  assert found.images == 3 and found.difference == pytest.approx(2.5 / 3) and (found.wins, found.losses) == (2, 0)
  assert statistics.compare(_rows('a', [math.nan]) + _rows('b', [1.0]), 'a', 'b', ['psnr']) == []


@pytest.mark.parametrize('a, b', [([30.0], [29.0]), ([30.0, 31.0], [29.0, 30.0]), ([30.1, 31.1], [30.1, 31.1])])
def test_too_little_to_test_has_no_p(a, b):
  (found,) = statistics.compare(_rows('a', a) + _rows('b', b), 'a', 'b', ['psnr'])
  assert math.isnan(found.t_p) and '| – |' in statistics.comparisons_table([found])
  assert math.isnan(found.wilcoxon_p) == (a == b)


def test_wilcoxons_p_of_few_is_counted():
  """Five differences of one sign are 2 of the 2**5 ways in which signs can fall."""
  (found,) = statistics.compare(_rows('a', [2.0, 3, 5, 8, 13]) + _rows('b', [1.0, 1, 1, 1, 1]), 'a', 'b', ['psnr'])
  assert found.wilcoxon_p == pytest.approx(2 / 32)


def test_recipes_are_compared_apart():
  rows = [row for recipe, shift in (('r', 1.0), ('s', -1.0)) for row in _rows('a', [20.0, 22.0], recipe=recipe)]
  rows += [
    row for recipe, shift in (('r', 1.0), ('s', -1.0)) for row in _rows('b', [20 - shift, 21.5 - shift], recipe=recipe)
  ]
  found = statistics.compare(rows, 'a', 'b', ['psnr'])
  assert [(c.recipe, c.difference, c.wins) for c in found] == [('r', 1.25, 2), ('s', -0.75, 0)]


def test_deviations_are_of_means_over_images():
  rows = _rows('a', [20.0, 30.0], seed=0) + _rows('a', [21.0, 33.0], seed=1) + _rows('b', [1.0, 2.0], seed=None)
  found = statistics.deviations(rows, ['psnr'])
  assert found['r', 'a']['psnr'] == pytest.approx(np.std([25, 27], ddof=1)) and math.isnan(found['r', 'b']['psnr'])
  merged = statistics.over_seeds(rows, ['psnr'])
  assert [(row['model'], row['case'], row['psnr']) for row in merged] == [
    ('a', 0, 20.5),
    ('a', 1, 31.5),
    ('b', 0, 1.0),
    ('b', 1, 2.0),
  ]
  assert math.isnan(statistics.deviations(_rows('a', [math.inf], 0) + _rows('a', [1.0], 1), ['psnr'])['r', 'a']['psnr'])
