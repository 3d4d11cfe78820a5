"""`ssr upscale` and its neighbours among hostile files, names and pipes: nothing is destroyed, and the rest is done.

A stub stands for the model, so that a run takes milliseconds; real processes where a pipe must be real.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
from PIL import Image
import pytest

from ssr_jax import cli, runtime
from ssr_jax.types import SSRError, one_line
from tests.cli.standins import Enlarger

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PIXELS = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)


@pytest.fixture
def ssr(monkeypatch, capfd):
  """Runs `ssr upscale` with the stub: (exit code, lines of stdout without the summary, lines of stderr)."""
  monkeypatch.setattr(runtime, 'load', lambda *_, **__: Enlarger())

  def run(*arguments):
    code = cli.main(['upscale', *map(str, arguments)])
    out, err = capfd.readouterr()
    return code, [line for line in out.splitlines() if ' done, ' not in line], err.splitlines()

  return run


def _photo(path, value=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(_PIXELS if value is None else np.full_like(_PIXELS, value)).save(path)
  return path


def _bytes(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


# -- Nothing is destroyed ----------------------------------------------------------------------------------------------


def test_a_figure_that_exists_is_kept(ssr, tmp_path):
  photo, out = _photo(tmp_path / 'a.png'), tmp_path / 'out'
  out.mkdir()
  (out / 'a_figure.png').write_bytes(b'mine')
  for options in ((), ('--skip-existing',)):
    code, _, lines = ssr(photo, '-o', out, '--figures', *options)
    assert code == 1 and len(lines) == 1 and 'a_figure.png exists; use --overwrite' in lines[0]
    assert _bytes(out) == {'a_figure.png': b'mine'}
  assert ssr(photo, '-o', out, '--figures', '--overwrite')[0] == 0
  assert set(_bytes(out)) == {'a.png', 'a_figure.png'} and _bytes(out)['a_figure.png'] != b'mine'


def test_two_inputs_for_one_figure(ssr, tmp_path):
  photos = _photo(tmp_path / 'a.png'), _photo(tmp_path / 'a.jpg', 9)
  code, out, lines = ssr(*photos, '-o', tmp_path / 'out', '--figures')
  assert code == 1 and len(out) == 1 and len(lines) == 1
  assert 'a.jpg: its figure' in lines[0] and f'is also that of {photos[0]}' in lines[0]
  assert set(_bytes(tmp_path / 'out')) == {'a.png', 'a_figure.png'}


@pytest.mark.parametrize('order', [1, -1])
def test_an_output_and_a_figure_of_one_name(ssr, tmp_path, order):
  photos = [_photo(tmp_path / 'a.png'), _photo(tmp_path / 'a_figure.png', 9)][::order]
  code, out, lines = ssr(*photos, '-o', tmp_path / 'out', '--figures')
  assert code == 1 and len(out) == len(lines) == 1 and 'is also that of' in lines[0]


@pytest.mark.parametrize('link', [None, os.symlink, os.link])
def test_no_input_is_replaced_by_another_inputs_files(ssr, tmp_path, link):
  """The folder of the outputs is that of the inputs, or has a link to one of them."""
  a, b = _photo(tmp_path / 'in' / 'a.jpg'), _photo(tmp_path / 'in' / 'a_figure.png', 9)
  out = tmp_path / 'in'
  if link:
    out = tmp_path / 'out'
    out.mkdir()
    link(b, out / 'a_figure.png')
  before = _bytes(tmp_path)
  code, _, lines = ssr(a, b, '-o', out, '--figures', '--overwrite', '--format', 'png')
  assert code == 1 and any(f'would replace the input {b}' in line for line in lines)
  assert all(_bytes(tmp_path)[name] == content for name, content in before.items())


def test_an_input_is_not_replaced_by_another_ones_output(ssr, tmp_path):
  """a.bmp becomes a.png, which is itself an input; whichever comes first."""
  bmp, png = _photo(tmp_path / 'a.bmp'), _photo(tmp_path / 'a.png', 9)
  before = _bytes(tmp_path)
  for inputs in ((bmp, png), (png, bmp), (tmp_path,)):
    code, out, lines = ssr(*inputs, '-o', tmp_path, '--overwrite')
    assert code == 1 and not out and len(lines) == 2
    assert f'{bmp}: the output {png} would replace the input {png}; choose another -o' in '\n'.join(lines)
    assert _bytes(tmp_path) == before


def test_the_same_input_twice_is_done_once(ssr, tmp_path):
  photo = _photo(tmp_path / 'in' / 'a.png')
  code, out, lines = ssr(photo, tmp_path / 'in', '-o', tmp_path / 'out')
  assert code == 0 and len(out) == 1 and not lines


def test_an_output_that_appears_during_the_run_is_kept(ssr, tmp_path, monkeypatch):
  photo, out = _photo(tmp_path / 'a.png'), tmp_path / 'out' / 'a.png'
  sample = Enlarger.sample
  monkeypatch.setattr(Enlarger, 'sample', lambda self, rgb, **_: (out.write_bytes(b'theirs'), sample(self, rgb))[1])
  code, _, lines = ssr(photo, '-o', tmp_path / 'out')
  assert code == 1 and 'exists' in lines[0] and out.read_bytes() == b'theirs'


def test_a_preview_replaces_nothing(tmp_path, capsys):
  photo, other = _photo(tmp_path / 'a.png'), _photo(tmp_path / 'b.png', 9)
  before = _bytes(tmp_path)
  for output, options, words in (
    (photo, ['--overwrite'], 'would replace the photo'),
    (other, [], 'exists; use --overwrite'),
  ):
    assert cli.main(['degrade', str(photo), '-o', str(output), '--preview', *options]) == 2
    assert words in capsys.readouterr().err and _bytes(tmp_path) == before


# -- One bad file ------------------------------------------------------------------------------------------------------


def test_bad_files_of_a_folder_are_named_and_the_rest_is_done(ssr, tmp_path):
  folder = tmp_path / 'in'
  names = ['1.png', '3.png', '9.png']
  for name in names:
    _photo(folder / name)
  (folder / '2.png').write_bytes(b'DDS ' + bytes(200))
  (folder / '4.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n')
  os.mkfifo(tmp_path / 'pipe.png')
  code, out, lines = ssr(folder, tmp_path / 'pipe.png', '/dev/zero', '-o', tmp_path / 'out')
  assert code == 1 and len(out) == 3 and len(lines) == 4
  for name, line in zip(('2.png', '4.png', 'pipe.png', '/dev/zero'), lines, strict=True):
    assert line.startswith('ssr: ') and name in line
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == names


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems refuse such names')
def test_names_with_escape_codes_and_bytes_that_are_not_utf8(ssr, tmp_path):
  folder = tmp_path / 'in'
  for name in (b'line\nbreak.png', b'\x1b[31mred.png', b'latin\xe9.png'):
    _photo(folder / os.fsdecode(name))
  (folder / os.fsdecode(b'bad\n\x1b\xff.png')).write_bytes(b'text')
  code, out, lines = ssr(folder, '-o', tmp_path / 'out')
  assert code == 1 and len(out) == 3 and len(lines) == 1
  assert r'bad\n\x1b\xff.png: cannot be read' in lines[0]
  assert all(text.isprintable() for text in out + lines)
  assert len(list((tmp_path / 'out').iterdir())) == 3
  code, _, lines = ssr(folder / 'x', '-o', 'o', '--\x1b[31m')
  assert code == 2 and all(line.isprintable() for line in lines)


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems refuse such names')
def test_the_other_commands_take_such_names(tmp_path, capsys):
  folder = tmp_path / 'in'
  _photo(folder / os.fsdecode(b'a\n\xff.png'), 3)
  _photo(folder / os.fsdecode(b'b\x1b.png'))
  assert cli.main(['data', 'check', f'folder:{folder}']) == 0
  assert cli.main(['data', 'pack', f'folder:{folder}', str(tmp_path / 'shards'), '-q']) == 0
  assert '2 records' in capsys.readouterr().out
  table = tmp_path / 'table.csv'
  assert cli.main(['metrics', str(folder), str(folder), '--metrics', 'psnr', '--csv', str(table)]) == 0
  assert table.read_text().splitlines()[1].startswith(r'a\n\xff,') and capsys.readouterr().out.count('\n') == 4


def test_an_error_is_one_printable_line():
  assert str(SSRError('a\nb\x1b[0m\udcff\u202e é')) == r'a\nb\x1b[0m\xff\u202e é'
  assert one_line('plain') == 'plain'


# -- Output that cannot be written -------------------------------------------------------------------------------------

_PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from tests.hostile import test_files_upscale as t
t.runtime.load = lambda *_, **__: t.Enlarger()
sys.argv[0] = 'ssr'
t.cli.run()
"""


def _program(tmp_path, redirection, **environment):
  """A real process of `ssr upscale` of three photos, with a shell's redirection; the shell's exit code and stderr."""
  for name in 'abc':
    _photo(tmp_path / 'in' / f'{name}.png')
  (tmp_path / 'program.py').write_text(_PROGRAM.format(root=str(ROOT)))
  command = f'"{sys.executable}" program.py upscale in -o out {redirection}'
  return subprocess.run(
    ['bash', '-c', f'set -o pipefail; {command}'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=120,
    env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
  )


def test_a_closed_pipe_does_not_stop_the_work(tmp_path):
  done = _program(tmp_path, '| head -1')
  assert done.returncode == 0 and done.stdout.count('\n') == 1 and not done.stderr
  assert len(list((tmp_path / 'out').iterdir())) == 3


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no /dev/full')
def test_a_full_disk_for_stdout_does_not_stop_the_work_and_is_told(tmp_path):
  done = _program(tmp_path, '> /dev/full', PYTHONIOENCODING='ascii')
  assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'No space left' in done.stderr
  assert len(list((tmp_path / 'out').iterdir())) == 3


class _Broken:
  """A stream that fails."""

  encoding = 'ascii'

  def __init__(self, error):
    self.error, self.written = error, ''

  def write(self, text):
    if self.error:
      raise self.error
    self.written += text.encode('ascii').decode()

  def flush(self):
    pass

  def fileno(self):
    raise OSError('none')


def test_help_into_a_stream_that_cannot_be_written(monkeypatch):
  monkeypatch.setattr(sys, 'stdout', _Broken(BrokenPipeError()))
  assert cli.main(['--help']) == 0
  monkeypatch.setattr(sys, 'stdout', _Broken(OSError(28, 'No space left on device')))
  errors = _Broken(None)
  monkeypatch.setattr(sys, 'stderr', errors)
  assert cli.main(['--help']) == 1 and errors.written.count('\n') == 1 and 'No space left' in errors.written
  monkeypatch.setattr(sys, 'stderr', _Broken(BrokenPipeError()))
  assert cli.main(['nosuch']) == 2


def test_warnings_of_libraries_are_not_printed(ssr, tmp_path, monkeypatch):
  sample, shown = Enlarger.sample, []

  def warn(self, rgb, **_):
    warnings.warn('from a library', stacklevel=1)
    return sample(self, rgb)

  monkeypatch.setattr(Enlarger, 'sample', warn)
  with warnings.catch_warnings():
    warnings.simplefilter('always')
    warnings.showwarning = lambda *args, **_: shown.append(args)
    assert ssr(_photo(tmp_path / 'a.png'), '-o', tmp_path / 'out')[0] == 0
    assert not shown
    assert ssr(tmp_path / 'a.png', '-o', tmp_path / 'again', '--debug')[0] == 0
    assert len(shown) == 1


# -- A killed `ssr degrade` --------------------------------------------------------------------------------------------


def test_a_killed_degrade_goes_on(tmp_path, monkeypatch, capsys):
  """What is on disk while the third image is made, and so after a kill then, is finished by a second run."""
  from ssr_jax.degrade import lr_set

  folder, out, killed = (tmp_path / name for name in ('in', 'out', 'killed'))
  for name in 'abc':
    _photo(folder / f'{name}.png', ord(name))
  added = []

  def add(self, source, *_):  # writes what `has` looks for, without degrading anything
    if source.name == 'c.png' and not killed.exists():
      shutil.copytree(out, killed)
    added.append(source.name)
    entry = {'source': {'file': source.name, 'sha256': lr_set._sha256(source.read_bytes())}, 'notes': []}
    entry['lr'] = self._write(f'lr/{source.stem}.png', source.read_bytes())
    entry['kernels'] = self._write(f'kernels/{source.stem}.npz', b'x')
    self.manifest['images'][source.name] = entry
    return entry

  monkeypatch.setattr(lr_set.LRSet, 'add', add)
  arguments = ['degrade', str(folder), '--recipe', 'smooth/no_noise', '-o']
  assert cli.main([*arguments, str(out)]) == 0
  before = list(json.loads((killed / 'manifest.json').read_text())['images'])
  assert before in (['a.png'], ['a.png', 'b.png'])
  added.clear()
  assert cli.main([*arguments, str(killed)]) == 0
  assert added == [name for name in ('a.png', 'b.png', 'c.png') if name not in before]
  assert f'{len(before)} were there' in capsys.readouterr().out
  assert _bytes(killed) == _bytes(out)


def test_degrade_never_writes_over_its_inputs(tmp_path, capsys):
  photo = _photo(tmp_path / 'hr' / 'a.png')
  before = photo.read_bytes()
  code = cli.main(['degrade', str(photo), '-o', str(tmp_path), '--recipe', 'smooth/no_noise', '--write-hr'])
  assert code == 1 and 'lies where the set has its own files' in capsys.readouterr().err
  assert photo.read_bytes() == before
