"""`ssr upscale` on folders with pipes, devices, loops of links and many files: it never waits, loops or grows."""

import json
import os
import pathlib
import signal

import numpy as np
from PIL import Image
import pytest

from ssr_jax import cli, runtime
from ssr_jax.cli import console
from tests.cli.standins import Enlarger

pytestmark = pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')


@pytest.fixture(autouse=True)
def _seconds():
  """What blocks is an error, not a hang."""

  def late(*_):
    raise TimeoutError('it blocks')

  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(60)
  yield
  signal.alarm(0)
  signal.signal(signal.SIGALRM, before)


@pytest.fixture
def ssr(monkeypatch, capfd):
  """Runs `ssr upscale` with a model that repeats pixels: (exit code, stdout, lines of stderr)."""
  monkeypatch.setattr(runtime, 'load', lambda *_, **__: Enlarger())

  def run(*arguments):
    code = cli.main(['upscale', *map(str, arguments)])
    out, err = capfd.readouterr()
    return code, out, err.splitlines()

  return run


def _photo(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)).save(path)
  return path


def _odd_folder(folder):
  """A photo among what is no file: pipes, devices, links to nothing, to themselves and to folders above."""
  _photo(folder / 'sub' / 'a.png')
  os.mkfifo(folder / 'pipe.png')
  (folder / 'zero.png').symlink_to('/dev/zero')
  (folder / 'nothing.png').symlink_to(folder / 'missing.png')
  (folder / 'self.png').symlink_to('self.png')
  (folder / 'one.png').symlink_to('two.png')
  (folder / 'two.png').symlink_to('one.png')
  (folder / 'folder.png').mkdir()
  (folder / 'sub' / 'above').symlink_to('..')
  (folder / 'sub' / 'here').symlink_to('.')
  return folder


def test_a_folder_of_odd_things_gives_its_photo_once(ssr, tmp_path):
  folder = _odd_folder(tmp_path / 'in')
  assert [str(path.relative_to(folder)) for path in console.images(folder, True)] == ['sub/a.png']
  code, _, lines = ssr(folder, '-r', '-o', tmp_path / 'out')
  assert (code, lines) == (0, [])
  assert [str(p.relative_to(tmp_path / 'out')) for p in (tmp_path / 'out').rglob('*.png')] == ['sub/a.png']


@pytest.mark.parametrize('name', ['pipe.png', 'zero.png', 'nothing.png', 'self.png', 'folder.png'])
def test_odd_things_named_by_the_user_are_one_line(ssr, tmp_path, name):
  folder = _odd_folder(tmp_path / 'in')
  code, _, lines = ssr(folder / name, folder / 'sub' / 'a.png', '-o', tmp_path / 'out')
  assert code == 1 and len(lines) == 1 and name in lines[0]
  assert [p.name for p in (tmp_path / 'out').iterdir()] == ['a.png']


def test_pipes_in_the_place_of_outputs_are_not_opened(ssr, tmp_path):
  photo, out = _photo(tmp_path / 'a.png'), tmp_path / 'out'
  out.mkdir()
  os.mkfifo(out / 'a.png')
  assert ssr(photo, '-o', out)[0] == 1 and (out / 'a.png').is_fifo()
  code, text, _ = ssr(photo, '-o', out, '--skip-existing')
  assert code == 0 and not text
  assert ssr(photo, '-o', out, '--overwrite')[0] == 0 and (out / 'a.png').is_file()
  os.mkfifo(tmp_path / 'pipe')
  assert ssr(photo, '-o', tmp_path / 'pipe')[0] == 2


def test_a_file_that_becomes_a_pipe_is_refused(ssr, tmp_path, monkeypatch):
  """Between the plan and the reading."""
  photo = _photo(tmp_path / 'a.png')
  load = runtime.load

  def replace(*arguments, **options):
    photo.unlink()
    os.mkfifo(photo)
    return load(*arguments, **options)

  monkeypatch.setattr(runtime, 'load', replace)
  code, _, lines = ssr(photo, '-o', tmp_path / 'out')
  assert code == 1 and len(lines) == 1 and 'a pipe or a device' in lines[0]


_MANIFEST = {
  'format': 1,
  'recipe': {'name': 'smooth/no_noise'},
  'seed': 0,
  'versions': {},
  'images': {'a.png': {'source': {'sha256': 'x'}, 'lr': {'file': 'lr/a.png'}}},
}


@pytest.mark.parametrize(
  'change',
  [
    {'images': []},
    {'images': {'a.png': None}},
    {'images': {'a.png': {'source': {}, 'lr': {'file': 'a'}}}},
    {'images': {'a.png': {'source': {'sha256': 'x'}, 'lr': 7}}},
    {'images': {'a.png': {'source': {'sha256': 'x'}}}},
    {'recipe': 'smooth'},
    {'versions': 7},
    None,
  ],
)
def test_a_damaged_manifest_of_degrade_is_one_line(tmp_path, capsys, change):
  """Of a set that goes on, and of one that is made again."""
  photo, out = _photo(tmp_path / 'a.png'), tmp_path / 'out'
  out.mkdir()
  (out / 'manifest.json').write_text('[' * 10**5 if change is None else json.dumps(_MANIFEST | change))
  for options in (
    ['--recipe', 'smooth/no_noise', '-o', out],
    ['--remake', out / 'manifest.json', '-o', tmp_path / 'b'],
  ):
    assert cli.main(['degrade', str(photo), *map(str, options)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and 'manifest.json: not the manifest of an LR set' in lines[0]


def test_a_pipe_for_a_manifest_is_not_waited_for(tmp_path, capsys):
  os.mkfifo(tmp_path / 'pipe.json')
  code = cli.main(
    ['degrade', str(_photo(tmp_path / 'a.png')), '-o', str(tmp_path), '--remake', f'{tmp_path}/pipe.json']
  )
  assert code == 2 and 'pipe.json: a pipe or a device' in capsys.readouterr().err


@pytest.mark.parametrize('jobs', [1, 4])
def test_many_files_leave_nothing_open_and_no_thread(ssr, tmp_path, jobs):
  for i in range(60):
    _photo(tmp_path / 'in' / f'{i}.png')
  descriptors = pathlib.Path('/proc/self/fd')
  count = (lambda: len(list(descriptors.iterdir()))) if descriptors.exists() else lambda: 0
  assert ssr(tmp_path / 'in', '-o', tmp_path / 'warm')[0] == 0  # imports open what they keep
  before = count()
  code, text, _ = ssr(tmp_path / 'in', '-o', tmp_path / 'out', '--jobs', jobs)
  assert code == 0 and text.splitlines()[-1].startswith('60 done, 0 skipped, 0 failed in ')
  assert count() <= before and len(list((tmp_path / 'out').iterdir())) == 60
  import threading

  assert not [thread.name for thread in threading.enumerate() if thread.name.startswith('ssr-files')]


@pytest.mark.parametrize(
  'options, words',
  [
    (('--jobs', '0'), '--jobs 0: must be from 1 to 64'),
    (('--max-pixels', '0'), '--max-pixels 0: must be at least 1'),
  ],
)
def test_numbers_that_cannot_be(ssr, tmp_path, options, words):
  code, _, lines = ssr(_photo(tmp_path / 'a.png'), '-o', tmp_path / 'out', *options)
  assert code == 2 and words in lines[0]


def test_a_limit_of_pixels_that_the_user_sets(ssr, tmp_path):
  """Lower or higher than the default; a file that claims more is not decoded."""
  photo = _photo(tmp_path / 'a.png')
  code, _, lines = ssr(photo, '-o', tmp_path / 'out', '--max-pixels', 79)
  assert code == 1 and '10x8 pixels, more than 79' in lines[0] and '--max-pixels' in lines[0]
  assert ssr(photo, '-o', tmp_path / 'out', '--max-pixels', 80)[0] == 0
  content = photo.read_bytes()
  import struct
  import zlib

  head = b'IHDR' + struct.pack('>II', 100_000, 100_000) + content[24:29]
  (tmp_path / 'bomb.png').write_bytes(content[:12] + head + struct.pack('>I', zlib.crc32(head)) + content[33:])
  code, _, lines = ssr(tmp_path / 'bomb.png', '-o', tmp_path / 'out')
  assert code == 1 and '100000x100000 pixels, more than 268435456' in lines[0]
