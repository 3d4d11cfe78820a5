"""Mutation testing of the wiring: breaks the code in one small way at a time and checks that a test fails.

  python tools/mutate.py --jobs 2              # all of tools/mutations.toml; half an hour
  python tools/mutate.py --only depth-flipped  # one of them; may be given again
  python tools/mutate.py --list

Mutations are applied to a copy of the tree in a temporary directory. Each names the tests that should detect it. These
tests run first on the unchanged code and must pass. A mutation is 'killed' if one of its tests then fails; it
'SURVIVED' if all pass, which means that a test is missing. It is 'BROKEN' if nothing was tested, because the mutated
file cannot be imported, a name is missing or the time is up. The exit code is 1 unless all are killed.
"""

import argparse
from collections.abc import Sequence
from concurrent import futures
import dataclasses
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from xml.etree import ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = pathlib.Path(__file__).with_name('mutations.toml')

_UNTESTED = ('SyntaxError', 'IndentationError', 'ImportError', 'ModuleNotFoundError', 'NameError')


@dataclasses.dataclass(frozen=True)
class Mutation:
  """A small change that makes the code wrong.

  Attributes:
    name: of the mutation.
    file: what is changed, from the root of the tree.
    old: the text to replace, which occurs exactly once.
    new: what takes its place.
    tests: pytest's ids of the tests that guard the place.
  """

  name: str
  file: str
  old: str
  new: str
  tests: tuple[str, ...]

  def complaint(self, root: pathlib.Path) -> str:
    """Why the mutation does not fit the tree, or ''."""
    path = root / self.file
    if not path.is_file():
      return f'{self.name}: there is no file {self.file}'
    count = path.read_text().count(self.old)
    if count != 1:
      return f'{self.name}: {self.file} has the text {count} times: {self.old!r}'
    if self.old == self.new or not self.tests:
      return f'{self.name}: changes nothing, or has no tests'
    for test in self.tests:
      file, _, function = test.partition('::')
      function = function.partition('[')[0]
      if not (root / file).is_file() or f'def {function}(' not in (root / file).read_text():
        return f'{self.name}: there is no test {test}'
    return ''


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The result of a test run.

  Attributes:
    state: 'killed', 'SURVIVED' or 'BROKEN'.
    by: the test that failed, or why nothing was tested.
    seconds: on the clock.
  """

  state: str
  by: str = ''
  seconds: float = 0.0


def load(path: pathlib.Path = TABLE) -> list[Mutation]:
  """The table of mutations; ValueError if two have the same name."""
  with open(path, 'rb') as file:
    entries = tomllib.load(file)['mutation']
  mutations = [Mutation(**entry | {'tests': tuple(entry['tests'])}) for entry in entries]
  names = [m.name for m in mutations]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(f'{path}: two mutations are called {twice[0]}')
  return mutations


def copy_tree(root: pathlib.Path, to: pathlib.Path) -> None:
  """Copies the files of a working tree that git tracks or would add."""
  listed = subprocess.run(
    ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=root, capture_output=True, check=True
  )
  for name in sorted(set(listed.stdout.decode().split('\0')) - {''}):
    if (root / name).is_file():
      (to / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(root / name, to / name)


def run_tests(tree: pathlib.Path, tests: Sequence[str], timeout: float) -> Verdict:
  """Runs tests of a tree up to the first that fails.

  Args:
    tree: root of the tree.
    tests: pytest's ids.
    timeout: seconds.
  """
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as scratch:
    report = pathlib.Path(scratch, 'report.xml')
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', f'--junitxml={report}', *tests]
    # Two versions of a file can have the same size and time stamp; Python would then run the other one's bytecode.
    environment = os.environ | {'PYTHONPATH': str(tree), 'PYTHONDONTWRITEBYTECODE': '1'}
    # Most programs are the same for every mutation: compile them once.
    environment.setdefault('JAX_COMPILATION_CACHE_DIR', str(tree.parent / 'xla'))
    try:
      done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
      return Verdict('BROKEN', f'no end after {timeout:.0f} s', time.monotonic() - start)
    found = verdict(done.returncode, report.read_text() if report.is_file() else '', done.stdout)
  return dataclasses.replace(found, seconds=time.monotonic() - start)


def verdict(code: int, report: str, output: str = '') -> Verdict:
  """What an exit code of pytest and its report as JUnit's XML mean; `output` is quoted where there is no such test."""
  if code == 0:
    return Verdict('SURVIVED')
  for case in ElementTree.fromstring(report).iter('testcase') if report else ():
    problem = next((child for child in case if child.tag in ('failure', 'error')), None)
    if problem is None:
      continue
    message = problem.get('message', '')
    untested = re.match(rf'(failed on \w+ with ")?({"|".join(_UNTESTED)})\b', message)
    if code != 1 or untested:  # any other code: the tests could not be collected
      return Verdict('BROKEN', ' '.join(message.split())[:200])
    return Verdict('killed', f'{case.get("classname", "").replace(".", "/")}.py::{case.get("name")}')
  return Verdict('BROKEN', f'pytest ended with {code}: {" ".join(output.split())[-200:]}')


def markdown(rows: Sequence[tuple[Mutation, Verdict]]) -> str:
  """A table of a run."""
  lines = ['| mutation | file | result | by |', '|---|---|---|---|']
  for mutation, found in rows:
    by = found.by.removeprefix('tests/').replace('|', '\\|')
    lines.append(f'| {mutation.name} | {mutation.file} | {found.state} | {by} |')
  return '\n'.join(lines) + '\n'


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the mutations; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', action='append', metavar='NAME', help='this mutation; may be given again')
  parser.add_argument('--list', action='store_true', help='print the names and files, and stop')
  parser.add_argument('--report', type=pathlib.Path, metavar='FILE', help='write the results as a table in Markdown')
  parser.add_argument('--timeout', type=float, default=900, metavar='S', help='seconds per run (default: %(default)s)')
  parser.add_argument('--jobs', type=int, default=1, metavar='N', help='mutations at once, each in its own copy')
  options = parser.parse_args(arguments)

  mutations = load(TABLE)
  names = [m.name for m in mutations]
  unknown = [name for name in options.only or () if name not in names]
  if unknown:
    parser.error(f'unknown mutation {unknown[0]!r}; --list shows them')
  mutations = [m for m in mutations if not options.only or m.name in options.only]
  if options.list:
    for m in mutations:
      print(f'{m.name}: {m.file}')
    return 0
  complaints = [c for c in (m.complaint(ROOT) for m in mutations) if c]
  if complaints:
    print(*complaints, sep='\n', file=sys.stderr)
    return 2

  with tempfile.TemporaryDirectory(prefix='mutate-') as scratch:
    copies = [pathlib.Path(scratch, str(number)) for number in range(max(options.jobs, 1))]
    trees: queue.Queue[pathlib.Path] = queue.Queue()
    for tree in copies:
      copy_tree(ROOT, tree)
      trees.put(tree)
    tests = list(dict.fromkeys(test for m in mutations for test in m.tests))
    sound = run_tests(copies[0], tests, options.timeout * len(mutations))
    if sound.state != 'SURVIVED':
      print(f'the tests fail on the unchanged code: {sound.by}', file=sys.stderr)
      return 2
    print(f'{len(tests)} tests pass on the unchanged code ({sound.seconds:.0f} s)', flush=True)

    def attempt(m: Mutation) -> Verdict:
      tree = trees.get()
      path = tree / m.file
      text = path.read_text()
      path.write_text(text.replace(m.old, m.new))
      found = run_tests(tree, m.tests, options.timeout)
      path.write_text(text)
      trees.put(tree)
      print(f'{found.state:8} {m.name} ({found.seconds:.0f} s) {found.by}', flush=True)
      return found

    with futures.ThreadPoolExecutor(len(copies)) as pool:
      rows = list(zip(mutations, pool.map(attempt, mutations), strict=True))
  killed = sum(found.state == 'killed' for _, found in rows)
  print(f'{killed} of {len(rows)} killed')
  if options.report:
    options.report.write_text(markdown(rows))
  return 0 if killed == len(rows) else 1


if __name__ == '__main__':
  sys.exit(main())
