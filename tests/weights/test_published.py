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
      assert file.bytes is None or entry.metric or file.bytes > 10_000_000, (name, file)
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


@pytest.fixture
def metric_home(home, monkeypatch):
  """The store, and a published checkpoint of a metric."""
  file = published.File('score.npz', len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
  entry = published.Checkpoint('a score', ('github.com/someone/score (files)',), 'MIT', (file,), metric='score')
  monkeypatch.setitem(published.PUBLISHED, 'my-score', entry)
  return home


@pytest.mark.parametrize('given', ['score.npz', 'renamed.npz', '.'])
def test_weights_of_a_metric_are_installed(metric_home, tmp_path, capsys, given):
  (tmp_path / ('score.npz' if given == '.' else given)).write_bytes(CONTENT)
  assert published.of_metric('score') is None
  assert cli.main(['weights', 'import', 'my-score', given]) == 0
  installed = metric_home / 'downloads' / 'my-score' / 'score.npz'
  assert published.of_metric('score') == installed and installed.read_bytes() == CONTENT
  assert str(installed) in capsys.readouterr().out and published.of_metric('other') is None
  assert cli.main(['weights', 'verify', 'my-score']) == 0
  assert cli.main(['weights', 'import', 'my-score']) == 0  # found where it is
  installed.write_bytes(CONTENT[::-1])
  with pytest.raises(SSRError, match='score.npz: sha256 is .*, published is .*; fetch it again, or remove it'):
    published.of_metric('score')


@pytest.mark.parametrize(
  'content, match',
  [(b'other', 'other.npz: 5 bytes, published are 7'), (CONTENT[::-1], 'sha256 is'), (None, 'other.npz: missing')],
)
def test_other_weights_of_a_metric_are_refused(metric_home, tmp_path, capsys, content, match):
  if content is not None:
    (tmp_path / 'other.npz').write_bytes(content)
  assert cli.main(['weights', 'import', 'my-score', 'other.npz']) == 2
  err = capsys.readouterr().err
  assert match in err and 'from github.com/someone/score' in err and err.count('\n') == 1
  assert published.of_metric('score') is None and not (metric_home / 'downloads').exists()


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['my-score'], 'get score.npz from github.com/someone/score (files), put it into'),
    (['net', 'file.npz'], 'goes with the weights of a metric (my-score) only'),
    (['my-score', 'score.npz', '--as', 'mine'], 'leave the options out'),
  ],
)
def test_wrong_usage_of_a_metrics_weights(metric_home, capsys, arguments, words):
  assert cli.main(['weights', 'import', *arguments]) == 2
  err = capsys.readouterr().err
  assert words in err and err.count('\n') == 1


def test_the_published_model_of_niqe_is_the_one_of_the_test_data(data_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path))
  assert published.install('niqe', data_dir / 'niqe') == published.of_metric('niqe')
