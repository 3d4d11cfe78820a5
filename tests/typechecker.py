"""Run-time check of annotations in parts of the package, by jaxtyping's import hook; see conftest.py."""

import beartype

CHECKED = ('ssr_jax.image',)
"""Modules and packages whose calls are checked in every run: arguments and results, shapes included."""

ALSO = ('ssr_jax.degrade', 'ssr_jax.diffusion', 'ssr_jax.systems.ssr.core')
"""Checked too with SSR_TYPECHECK=all."""

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int will do for a float
