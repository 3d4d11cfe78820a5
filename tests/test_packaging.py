"""What the package says of itself: bounded requirements, a lock that fits them, licences of code and weights."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import venv

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
import pytest
import skimage.data
import yaml

from configs import common
import ssr_jax
from ssr_jax import cli, metrics
from ssr_jax.cli import console

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
RUNTIME = [Requirement(line) for line in (ROOT / 'requirements.txt').read_text().splitlines()]


def _locked():
  """{name: versions} of requirements.lock; there can be one for each Python."""
  found = {}
  for name, version in re.findall(r'^([\w.-]+)==([\w.]+)', (ROOT / 'requirements.lock').read_text(), re.M):
    found.setdefault(canonicalize_name(name), []).append(version)
  return found


@pytest.mark.parametrize('requirement', RUNTIME, ids=str)
def test_requirements_have_an_upper_bound_and_the_lock_fits_them(requirement):
  assert any(bound.operator in ('<', '<=', '==') for bound in requirement.specifier)
  versions = _locked()[canonicalize_name(requirement.name)]
  assert versions and all(version in requirement.specifier for version in versions)


def test_a_plain_installation_and_the_extras_are_the_requirements():
  """What upscaling needs is what `pip install ssr-jax` brings; requirements.txt is that and four extras."""
  extras = PROJECT['optional-dependencies']
  parts = ('train', 'data', 'hub', 'completion')
  assert extras['all'] == [f'ssr-jax[{",".join(parts)}]']
  listed = [*PROJECT['dependencies'], *(line for part in parts for line in extras[part])]
  as_text = lambda lines: sorted(str(Requirement(str(line))) for line in lines)
  assert as_text(listed) == as_text(RUNTIME)


def test_a_missing_package_is_told_with_the_extra_that_installs_it(monkeypatch, capsys):
  """Every package of these extras is known to the message; an import that fails for another reason stays an error."""
  roots = {
    'orbax-checkpoint': 'orbax',
    'ml-collections': 'ml_collections',
    'tensorflow-datasets': 'tensorflow_datasets',
  }
  for extra in ('train', 'data', 'hub'):
    for line in PROJECT['optional-dependencies'][extra]:
      name = Requirement(line).name
      error = ModuleNotFoundError('x', name=f'{roots.get(name, name)}.inner')
      assert f"'ssr-jax[{extra}]'" in (console.lacking(error) or ''), name
  assert console.lacking(ImportError('x', name='ssr_jax.nosuch')) is None and console.lacking(OSError('x')) is None
  monkeypatch.setitem(sys.modules, 'ml_collections', None)
  assert cli.main(['train', '--config=configs/tiny.py:nbsr', '--workdir=x']) == 2
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and 'needs the package ml_collections' in line and 'ssr-jax[train]' in line


def test_version_changelog_and_citation_agree():
  newest = re.search(r'^## (\S+) \((\S+)\)$', (ROOT / 'CHANGELOG.md').read_text(), re.M)
  citation = (ROOT / 'CITATION.cff').read_text()
  assert newest and newest[1] == ssr_jax.__version__
  assert re.search(r'^version: (.*)$', citation, re.M)[1] == newest[1]
  assert re.search(r"^date-released: '(.*)'$", citation, re.M)[1] == newest[2]


SOURCES = (
  'ssr_jax',
  'configs',
  'setup.py',
  'pyproject.toml',
  'MANIFEST.in',
  'README.md',
  'LICENSE',
  'requirements.txt',
)


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """The folder of programs of a fresh environment with the built wheel; libraries are those of this environment."""
  place = tmp_path_factory.mktemp('wheel')
  for name in SOURCES:
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, place / 'source' / name, ignore=shutil.ignore_patterns('__pycache__'))
    else:
      shutil.copy(ROOT / name, place / 'source' / name)
  pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
  built = subprocess.run([*pip, 'wheel', '--no-deps', '-w', place, place / 'source'], capture_output=True, text=True)
  if re.search('No matching distribution found for setuptools|Failed to establish', built.stdout + built.stderr):
    pytest.skip('building a wheel fetches setuptools, and there is no network')
  assert built.returncode == 0, built.stderr
  (wheel,) = place.glob('*.whl')
  environment = place / 'venv'
  venv.create(environment, symlinks=True)
  packages = next(environment.glob('lib/python*/site-packages'))
  # Paths in a .pth file are searched after the environment's own, and the .pth files in them are not read: an editable
  # installation of this package is not seen.
  (packages / 'libraries.pth').write_text('\n'.join(path for path in sys.path if path.endswith('site-packages')) + '\n')
  python = environment / 'bin' / 'python'
  subprocess.run([*pip, '--python', python, 'install', '-q', '--no-deps', '--ignore-installed', wheel], check=True)
  return environment / 'bin'


@pytest.mark.slow
def test_an_installed_wheel_upscales_trains_and_evaluates_outside_of_the_repository(installed, tmp_path):
  for i in range(4):
    Image.fromarray(skimage.data.astronaut()[40 * i : 40 * i + 140, 60 * i : 60 * i + 140]).save(tmp_path / f'{i}.png')
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}

  def run(*words, program='ssr'):
    done = subprocess.run([installed / program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

  where = 'import ssr_jax, pathlib; print(pathlib.Path(ssr_jax.__file__).resolve())'
  assert str(installed.parent) in run('-c', where, program='python')
  assert run('--version', program='ssr-jax').strip() == f'ssr-jax {ssr_jax.__version__}'
  assert 'ssr evaluate' in run('--help') and '--config.eval' in run('evaluate', '--help')
  run('upscale', '0.png', '-o', 'large.png', '--size', '160', '--restored-only')
  assert Image.open(tmp_path / 'large.png').size == (160, 160)
  tiny = [f'--config.{name}={value}' for name, value in common.FOR_TESTS.items()]
  data = f'folder:{tmp_path}'
  run(
    'train',
    '--config=configs/tiny.py:nbsr',
    '--workdir=run',
    *tiny,
    '--config.train.steps=1',
    f'--config.data.train={data}',
  )
  assert list(json.loads((tmp_path / 'run' / 'model' / 'model.json').read_text())['parts']) == ['nbsr']
  fields = {'dataset': data, 'limit': 1, 'models': 'bicubic,restored', 'model': 'compact', 'metrics': "('psnr',)"}
  fields |= {'recipes': "('smooth/no_noise',)", 'pictures': 0}
  run(
    'evaluate',
    '--config',
    'configs/tiny.py',
    '--workdir=scores',
    *(f'--config.eval.{k}={v}' for k, v in fields.items()),
  )
  assert 'restored' in (tmp_path / 'scores' / 'table.md').read_text()


@pytest.mark.parametrize('shell', ['bash', 'zsh', 'tcsh'])
def test_completion_knows_the_commands(shell, capsys):
  pytest.importorskip('shtab')
  assert cli.main(['completion', shell]) == 0
  out = capsys.readouterr().out
  assert all(word in out for word in ('upscale', 'evaluate', 'train', 'weights', 'skip-existing'))


def test_the_lock_has_what_the_tests_need_and_a_hash_for_every_file():
  locked = _locked()
  assert {canonicalize_name(Requirement(r).name) for r in PROJECT['optional-dependencies']['test']} <= set(locked)
  entries = re.split(r'^(?=[\w.-]+==)', (ROOT / 'requirements.lock').read_text(), flags=re.M)[1:]
  assert len(entries) == sum(map(len, locked.values())) and all('--hash=sha256:' in entry for entry in entries)


def test_what_runs_does_not_import_what_only_tests_and_the_demo_need():
  assert 'scikit-image' not in {canonicalize_name(r.name) for r in RUNTIME}
  for path in (ROOT / 'ssr_jax').rglob('*.py'):
    assert not re.search(r'^\s*(import|from) skimage', path.read_text(), re.M), path


def test_metadata_and_card_agree_on_the_licences():
  """While a part was trained on photos for non-commercial research, the package is not under Apache alone."""
  bundled = ROOT / 'ssr_jax' / 'weights' / 'bundled'
  card, terms = (bundled / 'MODEL_CARD.md').read_text(), (bundled / 'LICENSE').read_text()
  assert 'non-commercial' in card and 'non-commercial' in terms
  for data in ('BSDS500', 'NYU', 'DIV2K', 'Flickr2K', 'ImageNet'):  # terms and card name the same data
    trained = card.split('## Data')[1].split('## Limits')[0]
    assert (data in trained) == (data in terms), data
  for part in json.loads((bundled / 'model.json').read_text())['parts']:
    assert re.search(rf'\b{part}\b', terms), part
  assert PROJECT['license'] == 'Apache-2.0 AND LicenseRef-ssr-jax-weights'
  assert set(PROJECT['license-files']) == {'LICENSE', 'ssr_jax/weights/bundled/LICENSE'}
  assert 'ssr_jax' in importlib.metadata.packages_distributions()


def test_the_front_matter_of_the_card_says_what_the_card_says():
  """The hub reads it; a licence of its own is 'other' there, with a name and a file."""
  card = (ROOT / 'ssr_jax' / 'weights' / 'bundled' / 'MODEL_CARD.md').read_text()
  start, matter, text = card.split('---\n', 2)
  fields = yaml.safe_load(matter)
  assert not start and text.lstrip().startswith('# Model card')
  assert f'LicenseRef-{fields["license_name"]}' in PROJECT['license'] and fields['license'] == 'other'
  assert (ROOT / 'ssr_jax' / 'weights' / 'bundled' / fields['license_link']).is_file()
  assert fields['pipeline_tag'] == 'image-to-image' and fields['library_name'] == PROJECT['name']
  letters = lambda s: re.sub('[^a-z0-9]', '', s.lower())
  trained = letters(text.split('## Data')[1].split('## Limits')[0])
  for data in fields['datasets']:
    assert letters(data) in trained or letters(data.replace('-V2', '')) in trained, data
  assert set(fields['metrics']) <= set(metrics.METRICS)
  for metric in fields['metrics']:
    assert metric in letters(text), metric


def test_every_file_of_the_package_is_installed():
  """Setuptools takes Python files by itself, and others only by the patterns of package-data."""
  patterns = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']['package-data']
  matched = {path for package, globs in patterns.items() for glob in globs for path in _folder(package).glob(glob)}
  files = {path for path in (ROOT / 'ssr_jax').rglob('*') if path.is_file() and '__pycache__' not in path.parts}
  assert {path for path in files if path.suffix != '.py'} == matched
  assert ROOT / 'ssr_jax' / 'metrics' / 'niqe_free_photos.npz' in matched


def _folder(package: str) -> pathlib.Path:
  return ROOT.joinpath(*package.split('.'))
