"""BlindDiff's tables as commands: columns exist, the paper's rows are the paper's, what is missing is named."""

import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax import degrade
from ssr_jax.data import catalog
from ssr_jax.evaluation import blinddiff_paper, columns, models, paper, runner
from ssr_jax.metrics.psnr import psnr
from ssr_jax.runtime import Restorer, Result
from ssr_jax.systems.blinddiff.system import SYSTEM
from ssr_jax.types import SSRError
from tools import paper_tables

EXPERIMENTS = blinddiff_paper.EXPERIMENTS


class _Model(Restorer):
  """Its image is gray, brighter by lambda; its kernel is flat."""

  def __init__(self, name='double'):
    config = {'name': name, 'scale': 4, 'schedule': {}, 'domain': {}, 'sampling': {}}
    super().__init__(system=SYSTEM, config=config, variables={}, modules={'mcformer': None})

  def sample(self, lr, *, scale, seed, keep_kernels=True, guidance=None, **options):
    h, w, _ = lr.shape
    gray = 100 + int(2 * (1 if guidance is None else guidance)) + 40 * (options.get('operator') == 'bicubic')
    kernels = np.full((h, w, 441), 1 / 441, np.float32)
    return Result(np.full((scale * h, scale * w, 3), gray, np.uint8), {'kernels': kernels if keep_kernels else None})


@pytest.fixture
def root(tmp_path, monkeypatch):
  """Two photos in the place of Set5, and nothing else; one model 'blinddiff'."""
  (tmp_path / 'set5').mkdir()
  Image.fromarray(data.astronaut()[100:148, 150:214]).save(tmp_path / 'set5' / 'astronaut.png')
  Image.fromarray(data.chelsea()[100:148, 150:214]).save(tmp_path / 'set5' / 'chelsea.png')

  def system_of(name):
    if name not in ('blinddiff', 'RUN/model'):
      raise SSRError(f"model '{name}': unknown model")
    return SYSTEM

  monkeypatch.setattr(models, 'load', lambda name, dtype, devices: _Model(str(name)))
  monkeypatch.setattr(models, 'system_of', system_of)
  monkeypatch.setattr(paper_tables.xla, 'enable_compilation_cache', lambda: None)
  return tmp_path


def _cells(text):
  """{(row, whose): cells} of the tables of a report."""
  lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines() if line.startswith('|')]
  return {(line[0], line[1]): line[2:] for line in lines}


@pytest.mark.parametrize('name', list(EXPERIMENTS))
def test_every_table_can_be_asked_for(name):
  experiment = EXPERIMENTS[name]
  assert experiment.crop == 4 and experiment.model == 'blinddiff'
  parsed = (
    columns.parse(tuple(experiment.columns.values()), 'blinddiff', lambda model: SYSTEM) if experiment.columns else []
  )
  assert len(parsed) == len(experiment.columns)
  assert {column.model for column in parsed} <= {'', 'blinddiff', *experiment.others}
  columns.parse_pairs(experiment.compare, [column.name for column in parsed])
  for one in experiment.sets:
    assert one.name in catalog.DEFINITIONS if one.name else one.note
    for recipe in one.recipes:
      assert degrade.Recipe.parse(recipe).blur.down == 'bicubic'
  assert {title for title, _ in experiment.published} <= {one.title for one in experiment.sets}
  assert all(len(values) == len(experiment.metrics) for values in experiment.published.values())
  assert not experiment.columns.keys() & paper.EXPERIMENTS.keys()
  assert len({one.name for one in experiment.sets if one.name}) == sum(bool(one.name) for one in experiment.sets)


def test_what_the_document_and_the_papers_text_say_of_its_tables():
  one, two, three, four, five = (EXPERIMENTS[f'blinddiff-table{i}'].published for i in range(1, 6))
  lpips, fid, db = 0, 1, 2
  for published in (one, two, five):
    for title in {title for title, _ in published}:
      rows = {row: values for (place, row), values in published.items() if place == title}
      ours = rows.pop('BlindDiff')
      assert all(ours[lpips] < values[lpips] for values in rows.values())  # "outperforms all the methods"
      assert all(ours[fid] is None or ours[fid] < values[fid] for values in rows.values())
      for diffusion in ('DiffPIR', 'GDP', 'DPS, true kernels', 'BlindDPS'):
        assert diffusion not in rows or ours[db] > rows[diffusion][db]
  behind = [
    max(values[db] for (title, _), values in published.items() if title == place) - published[place, 'BlindDiff'][db]
    for published, place in [(one, t) for t in ('Set5', 'BSD100', 'DIV2K100', 'FFHQ', 'ImageNet-1K')]
    + [(two, 'DIV2K100'), (two, 'ImageNet-1K')]
  ]
  assert (round(min(behind), 2), round(max(behind), 2)) == (1.30, 2.21)
  # Figures of the text.
  assert round(one['ImageNet-1K', 'BSRGAN'][lpips] - one['ImageNet-1K', 'BlindDiff'][lpips], 3) == 0.098
  assert round(one['ImageNet-1K', 'BSRGAN'][fid] - one['ImageNet-1K', 'BlindDiff'][fid]) == 36
  gain = lambda title: 1 - two[title, 'BlindDiff'][fid] / two[title, 'DCLS'][fid]
  assert (round(gain('DIV2K100'), 3), round(gain('ImageNet-1K'), 3)) == (0.388, 0.219)
  assert round(two['ImageNet-1K', 'DPS, true kernels'][fid] - two['ImageNet-1K', 'BlindDiff'][fid], 2) == 20.85
  # Tables 3 and 4 have the same model twice, and of neither the Set5 of Table 1, which was trained longer.
  assert four['Set5', 'lambda 0'] == three['Set5', 'Model C'] and four['Set5', 'lambda 1'] == three['Set5', 'Model D']
  values = [three['Set5', f'Model {letter}'][lpips] for letter in 'BCD']
  assert max(values) - min(values) < 0.0012 and three['Set5', 'Model D'][lpips] > one['Set5', 'BlindDiff'][lpips]


def test_rows_are_means_over_the_kernels_with_the_papers_crop(root, tmp_path):
  arguments = ['blinddiff-table1', '--data', str(root), '--output', str(tmp_path / 'out'), '--model', 'RUN/model']
  assert paper_tables.main(arguments) == 0
  text = (tmp_path / 'out' / 'blinddiff-table1.md').read_text()
  parts = {part.splitlines()[0]: part for part in text.split('\n## ')[1:]}
  assert list(parts) == ['Set5', 'BSD100', 'DIV2K100', 'FFHQ', 'ImageNet-1K']
  cells = _cells(parts['Set5'])
  assert cells['BlindDiff', 'paper'][:3] == ['0.2147', '–', '30.17']
  photos = [data.astronaut()[104:144, 154:210], data.chelsea()[104:144, 154:210]]
  expected = np.mean([psnr(np.full((40, 56, 3), 102, np.uint8), photo) for photo in photos])
  assert cells['BlindDiff', 'ours'][2] == f'{expected:.2f}' and list(cells)[2:4] == [
    ('bicubic', 'ours'),
    ('first call', 'ours'),
  ]
  rows = (tmp_path / 'out' / 'blinddiff-table1' / 'set5' / 'metrics.csv').read_text().splitlines()
  names = rows[0].split(',')
  lr_psnr = [float(row.split(',')[names.index('lr_psnr')]) for row in rows[1:] if row.split(',')[2] == 'result']
  assert len(lr_psnr) == 2 * 8 and cells['BlindDiff', 'ours'][3] == f'{np.mean(lr_psnr):.2f}'
  assert 'crop of 4 pixels' in parts['Set5'] and 'RUN/model, float32' in parts['Set5']
  assert 'no weights' in cells['BlindDiff', 'ours'] or 'not installed' in cells['BlindDiff', 'ours']
  assert "Not run: 'div2k-val-crops'" in parts['DIV2K100'] and 'docs/blinddiff.md cuts them' in parts['DIV2K100']
  assert 'Not run: the paper drew 1000' in parts['FFHQ'] and '| BlindDiff | paper | 0.1754 | 22.02 | 30.87 |' in text


def test_without_a_model_one_line_asks_for_it(root, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(models, 'system_of', lambda name: (_ for _ in ()).throw(SSRError('unknown')))
  arguments = ['blinddiff-table4', '--data', str(root), '--output', str(tmp_path / 'out')]
  assert paper_tables.main(arguments) == 1
  assert capsys.readouterr().err == (
    "error: blinddiff-table4: there is no model 'blinddiff', of which no weights are shipped; give MODEL=DIR "
    '(--model DIR), a model directory such as RUN/model\n'
  )
  assert not (tmp_path / 'out').exists()
  # Where no set is there, what is missing are the sets; and Table 5 is the paper's alone.
  text, _ = paper.run('blinddiff-table4', tmp_path, root=str(tmp_path / 'empty'), experiments=EXPERIMENTS)
  assert "Not run: 'set5'" in text and '| lambda 10 | paper | 0.2899 |' in text
  text, _ = paper.run('blinddiff-table5', tmp_path, root=str(root), experiments=EXPERIMENTS)
  assert 'restores at x4 only' in text and '| BlindDPS | paper | 0.2842 | 30.06 | 24.03 |' in text


def test_ablations_are_switches_and_other_trainings_are_named(root, tmp_path):
  text, failures = paper.run('blinddiff-table3', tmp_path / 'out', root=str(root), experiments=EXPERIMENTS)
  assert failures == []
  cells = _cells(text)
  ours = {row for row, whose in cells if whose == 'ours'}
  assert ours == {'Model C', 'Model D', 'Model E', 'D, no gradient through the kernel (not in the paper)'}
  assert {row for row, whose in cells if whose == 'paper'} == {'Baseline', *(f'Model {letter}' for letter in 'ABCDEF')}
  photos = [data.astronaut()[104:144, 154:210], data.chelsea()[104:144, 154:210]]
  for row, gray in (('Model C', 100), ('Model D', 102), ('Model E', 142)):
    expected = np.mean([psnr(np.full((40, 56, 3), gray, np.uint8), photo) for photo in photos])
    assert cells[row, 'ours'][2] == f'{expected:.2f}'
  assert "- Baseline, Model F: no model 'blinddiff-baseline'; train one with --config.loss.kernel=0" in text
  assert "- Model A, Model B: no model 'blinddiff-time'; train one with --config.model.mcformer.modulate=time" in text
  text, _ = paper.run('blinddiff-table4', tmp_path / 'out', root=str(root), experiments=EXPERIMENTS)
  values = [float(_cells(text)[f'lambda {weight}', 'ours'][2]) for weight in ('0', '0.1', '1', '5', '10')]
  assert len(set(values)) == 4 and values[0] == values[1]  # the double's gray is a whole number


def test_a_mean_over_recipes_leaves_words_alone():
  report = runner.Report(('psnr', 'lpips-vgg'), {}, missing={'lpips-vgg': 'no weights'})
  for i, recipe in enumerate(blinddiff_paper.GAUSSIAN8):
    about = {'image': 'a', 'case': 0, 'recipe': recipe, 'model': 'result', 'seed': None, 'seconds': 2.0 * i}
    report.rows.append({**about, 'psnr': float(i * i), 'lpips-vgg': np.nan})
  experiment = EXPERIMENTS['blinddiff-table1']
  ((label, whose, values, seconds), *_) = paper._rows(experiment, experiment.sets[0], report)
  assert (label, whose, seconds) == ('BlindDiff', 'ours', 7.0)
  assert values == ('no weights', None, 17.5, None, None)
