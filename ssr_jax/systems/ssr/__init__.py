"""SSR: blind super-resolution with spatially variant kernel refinement and adaptive multi-modal fusion.

`core` is the method as pure functions, used by sampling and by training alike.
"""

import types

from ssr_jax.systems.ssr.parts import PARTS

SSR = types.SimpleNamespace(
  name='ssr',
  parts=PARTS,
  sections={
    'svkr': {'iterations': 3, 'gamma': 0.9, 'rule': 'algorithm1'},
    'schedule': {},
    'sampling': {'sampler': 'dpmpp_2m', 'steps': 8, 'start': 0.5},
  },
)
