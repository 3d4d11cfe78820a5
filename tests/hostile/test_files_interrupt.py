"""Ctrl-C in real processes, at moments when Python's own exception comes late, is lost, or is turned into another."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ssr_jax.cli import terminal
from ssr_jax.image import io

ROOT = pathlib.Path(__file__).resolve().parents[2]

# A command that prints 'up' and then is busy in some way.
_PROGRAM = """
import hashlib, sys, time
from ssr_jax import cli
from ssr_jax.cli import weights

def native(arguments):  # the main thread does not return to Python, as in a compilation
  print('up', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)

def swallowed(arguments):  # as where native code called Python
  try:
    print('up', flush=True)
    time.sleep(60)
  except KeyboardInterrupt:
    time.sleep(60)

def turned(arguments):  # into an error, after which a loop over files would go on
  try:
    print('up', flush=True)
    time.sleep(60)
  except KeyboardInterrupt:
    raise RuntimeError('INTERNAL: KeyboardInterrupt')

def swallowed_at_the_end(arguments):
  try:
    print('up', flush=True)
    time.sleep(60)
  except KeyboardInterrupt:
    return 0

def lasting(arguments):  # Python's cleaning up takes long, as where a device computes
  import atexit
  atexit.register(time.sleep, 600)
  print('up', flush=True)
  time.sleep(60)

def writing(arguments):
  from ssr_jax.image import io
  import os
  os.fsync = lambda descriptor: (print('up', flush=True), hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9))
  io.write_bytes('half.png', b'x')

weights._list = {how}
sys.argv = ['ssr', 'weights', 'list']
cli.run()
"""


def _start(program, folder):
  # A shell's background jobs ignore SIGINT, and pass that on: the suite must not depend on how it was started.
  return subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )


@pytest.mark.parametrize('how', ['native', 'swallowed', 'turned', 'swallowed_at_the_end', 'lasting', 'writing'])
def test_ctrl_c_ends_a_run_wherever_it_is(tmp_path, how):
  process = _start(_PROGRAM.replace('{how}', how), tmp_path)
  assert process.stdout.readline() == 'up\n'
  time.sleep(1)  # from 'up' to the native code
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 130 and err == 'ssr: stopped\n'
  assert not list(tmp_path.iterdir())


# train.py or evaluate.py themselves, with the first thing that they call replaced by one of the above.
_SCRIPT = (
  _PROGRAM.partition('weights._list')[0]
  + """
import pathlib, runpy, types
module = types.SimpleNamespace(train=lambda *_: {how}(None), enable_compilation_cache=lambda: {how}(None))
sys.modules['ssr_jax.training.trainer'] = sys.modules['ssr_jax.xla'] = module
sys.modules['ssr_jax.evaluation.runner'] = sys.modules['ssr_jax.evaluation.protocol'] = module
root = pathlib.Path({root!r})
sys.argv = ['{script}', f'--config={root}/configs/tiny.py:{stage}', '--workdir=run']
runpy.run_path(str(root / '{script}'), run_name='__main__')
"""
)


@pytest.mark.parametrize(
  'script, how',
  [
    ('train.py', 'native'),
    ('train.py', 'turned'),
    ('evaluate.py', 'swallowed'),
    ('evaluate.py', 'swallowed_at_the_end'),
  ],
)
def test_ctrl_c_ends_a_script_wherever_it_is(tmp_path, script, how):
  program = _SCRIPT
  for name, value in {'how': how, 'script': script, 'stage': 'nbsr' * (script == 'train.py')}.items():
    program = program.replace(f'{{{name}}}', value)
  process = _start(program.replace('{root!r}', repr(str(ROOT))), tmp_path)
  assert process.stdout.readline() == 'up\n', process.stderr.read()
  time.sleep(1)
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 130 and err == f'{script}: stopped\n'


_CHECKPOINT = """
import pathlib, sys, time
import numpy as np
from ssr_jax.cli import terminal
from ssr_jax.training import checkpoint, manifest
read = manifest.read

def slowly(directory):
  time.sleep(float(sys.argv[1]))
  print('verified', flush=True)
  return read(directory)

def command():
  store = checkpoint.Checkpoints(pathlib.Path('c').absolute(), 2, 'psnr', True)
  manifest.read = slowly
  try:
    store.save(1, {'step': np.int32(1), 'params': np.zeros(9, np.float32)}, {}, {}, {})
    print('up', flush=True)
    time.sleep(60)
  finally:
    store.close()
    print('closed', flush=True)

terminal.leave(terminal.run('train.py', command))
"""


@pytest.mark.parametrize('seconds, twice', [(4, False), (600, True)])
def test_a_checkpoint_is_finished_unless_ctrl_c_is_pressed_again(tmp_path, seconds, twice):
  program = _CHECKPOINT.replace('sys.argv[1]', f"'{seconds}'")
  process = _start(program, tmp_path)
  assert process.stdout.readline() == 'up\n', process.stderr.read()
  time.sleep(1)  # from 'up' to its sleep
  process.send_signal(signal.SIGINT)
  said = 'train.py: finishing a checkpoint; Ctrl-C again leaves it unfinished\n'
  first = process.stderr.readline()
  assert first == said, (first, process.communicate())
  if twice:
    process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=60)
  assert process.returncode == 130 and err == 'train.py: stopped\n'
  assert out == ('' if twice else 'verified\nclosed\n')
  assert [p.name for p in (tmp_path / 'c').iterdir()] == ['1']


@pytest.mark.parametrize('busy, seconds', [('False', 2), ('time.monotonic() < end', 5)])
def test_native_code_is_left_once_no_checkpoint_is_written(tmp_path, busy, seconds):
  program = (
    'import hashlib, sys, time, types\n'
    'from ssr_jax.cli import terminal\n'
    'def command():\n'
    '  end = time.monotonic() + 6\n'
    f'  sys.modules["ssr_jax.training.checkpoint"] = types.SimpleNamespace(busy=lambda: {busy})\n'
    '  print("up", flush=True)\n'
    '  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)\n'
    'terminal.run("train.py", command)\n'
  )
  process = _start(program, tmp_path)
  assert process.stdout.readline() == 'up\n'
  time.sleep(1)
  began = time.monotonic()
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert process.returncode == 130 and err.endswith('train.py: stopped\n')
  assert time.monotonic() - began > seconds - 0.5


def test_ctrl_c_while_the_commands_are_imported(tmp_path):
  program = (
    'import sys, time, types\n'
    'class Slow:\n'
    '  def find_spec(self, name, *_):\n'
    '    if name == "ssr_jax.cli.upscale":\n'
    '      print("up", flush=True)\n'
    '      time.sleep(60)\n'
    'sys.meta_path.insert(0, Slow())\n'
    'from ssr_jax import cli\n'
    'sys.argv = ["ssr", "--help"]\n'
    'cli.run()\n'
  )
  process = _start(program, tmp_path)
  assert process.stdout.readline() == 'up\n'
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=60) == ('', 'ssr: stopped\n') and process.returncode == 130


def test_the_programs_own_handling_comes_back():
  handler, descriptor = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
  signal.set_wakeup_fd(descriptor)
  with pytest.raises(KeyboardInterrupt), terminal.stoppable():
    signal.raise_signal(signal.SIGINT)
    time.sleep(10)
  assert signal.getsignal(signal.SIGINT) is handler and signal.set_wakeup_fd(-1) == descriptor
  signal.set_wakeup_fd(descriptor)
  with terminal.stoppable():  # what was pressed before is forgotten
    terminal.check_stopped()


def test_a_program_that_handles_ctrl_c_keeps_its_handler():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with terminal.stoppable():
      assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
      signal.raise_signal(signal.SIGINT)
  finally:
    signal.signal(signal.SIGINT, before)


def test_unfinished_files_are_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'replace', lambda *_: (io.remove_unfinished(), (_ for _ in ()).throw(OSError(5, 'gone')))[1])
  found = []
  monkeypatch.setattr(os, 'fsync', lambda _: found.extend(tmp_path.iterdir()))
  with pytest.raises(ValueError, match='cannot be written'):
    io.write_bytes(tmp_path / 'a', b'x')
  assert len(found) == 1 and not list(tmp_path.iterdir())
