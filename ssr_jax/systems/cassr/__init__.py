"""CasSR: super-resolution by a frozen Stable Diffusion that a ControlNet and attention to its features steer.

`core` has the method as pure functions, which sampling and training share; `system` is its interface.
"""
