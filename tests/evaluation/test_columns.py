"""What columns mean: variants, other models, switches, other people's images; and what each feeds to the model."""

import json

import numpy as np
from PIL import Image
import pytest
from skimage import data

from configs import compact
from ssr_jax import metrics
from ssr_jax.evaluation import columns, models, runner
from ssr_jax.evaluation.cases import Case
from ssr_jax.evaluation.columns import Column, Given
from ssr_jax.evaluation.protocol import Settings
from ssr_jax.image import kernels as kernel_maths
from ssr_jax.runtime import Restorer, Result
from ssr_jax.systems.ssr.system import SYSTEM
from ssr_jax.types import SSRError

CONFIG = {
  'name': 'double',
  'scale': 4,
  'svkr': {},
  'schedule': {},
  'sampling': {'sampler': 'ddim', 'steps': 2, 'start': 1},
}
KERNEL = np.asarray(kernel_maths.gaussian_kernels(3.0, 2.0, 0.4))


class _Taps:
  taps = 441


class _Model(Restorer):
  """Its image is gray, brighter by the seed; its kernels are KERNEL on the left, wider ones on the right."""

  def __init__(self, config=CONFIG):
    parts = ('depth', 'dkenet', 'nbsr', 'vae', 'unet')
    super().__init__(system=SYSTEM, config=config, variables={}, modules=dict.fromkeys(parts, _Taps()))
    object.__setattr__(self, 'calls', [])

  def sample(self, lr, *, scale, seed, keep_kernels=True, given=None, **options):
    self.calls.append({'seed': seed, 'given': given or {}, **options})
    h, w, _ = lr.shape
    kernels = np.tile(KERNEL, (h, w, 1))
    kernels[:, w // 2 :] = kernel_maths.gaussian_kernels(6.0, 6.0, 0.0)
    depth = np.broadcast_to(np.linspace(0, 1, scale * w, dtype=np.float32)[None, :, None], (scale * h, scale * w, 1))
    found = {'depth': depth, 'kernels': kernels if keep_kernels else None, **(given or {})}
    found['restored'] = np.full((scale * h, scale * w, 3), 100, np.uint8)
    return Result(found['restored'] + np.uint8(10 * seed), found)


def _evaluate(dataset, workdir=None, restorer=None, **fields):
  config = compact.get_config()
  config.eval.update(dict(dataset=dataset, recipes=('smooth/no_noise',), metrics=('psnr',), pictures=0) | fields)
  return runner.evaluate(Settings.from_config(config.eval), workdir, restorer or _Model())


def _system_of(name):
  if name not in ('compact', 'DIR/model', 'peer'):
    raise SSRError(f"model '{name}': unknown model")
  return SYSTEM


def _case():
  rng = np.random.default_rng(0)
  lr, hr = rng.integers(0, 255, (6, 8, 3), np.uint8), rng.integers(0, 255, (24, 32, 3), np.uint8)
  kernels = np.asarray(kernel_maths.gaussian_kernels(np.full((6, 8), 4.0), 1.0, 0.2))
  depth = rng.random((24, 32, 1), np.float32)
  return Case('a.png', 'smooth/no_noise', hr, lr, None, kernels, depth)


def test_names_mean_variants_other_models_and_switches():
  names = [
    'bicubic',
    'restored',
    'result',
    'peer',
    'DIR/model:restored',
    'result+steps=4+start=0.5',
    'peer+kernels=none',
  ]
  names += ['result+depth=x0.5+iterations=2+tile=64', 'compact:result+kernels=true+sampler=ddpm']
  assert columns.parse(names, 'compact', _system_of) == [
    Column('bicubic', ''),
    Column('restored', 'compact', 'restored', {'steps': 0}),
    Column('result', 'compact', 'image'),
    Column('peer', 'peer', 'image'),
    Column('DIR/model:restored', 'DIR/model', 'restored', {'steps': 0}),
    Column('result+steps=4+start=0.5', 'compact', 'image', {'steps': 4, 'start': 0.5}),
    Column('peer+kernels=none', 'peer', 'image', {}, {'kernels': Given('none')}),
    Column(names[7], 'compact', 'image', {'iterations': 2, 'tile': 64}, {'depth': Given('estimate', 0.5)}),
    Column(names[8], 'compact', 'image', {'sampler': 'ddpm'}, {'kernels': Given('true')}),
  ]


@pytest.mark.parametrize(
  'names, message',
  [
    ((), 'eval.models is empty; known: bicubic, restored, result'),
    (('result', 'result'), "'result' stands twice"),
    (('best',), "unknown 'best'; known: bicubic, restored, result; other models are NAME, DIR or DIR:VARIANT"),
    (('far:result',), "eval.models: model 'far': unknown model"),
    (('peer:best',), "unknown variant 'best' of a model of ssr; known: restored, result"),
    (('bicubic+steps=2',), 'bicubic enlargement has no switches'),
    (('result+kernel=none',), "unknown switch 'kernel=none'; known: depth=true, none, mean or xFACTOR; kernels="),
    (('result+kernels=wide',), "'kernels=wide' must read =true, =none, =mean, or =x and a factor above 0"),
    (('result+kernels=x0',), "'kernels=x0' must read"),
    (('result+kernels=xnan',), "'kernels=xnan' must read"),
    (('result+steps=many',), "'steps=many' needs a value of the kind int"),
    (('result+steps=2+steps=3',), 'steps is set already'),
    (('restored+steps=3',), 'steps is set already'),
    (('result+seed=3',), "unknown switch 'seed=3'"),
  ],
)
def test_wrong_names_are_one_clear_line(names, message):
  with pytest.raises(SSRError, match=message):
    columns.parse(names, 'compact', _system_of)


@pytest.mark.parametrize(
  'parse, text, message',
  [
    (columns.parse_outputs, 'peer', "'peer' must read 'NAME:DIR'"),
    (columns.parse_outputs, 'result:DIR', "'result' stands twice"),
    (columns.parse_outputs, 'a:DIR;a:DIR2', "'a' stands twice"),
    (columns.parse_pairs, 'result', "'result' must read 'A,B'"),
    (columns.parse_pairs, 'result,result', "must read 'A,B'"),
    (columns.parse_pairs, 'result,peer', "no column 'peer'; there are bicubic, result"),
  ],
)
def test_wrong_outputs_and_pairs_are_one_clear_line(parse, text, message):
  with pytest.raises(SSRError, match=message):
    parse(text, ['bicubic', 'result'])


def test_each_switch_gives_what_it_says():
  case, model = _case(), _Model()
  names = [
    f'result+{switch}' for switch in ('kernels=true', 'depth=true', 'kernels=none', 'depth=none', 'kernels=mean')
  ]
  names += ['result+kernels=x2', 'result+depth=x0.5+steps=3']
  made = models.select(columns.parse(names, 'compact', _system_of), {'compact': model}, 4, {'strength': 0.5}, True)
  found = {}
  for name in names:
    model.calls.clear()
    output = made[name](case, 0)
    found[name] = model.calls[-1]['given']
    assert (output.kernels is None) == ('kernels' in found[name])  # what is given is no estimate
    assert model.calls[-1]['strength'] == 0.5
  np.testing.assert_array_equal(found[names[0]]['kernels'], case.kernels)
  np.testing.assert_array_equal(found[names[1]]['depth'], case.depth)
  np.testing.assert_array_equal(
    found[names[2]]['kernels'], np.tile(SYSTEM.neutral(model.modules, 'kernels'), (6, 8, 1))
  )
  np.testing.assert_array_equal(found[names[3]]['depth'], np.full((24, 32, 1), 0.5))
  wide = np.asarray(kernel_maths.gaussian_kernels(6.0, 6.0, 0.0))
  np.testing.assert_allclose(found[names[4]]['kernels'], np.tile((KERNEL + wide) / 2, (6, 8, 1)), atol=1e-6)
  twice = kernel_maths.moments(found[names[5]]['kernels'][0, 0])[1]
  np.testing.assert_allclose(twice, 2 * kernel_maths.moments(KERNEL)[1], atol=0.1)
  np.testing.assert_allclose(found[names[6]]['depth'][0, :, 0], np.linspace(0, 0.5, 32), atol=1e-6)
  assert list(found[names[6]]) == ['depth'] and model.calls[-1]['steps'] == 3
  with pytest.raises(SSRError, match=r'a.png \(smooth/no_noise\): has no true depth'):
    made[names[1]](Case('a.png', 'smooth/no_noise', case.hr, case.lr), 0)


def test_estimates_are_made_once_for_an_image(photos):
  model = _Model()
  names = ('result+kernels=x0.5', 'result+kernels=x2', 'result+kernels=mean')
  report = _evaluate(f'folder:{photos}', restorer=model, models=names)
  assert len(model.calls) == 2 * (1 + 3) and len(report.rows) == 6


def test_several_models_are_columns_of_one_table(photos, tmp_path, monkeypatch):
  loaded = []
  double = lambda name, *_: loaded.append(name) or _Model({**CONFIG, 'name': str(name)})
  monkeypatch.setattr(models, 'load', double)
  monkeypatch.setattr(models, 'system_of', lambda name: SYSTEM)
  config = compact.get_config()
  names = ('bicubic', 'restored', 'peer', 'peer:restored', 'DIR/model')
  config.eval.update(dataset=f'folder:{photos}', recipes=('smooth/no_noise',), metrics=('psnr',), models=names)
  report = runner.evaluate(Settings.from_config(config.eval))
  assert loaded == ['compact', 'peer', 'DIR/model']  # each once
  assert [row['model'] for row in report.means()] == list(names)
  assert all(f'{name}, float32, sampling' in report.protocol['model'] for name in loaded)


def test_a_switch_that_cannot_be_used_is_said_before_anything_runs(photos):
  model = _Model()
  for name, message in (
    ('result+steps=-2', "'result\\+steps=-2': steps -2: must be a whole number"),
    ('result+depth=true', 'needs true depth, which eval.dataset lacks'),
  ):
    with pytest.raises(SSRError, match=message):
      _evaluate(f'folder:{photos}', restorer=model, models=(name,))
  assert model.calls == []


# -- Images of others --------------------------------------------------------------------------------------------------


def test_images_of_others_are_columns(photos, tmp_path):
  theirs = tmp_path / 'theirs'
  theirs.mkdir()
  images = {'astronaut': data.astronaut()[101:149, 150:214], 'chelsea': data.chelsea()[101:152, 150:217]}  # uncropped
  Image.fromarray(images['astronaut']).save(theirs / 'astronaut_out.png')
  Image.fromarray(images['chelsea']).save(theirs / 'chelsea_x4.png')
  report = _evaluate(f'folder:{photos}', tmp_path / 'out', outputs=f'peer:{theirs}', compare='peer,bicubic')
  rows = {row['image']: row for row in report.rows if row['model'] == 'peer'}
  for name, image in images.items():
    hr = np.asarray(Image.open(photos / f'{name}.png'))[:48, :64]
    assert rows[f'{name}.png']['psnr'] == pytest.approx(metrics.psnr.psnr(image[:48, :64], hr))
  assert np.isnan(rows['chelsea.png']['seconds']) and 'images of others: peer:' in report.table()
  written = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
  (found,) = written['comparisons']
  assert (found['first'], found['second'], found['images']) == ('peer', 'bicubic', 2)


def test_photos_that_another_tool_lacks_are_left_out_of_all_columns(photos, tmp_path, capsys):
  theirs = tmp_path / 'theirs'
  theirs.mkdir()
  with pytest.raises(SSRError, match='is not a folder'):
    _evaluate(f'folder:{photos}', outputs=f'peer:{tmp_path / "absent"}')
  Image.new('RGB', (64, 48)).save(theirs / 'other.png')
  with pytest.raises(SSRError, match='no image below .* has the name of a photo'):
    _evaluate(f'folder:{photos}', outputs=f'peer:{theirs}')
  Image.new('RGB', (64, 48)).save(theirs / 'chelsea.png')
  report = _evaluate(f'folder:{photos}', outputs=f'peer:{theirs}', models=('bicubic',))
  assert [(row['image'], row['model']) for row in report.rows] == [('chelsea.png', 'bicubic'), ('chelsea.png', 'peer')]
  line = '1 of 2 photos are left out, which peer has no image of'
  assert line in capsys.readouterr().err and report.protocol['left out'] == line
  assert report.protocol['dataset'].endswith('1 images')
  Image.new('RGB', (60, 48)).save(theirs / 'chelsea.png')
  with pytest.raises(SSRError, match='chelsea.png: 60x48 pixels, but its photo has 64x48'):
    _evaluate(f'folder:{photos}', outputs=f'peer:{theirs}', models=('bicubic',))


# -- Seeds -------------------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_and_their_deviation_is_told(photos, tmp_path):
  model = _Model()
  fields = dict(restorer=model, seeds=(0, 3, 5), models=('bicubic', 'result'), compare='result,bicubic')
  report = _evaluate(f'folder:{photos}', tmp_path, **fields)
  assert sorted({call['seed'] for call in model.calls}) == [0, 3, 5] and len(model.calls) == 6
  psnr = {}
  for name in ('astronaut', 'chelsea'):
    hr = np.asarray(Image.open(photos / f'{name}.png'))[:48, :64]
    for seed in (0, 3, 5):
      psnr[name, seed] = metrics.psnr.psnr(np.full((48, 64, 3), 100 + 10 * seed, np.uint8), hr)
  bicubic, result = report.means()
  assert result['psnr'] == pytest.approx(np.mean(list(psnr.values()))) and result['images'] == bicubic['images'] == 2
  by_seed = [np.mean([psnr[name, seed] for name in ('astronaut', 'chelsea')]) for seed in (0, 3, 5)]
  assert result['deviation']['psnr'] == pytest.approx(np.std(by_seed, ddof=1))
  assert np.isnan(bicubic['deviation']['psnr'])  # nothing is drawn
  assert f'{result["psnr"]:.2f} ± {np.std(by_seed, ddof=1):.3f}' in report.table()
  lines = (tmp_path / 'metrics.csv').read_text().splitlines()
  assert lines[0] == 'image,recipe,model,seed,psnr,seconds' and len(lines) == 1 + 2 * (1 + 3)
  (test,) = report.comparisons()
  per_image = [np.mean([psnr[name, seed] for seed in (0, 3, 5)]) for name in ('astronaut', 'chelsea')]
  low = [row['psnr'] for row in report.rows if row['model'] == 'bicubic']
  assert test.images == 2 and test.difference == pytest.approx(np.mean(np.subtract(per_image, low)))


@pytest.mark.parametrize('seeds', ['0,1,2', ('0,1,2',), (0, 1, 2), 7, ()])
def test_seeds_may_be_written_in_several_ways(seeds):
  config = compact.get_config()
  config.eval.seed = 9
  with config.eval.ignore_type():
    config.eval.seeds = seeds
  assert Settings.from_config(config.eval).seeds == ((9,) if seeds == () else (7,) if seeds == 7 else (0, 1, 2))


@pytest.mark.parametrize('seeds, message', [('a,b', 'must be whole numbers'), ((1, 1), 'has a seed twice')])
def test_wrong_seeds_are_one_clear_line(seeds, message):
  config = compact.get_config()
  with config.eval.ignore_type():
    config.eval.seeds = seeds
  with pytest.raises(SSRError, match=message):
    Settings.from_config(config.eval)


# -- LR images alone, and pictures -------------------------------------------------------------------------------------


def test_lr_images_without_hr_have_no_value_of_what_needs_one(photos, tmp_path):
  report = _evaluate(f'lr:folder:{photos}', tmp_path / 'out', models=('bicubic', 'result'), pictures=1)
  assert [(row['image'], row['recipe']) for row in report.rows[::2]] == [
    ('astronaut.png', 'paired'),
    ('chelsea.png', 'paired'),
  ]
  assert all(np.isnan(row['psnr']) for row in report.rows) and '| paired | result | – |' in report.table()
  (sheet,) = (tmp_path / 'out' / 'pictures').glob('*.png')
  with Image.open(sheet) as image:
    assert image.size[0] == 3 * 256 + 4 * 8 and image.size[1] >= 192  # LR, two columns, no HR


def test_pictures_show_what_was_given(photos, tmp_path):
  fields = dict(models=('result', 'result+kernels=x2', 'result+depth=none'), pictures=1)
  _evaluate(f'folder:{photos}', tmp_path / 'with', **fields)
  _evaluate(f'folder:{photos}', tmp_path / 'without', models=fields['models'][:1], pictures=1)
  name = 'pictures/astronaut_smooth_no_noise.png'
  with Image.open(tmp_path / 'with' / name) as image, Image.open(tmp_path / 'without' / name) as plain:
    # LR, three columns, HR, each 96 wide for its label; below kernels, which have a truth, and depth.
    assert image.size == (5 * 96 + 6 * 8, 3 * plain.size[1])


def test_a_recipe_that_stands_twice_counts_once(photos):
  report = _evaluate(f'folder:{photos}', models=('bicubic',), recipes=('smooth', 'smooth/no_noise'))
  assert len(report.rows) == 2
