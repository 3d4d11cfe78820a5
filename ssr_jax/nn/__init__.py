"""Flax modules that systems share: layers, attention, UNet, autoencoder, RRDB, depth nets; dtypes of computation."""

from typing import Any

from ssr_jax.types import SSRError

DTYPES = ('float32', 'bfloat16')
"""Dtypes that networks can compute in; norms, softmax and the last layer before an image are always float32."""


def dtype_of(name: str, where: str) -> Any:
  """Returns the dtype of a name of `DTYPES`.

  Raises:
    SSRError: an unknown name; the message begins with `where`, the option or field that it came from.
  """
  import jax.numpy as jnp

  if name not in DTYPES:
    raise SSRError(f'{where} is {name!r}; known: {", ".join(DTYPES)}')
  return getattr(jnp, name)
