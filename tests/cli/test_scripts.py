"""`ssr train` and `ssr evaluate`: which config they find from where, and what they say of wrong arguments."""

import sys

import pytest

from ssr_jax import cli
from ssr_jax.cli import scripts, train


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """A working directory without configs."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def called(monkeypatch):
  """What `ssr train` is called with, instead of a training."""
  found = []
  monkeypatch.setattr(train, 'main', lambda config, workdir: found.append((config, workdir)))
  return found


@pytest.mark.parametrize('words', [['--config=configs/tiny.py:nbsr'], ['--config', 'configs/tiny.py:nbsr']])
def test_the_packages_configs_are_found_anywhere(words, elsewhere, called):
  assert cli.main(['train', *words, '--workdir=run', '--config.train.steps=7']) == 0
  ((config, workdir),) = called
  assert (config.stage, config.train.steps, workdir) == ('nbsr', 7, 'run')


def test_a_config_of_the_working_directory_comes_first(elsewhere, called):
  (elsewhere / 'configs').mkdir()
  (elsewhere / 'configs' / 'tiny.py').write_text(
    'from configs import tiny\n\n\ndef get_config(stage):\n  config = tiny.get_config(stage)\n'
    "  config.name = 'mine'\n  return config\n"
  )
  assert cli.main(['train', '--config=configs/tiny.py:nbsr', '--workdir=run']) == 0
  assert called[0][0].name == 'mine'


def test_configs_are_importable_where_the_repository_is_not_on_the_path(elsewhere, monkeypatch):
  """Neither is another package of that name taken for ours."""
  for name in [name for name in sys.modules if name.split('.')[0] == 'configs']:
    monkeypatch.delitem(sys.modules, name)
  (elsewhere / 'configs').mkdir()
  (elsewhere / 'configs' / '__init__.py').touch()
  outside = [path for path in sys.path if path not in ('', str(scripts.configs_folder()))]
  monkeypatch.setattr(sys, 'path', [str(elsewhere), *outside])
  scripts._make_importable()
  from configs import common

  assert common.__file__ == str(scripts.configs_folder() / 'configs' / 'common.py')


@pytest.mark.parametrize(
  'words,match',
  [
    (['--config=configs/nosuch.py', '--workdir=x'], 'configs/nosuch.py: no such file'),
    (['--config=configs/tiny.py:nosuch', '--workdir=x'], "unknown stage 'nosuch'; known: depth"),
    (['--config=configs/tiny.py:nbsr'], '--workdir is missing'),
    (['--workdir=x'], '--config is missing'),
    (
      ['--config=configs/tiny.py:nbsr', '--workdir=x', '--config.train.step=1'],
      "no field 'step'; did you mean 'steps'",
    ),
    (['--config=configs/tiny.py:nbsr', '--workdir=x', 'more'], "unexpected argument 'more'"),
  ],
)
def test_wrong_arguments_are_one_line_and_2(words, match, elsewhere, called, capsys):
  assert cli.main(['train', *words]) == 2 and not called
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and match in line


def test_help_of_both(capsys):
  for command, word in (('train', '--config=configs/compact.py:STAGE'), ('evaluate', 'config.eval.dataset')):
    assert cli.main([command, '--help']) == 0
    out = capsys.readouterr().out
    assert out.startswith(f'`ssr {command}`') and word in out
