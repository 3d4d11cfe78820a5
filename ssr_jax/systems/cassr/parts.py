"""The networks of CasSR, by their names in configs and model files.

The autoencoder and the networks of SVKR are SSR's parts themselves, and the restorer is ESRGAN's, so that models of
these systems can give them: `ssr weights import MODEL --as NAME --system cassr`.
"""

from typing import Any

from ssr_jax.systems.base import Part
from ssr_jax.systems.esrgan.parts import PARTS as ESRGAN_PARTS
from ssr_jax.systems.ssr.parts import PARTS as SSR_PARTS


def _noisy(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  side = 2 ** (len(module.channels) - 1)
  z = jnp.zeros((1, side, side, module.latent_channels))
  return z, jnp.zeros((1,), jnp.int32), jnp.zeros((1, 1, module.cross_attention_dim))


def _steering(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  z, t, context = _noisy(module)
  side = 8 * z.shape[1]
  return z, t, context, z if module.hint == 'latent' else jnp.zeros((1, side, side, 3))


# Numbers of blocks, which are traced one by one, and of what is divided by.
_COUNT, _DIVISOR, _POSITIVE = (0, 64), (1, 1024), (1, 8192)
_TRUNK = {
  'channels': _POSITIVE,
  'latent_channels': (1, 64),
  'blocks': _COUNT,
  'heads': _DIVISOR,
  'head_dim': _DIVISOR,
  'cross_attention_dim': _POSITIVE,
  'groups': _DIVISOR,
  'window': (0, 1024),
}
_STEERING = Part(
  {'controlnet': 'ssr_jax.systems.cassr.networks:Steering'},
  _steering,
  groups={
    'ControlNet, hint': 'params/controlnet/see/',
    'ControlNet, copy of the prior': 'params/controlnet/(?!(see|zero_))',
    'ControlNet, zero convolutions': 'params/controlnet/zero_',
    'multiple attention': 'params/extra_',
  },
  limits={**_TRUNK, 'hint_channels': _POSITIVE},
)

PARTS = {
  **{part: SSR_PARTS[part] for part in ('depth', 'dkenet', 'nbsr', 'vae')},
  'restorer': ESRGAN_PARTS['restorer'],
  'prior': Part(
    {'unet': 'ssr_jax.systems.cassr.networks:Prior'},
    _noisy,
    groups={'UNet': 'params/unet/', 'prompts': 'params/prompts'},
    limits={**_TRUNK, 'tokens': (1, 1024)},
  ),
  'activation': _STEERING,  # a plain ControlNet, whose samples can be the reference
  'cassr': _STEERING,
}
