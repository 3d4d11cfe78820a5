"""The catalogue of known sets: finds what is there, names what is missing; a known set is a source like any other."""

import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from ssr_jax.data import catalog, check, sources
from ssr_jax.types import SSRError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _images(folder, names, side=8):
  folder.mkdir(parents=True, exist_ok=True)
  for name in names:
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / name)


def test_the_counts_of_the_issue_are_all_there():
  counts = {name: d.count for name, d in catalog.DEFINITIONS.items()}
  expected = {
    'div2k-train': 800,
    'div2k-val': 100,
    'flickr2k': 2650,
    'bsds500-train': 200,
    'bsds500-val': 100,
    'bsds500-test': 200,
    'bsd100': 100,
    'urban100': 100,
    'set5': 5,
    'set14': 14,
    't91': 91,
    'realsr-x4-test': 100,
    'drealsr-x4-test': 93,
    'dped-iphone-val': 113,
  }
  assert expected.items() <= counts.items()
  for definition in catalog.DEFINITIONS.values():
    assert definition.url.startswith('http') and definition.places
    if definition.numbers:
      assert definition.numbers[1] - definition.numbers[0] + 1 == definition.count


def test_specs_import_the_catalogue_and_not_the_other_way_round():
  code = 'import sys; from ssr_jax.data import catalog; assert "ssr_jax.data.sources" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_missing_files_are_named_by_their_numbers(tmp_path):
  _images(tmp_path / 'DIV2K_valid_HR', [f'{n:04d}.png' for n in range(801, 901) if n not in (803, 850, 851, 852)])
  status = check.status('div2k-val', tmp_path)
  assert status.found == 96 and status.problem == '4 of 100 missing: numbers 803, 850-852'
  _images(tmp_path / 'DIV2K_valid_HR', [f'{n:04d}.png' for n in (803, 850, 851, 852)])
  status = check.status('div2k-val', tmp_path)
  assert status.problem == '' and status.place == f'folder:{tmp_path}/DIV2K_valid_HR'
  _images(tmp_path / 'DIV2K_valid_HR', ['0803 (copy).png'])
  assert check.status('div2k-val', tmp_path).problem == '101 found, 100 expected'


def test_a_set_of_two_cameras_is_one_source(tmp_path, monkeypatch):
  for camera in ('Canon', 'Nikon'):
    folder = tmp_path / 'RealSR(V3)' / camera / 'Test' / '4'
    _images(folder, [f'{camera}_{n:03d}_HR.png' for n in range(50)], 8)
    _images(folder, [f'{camera}_{n:03d}_LR4.png' for n in range(50)], 2)
  monkeypatch.setenv('SSR_DATA', str(tmp_path))
  assert check.status('realsr-x4-test').problem == ''
  source = sources.from_spec('set:realsr-x4-test')
  assert len(source) == 100 and source.keys == ('hr', 'lr') and source[70]['lr'].shape == (2, 2, 3)
  assert set(sources.from_spec('set:realsr-x4-test', ('hr',))[70]) == {'hr'}
  for path in (tmp_path / 'RealSR(V3)' / 'Nikon' / 'Test' / '4').glob('*_000_LR4.png'):
    path.unlink()
  assert 'Nikon_000_HR.png: has no partner' in check.status('realsr-x4-test').problem


def test_what_is_absent_says_where_it_belongs_and_comes_from(tmp_path, monkeypatch):
  monkeypatch.setenv('SSR_DATA', str(tmp_path))
  status = check.status('flickr2k')
  assert status.place is None and 'Flickr2K_HR' in status.problem
  with pytest.raises(SSRError, match=f'2650 HR photos.*{tmp_path}.*Flickr2K_HR.*https://'):
    sources.from_spec('set:flickr2k')
  with pytest.raises(SSRError, match='known: div2k-train'):
    check.status('imagenet')


def test_the_sets_that_are_here_are_complete(data_dir):
  for name in ('bsd100', 'set5', 'set14', 'drealsr-crops'):
    assert check.status(name, data_dir).problem == ''
