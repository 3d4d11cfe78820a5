"""tools/mutate.py: the table fits the tree, and a miniature of a tree shows each of the verdicts."""

import subprocess

import pytest

from tools import mutate


@pytest.mark.parametrize('mutation', mutate.load(), ids=lambda m: m.name)
def test_every_mutation_fits_the_tree(mutation):
  """Its text stands exactly once in its file, and the tests that guard it exist."""
  assert mutation.complaint(mutate.ROOT) == ''


def _mutation(**changes):
  fields = {'name': 'm', 'file': 'code.py', 'old': 'x + 1', 'new': 'x - 1', 'tests': ('test_code.py::test_next',)}
  return mutate.Mutation(**fields | changes)


@pytest.fixture
def tree(tmp_path):
  root = tmp_path / 'tree'
  root.mkdir()
  (root / 'code.py').write_text('def next_one(x):\n  return x + 1\n\n\ndef other(x):\n  return 2 * x\n')
  (root / 'test_code.py').write_text(
    'import code_of_the_tree as code\n\n\ndef test_next():\n  assert code.next_one(2) == 3\n'
    '\n\ndef test_other():\n  code.other(1)\n'
  )
  (root / 'code.py').rename(root / 'code_of_the_tree.py')
  subprocess.run(['git', 'init', '-q'], cwd=root, check=True)
  return root


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'file': 'nosuch.py'}, 'no file nosuch.py'),
    ({'old': 'x'}, 'has the text 4 times'),
    ({'old': 'x + 2'}, 'has the text 0 times'),
    ({'new': 'x + 1'}, 'changes nothing'),
    ({'tests': ()}, 'no tests'),
    ({'tests': ('test_code.py::test_nosuch',)}, 'no test test_code.py::test_nosuch'),
  ],
)
def test_what_does_not_fit_is_named(tree, changes, words):
  assert words in _mutation(**{'file': 'code_of_the_tree.py'} | changes).complaint(tree)


def test_killed_survived_and_broken(tree, tmp_path, monkeypatch, capsys):
  """And the tree itself stays as it was."""
  table = tmp_path / 'table.toml'
  entry = (
    "[[mutation]]\nname = '{}'\nfile = 'code_of_the_tree.py'\nold = '{}'\nnew = '{}'\ntests = ['test_code.py::{}']\n"
  )
  table.write_text(
    entry.format('noticed', 'x + 1', 'x + 2', 'test_next')
    + entry.format('unnoticed', '2 * x', '3 * x', 'test_other')
    + entry.format('no-python', 'x + 1', 'x +', 'test_next')
    + entry.format('no-name', '2 * x', '2 * z', 'test_other')
  )
  monkeypatch.setattr(mutate, 'ROOT', tree)
  monkeypatch.setattr(mutate, 'TABLE', table)
  before = (tree / 'code_of_the_tree.py').read_text()
  assert mutate.main(['--report', str(tmp_path / 'report.md')]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(' (')[0].split() for line in lines[1:-1]] == [
    ['killed', 'noticed'],
    ['SURVIVED', 'unnoticed'],
    ['BROKEN', 'no-python'],
    ['BROKEN', 'no-name'],
  ]
  assert lines[1].endswith('test_code.py::test_next') and lines[-1] == '1 of 4 killed'
  assert '| noticed | code_of_the_tree.py | killed | test_code.py::test_next |' in (tmp_path / 'report.md').read_text()
  assert (tree / 'code_of_the_tree.py').read_text() == before
  assert mutate.main(['--only', 'noticed']) == 0
  (tree / 'test_code.py').write_text('def test_next():\n  assert False\n')
  assert mutate.main(['--only', 'noticed']) == 2
  assert 'fail without any mutation: test_code.py::test_next' in capsys.readouterr().err


def test_names_and_lists(capsys):
  assert mutate.main(['--list', '--only', 'depth-flipped']) == 0
  assert capsys.readouterr().out == 'depth-flipped: ssr_jax/systems/ssr/core.py\n'
  with pytest.raises(SystemExit):
    mutate.main(['--only', 'nosuch'])
  assert "no mutation 'nosuch'" in capsys.readouterr().err
