"""Models on the hub, against a server that answers as the hub does."""

import http.server
import json
import pathlib
import shutil
import threading

import numpy as np
import pytest

import ssr_jax
from ssr_jax.types import SSRError
from ssr_jax.weights import envelope, hub, store

constants = pytest.importorskip('huggingface_hub.constants', reason='the extra hub is not installed')
COMMITS = {'main': '1' * 40, 'v2': '2' * 40}


class Hub:
  """A server with one repository, 'someone/net', which has a commit for each of `COMMITS`.

  Attributes:
    files: {commit: folder}.
    requests: paths that were asked for.
    redirect: the commit that each revision is now.
  """

  def __init__(self, folders):
    self.files, self.requests, self.commits, self.gated = folders, [], dict(COMMITS), False
    hub_server = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = 'HTTP/1.1'

      def do_HEAD(self):
        self._answer(False)

      def do_GET(self):
        self._answer(True)

      def log_message(self, *_):
        pass

      def _answer(self, content):
        hub_server.requests.append(self.path)
        status, headers, data = hub_server.answer(self.path)
        self.send_response(status)
        for name, value in {**headers, 'Content-Length': str(len(data))}.items():
          self.send_header(name, value)
        self.end_headers()
        if content:
          self.wfile.write(data)

    self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=self.server.serve_forever, daemon=True).start()

  def answer(self, path):
    owner, net, resolve, revision, *rest = path.strip('/').split('/')
    assert resolve == 'resolve', path
    if (owner, net) != ('someone', 'net'):
      return 404, {'X-Error-Code': 'RepoNotFound'}, b''
    if self.gated:
      return 403, {'X-Error-Code': 'GatedRepo'}, b''
    commit = self.commits.get(revision, revision)
    if commit not in self.files:
      return 404, {'X-Error-Code': 'RevisionNotFound'}, b''
    file = self.files[commit] / '/'.join(rest)
    if not file.is_file():
      return 404, {'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': commit}, b''
    data = file.read_bytes()
    return 200, {'X-Repo-Commit': commit, 'ETag': f'"{hash(data) % 2**64:064x}"'}, data


@pytest.fixture
def server(tiny_model_dir, tmp_path, monkeypatch):
  """The hub; `someone/net` is the tiny model, whose version v2 has another name."""
  folders = {}
  for revision, commit in COMMITS.items():
    folders[commit] = tmp_path / revision
    shutil.copytree(tiny_model_dir, folders[commit])
    file = folders[commit] / envelope.MODEL_FILE
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, 'name': f'net of {revision}'}))
    (folders[commit] / 'LICENSE').write_text('terms')
    (folders[commit] / 'other.safetensors').write_text('not of the model')
  found = Hub(folders)
  address = f'http://127.0.0.1:{found.server.server_port}'
  monkeypatch.setattr(
    constants, 'HUGGINGFACE_CO_URL_TEMPLATE', constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
  )
  monkeypatch.setattr(constants, 'ENDPOINT', address)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'home'))
  monkeypatch.chdir(tmp_path)
  hub.fetch.cache_clear()
  yield found
  hub.fetch.cache_clear()
  found.server.shutdown()
  found.server.server_close()


@pytest.mark.slow
def test_a_model_of_the_hub_is_the_model(server, tiny_model_dir):
  lr = np.random.default_rng(0).random((8, 8, 3), np.float32)
  model = ssr_jax.load('someone/net')
  assert model.config['name'] == 'net of main'
  expected = ssr_jax.load(tiny_model_dir).sample(lr, steps=0)
  assert np.array_equal(model.sample(lr, steps=0).image, expected.image)
  directory = store.resolve('someone/net')
  assert directory.name == COMMITS['main'] and (directory / 'LICENSE').read_text() == 'terms'
  assert not any('other.safetensors' in path for path in server.requests)
  asked = len(server.requests)
  ssr_jax.sample(lr, 'someone/net', steps=0)
  assert len(server.requests) == asked  # one look at the hub in a process


def test_revisions_and_a_directory_of_the_same_path(server, tiny_model_dir):
  for name, revision in (('someone/net@v2', 'v2'), (f'someone/net@{COMMITS["main"]}', 'main')):
    assert store.load_model(name, []).config['name'] == f'net of {revision}'
  shutil.copytree(tiny_model_dir, 'someone/net')
  assert store.load_model('someone/net', []).config['name'] != 'net of main'
  (pathlib.Path('someone') / 'empty').mkdir()
  with pytest.raises(SSRError, match=r'has no model\.json'):
    store.resolve('someone/empty')


def test_all_files_are_of_the_commit_that_model_json_is_of(server, monkeypatch):
  """The branch moves to v2 after model.json was read: the rest is still main's."""
  read = envelope.read

  def then_move(path):
    server.commits['main'] = COMMITS['v2']
    return read(path)

  monkeypatch.setattr(envelope, 'read', then_move)
  assert hub.fetch('someone/net').name == COMMITS['main']
  parts = [path for path in server.requests if path.endswith('.safetensors')]
  assert parts and all(f'/resolve/{COMMITS["main"]}/' in path for path in parts)


def test_without_a_network_the_cache_is_used(server, monkeypatch):
  first = hub.fetch('someone/net')
  hub.fetch.cache_clear()
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  asked = len(server.requests)
  assert hub.fetch('someone/net') == first and len(server.requests) == asked
  with pytest.raises(SSRError, match='cannot be reached, and there is no copy'):
    hub.fetch('someone/net@v2')


def test_a_changed_file_is_not_read(server):
  file = next(server.files[COMMITS['main']].glob('nbsr.safetensors'))
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(bytes(data))
  with pytest.raises(SSRError, match=r'nbsr\.safetensors: corrupted: sha256'):
    store.load_model('someone/net')


def test_what_cannot_be_fetched_is_said_in_one_line(server):
  folder = server.files[COMMITS['v2']]
  (folder / 'nbsr.safetensors').unlink()
  bad = {
    'nobody/net': 'not on the hub, or private',
    'someone/net@v9': "no revision 'v9'",
    'someone/net@v2': 'nbsr.safetensors is missing on the hub',
  }
  for name, words in bad.items():
    with pytest.raises(SSRError, match=words) as caught:
      store.resolve(name)
    assert name in str(caught.value) and '\n' not in str(caught.value)
  server.gated = True
  with pytest.raises(SSRError, match='accept its terms'):
    store.resolve('someone/net')
  server.gated = False
  (server.files[COMMITS['main']] / envelope.MODEL_FILE).write_text('{"format": 9}')
  with pytest.raises(SSRError, match='format is 9'):
    store.resolve('someone/net')
  with pytest.raises(SSRError, match='unknown model'):  # a path, not a name of the hub
    store.resolve('runs/models/net')


def test_a_file_name_in_model_json_stays_in_the_repository(server):
  file = server.files[COMMITS['main']] / envelope.MODEL_FILE
  config = json.loads(file.read_text())
  config['parts']['nbsr']['file'] = '../../secret'
  file.write_text(json.dumps(config))
  with pytest.raises(SSRError, match='must name a file beside it'):
    store.resolve('someone/net')
  assert not any('secret' in path for path in server.requests)
