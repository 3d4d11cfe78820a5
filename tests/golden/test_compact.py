"""The cases of test_golden.py at compact size, with the bundled weights.

They see what the tiny ones cannot: the config of the compact size and the weights. They take minutes each to compile,
so `make test-changed` runs them only for a change of these.
"""

import pytest

from tests.golden import programs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('name', [name for name in programs.names() if name.startswith('compact/')])
def test_outputs_are_as_they_were(name, tiny_model_dir):
  programs.check(name, tiny_model_dir)
