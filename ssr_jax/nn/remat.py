"""Rematerialisation: which values a backward pass recomputes instead of storing, to save memory."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax

from ssr_jax.types import SSRError


def _products(primitive, *operands, **parameters) -> bool:
  """Stores convolutions and products with weights; norms, activations and attention scores are recomputed."""
  dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return primitive is jax.lax.conv_general_dilated_p or dots(primitive, *operands, **parameters)


POLICIES: dict[str, Callable[..., bool] | None] = {
  'blocks': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'products': _products,
}
"""What is stored within each block. 'blocks': nothing; a block is recomputed from its input. 'dots': matrix products
with weights, most of a transformer's arithmetic. 'products': convolutions as well."""


def check(name: str, where: str) -> str:
  """Returns the name, '' for no rematerialisation; SSRError, beginning with `where`, if it is unknown."""
  if name and name not in POLICIES:
    raise SSRError(f"{where} is {name!r}; known: '', {', '.join(POLICIES)}")
  return name


def remat(block: nn.Module, name: str, method: str = '__call__') -> Callable[..., Any]:
  """Wraps a block of a network so that its backward pass stores only what the policy says.

  Parameters and their paths do not change.

  Args:
    block: the module.
    name: of `POLICIES`, or '' for no change.
    method: the method to call.

  Returns:
    (*arrays, **static) -> what the method returns; keyword arguments are Python values, such as switches.
  """
  if not check(name, 'remat'):
    return getattr(block, method)

  def call(*arrays, **static):
    inner = lambda module, *arrays: getattr(module, method)(*arrays, **static)
    return nn.remat(inner, policy=POLICIES[name])(block, *arrays)

  return call
