"""Degradation by recipe: Eq. 1, uniform blur and bicubic reduction, the second-order chain of Real-ESRGAN."""

from ssr_jax.degrade.degrade import Degraded, degrade, from_field, kernel_field
from ssr_jax.degrade.recipes import MODES, NAMES, Recipe, image_key

__all__ = ['MODES', 'NAMES', 'Degraded', 'Recipe', 'degrade', 'from_field', 'image_key', 'kernel_field']
