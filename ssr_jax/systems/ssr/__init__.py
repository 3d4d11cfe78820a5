"""SSR: blind super-resolution with spatially variant kernel refinement and adaptive multi-modal fusion.

`core` has the method as pure functions, which sampling and training share; `system` is its interface.
"""
