"""Types, bounds and defaults of CasSR's sections of model.json. What `SECTIONS` fills in may be absent."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from ssr_jax.systems.fields import Section
from ssr_jax.systems.ssr.sections import Schedule, Svkr


class Sampling(Section):
  """Of the section 'sampling'."""

  steps: Annotated[int, Meta(ge=0, le=1000)]
  guidance: Annotated[float, Meta(ge=0, le=100)] = 5.5
  sampler: Annotated[str, Meta(max_length=64)] = 'ddim'  # which there are is checked by `plan`
  reference: Literal['svkr', 'lr', 'restorer', 'controlnet'] = 'svkr'
  prompt: Literal['null', 'clean', 'degraded'] = 'clean'
  attention: bool = True
  colour_fix: Literal['none', 'adain', 'wavelet'] = 'adain'
  tile: Annotated[int, Meta(ge=0, le=4096)] = 64
  overlap: Annotated[int, Meta(ge=0, le=4096)] = 32


SECTION_TYPES = {'svkr': Svkr, 'schedule': Schedule, 'sampling': Sampling}

SECTIONS: dict[str, Any] = {
  'svkr': {'iterations': 3, 'gamma': 0.9, 'rule': 'algorithm1'},
  'schedule': {},
  'sampling': {
    'steps': 50,
    'guidance': 5.5,
    'sampler': 'ddim',
    'reference': 'svkr',
    'prompt': 'clean',
    'attention': True,
    'colour_fix': 'adain',
    'tile': 64,
    'overlap': 32,
  },
}
"""Those of a new model.json. The paper gives no sampler, steps, guidance or colour fix; most of these are SeeSR's."""
