"""tools/slow_tests.py: which slow tests a change asks for."""

import pathlib
import re
import subprocess

import pytest

from tools import slow_tests

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_every_file_with_slow_tests_is_listed_and_what_it_guards_is_there():
  mark = re.compile(r'pytest\.mark\.slow\b')
  marked = {str(p.relative_to(ROOT)) for p in (ROOT / 'tests').rglob('test_*.py') if mark.search(p.read_text())}
  for beside in (p for p in (ROOT / 'tests').rglob('conftest.py') if mark.search(p.read_text())):
    marked |= {str(p.relative_to(ROOT)) for p in beside.parent.glob('test_*.py')}
  assert marked - {'tests/tools/test_slow_tests.py'} == set(slow_tests.GUARDS)
  for places in slow_tests.GUARDS.values():
    for place in places:
      assert (ROOT / place).exists(), place


@pytest.mark.parametrize(
  'changed,expected',
  [
    (['CONTRIBUTING.md', 'tests/nn/test_clip.py'], []),
    (['tools/improve.py'], ['tests/test_improve.py']),
    (
      ['ssr_jax/nn/depth/dpt.py'],
      [
        'tests/golden/test_golden.py',
        'tests/test_bundled.py',
        'tests/configs/test_full_size.py',
        'tests/nn/test_dpt.py',
        'tests/runtime/test_dtype.py',
        'tests/training/test_learning.py',
      ],
    ),
    (['ssr_jax/nn_other.py'], []),  # a name that begins like a folder's
    (
      ['ssr_jax/weights/bundled/model.json'],
      ['tests/golden/test_compact.py', 'tests/test_bundled.py', 'tests/hostile/test_attacks.py'],
    ),
    (
      ['configs/tiny.py', 'ssr_jax/systems/ssr/svkr.py'],
      [
        'tests/golden/test_golden.py',
        'tests/test_bundled.py',
        'tests/runtime/test_given.py',
        'tests/runtime/test_restorer.py',
        'tests/systems/ssr/test_amf.py',
        'tests/systems/ssr/test_generation_wiring.py',
        'tests/systems/ssr/test_student_wiring.py',
        'tests/systems/ssr/test_svkr.py',
        'tests/training/test_learning.py',
      ],
    ),
    (
      ['ssr_jax/training/sharding.py'],
      [
        'tests/hostile/test_training_runs.py',
        'tests/systems/blinddiff/test_system.py',
        'tests/systems/cassr/test_stages.py',
        'tests/training/test_processes.py',
        'tests/training/test_sharding.py',
        'tests/training/test_train.py',
      ],
    ),
    (
      ['ssr_jax/data/loader.py'],
      ['tests/data/test_loader.py', 'tests/training/test_processes.py', 'tests/training/test_train.py'],
    ),
    (['tests/training/test_sharding.py'], ['tests/training/test_sharding.py']),
  ],
)
def test_a_change_asks_for_the_tests_of_its_area(changed, expected):
  assert slow_tests.guarding(changed) == expected


def _git(folder, *arguments):
  identity = ('-c', 'user.name=a', '-c', 'user.email=a@b.c', '-c', 'commit.gpgsign=false')
  return subprocess.run(['git', *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_what_is_compared_with(tmp_path):
  """Origin's branch; the parent, where origin has it all; nothing, in a clone without history or without git."""
  assert slow_tests.changed_files(tmp_path) is None
  origin, clone = tmp_path / 'origin', tmp_path / 'clone'
  origin.mkdir()
  _git(origin, 'init', '-q', '-b', 'main')
  for name in ('a', 'b', 'c'):
    (origin / name).write_text(name)
    _git(origin, 'add', '.')
    _git(origin, 'commit', '-qm', name)
    if name == 'a':
      assert slow_tests.changed_files(origin) is None
  _git(tmp_path, 'clone', '-q', str(origin), 'clone')
  assert slow_tests.changed_files(clone) == ['c']
  for name in ('d', 'e'):
    (clone / name).write_text(name)
    _git(clone, 'add', '.')
    _git(clone, 'commit', '-qm', name)
  (clone / 'a').write_text('not committed')
  assert slow_tests.changed_files(clone) == ['a', 'd', 'e']
  assert slow_tests.changed_files(clone, 'HEAD~4') == ['a', 'b', 'c', 'd', 'e']
  _git(tmp_path, 'clone', '-q', '--depth', '1', f'file://{origin}', 'shallow')
  assert slow_tests.changed_files(tmp_path / 'shallow') is None
