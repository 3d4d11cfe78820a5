"""Tables: means, what is bold, and what becomes of values that could not be computed."""

import csv
import io
import json
import math

import pytest

from ssr_jax.evaluation.report import tables
from ssr_jax.types import SSRError

ROWS = [
  {'recipe': 'a', 'model': 'x', 'psnr': 20.0, 'niqe': 5.0, 'seconds': 1.0},
  {'recipe': 'a', 'model': 'x', 'psnr': 30.0, 'niqe': math.nan, 'seconds': 3.0},
  {'recipe': 'a', 'model': 'y', 'psnr': 24.0, 'niqe': 4.0, 'seconds': 0.5},
  {'recipe': 'b', 'model': 'y', 'psnr': 10.0, 'niqe': math.nan, 'seconds': 0.5},
]


def test_means_leave_out_what_could_not_be_computed():
  x, y, alone = tables.means(ROWS, ('recipe', 'model'), ('psnr', 'niqe', 'seconds'))
  assert x == {'recipe': 'a', 'model': 'x', 'images': 2, 'psnr': 25.0, 'niqe': 5.0, 'seconds': 2.0}
  assert y['images'] == 1 and alone['recipe'] == 'b' and math.isnan(alone['niqe'])


def test_best_of_each_recipe_is_bold_by_the_metrics_direction():
  rows = tables.means(ROWS, ('recipe', 'model'), ('psnr', 'niqe', 'seconds'))
  lines = tables.markdown(rows, ['psnr', 'niqe']).splitlines()
  assert lines[0] == '| recipe | model | PSNR-Y (dB) ↑ | NIQE ↓ | s/image | images |'
  assert lines[2] == '| a | x | **25.00** | 5.000 | 2.00 | 2 |'
  assert lines[3] == '| a | y | 24.00 | **4.000** | 0.50 | 1 |'
  assert lines[4] == '| b | y | 10.00 | – | 0.50 | 1 |'
  with pytest.raises(SSRError, match='unknown metric'):
    tables.markdown(rows, ['pnsr'])


def test_names_do_not_break_the_markdown_table():
  evil = 'a|b\n<script>*x*`[y](z)\udcff'
  row = {'recipe': evil, 'model': evil, 'psnr': 1.0, 'niqe': 1.0, 'seconds': 1.0, 'images': 1}
  *_, line = tables.markdown([row], ['psnr', 'niqe']).splitlines()
  shown = r'a\|b\\n\<script>\*x\*\`\[y\](z)\\xff'
  assert line == f'| {shown} | {shown} | 1.00 | 1.000 | 1.00 | 1 |'


def test_best_and_second_are_those_of_the_printed_values():
  row = lambda model, psnr, niqe: dict(recipe='a', model=model, psnr=psnr, niqe=niqe, seconds=1.0, images=1)
  places = lambda rows: [
    [cell.place for cell in cells[2:4]] for cells in tables.ranked([row(*r) for r in rows], ['psnr', 'niqe'])[1]
  ]
  assert places([('x', 1.0, 1.0), ('y', 2.0, 2.0), ('z', 1.5, 1.5)]) == [['', 'best'], ['best', ''], ['second'] * 2]
  assert places([('x', 2.001, 1.0), ('y', 2.002, 1.0), ('z', 1.5, 3.0)]) == [['best'] * 2, ['best'] * 2, ['second'] * 2]
  assert places([('x', 1.0, math.nan), ('y', 2.0, 2.0)]) == [['', ''], ['best', '']]  # of two none is the second


def test_csv_and_json_hold_no_nan():
  text = tables.to_csv(ROWS, ('model', 'psnr', 'niqe'))
  assert [row['niqe'] for row in csv.DictReader(io.StringIO(text))] == ['5.000000', '', '4.000000', '']
  assert json.loads(tables.to_json({'rows': ROWS, 'best': math.inf}))['best'] is None
  assert json.loads(tables.to_json(ROWS))[1]['niqe'] is None


def test_plain_aligns_numbers_to_the_right():
  lines = tables.plain(['what', 'MB'], [['first', 7], ['b', '1200']]).splitlines()
  assert lines == ['what     MB', '-----  ----', 'first     7', 'b      1200']
