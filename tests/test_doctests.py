"""The examples in docstrings give what they say."""

import doctest
import importlib
import pathlib

import pytest

import ssr_jax

ROOT = pathlib.Path(ssr_jax.__file__).parent.parent
FILES = [path.relative_to(ROOT) for path in sorted(ROOT.glob('ssr_jax/**/*.py')) if '>>> ' in path.read_text()]
_SLOW = ('ssr_jax/runtime/restorer.py',)  # it samples


@pytest.mark.parametrize(
  'path', [pytest.param(path, marks=pytest.mark.slow if str(path) in _SLOW else ()) for path in FILES], ids=str
)
def test_examples(path):
  module = importlib.import_module('.'.join(path.with_suffix('').parts).removesuffix('.__init__'))
  found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
  assert found.attempted and not found.failed
