"""Degradation: Eq. 1 and the second-order chain of Real-ESRGAN, by recipe."""

from ssr_jax.degrade.degrade import Degraded, degrade, from_field, kernel_field
from ssr_jax.degrade.recipes import MODES, NAMES, Recipe, image_key

__all__ = ['MODES', 'NAMES', 'Degraded', 'Recipe', 'degrade', 'from_field', 'image_key', 'kernel_field']
