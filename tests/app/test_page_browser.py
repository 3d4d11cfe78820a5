"""The page in a real browser, with a real photo. It needs Gradio, Playwright and a Chromium: see CONTRIBUTING."""

import contextlib
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
from PIL import Image
import pytest
import skimage.data

import ssr_jax

pytest.importorskip('gradio', reason="needs Gradio: pip install -e '.[app]'")
pytestmark = pytest.mark.slow
MAX_UPLOAD = 1  # MB


@pytest.fixture(scope='module')
def address(tiny_model_dir, tmp_path_factory):
  """`ssr app`, in a process of its own."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  limits = ['--max-pixels', '40000', '--max-upload', str(MAX_UPLOAD)]
  words = ['app', '--model', str(tiny_model_dir), '--port', str(port), *limits]
  log = tmp_path_factory.mktemp('app') / 'log'
  with log.open('w') as file:
    server = subprocess.Popen([sys.executable, '-m', 'ssr_jax.cli', *words], stdout=file, stderr=file)
  try:
    for _ in range(600):
      with contextlib.suppress(OSError), urllib.request.urlopen(f'http://127.0.0.1:{port}', timeout=5):
        break
      assert server.poll() is None, log.read_text()
      time.sleep(0.2)
    yield f'http://127.0.0.1:{port}'
  finally:
    server.terminate()
    server.wait(30)
  assert 'Traceback' not in log.read_text()


@pytest.fixture
def visit(browser, address):
  """Opens the page as a new visitor; at the end nothing may have come from elsewhere or failed."""
  contexts, wrong = [], []

  def open_():
    contexts.append(browser.new_context(viewport={'width': 1400, 'height': 1000}))
    tab = contexts[-1].new_page()
    tab.on('pageerror', lambda error: wrong.append(str(error)))
    tab.on('request', lambda r: r.url.startswith((address, 'data:', 'blob:')) or wrong.append(r.url))
    tab.goto(address)
    tab.wait_for_selector('#start', timeout=60_000)
    return tab

  yield open_
  for context in contexts:
    context.close()
  assert not wrong, wrong


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Two photos of different size, one too large, one that is none."""
  folder = tmp_path_factory.mktemp('photos')
  photo = skimage.data.astronaut()
  Image.fromarray(photo[:48, 180:260]).save(folder / 'a.png')
  Image.fromarray(photo[100:160, 200:250]).save(folder / 'b.png')
  Image.fromarray(photo[:300, :300]).save(folder / 'large.png')
  (folder / 'no.png').write_text('hello')
  (folder / 'heavy.png').write_bytes(b'\0' * (MAX_UPLOAD * 10**6 + 1000))
  return folder


def _drop(tab, path):
  tab.set_input_files('#photo input[type=file]', path)
  tab.wait_for_selector(f'#photo :text("{path.stem}")', timeout=20_000)


def _wait(tab, words):
  tab.wait_for_function(f"document.querySelector('#words')?.innerText.includes('{words}')", timeout=240_000)


def _download(tab, button):
  with tab.expect_download() as event:
    tab.click(button)
  return np.asarray(Image.open(event.value.path())), event.value.suggested_filename


def test_a_photo_is_restored_compared_examined_and_downloaded(visit, photos, tiny_model_dir):
  tab = visit()
  _drop(tab, photos / 'a.png')
  tab.click('#options button')
  tab.fill('#option_steps input', '1')
  tab.click('#start')
  _wait(tab, '80 x 48 became 320 x 192')
  expected = ssr_jax.load(tiny_model_dir).sample(photos / 'a.png', steps=1)
  image, name = _download(tab, '#file')
  assert name == 'a_x4.png' and np.abs(image.astype(int) - expected.image).max() <= 1  # another process's rounding
  assert tab.locator('#compare img').count() >= 2
  shown = tab.locator('#compare img').last.get_attribute('src')
  served = np.asarray(Image.open(io.BytesIO(urllib.request.urlopen(shown).read())))
  assert served.shape == image.shape and np.array_equal(served[..., :3], image)
  for name in ('depth', 'kernels', 'trust'):
    assert tab.locator(f'#{name} img').count() == 1, name
  tab.click('#kernels img', position={'x': 5, 'y': 5})
  tab.wait_for_function("document.querySelector('#told').innerText.includes('Pixel')", timeout=20_000)
  assert 'blur' in tab.inner_text('#told') and tab.locator('#kernel img').count() == 1
  assert _download(tab, '#figure')[0].shape[1] > 320


def test_two_people_at_once_get_their_own_photos(visit, photos):
  tabs = {'80 x 48 became 320 x 192': visit(), '50 x 60 became 200 x 240': visit()}
  for tab, name in zip(tabs.values(), 'ab', strict=True):
    _drop(tab, photos / f'{name}.png')
  for tab in tabs.values():
    tab.click('#start')
  for words, tab in tabs.items():
    _wait(tab, words)
  shapes = [_download(tab, '#file')[0].shape[:2] for tab in tabs.values()]
  assert shapes == [(192, 320), (240, 200)]


@pytest.mark.parametrize(('name', 'words'), [('no', 'no.png'), ('large', 'pixels'), (None, 'Drop a photo first')])
def test_errors_are_words(visit, photos, name, words):
  tab = visit()
  if name:
    _drop(tab, photos / f'{name}.png')
  tab.click('#start')
  tab.wait_for_selector(f'.toast-wrap :text("{words}")', timeout=60_000)
  text = tab.inner_text('.toast-wrap')
  assert 'Traceback' not in text and os.sep + 'tmp' not in text, text


def test_an_upload_over_the_limit_is_refused(visit, photos):
  tab = visit()
  tab.set_input_files('#photo input[type=file]', photos / 'heavy.png')
  tab.wait_for_selector('.toast-wrap', timeout=20_000)
  assert 'size' in tab.inner_text('.toast-wrap').lower()
