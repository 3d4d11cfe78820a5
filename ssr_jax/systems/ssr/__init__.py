"""SSR: blind super-resolution with spatially variant kernel refinement and adaptive multi-modal fusion.

`core` is the method as pure functions, used by sampling and by training alike.
"""

import types

from ssr_jax.systems.ssr.parts import PARTS

SSR = types.SimpleNamespace(name='ssr', parts=PARTS)
