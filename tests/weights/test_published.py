"""Published checkpoints: where they are looked for, and that a copy which is not the published one is found out."""

import hashlib
import re

import pytest

from ssr_jax import cli
from ssr_jax.types import SSRError
from ssr_jax.weights import importers, published

CONTENT = b'weights'


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'home'))
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'hub'))
  entry = published.Checkpoint(
    'a net',
    ('someone/net',),
    'MIT',
    (
      published.File('part/a.safetensors', len(CONTENT), hashlib.sha256(CONTENT).hexdigest()),
      published.File('b.safetensors'),
    ),
  )
  single = published.Checkpoint(
    'a file', ('github.com/someone/net (releases)',), 'MIT', (published.File('net.pth', 3),)
  )
  monkeypatch.setattr(published, 'PUBLISHED', {'net': entry, 'file': single})
  return tmp_path / 'home'


def _fill(folder, content=CONTENT):
  (folder / 'part').mkdir(parents=True)
  (folder / 'part' / 'a.safetensors').write_bytes(content)
  (folder / 'b.safetensors').write_bytes(b'anything')


def test_the_list_is_well_formed():
  for name, entry in published.PUBLISHED.items():
    assert entry.places and entry.licence and entry.files, name
    for file in entry.files:
      assert file.sha256 is None or re.fullmatch('[0-9a-f]{64}', file.sha256), (name, file)
      assert file.bytes is None or file.bytes > 10_000_000, (name, file)
  sums = [file.sha256 for entry in published.PUBLISHED.values() for file in entry.files if file.sha256]
  assert len(sums) == len(set(sums)) >= 8


@pytest.mark.parametrize('folder', ['net', 'someone/net'])
def test_a_filled_downloads_folder_is_verified(home, capsys, folder):
  _fill(home / 'downloads' / folder)
  assert published.verify('net') == {'part/a.safetensors': None, 'b.safetensors': None}
  assert cli.main(['weights', 'verify', 'net']) == 0
  assert capsys.readouterr().out.splitlines() == [
    'b.safetensors: exists; no sha256 was published',
    'part/a.safetensors: ok',
  ]
  assert cli.main(['weights', 'path', 'net']) == 0
  assert capsys.readouterr().out.strip() == str(home / 'downloads' / folder)


@pytest.mark.parametrize(
  'content, match', [(b'weight', '6 bytes, published are 7'), (b'Weights', 'sha256 is [0-9a-f]{12}, published is')]
)
def test_a_copy_that_is_another_is_found_out_and_not_imported(home, capsys, content, match):
  _fill(home / 'downloads' / 'net', content)
  (home / 'downloads' / 'net' / 'b.safetensors').unlink()
  found = published.verify('net')
  assert re.search(match, found['part/a.safetensors']) and 'missing' in found['b.safetensors']
  assert cli.main(['weights', 'verify', 'net']) == 1
  assert capsys.readouterr().err.count('\n') == 2
  with pytest.raises(SSRError, match=match + '.*to import other weights, give the path'):
    importers.import_checkpoint('net', home / 'model')
  with pytest.raises(SSRError, match='config.json: cannot be read'):  # by its path it is taken as it is
    importers.import_checkpoint(home / 'downloads' / 'net', home / 'model')


def test_what_is_not_here_names_the_folder_to_fill(home, capsys):
  for action in ('verify', 'path'):
    assert cli.main(['weights', action, 'net']) != 0
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and f'put its files into {home / "downloads" / "net"}' in line
  with pytest.raises(SSRError, match=rf'get net.pth from github.com/.*, put it into {home / "downloads" / "file"}'):
    published.fetch('file')
  assert cli.main(['weights', 'list', 'net']) == 0
  out = capsys.readouterr().out
  assert 'not on this machine' in out and 'sha256 not published' in out and 'someone/net' in out


def test_a_single_file_is_found_in_its_folder(home):
  (home / 'downloads' / 'file').mkdir(parents=True)
  (home / 'downloads' / 'file' / 'net.pth').write_bytes(b'abcd')
  assert published.fetch('file') == home / 'downloads' / 'file' / 'net.pth'
  assert '4 bytes, published are 3' in published.verify('file')['net.pth']


def test_a_model_of_the_same_name_comes_first(home, capsys):
  (home / 'net').mkdir(parents=True)
  (home / 'net' / 'model.json').write_text('{}')
  assert cli.main(['weights', 'path', 'net']) == 0
  assert capsys.readouterr().out.strip() == str(home / 'net')
