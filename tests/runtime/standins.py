"""What the stand-ins for systems in these tests share."""

import dataclasses

import jax
import pytest

from ssr_jax.runtime import trust


@dataclasses.dataclass(frozen=True)
class Options:
  """Of a stand-in that has steps, or ignores them."""

  steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the runtime asks of a plan, and the steps."""

  parts: tuple = ()
  steps: int = 0
  scale: int = 4


@pytest.fixture
def compiled_operator(monkeypatch):
  """Compiles the blur operator of trust maps where the stand-in runs step by step: uncompiled it takes minutes."""
  operator = trust._blur_downsample()

  def compiled(*arguments, **options):
    with jax.disable_jit(False):
      return operator(*arguments, **options)

  monkeypatch.setattr(trust, '_blur_downsample', lambda: compiled)
