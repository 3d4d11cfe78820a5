"""tools/mutate.py: the table fits the tree, and a miniature of a tree shows each of the verdicts."""

import subprocess

import pytest

from tools import mutate


@pytest.mark.parametrize('mutation', mutate.load(), ids=lambda m: m.name)
def test_every_mutation_fits_the_tree(mutation):
  """Its text stands exactly once in its file, and the tests that guard it exist."""
  assert mutation.complaint(mutate.ROOT) == ''


def _mutation(**changes):
  fields = {
    'name': 'm',
    'file': 'code_of_the_tree.py',
    'old': 'x + 1',
    'new': 'x - 1',
    'tests': ('test_code.py::test_next',),
  }
  return mutate.Mutation(**fields | changes)


@pytest.fixture
def tree(tmp_path):
  root = tmp_path / 'tree'
  root.mkdir()
  (root / 'code_of_the_tree.py').write_text('def next_one(x):\n  return x + 1\n\n\ndef other(x):\n  return 2 * x\n')
  (root / 'test_code.py').write_text(
    'import code_of_the_tree as code\n\n\ndef test_next():\n  assert code.next_one(2) == 3\n'
    '\n\ndef test_other():\n  code.other(1)\n'
  )
  subprocess.run(['git', 'init', '-q'], cwd=root, check=True)
  return root


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'file': 'nosuch.py'}, 'no file nosuch.py'),
    ({'old': 'x'}, 'has the text 5 times'),
    ({'old': 'x + 2'}, 'has the text 0 times'),
    ({'new': 'x + 1'}, 'changes nothing'),
    ({'tests': ()}, 'no tests'),
    ({'tests': ('test_code.py::test_nosuch',)}, 'no test test_code.py::test_nosuch'),
  ],
)
def test_what_does_not_fit_is_named(tree, changes, words):
  assert words in _mutation(**changes).complaint(tree)


@pytest.mark.parametrize('jobs', [1, 2])
def test_killed_survived_and_broken(tree, tmp_path, monkeypatch, capsys, jobs):
  """And the tree itself stays as it was. Two jobs mutate a file at once, each its own copy."""
  table = tmp_path / 'table.toml'
  entry = (
    "[[mutation]]\nname = '{}'\nfile = 'code_of_the_tree.py'\nold = '{}'\nnew = '{}'\ntests = ['test_code.py::{}']\n"
  )
  table.write_text(
    entry.format('noticed', 'x + 1', 'x + 2', 'test_next')
    + entry.format('unnoticed', '2 * x', '3 * x', 'test_other')
    + entry.format('no-python', 'x + 1', 'x +', 'test_next')
  )
  monkeypatch.setattr(mutate, 'ROOT', tree)
  monkeypatch.setattr(mutate, 'TABLE', table)
  before = (tree / 'code_of_the_tree.py').read_text()
  assert mutate.main(['--report', str(tmp_path / 'report.md'), '--jobs', str(jobs)]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert sorted(line.split(' (')[0].split() for line in lines[1:-1]) == [
    ['BROKEN', 'no-python'],
    ['SURVIVED', 'unnoticed'],
    ['killed', 'noticed'],
  ]
  assert lines[-1] == '1 of 3 killed'
  rows = (tmp_path / 'report.md').read_text().splitlines()[2:]
  assert rows[0] == '| noticed | code_of_the_tree.py | killed | test_code.py::test_next |'
  assert [row.split(' | ')[2] for row in rows] == ['killed', 'SURVIVED', 'BROKEN']
  assert (tree / 'code_of_the_tree.py').read_text() == before


REPORT = """<testsuites><testsuite><testcase classname="tests.a.test_b" name="test_fine" />
<testcase classname="tests.a.test_b" name="test_c[1]"><{tag} message="{message}" /></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
  'code, tag, message, state, by',
  [
    (1, 'failure', 'AssertionError: a != b', 'killed', 'tests/a/test_b.py::test_c[1]'),
    (1, 'failure', 'TypeError: shapes', 'killed', 'tests/a/test_b.py::test_c[1]'),
    (1, 'error', 'failed on setup with &quot;ValueError: no&quot;', 'killed', 'tests/a/test_b.py::test_c[1]'),
    (1, 'failure', 'NameError: name z', 'BROKEN', 'NameError: name z'),
    (
      1,
      'error',
      'failed on setup with &quot;ImportError: no&quot;',
      'BROKEN',
      'failed on setup with "ImportError: no"',
    ),
    (2, 'error', 'collection failure', 'BROKEN', 'collection failure'),
  ],
)
def test_only_a_test_that_fails_kills(code, tag, message, state, by):
  found = mutate.verdict(code, REPORT.format(tag=tag, message=message))
  assert (found.state, found.by) == (state, by)


def test_verdicts_without_a_report():
  assert mutate.verdict(0, '').state == 'SURVIVED'
  assert mutate.verdict(4, '', 'no such test').by == 'pytest ended with 4: no such test'


def test_tests_that_fail_anyway_are_refused(monkeypatch, capsys):
  monkeypatch.setattr(mutate, 'copy_tree', lambda root, to: None)
  monkeypatch.setattr(mutate, 'run_tests', lambda tree, tests, timeout: mutate.Verdict('killed', tests[0]))
  assert mutate.main(['--only', 'depth-flipped']) == 2
  assert 'fail on the unchanged code: tests/systems/ssr/test_core.py::test_conditions' in capsys.readouterr().err


def test_names_and_lists(capsys):
  assert mutate.main(['--list', '--only', 'depth-flipped']) == 0
  assert capsys.readouterr().out == 'depth-flipped: ssr_jax/systems/ssr/core.py\n'
  with pytest.raises(SystemExit):
    mutate.main(['--only', 'nosuch'])
  assert "unknown mutation 'nosuch'" in capsys.readouterr().err
