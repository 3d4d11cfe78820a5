"""A test run writes neither into the tree nor into the home folder: the hooks of conftest.py see to it."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from ssr_jax.weights import store

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_caches_lie_in_the_folder_of_this_run():
  caches = pathlib.Path(os.environ['SSR_TEST_CACHES'])
  assert pathlib.Path.home() not in caches.parents
  assert pathlib.Path(jax.config.jax_compilation_cache_dir) == pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
  assert store.home() == caches / 'data' / 'ssr_jax'
  assert {os.environ[f'XDG_{kind}_HOME'] for kind in ('CACHE', 'CONFIG')} == {
    str(caches / 'cache'),
    str(caches / 'config'),
  }


@pytest.mark.slow
def test_a_run_that_leaves_a_file_in_the_tree_fails_and_names_it(tmp_path):
  """A run of its own in a repository that has this conftest, with HOME and caches of its own."""
  tree = tmp_path / 'tree'
  for folder in (tree / 'tests', tmp_path / 'home', tmp_path / 'temporary'):
    folder.mkdir(parents=True)
  for name in ('ssr_jax', 'configs'):
    (tree / name).symlink_to(ROOT / name)
  for name in ('__init__.py', 'conftest.py', 'typechecker.py'):
    (tree / 'tests' / name).write_bytes((ROOT / 'tests' / name).read_bytes())
  (tree / 'tests' / 'test_it.py').write_text(
    'import os, jax, tempfile, pathlib\n'
    'def test_clean():\n  jax.jit(lambda x: x + 1)(0)\n'
    'def test_dirty():\n  open("left.bin", "w").close()\n'
  )
  for command in (['init', '-q'], ['add', '.']):
    subprocess.run(['git', *command], cwd=tree, check=True)
  inherited = {'SSR_TEST_CACHES', 'JAX_COMPILATION_CACHE_DIR', 'XDG_CACHE_HOME', 'XDG_CONFIG_HOME', 'XDG_DATA_HOME'}
  environment = {name: value for name, value in os.environ.items() if name not in inherited}
  environment |= {'HOME': str(tmp_path / 'home'), 'TMPDIR': str(tmp_path / 'temporary'), 'PYTHONPATH': str(tree)}

  def run(which):
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-q', f'tests/test_it.py::{which}']
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)

  clean = run('test_clean')
  assert clean.returncode == 0, clean.stdout + clean.stderr
  dirty = run('test_dirty')
  assert dirty.returncode == 1 and 'left in the tree: left.bin' in dirty.stdout, dirty.stdout + dirty.stderr
  assert not [*(tmp_path / 'home').rglob('*'), *(tmp_path / 'temporary').glob('ssr-tests-*')]
