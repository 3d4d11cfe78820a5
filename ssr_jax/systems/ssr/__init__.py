"""SSR: blind super-resolution with spatially variant kernel refinement and adaptive multi-modal fusion.

`core` is the method as pure functions, used by sampling and by training alike; `system` describes it to the house.
"""
