"""The training stages: what is trained, on which loss, against which validation figure.

A stage is a handful of pure functions, made by a builder from a config; `train.py` runs any of them with the same loop.
"""

from ssr_jax.systems.ssr.stages import depth, diffusion, distill, kernel, nbsr, svkr, vae
from ssr_jax.systems.ssr.stages.base import Stage
from ssr_jax.types import SSRError

_BUILDERS = {
  'depth': depth.build,
  'kernel': kernel.build,
  'nbsr': nbsr.build,
  'svkr': svkr.build,
  'vae': vae.build,
  'diffusion': diffusion.build,
  'distill': distill.build,
}


def build(config) -> Stage:
  """The stage that a config names; SSRError for an unknown one."""
  if config.stage not in _BUILDERS:
    raise SSRError(f'config.stage is {config.stage!r}; name one after the colon of --config: {", ".join(_BUILDERS)}')
  return _BUILDERS[config.stage](config)
