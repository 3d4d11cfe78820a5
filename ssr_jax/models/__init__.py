"""The networks. `build` makes the module of a part from plain keyword arguments, as configs and model files hold them."""

import dataclasses
import importlib
from typing import Any

from ssr_jax.types import SSRError

_PARTS = {
    'depth': ('ssr_jax.models.depth', 'CompactDepth'),
    'dkenet': ('ssr_jax.models.dkenet', 'DKENet'),
    'nbsr': ('ssr_jax.models.rrdb', 'NBSR'),
    'vae': ('ssr_jax.models.vae', 'VAE'),
    'unet': ('ssr_jax.models.amf', 'AMFUNet'),
}
PARTS = tuple(_PARTS)


def build(part: str, **config: Any):
  """Makes the Flax module of a part.

  Args:
    part: 'depth', 'dkenet', 'nbsr', 'vae' or 'unet'.
    **config: the module's attributes; lists become tuples, so that values read from JSON work.

  Returns:
    A Linen module.

  Raises:
    SSRError: an unknown part or attribute; the message lists the known ones.
  """
  if part not in _PARTS:
    raise SSRError(f"unknown part {part!r}; known: {', '.join(PARTS)}")
  module, name = _PARTS[part]
  cls = getattr(importlib.import_module(module), name)
  known = [f.name for f in dataclasses.fields(cls) if f.name not in ('parent', 'name')]
  unknown = [field for field in config if field not in known]
  if unknown:
    raise SSRError(f"{part}: unknown field {unknown[0]!r}; known: {', '.join(known)}")
  return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
