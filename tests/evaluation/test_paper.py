"""The paper's tables as commands: what runs, what is named as missing, and whose each row is."""

import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax import degrade
from ssr_jax.data import catalog
from ssr_jax.evaluation import columns, kernel_benchmark, models, paper, runner
from ssr_jax.systems.ssr.system import SYSTEM
from ssr_jax.types import SSRError
from tests.evaluation.test_columns import _Model
from tools import paper_tables


@pytest.fixture
def root(tmp_path, monkeypatch):
  """Sets below a root: three pairs of DRealSR, and nothing else."""
  for name in 'abc':
    photo = data.astronaut()[40 * ord(name) % 300 :][:48, 150:214]
    for folder, image in (('hr', photo), ('lr', photo[1::4, 1::4])):
      (tmp_path / 'drealsr' / folder).mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(tmp_path / 'drealsr' / folder / f'{name}.png')
  monkeypatch.setattr(models, 'load', lambda name, *_: _Model())
  monkeypatch.setattr(models, 'system_of', lambda name: SYSTEM)
  monkeypatch.setattr(paper_tables.xla, 'enable_compilation_cache', lambda: None)
  return tmp_path


OURS = {**paper.EXPERIMENTS, **kernel_benchmark.EXPERIMENTS}


@pytest.mark.parametrize('name', list(OURS))
def test_every_table_can_be_asked_for(name):
  """Columns, pairs, sets and recipes exist; a published row is of a set of the table."""
  experiment = OURS[name]
  parsed = columns.parse(tuple(experiment.columns.values()), 'compact', lambda model: SYSTEM)
  assert len(parsed) == len(experiment.columns)
  columns.parse_pairs(experiment.compare, [column.name for column in parsed])
  for one in experiment.sets:
    assert one.name in catalog.DEFINITIONS
    recipes = [degrade.Recipe.parse(recipe).name for recipe in one.recipes]
    assert set(experiment.by_recipe) <= {*recipes} and bool(recipes) == (
      one.name in ('div2k-val', 'bsd100', 'urban100')
    )
  assert {title for title, _ in experiment.published} <= {one.title for one in experiment.sets}
  assert all(len(values) == len(paper.METRICS) for values in experiment.published.values())
  assert len({one.name for one in experiment.sets}) == len(experiment.sets)  # each has a folder of its own


def test_what_the_document_says_of_the_papers_contradictions():
  one, two, three = (paper.EXPERIMENTS[f'table{i}'].published for i in (1, 2, 3))
  assert three['DIV2K valid', 'w/o noise'] == one['DIV2K valid', 'DAN']
  assert three['DIV2K valid', 'w/o jpeg'] == one['DIV2K valid', 'DCLS']
  assert three['DIV2K valid', 'noise + jpeg'] == one['DIV2K valid', 'SSR']
  assert two['DIV2K valid', 'kernel + depth + SVKR'][:3] == one['DIV2K valid', 'SSR'][:3]
  gain = [two['DIV2K valid', 'kernel + depth + SVKR'][i] / two['DIV2K valid', 'kernel + depth'][i] - 1 for i in (0, 1)]
  assert np.round(gain, 4).tolist() == [0.0359, 0.0563]  # the text has 3.59 % and 6.20 %
  best = lambda title, metric: max(values[metric] or 0 for (t, _), values in one.items() if t == title)
  better = lambda title, metric: sum(
    (values[metric] or 0) > one[title, 'SSR'][metric] for (t, _), values in one.items() if t == title
  )
  assert (better('BSDS100', 0), best('BSDS100', 0)) == (5, 29.48)
  assert (better('Urban100', 0), best('Urban100', 0), better('Urban100', 1), best('Urban100', 1)) == (2, 21.71, 5, 0.74)
  assert sum(values[5] < one['Urban100', 'SSR'][5] for (title, _), values in one.items() if title == 'Urban100') == 2
  assert (better('DRealSR', 0), better('DRealSR', 1)) == (5, 7)


def test_ours_stand_beside_the_papers_and_missing_sets_are_named(root, tmp_path, capsys):
  arguments = ['table1', '--data', str(root), '--output', str(tmp_path / 'out'), '--limit', '2', '--seeds', '0,1']
  assert paper_tables.main(arguments) == 0
  text = capsys.readouterr().out
  assert text.strip() == (tmp_path / 'out' / 'table1.md').read_text().strip()
  parts = {part.splitlines()[0]: part for part in text.split('\n## ')[1:]}
  assert list(parts) == ['DIV2K valid', 'BSDS100', 'Urban100', 'DRealSR']
  for title, name in (('DIV2K valid', 'div2k-val'), ('Urban100', 'urban100')):
    assert f"Not run: '{name}'" in parts[title] and catalog.DEFINITIONS[name].url in parts[title]
    assert f'`ssr data check {name}`' in parts[title] and '`make table1 DATA=ROOT`' in parts[title]
  lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in parts['DRealSR'].splitlines() if '|' in line]
  by_row = {(line[0], line[1]): line[2:] for line in lines}
  assert by_row['SSR', 'paper'] == ['28.33', '0.850', '0.30', '63.58', '0.64', '5.01', '']
  at = [(line[0], line[1]) for line in lines]
  assert at.index(('SSR', 'paper')) == at.index(('SSR', 'ours')) + 1
  folder = tmp_path / 'out' / 'table1' / 'drealsr-crops'
  assert {path.name for path in folder.iterdir()} >= {'metrics.csv', 'table.md', 'rows.jsonl', 'pictures'}
  written = [line.split(',') for line in (folder / 'metrics.csv').read_text().splitlines()]
  psnr = [float(row[written[0].index('psnr')]) for row in written[1:] if row[2] == 'result']
  assert len(psnr) == 2 * 2 and by_row['SSR', 'ours'][0] == f'{np.mean(psnr):.2f}'
  assert 'mean over the seeds 0, 1' in (folder / 'table.md').read_text()


def test_lr_sets_have_no_psnr_and_a_second_run_goes_on(root, tmp_path, monkeypatch):
  folder = root / 'DPEDiphoneValSet_crop128'
  (root / 'drealsr' / 'lr').rename(folder)
  text, failures = paper.run('table4', tmp_path / 'out', root=str(root))
  assert failures == [] and '| SSR | ours | – |' in text and '| SSR | paper | 25.01 |' in text
  monkeypatch.setattr(runner, 'score', lambda *arguments: pytest.fail('scored again'))
  assert paper.run('table4', tmp_path / 'out', root=str(root))[0] == text


def test_rows_that_are_degradations(root, tmp_path, monkeypatch):
  report = runner.Report(('psnr',), {})
  for i, recipe in enumerate(('mixed/no_noise', 'mixed/no_jpeg', 'mixed/noise_jpeg')):
    for model in ('result', 'bicubic'):
      about = {'image': 'a', 'case': 0, 'recipe': recipe, 'model': model, 'seed': None, 'seconds': 1.0}
      report.rows.append({**about, 'psnr': 20.0 + i + 5 * (model == 'result')})
  experiment = paper.EXPERIMENTS['table3']
  rows = [(label, whose, values[0]) for label, whose, values, _ in paper._rows(experiment, experiment.sets[0], report)]
  assert rows[:4] == [
    ('w/o noise', 'ours', 25.0),
    ('w/o noise', 'paper', 22.17),
    ('w/o noise (bicubic)', 'ours', 20.0),
    ('w/o jpeg', 'ours', 26.0),
  ]
  assert len(rows) == 6 + 3


def test_wrong_arguments_are_one_clear_line(root, tmp_path, capsys):
  with pytest.raises(SSRError, match="no table or figure 'table9'; known: table1, table2"):
    paper.run('table9', tmp_path)
  assert paper_tables.main(['table1', '--seeds', 'a']) == 2
  assert 'must be whole numbers' in capsys.readouterr().err
  assert paper_tables.main(['table1', '--data', str(root), '--output', str(tmp_path), '--limit', '-1']) == 1
  assert capsys.readouterr().err == 'error: eval.limit=-1: must be a number of photos, or 0 for all\n'
