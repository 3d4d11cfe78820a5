"""The networks of SSR, by their names in configs and model files."""

from typing import Any

from ssr_jax.systems.base import Part


def _photo(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  del module
  return (jnp.zeros((1, 64, 64, 3)),)


def _dkenet(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  del module
  return jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 1))


def _nbsr(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  del module
  return jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16, 16, 441))


def _unet(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  from ssr_jax.systems.ssr.encoders import Conditions

  latents = jnp.zeros((1, 16, 16, module.latent_channels))
  code = jnp.zeros((1, 16, 16, module.code_channels))
  conditions = Conditions(
    kernel_code=code, depth=jnp.zeros((1, 16, 16, 1)), lr=jnp.zeros((1, 16, 16, 3)), lr_latent=latents
  )
  context = None if module.cross_attention_dim is None else jnp.zeros((1, 1, module.cross_attention_dim))
  return latents, jnp.zeros((1,), jnp.int32), conditions, context


_VAE = Part(
  {'compact': 'ssr_jax.nn.vae:VAE'},
  _photo,
  groups={
    'encoder': 'params/(encoder|quant_conv|shortcut_in)/',
    'decoder': 'params/(?!(encoder|quant_conv|shortcut_in)/)',
  },
)
_AMF_UNET = Part(
  {'compact': 'ssr_jax.systems.ssr.amf:AMFUNet'},
  _unet,
  optional=('params/reconstruction/',),
  groups={
    'base UNet': 'params/unet/(?!.*/amf/)',
    'AMF': 'params/unet/.*/amf/',
    'encoders': 'params/(kernel_encoder|depth_encoder|lr_encoder)/',
    'heads for training': 'params/reconstruction/',
  },
)

PARTS = {
  'depth': Part(
    {'compact': 'ssr_jax.nn.depth.compact:CompactDepth', 'dpt': 'ssr_jax.nn.depth.dpt:DPT'},
    _photo,
    adjustable=('resolution',),
  ),
  'dkenet': Part({'compact': 'ssr_jax.systems.ssr.dkenet:DKENet'}, _dkenet),
  'nbsr': Part({'compact': 'ssr_jax.nn.rrdb:NBSR'}, _nbsr),
  'vae': _VAE,
  'unet': _AMF_UNET,
  # The UNet, distilled to few steps, and the autoencoder with the decoder that was trained with it.
  'student': _AMF_UNET,
  'student_vae': _VAE,
}
