"""What a backward pass computes again instead of keeping it, by name: memory for time."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax

from ssr_jax.types import SSRError


def _products(primitive, *operands, **parameters) -> bool:
  """Keeps convolutions and matrix products with weights; norms, activations and attention's scores are done again."""
  dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  return primitive is jax.lax.conv_general_dilated_p or dots(primitive, *operands, **parameters)


POLICIES: dict[str, Callable[..., bool] | None] = {
  'blocks': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'products': _products,
}
"""What is kept within each block. 'blocks': nothing, so that a block is done again from its input. 'dots': products of
matrices with weights, which are what transformers consist of. 'products': convolutions too."""


def check(name: str, where: str) -> str:
  """The name itself, '' for no rematerialisation; SSRError, which names `where` it stands, for an unknown one."""
  if name and name not in POLICIES:
    raise SSRError(f"{where} is {name!r}; known: '', {', '.join(POLICIES)}")
  return name


def remat(block: nn.Module, name: str, method: str = '__call__') -> Callable[..., Any]:
  """A block of a network as a call whose backward pass keeps only what the policy says.

  Parameters and their paths are the block's own.

  Args:
    block: a module, made where it is used.
    name: of `POLICIES`, or '' for the block as it is.
    method: what is called of it.

  Returns:
    (*arrays, **static) -> what the block returns; keyword arguments are Python values, such as switches.
  """
  if not check(name, 'remat'):
    return getattr(block, method)

  def call(*arrays, **static):
    inner = lambda module, *arrays: getattr(module, method)(*arrays, **static)
    return nn.remat(inner, policy=POLICIES[name])(block, *arrays)

  return call
