"""What the package says of itself: bounded requirements, a lock that fits them, licences of code and weights."""

import importlib.metadata
import json
import pathlib
import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

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


def test_every_file_of_the_package_is_installed():
  """Setuptools takes Python files by itself, and others only by the patterns of package-data."""
  patterns = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']['package-data']
  matched = {path for package, globs in patterns.items() for glob in globs for path in _folder(package).glob(glob)}
  files = {path for path in (ROOT / 'ssr_jax').rglob('*') if path.is_file() and '__pycache__' not in path.parts}
  assert {path for path in files if path.suffix != '.py'} == matched
  assert ROOT / 'ssr_jax' / 'metrics' / 'niqe_free_photos.npz' in matched


def _folder(package: str) -> pathlib.Path:
  return ROOT.joinpath(*package.split('.'))
