"""Run-time check of annotations in some of the package, from jaxtyping's import hook; see conftest.py."""

import beartype

CHECKED = ('ssr_jax.image', 'ssr_jax.degrade', 'ssr_jax.diffusion', 'ssr_jax.systems.ssr.core')
"""Modules and packages whose calls are checked: arguments and results, shapes included."""

check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int will do for a float
