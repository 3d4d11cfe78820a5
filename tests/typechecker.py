"""Run-time check of the package's annotations, by jaxtyping's import hook; see conftest.py."""

from collections.abc import Iterator
import contextlib
import sys
from typing import Any, Self

import beartype

CHECKED = (
  'ssr_jax.degrade',
  'ssr_jax.diffusion',
  'ssr_jax.image',
  'ssr_jax.metrics',
  'ssr_jax.nn',
  'ssr_jax.runtime',
  'ssr_jax.systems.blinddiff.core',
  'ssr_jax.systems.blinddiff.mcformer',
  'ssr_jax.systems.cassr.core',
  'ssr_jax.systems.cassr.networks',
  'ssr_jax.systems.ssr.amf',
  'ssr_jax.systems.ssr.core',
  'ssr_jax.systems.ssr.dkenet',
  'ssr_jax.systems.ssr.encoders',
  'ssr_jax.systems.ssr.loss',
  'ssr_jax.systems.ssr.svkr',
)
"""Modules and packages whose calls are checked in every run: arguments and results, shapes included."""

REFUSING = (
  'ssr_jax.runtime.restorer.Restorer.sample',
  'ssr_jax.runtime.restorer.Restorer.stream',
  'ssr_jax.runtime.restorer.Restorer.check',
  'ssr_jax.runtime.restorer.load',
  'ssr_jax.runtime.restorer.sample',
  'ssr_jax.runtime.inspection.inspect',
)
"""Functions that users call with anything: they check their arguments themselves, and tests give them wrong ones. Of
these only the result is checked."""

TREES = (
  'ssr_jax.degrade.degrade.Degraded.__init__',
  'ssr_jax.systems.ssr.encoders.Conditions.__init__',
  'ssr_jax.systems.ssr.svkr.SVKR.__init__',
)
"""What is not checked: JAX makes such trees of shapes and of marks of its own, too."""

_check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int will do for a float


def check(function: Any) -> Any:
  """Checks arguments and result of a function's calls, but for `Self`: only a class that is checked whole has one."""
  hints = getattr(function, '__annotations__', {})
  hints.update({name: Any for name, hint in hints.items() if hint is Self})
  name = f'{function.__module__}.{function.__qualname__}'
  if name in TREES:
    return function
  if name in REFUSING:
    hints.update({name: Any for name in hints if name != 'return'})
  return _check(function)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
  """Checks nothing meanwhile: for a test that a function itself refuses an argument of a wrong kind or shape."""
  jaxtyping = sys.modules.get('jaxtyping')
  if jaxtyping is None:  # SSR_TYPECHECK=0
    yield
    return
  before = jaxtyping.config.jaxtyping_disable
  jaxtyping.config.update('jaxtyping_disable', True)
  try:
    yield
  finally:
    jaxtyping.config.update('jaxtyping_disable', before)
