"""Classifier-free guidance (Ho and Salimans 2022)."""

from collections.abc import Callable

import jax.numpy as jnp

from ssr_jax.types import Array

Conditional = Callable[[Array, Array, Array], Array]
"""(z_t [b, ...], t [b], context [b, n, e]) -> the network's prediction."""


def classifier_free(
  predict: Conditional, positive: Array, negative: Array, weight: float
) -> Callable[[Array, Array], Array]:
  """e- + w (e+ - e-), both in one batch; with w = 1 it is e+, and e- is not computed.

  Args:
    predict: the network.
    positive: [b, n, e], what the image should be.
    negative: [b, n, e], what it should not be; guidance away from an empty text is that of Ho and Salimans.
    weight: w, a Python number.

  Returns:
    (z_t, t) -> prediction, as samplers take it.
  """
  if weight == 1:
    return lambda z, t: predict(z, t, positive)

  def guided(z: Array, t: Array) -> Array:
    twice = lambda x: jnp.concatenate([x, x])
    away, towards = jnp.split(predict(twice(z), twice(t), jnp.concatenate([negative, positive])), 2)
    return away + weight * (towards - away)

  return guided
