"""What the tests of hostile circumstances share."""

import signal

import pytest


@pytest.fixture(autouse=True)
def _ctrl_c_is_pythons():
  """A shell starts background jobs with SIGINT ignored, and a test run may be one."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)
