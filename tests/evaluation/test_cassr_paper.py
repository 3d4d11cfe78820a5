"""CasSR's tables as commands: their columns exist, and the paper's rows are the paper's."""

import itertools

import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax import degrade, metrics
from ssr_jax.data import catalog
from ssr_jax.evaluation import cassr_paper, columns, models, paper
from ssr_jax.systems.cassr.system import SYSTEM
from tests.evaluation.test_columns import _Model
from tools import paper_tables


@pytest.mark.parametrize('name', list(cassr_paper.EXPERIMENTS))
def test_every_table_can_be_asked_for(name):
  experiment = cassr_paper.EXPERIMENTS[name]
  parsed = columns.parse(tuple(experiment.columns.values()), 'cassr', lambda model: SYSTEM)
  assert len(parsed) == len(experiment.columns)
  columns.parse_pairs(experiment.compare, [column.name for column in parsed])
  for one in experiment.sets:
    assert one.name in catalog.DEFINITIONS
    assert [degrade.Recipe.parse(recipe).field for recipe in one.recipes] == (
      ['realesrgan'] if one.name == 'div2k-val' else []
    )
  assert {title for title, _ in experiment.published} <= {one.title for one in experiment.sets}
  assert all(len(values) == len(cassr_paper.METRICS) for values in experiment.published.values())
  assert not experiment.columns.keys() & paper.EXPERIMENTS.keys()


def test_what_the_document_says_of_the_papers_slips():
  one, two, three = (cassr_paper.EXPERIMENTS[f'cassr-table{i}'].published for i in (1, 2, 3))
  index = cassr_paper.METRICS.index
  lpips, musiq, dists = index('lpips'), index('musiq'), index('dists')
  ours = one['DIV2K-val', 'CasSR']
  assert three['DIV2K-val', 'description, guidance'][:5] == ours[:5]
  assert two['DIV2K-val', 'SCEdit'][lpips] == one['DIV2K-val', 'HAT'][lpips] != ours[lpips]
  assert [x for i, x in enumerate(two['DIV2K-val', 'SCEdit'][:5]) if i != lpips] == [
    x for i, x in enumerate(ours[:5]) if i != lpips
  ]
  of = lambda title, metric: {row: values[metric] for (place, row), values in one.items() if place == title}
  rank = lambda title, metric, up: sorted(of(title, metric), key=of(title, metric).get, reverse=up).index('CasSR') + 1
  higher = {'musiq', 'maniqa', 'clipiqa'}
  ranks = {name: rank('DIV2K-val', index(name), name in higher) for name in cassr_paper.METRICS[:7]}
  assert [name for name, place in ranks.items() if place > 2] == ['lpips'] and ranks['lpips'] == 3
  best_other = max(value for row, value in of('DIV2K-val', musiq).items() if row != 'CasSR')
  assert round(100 * (ours[musiq] / best_other - 1), 1) == 2.3 and best_other == one['DIV2K-val', 'DiffBIR'][musiq]
  assert one['DRealSR', 'BSRGAN'][musiq] == one['DRealSR', 'FeMaSR'][musiq] == 57.1217
  assert rank('DRealSR', dists, False) == 9
  # Every method has every metric on every set.
  names = {row for _, row in one}
  assert set(one) == set(itertools.product(('DIV2K-val', 'DRealSR', 'RealSR'), names)) and len(names) == 9


def test_a_table_has_ours_beside_the_papers(tmp_path, monkeypatch, capsys):
  for name in 'ab':
    photo = data.astronaut()[40 * ord(name) % 300 :][:48, 150:214]
    for folder, image in (('hr', photo), ('lr', photo[1::4, 1::4])):
      (tmp_path / 'drealsr' / folder).mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(tmp_path / 'drealsr' / folder / f'{name}.png')
  seen = []
  monkeypatch.setattr(models, 'load', lambda name, *_: seen.append(name) or _Model())
  monkeypatch.setattr(models, 'system_of', lambda name: SYSTEM)
  monkeypatch.setattr(paper_tables.xla, 'enable_compilation_cache', lambda: None)
  arguments = ['cassr-table1', '--output', str(tmp_path / 'out'), '--data', str(tmp_path)]
  assert paper_tables.main(arguments) == 0
  text = (tmp_path / 'out' / 'cassr-table1.md').read_text()
  assert set(seen) == {'cassr'}
  head = next(line for line in text.splitlines() if 'DISTS' in line)
  assert head.split(' | ')[2:6] == ['FID', 'DISTS', 'LPIPS', 'MUSIQ'] and metrics.METRICS['psnr'].label in head
  paper_row = next(line for line in text.splitlines() if line.startswith('| CasSR | paper | 166.15'))
  assert paper_row.split(' | ')[3:5] == ['0.2868', '0.3067']
  ours = next(line for line in text.splitlines() if line.startswith('| CasSR | ours'))
  assert ours.split(' | ')[9] not in ('–', '') and np.isfinite(float(ours.split(' | ')[9]))
  assert "'div2k-val'" in text and 'Not run' in text and '30.78' in text
