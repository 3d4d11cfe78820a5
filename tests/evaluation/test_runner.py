"""The evaluation runner: what it measures, what it writes, and what it says of bad input."""

import base64
import csv
import json
import re

import numpy as np
from PIL import Image
import pytest
from skimage import data

from configs import compact
from ssr_jax import metrics
from ssr_jax.evaluation import runner
from ssr_jax.evaluation.cases import Dataset
from ssr_jax.evaluation.protocol import Settings
from ssr_jax.evaluation.report import latex
from ssr_jax.image import io, resize
from ssr_jax.runtime import Restorer, Result
from ssr_jax.systems.ssr.system import SYSTEM
from ssr_jax.types import SSRError


class _Model(Restorer):
  """Answers like an SSR: 'restored' is bicubic, 'image' is Lanczos, kernels are deltas. The first call compiles."""

  def __init__(self, parts=('depth', 'dkenet', 'nbsr', 'vae', 'unet')):
    sampling = {'sampler': 'ddim', 'steps': 2, 'start': 0.5}
    config = {'name': 'double', 'scale': 4, 'svkr': {}, 'schedule': {}, 'sampling': sampling}
    super().__init__(system=SYSTEM, config=config, variables={}, modules=dict.fromkeys(parts))
    object.__setattr__(self, 'calls', [])

  def sample(self, lr, *, scale, keep_kernels, **sampling):
    self.calls.append(sampling)
    self.traces['restore'] = 1
    h, w, _ = lr.shape
    enlarge = lambda method: np.asarray(Image.fromarray(lr).resize((scale * w, scale * h), method))
    kernels = np.zeros((h, w, 441), np.float32)
    kernels[..., 220] = 1
    restored = enlarge(Image.Resampling.BICUBIC)
    image = enlarge(Image.Resampling.LANCZOS) if sampling.get('steps') != 0 else restored
    return Result(image, {'kernels': kernels if keep_kernels else None, 'restored': restored})


def _config(photos, **fields):
  config = compact.get_config()
  defaults = dict(dataset=f'folder:{photos}', recipes=('smooth/no_noise',), metrics=('psnr', 'ssim'), pictures=1)
  config.eval.update({**defaults, **fields})
  return config


def _settings(config):
  return Settings.from_config(config.eval)


def test_writes_rows_means_table_and_pictures(photos, tmp_path, capsys):
  model = _Model()
  names = ('psnr', 'ssim', 'lr_psnr', 'kernel_psnr', 'niqe')
  config = _config(photos, metrics=names, recipes=(('smooth', 'no_noise'), 'smooth/no_jpeg'))
  report = runner.evaluate(_settings(config), tmp_path / 'out', restorer=model)
  assert capsys.readouterr().err == ''
  assert [path.name for path in sorted((tmp_path / 'out').iterdir())] == [
    'index.html',
    'metrics.csv',
    'metrics.json',
    'pictures',
    'rows.jsonl',
    'table.md',
    'table.tex',
  ]

  with open(tmp_path / 'out' / 'metrics.csv') as file:
    rows = list(csv.DictReader(file))
  assert list(rows[0]) == ['image', 'recipe', 'model', 'psnr', 'ssim', 'lr_psnr', 'kernel_psnr', 'niqe', 'seconds']
  assert len(rows) == 2 * 2 * 3 and {row['recipe'] for row in rows} == {'smooth/no_noise', 'smooth/no_jpeg'}
  by_model = {row['model']: row for row in rows if row['recipe'] == 'smooth/no_noise' and row['image'] == 'chelsea.png'}
  assert by_model['restored']['psnr'] == by_model['bicubic']['psnr'] != by_model['result']['psnr']
  assert by_model['bicubic']['kernel_psnr'] == by_model['bicubic']['lr_psnr'] == ''
  assert 20 < float(by_model['result']['lr_psnr']) < 60 and float(by_model['result']['kernel_psnr']) > 0

  case = next(
    case
    for case in Dataset.parse(f'folder:{photos}', ['smooth/no_noise'], 0, 0).cases([])
    if case.image == 'chelsea.png'
  )
  assert case.hr.shape == (48, 64, 3) and case.lr.shape == (12, 16, 3) and case.lr.dtype == np.uint8
  bicubic = np.asarray(Image.fromarray(case.lr).resize((64, 48), Image.Resampling.BICUBIC))
  assert float(by_model['bicubic']['psnr']) == pytest.approx(metrics.psnr.psnr(bicubic, case.hr), abs=1e-5)
  delta = np.zeros((12, 16, 441), np.float32)
  delta[..., 220] = 1
  expected = metrics.kernel_psnr.kernel_psnr(delta, case.kernels)
  assert float(by_model['result']['kernel_psnr']) == pytest.approx(expected, abs=1e-5)

  means = json.loads((tmp_path / 'out' / 'metrics.json').read_text())['means']
  assert [(row['recipe'], row['model'], row['images']) for row in means[:3]] == [
    ('smooth/no_noise', model, 2) for model in ('bicubic', 'restored', 'result')
  ]
  table = (tmp_path / 'out' / 'table.md').read_text()
  assert (
    'MATLAB' in table
    and 'NIQE (ssr_jax free photos)' in table
    and 'no crop' in table
    and 'seed 0' in table
    and '| result |' in table
  )
  assert table.strip() == report.table().strip()
  assert (tmp_path / 'out' / 'table.tex').read_text() == latex.table(report.means(), report.names, report.protocol)
  sheet = Image.open(next((tmp_path / 'out' / 'pictures').glob('astronaut_smooth_no_noise.png')))
  assert sheet.width >= 5 * 64 and len(list((tmp_path / 'out' / 'pictures').glob('*.png'))) == 2
  # Restored images are asked for without diffusion; only the call that compiled was made twice.
  assert [call.get('steps') for call in model.calls] == [0, 0, None, *[0, None] * 3]


def test_metrics_get_the_crop_and_the_reduction(photos, tmp_path):
  names = ('psnr', 'ssim', 'lr_psnr', 'niqe')
  config = _config(photos, metrics=names, recipes=('isotropic-2.4', 'smooth/no_noise'), models=('result',), crop=4)
  report = runner.evaluate(_settings(config), restorer=_Model())
  cases = Dataset.parse(f'folder:{photos}', ['isotropic-2.4', 'smooth/no_noise'], 0, 0).cases([])
  for case, row in zip(cases, report.rows, strict=True):
    image = np.asarray(Image.fromarray(case.lr).resize((64, 48), Image.Resampling.LANCZOS))
    assert (case.image, case.recipe) == (row['image'], row['recipe'])
    assert row['psnr'] == metrics.psnr.psnr(image[4:-4, 4:-4], case.hr[4:-4, 4:-4])
    assert row['ssim'] == metrics.ssim.ssim(image[4:-4, 4:-4], case.hr[4:-4, 4:-4])
    # _Model's kernel is a delta: nothing but the reduction is left.
    hr = case.hr[None].astype(np.float32) / 255
    reduced = resize.resize(hr, (12, 16)) if case.recipe.startswith('isotropic') else hr[:, ::4, ::4]
    expected = metrics.psnr.psnr(np.clip(np.asarray(reduced[0]), 0, 1), case.lr_clean, textbook=True)
    assert row['lr_psnr'] == pytest.approx(expected, abs=1e-3)
  assert 'crop of 4 pixels' in report.table()
  config.eval.crop = 24
  with pytest.raises(SSRError, match='a crop of 24 leaves nothing of an image of 48x64'):
    runner.evaluate(_settings(config), restorer=_Model())


def _shown(workdir):
  """The cases of index.html, as its script reads them."""
  text = (workdir / 'index.html').read_text()
  return [
    json.loads(block) for block in re.findall(r'<script type="application/json" id="case-.*?>(.*?)</script>', text)
  ]


def test_the_page_has_what_the_models_made_and_found(photos, tmp_path):
  report = runner.evaluate(_settings(_config(photos)), tmp_path / 'out', restorer=_Model())
  (shown,) = _shown(tmp_path / 'out')  # pictures=1
  assert shown['image'] == 'astronaut.png' and shown['rows'] == [0, 1, 2]
  labels = [view['label'] for view in shown['views']]
  assert labels == [
    'LR',
    'bicubic',
    'restored',
    'result',
    'HR',
    'kernels',
    'true kernels',
  ]  # though no metric needs them
  pixels = lambda label: (
    io.decode(base64.b64decode(shown['views'][labels.index(label)]['src'].split(',')[1]), label).rgb
  )
  np.testing.assert_array_equal(pixels('HR'), data.astronaut()[100:148, 150:214])
  for row in report.rows[:3]:
    assert metrics.psnr.psnr(pixels(row['model']), pixels('HR')) == row['psnr']
  low = pixels('LR')
  assert low.shape == (12, 16, 3)
  np.testing.assert_array_equal(
    pixels('result'), np.asarray(Image.fromarray(low).resize((64, 48), Image.Resampling.LANCZOS))
  )


@pytest.mark.parametrize(
  'pictures, page, written', [(1, None, True), (0, None, False), (0, True, True), (1, False, False)]
)
def test_the_page_is_written_where_there_are_pictures_or_where_it_is_asked_for(
  photos, tmp_path, pictures, page, written
):
  config = _config(photos, models=('bicubic',), pictures=pictures, page=page)
  runner.evaluate(_settings(config), tmp_path)
  assert (tmp_path / 'index.html').exists() == written
  if written:
    assert len(_shown(tmp_path)) == pictures
  assert len(list((tmp_path / 'pictures').glob('*.png'))) == pictures


def test_the_page_of_a_run_that_went_on_is_that_of_one_run(photos, tmp_path):
  """Pictures of cases that an earlier run has done are read from its files, and only as many as were drawn."""
  fields = dict(recipes=('smooth/no_noise', 'smooth/no_jpeg'), models=('bicubic', 'result'), seeds=(0, 1), pictures=1)
  settings = lambda **more: _settings(_config(photos, **fields, **more))
  runner.evaluate(settings(), tmp_path / 'whole', restorer=_Model())
  runner.evaluate(settings(limit=1, page=False), tmp_path / 'parts', restorer=_Model())
  report = runner.evaluate(settings(), tmp_path / 'parts', restorer=_Model())
  assert len(report.rows) == 2 * 2 * 3 and not (tmp_path / 'parts' / 'pictures' / 'chelsea_smooth_no_noise').exists()
  whole, parts = (_shown(tmp_path / name) for name in ('whole', 'parts'))
  assert [shown['recipe'] for shown in parts] == ['smooth/no_noise', 'smooth/no_jpeg']
  for one, other in zip(whole, parts, strict=True):
    assert one['views'] == other['views'] and one['rows'] == other['rows']
    assert [cells[:-1] for cells in one['scores']] == [cells[:-1] for cells in other['scores']]  # all but seconds


def test_the_page_shows_lr_images_that_have_no_hr_image(photos, tmp_path):
  config = _config(photos, dataset=f'lr:folder:{photos}', models=('bicubic', 'result'), metrics=('psnr',), limit=1)
  runner.evaluate(_settings(config), tmp_path, restorer=_Model())
  (shown,) = _shown(tmp_path)
  assert [view['label'] for view in shown['views']] == ['LR', 'bicubic', 'result', 'kernels']
  assert shown['size'] == '256x192' and [cells[1] for cells in shown['scores']] == [['–', '']] * 2


def test_photos_of_the_same_name_keep_their_pictures(photos, tmp_path):
  """And a photo that fails takes no picture from the others, nor leaves them what was found in it."""
  for folder, name in (('a', 'astronaut.png'), ('b', 'chelsea.png')):
    (photos / folder).mkdir()
    (photos / name).rename(photos / folder / '1.png')
  Image.new('RGB', (64, 48)).save(photos / '0.png')

  class Failing(_Model):
    def sample(self, lr, **options):
      result = super().sample(lr, **options)
      if not lr.any() and options.get('steps') != 0:
        raise RuntimeError('RESOURCE_EXHAUSTED: out of memory')
      return result

  model = Failing()
  report = runner.evaluate(
    _settings(_config(photos, models=('restored', 'bicubic', 'result'), pictures=2)), tmp_path / 'out', restorer=model
  )
  assert len(report.failures) == 1 and '0.png' in report.failures[0]
  first, second = _shown(tmp_path / 'out')
  assert (first['rows'], second['rows']) == ([0, 1, 2], [3, 4, 5])
  assert first['scores'][0][1][0] == f'{report.rows[0]["psnr"]:.2f}' != second['scores'][0][1][0]
  assert sorted(path.name for path in (tmp_path / 'out' / 'pictures').iterdir()) == [
    '1_smooth_no_noise',
    '1_smooth_no_noise.png',
    '1_smooth_no_noise_2',
    '1_smooth_no_noise_2.png',
  ]
  figures = [[view['label'] for view in shown['views'] if view['kind'] == 'figure'] for shown in (first, second)]
  assert figures == [['kernels', 'true kernels']] * 2


def test_paired_lr_is_taken_as_it_is(photos, tmp_path):
  low = tmp_path / 'lr'
  low.mkdir()
  Image.fromarray(data.astronaut()[100:148:4, 150:214:4]).save(low / 'astronaut.png')
  Image.fromarray(data.chelsea()[100:148:4, 150:214:4]).save(low / 'chelsea.png')
  config = _config(photos, dataset=f'folder:{photos},{low}', models=('bicubic',), metrics=('psnr', 'kernel_psnr'))
  report = runner.evaluate(_settings(config))
  assert [(row['image'], row['recipe']) for row in report.rows] == [
    ('astronaut.png', 'paired'),
    ('chelsea.png', 'paired'),
  ]
  bicubic = np.asarray(Image.open(low / 'astronaut.png').resize((64, 48), Image.Resampling.BICUBIC))
  expected = metrics.psnr.psnr(bicubic, data.astronaut()[100:148, 150:214])
  assert report.rows[0]['psnr'] == pytest.approx(expected) and np.isnan(report.rows[0]['kernel_psnr'])

  Image.new('RGB', (9, 9)).save(low / 'chelsea.png')
  Image.new('RGB', (8, 8)).save(photos / 'small.png')
  Image.new('RGB', (2, 2)).save(low / 'small.png')
  config.eval.metrics = ('ssim',)
  report = runner.evaluate(_settings(config))
  assert len(report.rows) == 1 and 'chelsea.png: 9x9, but its HR image' in report.failures[0]
  assert 'small.png (paired): SSIM needs at least 11x11' in report.failures[1]
  (low / 'chelsea.png').unlink()
  with pytest.raises(SSRError, match='chelsea.png: has no partner'):
    runner.evaluate(_settings(config))


def test_not_one_image_is_an_error(photos):
  for name in ('astronaut.png', 'chelsea.png'):
    (photos / name).unlink()
  (photos / 'broken.png').write_bytes(b'not an image')
  Image.new('RGB', (3, 80)).save(photos / 'thin.png')
  with pytest.raises(SSRError, match='not one image could be evaluated'):
    runner.evaluate(_settings(_config(photos, models=('bicubic',))))


def test_one_bad_image_costs_no_other_and_any_name_is_written(photos, tmp_path):
  """A damaged LR image, one that memory does not suffice for, and one whose name cannot be printed as it is."""
  low = tmp_path / 'lr'
  low.mkdir()
  (photos / 'chelsea.png').rename(photos / 'b\x1b\udcff.png')
  for name in ('c.png', 'd.png'):
    Image.new('RGB', (64, 48)).save(photos / name)
  for path in photos.iterdir():
    with Image.open(path) as image:
      image.resize((image.width // 4, image.height // 4)).save(low / path.name)
  (low / 'd.png').write_bytes(b'DDS ' + bytes(200))

  class Failing(_Model):
    def sample(self, lr, **options):
      if not lr.any():
        raise RuntimeError('RESOURCE_EXHAUSTED: out of memory')
      return super().sample(lr, **options)

  config = _config(photos, dataset=f'paired:{photos},{low}', models=('bicubic', 'restored'))
  report = runner.evaluate(_settings(config), tmp_path / 'out', restorer=Failing())
  assert [line.partition(':')[0] for line in report.failures] == ['c.png (paired)', f'{low}/d.png']
  rows = (tmp_path / 'out' / 'metrics.csv').read_text()
  assert rows.count('\n') == 5 and 'b\\x1b\\xff.png,paired,restored' in rows


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(metrics=('psnr', 'pnsr')), "unknown metric 'pnsr'; known: psnr"),
    (dict(models=('bicubic', 'best')), "eval.models: unknown 'best'; known: bicubic, restored, result"),
    (dict(models=()), 'eval.models is empty'),
    (dict(recipes=('smoth/no_noise',)), "unknown field 'smoth'"),
    (dict(recipes=('depth/no_noise',)), 'needs a depth map'),
    (dict(recipes=()), 'eval.recipes is empty'),
    (dict(dataset='folder:absent'), 'absent is not a folder'),
    (dict(limit=-3), 'eval.limit=-3: must be a number of photos'),
    (dict(pictures=-3), 'eval.pictures=-3: must be a number of images'),
    (dict(metrics=('niqe',), niqe_params='absent.npz'), 'no pristine model'),
    (dict(sampling={'step': 3}), "eval.sampling: unknown 'step'; known: steps"),
    (dict(models=('bicubic,result',)), "'result' needs the part vae, unet, which model 'double' lacks"),
  ],
)
def test_wrong_fields_are_one_clear_line(photos, fields, message):
  model = _Model(parts=('depth', 'dkenet', 'nbsr'))
  with pytest.raises(SSRError, match=message):
    runner.evaluate(_settings(_config(photos, **fields)), restorer=model)


def test_without_a_workdir_nothing_is_written(photos, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  before = sorted(tmp_path.rglob('*'))
  rows = runner.evaluate(_settings(_config(photos, models=('restored',), metrics=('psnr',))), restorer=_Model()).means()
  assert [(row['model'], row['images']) for row in rows] == [('restored', 2)] and rows[0]['psnr'] > 15
  assert sorted(tmp_path.rglob('*')) == before
