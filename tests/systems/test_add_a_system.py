"""A new system is its own folder and one line of `systems.SYSTEMS`: the toy goes through all that the house does.

docs/add-a-system.md shows the toy's files and these commands; the last tests hold it to that.
"""

import csv
import json
import pathlib
import re
import shlex
import shutil

import numpy as np
from PIL import Image
import pytest
from skimage import data

from configs import common
import evaluate
import ssr_jax
from ssr_jax import cli, systems
from ssr_jax.evaluation import runner
from ssr_jax.evaluation.protocol import Settings
from ssr_jax.image import io
from ssr_jax.image.resize import upscale
from ssr_jax.training import trainer
from ssr_jax.types import SSRError
from ssr_jax.weights import store
from tests.systems.toy import config as toy_config
import train

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOY = ROOT / 'tests' / 'systems' / 'toy'
GUIDE = ROOT / 'docs' / 'add-a-system.md'


@pytest.fixture(scope='module', autouse=True)
def registered():
  """The one line that a new system needs outside of its folder."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(systems.SYSTEMS, 'toy', 'tests.systems.toy')
    yield


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photos')
  for name in ('astronaut', 'coffee', 'chelsea', 'rocket'):
    Image.fromarray(getattr(data, name)()[:200, :240]).save(folder / f'{name}.png')
  return folder


def _config(photos, **fields):
  config = toy_config.get_config('residual')
  fields = {name.replace('__', '.'): value for name, value in fields.items()}
  return common.apply(config, {'data.train': f'folder:{photos}', **fields})


@pytest.fixture(scope='module')
def run(registered, photos, tmp_path_factory):
  """The workdir of a run."""
  workdir = tmp_path_factory.mktemp('run')
  assert trainer.train(_config(photos), str(workdir)) == 0
  return workdir


@pytest.fixture(scope='module')
def model(run):
  return ssr_jax.load(run / 'model')


def test_it_trains_to_a_model_that_says_what_it_is(run, model):
  summary = json.loads((run / 'summary.json').read_text())
  assert summary['parts'] == ['residual'] and summary['step'] == 30
  assert summary['validation']['psnr'] > summary['validation']['bicubic_psnr'] + 0.3
  written = json.loads((run / 'model' / 'model.json').read_text())
  assert (
    written['system'] == 'toy' and written['sampling'] == {'amount': 1.0} and list(written['parts']) == ['residual']
  )
  assert written['parts']['residual']['training']['stage'] == 'residual'
  assert model.system is systems.get('toy') and list(model.modules) == ['residual']
  assert (run / 'pictures').is_dir() or (run / 'tensorboard').is_dir()


@pytest.mark.parametrize(
  'change, words',
  [
    (lambda found: found['sampling'].update(amount=1.5), "field 'sampling.amount': expected"),
    (lambda found: found['sampling'].update(amounts=1), "unknown field 'sampling.amounts'; known: amount"),
    (lambda found: found['parts']['residual']['config'].update(features=513), "part 'residual': field 'features'"),
  ],
)
def test_its_types_and_limits_are_those_of_its_models(change, words, run, tmp_path):
  shutil.copytree(run / 'model', tmp_path / 'model')
  found = json.loads((tmp_path / 'model' / 'model.json').read_text())
  change(found)
  (tmp_path / 'model' / 'model.json').write_text(json.dumps(found))
  with pytest.raises(SSRError, match=words):
    ssr_jax.load(tmp_path / 'model')


def test_another_run_goes_on_from_the_model_or_from_the_run(photos, run, tmp_path):
  for i, place in enumerate((run, run / 'model')):
    config = _config(photos, init_from=str(place), train__steps=1)
    assert trainer.train(config, str(tmp_path / str(i))) == 0
    made = store.load_model(tmp_path / str(i) / 'model').config['parts']['residual']['training']
    assert made['earlier_steps'] == {'residual': 30} and made['started_from'] == 'toy'
  assert cli.main(['export', str(run), str(tmp_path / 'exported')]) == 0
  assert store.load_model(tmp_path / 'exported').config['system'] == 'toy'


def test_weights_of_another_system_are_refused(photos, run, tmp_path):
  with pytest.raises(SSRError, match="init_from=compact: a model of the system 'ssr', not 'toy'"):
    trainer.train(_config(photos, init_from='compact'), str(tmp_path / 'a'))
  from configs import tiny

  for place in (run, run / 'model'):
    config = common.apply(tiny.get_config('nbsr'), {'data.train': f'folder:{photos}', 'init_from': str(place)})
    with pytest.raises(SSRError, match="init_from=.*: a model of the system 'toy', not 'ssr'"):
      trainer.train(config, str(tmp_path / f'of_{place.name}'))
  config = common.apply(tiny.get_config('kernel'), {'parts_from': str(run / 'model')})
  with pytest.raises(SSRError, match="parts_from=.*: a model of the system 'toy', not 'ssr'"):
    trainer.train(config, str(tmp_path / 'b'))


def test_tiles_make_the_same_image_as_one_piece(model):
  lr = data.coffee()[40:136, 100:228].astype(np.float32) / 255
  whole = model.sample(lr)
  tiles = model.sample(lr, tile=64)
  assert whole.image.shape == (384, 512, 3) and whole.image.dtype == np.float32
  np.testing.assert_allclose(tiles.image, whole.image, atol=2e-4)
  np.testing.assert_allclose(whole.bicubic, np.clip(upscale(lr[None], 4)[0], 0, 1), atol=1e-5)
  half = model.sample(lr, amount=0.5)
  inside = (whole.image > 0.02) & (whole.image < 0.98) & (half.bicubic > 0.02) & (half.bicubic < 0.98)
  np.testing.assert_allclose(half.image[inside], (whole.image + whole.bicubic)[inside] / 2, atol=1e-5)
  np.testing.assert_array_equal(model.sample(lr, amount=0.0).image, whole.bicubic)
  assert np.abs(whole.image - whole.bicubic).max() > 0.01
  with pytest.raises(SSRError, match='amount 2.0: must lie in'):
    model.sample(lr, amount=2.0)
  with pytest.raises(SSRError, match="unknown option 'steps'; system 'toy' has amount"):
    model.sample(lr, steps=3)


def test_bfloat16(run, model):
  lr = data.coffee()[40:72, 100:132]
  rounded = ssr_jax.load(run / 'model', dtype='bfloat16').sample(lr).image
  np.testing.assert_allclose(rounded.astype(float), model.sample(lr).image.astype(float), atol=3)


def test_evaluation_scores_it(photos, run, tmp_path):
  config = toy_config.get_config()
  config.eval.update(dataset=f'folder:{photos}', model=str(run / 'model'), limit=2, pictures=1)
  report = runner.evaluate(Settings.from_config(config.eval), tmp_path)
  means = {row['model']: row['psnr'] for row in report.means()}
  assert list(means) == ['bicubic', 'result'] and means['result'] > means['bicubic']
  assert 'sampling amount 1.0, seed 0' in report.protocol['model']
  assert len(list((tmp_path / 'pictures').iterdir())) == 1
  config.eval.sampling.amount = 0.0
  mean = runner.evaluate(Settings.from_config(config.eval)).means()[1]['psnr']
  assert mean == pytest.approx(means['bicubic'], abs=0.05)  # ours and Pillow's, rounded
  config.eval.models = ('restored',)
  with pytest.raises(SSRError, match="eval.models: unknown 'restored'; known: bicubic, result"):
    runner.evaluate(Settings.from_config(config.eval))


def test_ssr_info_describes_system_and_model(run, capsys):
  assert cli.main(['info', 'toy', '--json']) == 0
  found = json.loads(capsys.readouterr().out)
  count = 3 * 3 * 3 * 8 + 8 + 3 * 3 * 8 * 3 + 3
  size = found['sizes']['small']
  assert size['parts']['residual']['parameters'] == count
  side = 3 * 512 - 2  # pairs of a pixel and a tap within the image, along an axis
  assert size['restoring']['result']['flops']['residual'] == 2 * side**2 * (3 * 8 + 8 * 3)
  assert found['options']['amount']['kind'] == 'float' and list(found['stages']) == ['residual']
  assert cli.main(['info', str(run / 'model')]) == 0
  text = capsys.readouterr().out
  assert text.startswith('toy: a model of toy, x4') and f'{count:,}' in text and 'amount 1.0' in text


def test_ssr_upscale_has_its_options(run, model, tmp_path, capsys):
  photo = tmp_path / 'photo.png'
  Image.fromarray(data.chelsea()[100:130, 100:140]).save(photo)
  command = ['upscale', str(photo), '-o', str(tmp_path / 'out.png'), '--model', str(run / 'model')]
  assert cli.main([*command, '--amount', '0.5', '--figures']) == 0
  np.testing.assert_array_equal(io.read(tmp_path / 'out.png').rgb, model.sample(io.read(photo).rgb, amount=0.5).image)
  with Image.open(tmp_path / 'out_figure.png') as sheet:
    assert sheet.width == 3 * 160 + 4 * 8  # LR, bicubic, result
  capsys.readouterr()
  for more, message in (
    (['--amount', '3'], 'amount 3.0: must lie in [0, 1]'),
    (['--steps', '3'], "unknown option 'steps'; system 'toy' has amount"),
    (['--restored-only'], "unknown option 'steps'; system 'toy' has amount"),
  ):
    assert cli.main([*command, '--overwrite', *more]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and message in err
  assert cli.main(['upscale', '--help']) == 0
  out = capsys.readouterr().out
  assert '--amount A' in out and '--steps N' in out  # of both systems


def test_ssr_degrade_says_that_it_has_no_depth(run, tmp_path, capsys):
  Image.fromarray(data.chelsea()[100:164, 100:164]).save(tmp_path / 'photo.png')
  command = ['degrade', str(tmp_path / 'photo.png'), '-o', str(tmp_path / 'set'), '--recipe', 'depth/no_noise']
  assert cli.main([*command, '--model', str(run / 'model')]) == 1
  assert "the system 'toy' estimates no depth" in capsys.readouterr().err


# -- The guide ---------------------------------------------------------------------------------------------------------


def _blocks(language):
  blocks = re.findall(rf'^```{language}\n(.*?)^```$', GUIDE.read_text(), re.MULTILINE | re.DOTALL)
  assert blocks
  return blocks


def test_the_guides_code_is_the_toys():
  files = '\n'.join(path.read_text() for path in sorted(TOY.glob('*.py')))
  for block in _blocks('python'):
    assert block in files, f'not in the toy:\n{block}'


def test_the_guides_line_is_that_of_the_registry():
  (line,) = re.findall(r"^    ('\w+': '[\w.]+',)$", GUIDE.read_text(), re.MULTILINE)
  assert eval('{' + line + '}').keys() == {'toy'}
  source = (ROOT / 'ssr_jax' / 'systems' / '__init__.py').read_text()
  assert re.search(r"^  'ssr': 'ssr_jax.systems.ssr',$", source, re.MULTILINE)  # of the same form


def test_the_guides_commands_run(photos, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  Image.fromarray(data.chelsea()[100:130, 100:140]).save('photo.png')
  commands = [shlex.split(line) for block in _blocks('sh') for line in block.replace('\\\n', ' ').splitlines() if line]
  for words in commands:
    words = [word.replace('PHOTOS', str(photos)).replace('=tests/', f'={ROOT}/tests/') for word in words]
    match words:
      case ['python', 'train.py' | 'evaluate.py' as script, *_]:
        program = train if script == 'train.py' else evaluate
        with pytest.raises(SystemExit) as done:
          common.run(program.main, program.__doc__, words[1:])
        code = done.value.code
      case ['ssr', *arguments]:
        code = cli.main(arguments)
      case _:
        pytest.fail(f'what is {words}?')
    assert code == 0, (words, capsys.readouterr().err)
  assert Image.open('larger.png').size == (160, 120)
  with open('SCORES/metrics.csv') as file:
    assert {row['model'] for row in csv.DictReader(file)} == {'bicubic', 'result'}


def test_an_unknown_stage_is_one_line(capsys):
  with pytest.raises(SystemExit) as done:
    common.run(train.main, train.__doc__, ['train.py', f'--config={TOY}/config.py:nbsr', '--workdir=x'])
  assert done.value.code == 2
  err = capsys.readouterr().err
  assert len(err.splitlines()) == 1 and "unknown stage 'nbsr'; known: residual" in err
