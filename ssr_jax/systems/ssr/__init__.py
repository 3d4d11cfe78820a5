"""SSR: blind super-resolution with spatially variant kernel refinement and adaptive multi-modal fusion.

`core` is the method as pure functions, used by sampling and by training alike.
"""

import types

from ssr_jax.systems.ssr.parts import PARTS
from ssr_jax.systems.ssr.stages import STAGES

SSR = types.SimpleNamespace(name='ssr', parts=PARTS, stages=STAGES)
