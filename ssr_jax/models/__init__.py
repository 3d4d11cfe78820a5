"""The networks.

`build` makes the module of a part from plain keyword arguments, as configs and model files hold them.
"""

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
  # The UNet again, trained to need few steps, and the autoencoder with a decoder that learned along.
  'student': ('ssr_jax.models.amf', 'AMFUNet'),
  'student_vae': ('ssr_jax.models.vae', 'VAE'),
}
PARTS = tuple(_PARTS)
DTYPES = ('float32', 'bfloat16')
"""What networks compute in; norms, softmax and the last step to an image are float32 with either."""
# Other networks for a part, by the config's field 'family'.
_FAMILIES = {('depth', 'dpt'): ('ssr_jax.models.dpt', 'DPT')}


def dtype_of(name: str, where: str) -> Any:
  """The dtype of a name of `DTYPES`.

  Raises:
    SSRError: another name; the line begins with `where`, the option or field that it came from.
  """
  import jax.numpy as jnp

  if name not in DTYPES:
    raise SSRError(f'{where} is {name!r}; known: {", ".join(DTYPES)}')
  return getattr(jnp, name)


def build(part: str, family: str = 'compact', **config: Any):
  """Makes the Flax module of a part.

  Args:
    part: 'depth', 'dkenet', 'nbsr', 'vae', 'unet', 'student' or 'student_vae'.
    family: which network, where a part has several: 'dpt' (ViT and DPT head) for 'depth'.
    **config: the module's attributes; lists become tuples, so that values read from JSON work.

  Returns:
    A Linen module.

  Raises:
    SSRError: an unknown part, family or attribute; the message lists the known ones.
  """
  if part not in _PARTS:
    raise SSRError(f'unknown part {part!r}; known: {", ".join(PARTS)}')
  if family != 'compact' and (part, family) not in _FAMILIES:
    known = ['compact', *(f for p, f in _FAMILIES if p == part)]
    raise SSRError(f'{part}: unknown family {family!r}; known: {", ".join(known)}')
  module, name = _FAMILIES.get((part, family), _PARTS[part])
  cls = getattr(importlib.import_module(module), name)
  known = [f.name for f in dataclasses.fields(cls) if f.name not in ('parent', 'name')]
  unknown = [field for field in config if field not in known]
  if unknown:
    raise SSRError(f'{part}: unknown field {unknown[0]!r}; known: {", ".join(known)}')
  return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
