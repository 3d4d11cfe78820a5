"""BlindDiff: blind super-resolution by diffusion in pixels, guided by the blur kernel that its own network estimates.

`core` has the method as pure functions, which sampling and training share; `system` is its interface.
"""
