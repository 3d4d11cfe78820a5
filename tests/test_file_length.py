"""A file has at most 400 lines; a longer one says why in its docstring: '... above 400 lines, because ...'."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ('configs', 'ssr_jax', 'tests', 'tools')
LIMIT = 400


def too_long(code: str) -> bool:
  reason = ' '.join((ast.get_docstring(ast.parse(code)) or '').split())
  return len(code.splitlines()) > LIMIT and f'above {LIMIT} lines, ' not in reason


def test_every_file_has_at_most_400_lines_or_says_why_not():
  files = [*ROOT.glob('*.py'), *(file for folder in FOLDERS for file in (ROOT / folder).rglob('*.py'))]
  assert len(files) > 200
  assert not [str(file.relative_to(ROOT)) for file in files if too_long(file.read_text())]


def test_the_reason_is_read_from_the_docstring():
  body = 'x = 1\n' * LIMIT
  assert not too_long(body)
  assert too_long(body + 'x = 1\n')
  assert too_long('"""A file."""\n' + body)
  assert not too_long('"""A file above 400\nlines, because it is a table."""\n' + body)
