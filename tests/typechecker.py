"""Run-time check of annotations in parts of the package, by jaxtyping's import hook; see conftest.py."""

from typing import Any, Self

import beartype

CHECKED = ('ssr_jax.image', 'ssr_jax.diffusion', 'ssr_jax.metrics')
"""Modules and packages whose calls are checked in every run: arguments and results, shapes included."""

ALSO = (
  'ssr_jax.degrade',
  'ssr_jax.nn',
  'ssr_jax.runtime',
  'ssr_jax.systems.blinddiff.core',
  'ssr_jax.systems.cassr.core',
  'ssr_jax.systems.ssr.core',
)
"""Checked too with SSR_TYPECHECK=all."""

_check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int will do for a float


def check(function: Any) -> Any:
  """Checks arguments and result of a function's calls, but for `Self`: only a class that is checked whole has one."""
  hints = getattr(function, '__annotations__', {})
  hints.update({name: Any for name, hint in hints.items() if hint is Self})
  return _check(function)
