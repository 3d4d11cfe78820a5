"""Degradation, Eq. 1."""

from ssr_jax.degrade.degrade import MODES, Degraded, Recipe, degrade, kernel_field

__all__ = ['MODES', 'Degraded', 'Recipe', 'degrade', 'kernel_field']
