"""Flax modules that no paper owns: layers, attention, UNet, autoencoder, RRDB, depth nets; dtypes of computation."""

from typing import Any

from ssr_jax.types import SSRError

DTYPES = ('float32', 'bfloat16')
"""What networks compute in; norms, softmax and the last step to an image are float32 with either."""


def dtype_of(name: str, where: str) -> Any:
  """The dtype of a name of `DTYPES`.

  Raises:
    SSRError: another name; the line begins with `where`, the option or field that it came from.
  """
  import jax.numpy as jnp

  if name not in DTYPES:
    raise SSRError(f'{where} is {name!r}; known: {", ".join(DTYPES)}')
  return getattr(jnp, name)
