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


def _student_nbsr(module: Any) -> tuple[Any, ...]:
  import jax.numpy as jnp

  return tuple(jnp.zeros((1, 16, 16, channels)) for channels in (module.latent_channels, 3, module.components))


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


# Numbers of blocks, which are traced one by one, and of what is divided by. Published networks have up to 24 layers;
# 64 of anything is traced in seconds.
_COUNT, _DIVISOR = (0, 64), (1, 1024)
_POSITIVE = (1, 8192)
# A depth net's attention is over its whole input: scores of at most 1 GiB per head, at a patch of 8.
_DEPTH_SIDE = (16, 1024)

_RRDB = {
  'blocks': _COUNT,
  'features': _POSITIVE,
  'growth': _POSITIVE,
  'components': (1, 4096),
  'scale': (1, 16),
}

_VAE = Part(
  {'compact': 'ssr_jax.nn.vae:VAE'},
  _photo,
  groups={
    'encoder': 'params/(encoder|quant_conv|shortcut_in)/',
    'decoder': 'params/(?!(encoder|quant_conv|shortcut_in)/)',
  },
  limits={
    'channels': _POSITIVE,
    'latent_channels': (1, 64),
    'encoder_blocks': _COUNT,
    'decoder_blocks': _COUNT,
    'groups': _DIVISOR,
    'patch': (1, 16),
    'scaling_factor': (1e-6, 1e6),  # latents are divided by it
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
  limits={
    'channels': _POSITIVE,
    'latent_channels': (1, 64),
    'blocks': _COUNT,
    'heads': _DIVISOR,
    'head_dim': _DIVISOR,
    'groups': _DIVISOR,
    'amf_hidden': _POSITIVE,
    'kernel_channels': _POSITIVE,
    'depth_channels': _POSITIVE,
    'lr_channels': _POSITIVE,
    'lr_blocks': _COUNT,
    'cross_attention_dim': _POSITIVE,
    'prompt_tokens': (0, 1024),
  },
)

PARTS = {
  'depth': Part(
    {'compact': 'ssr_jax.nn.depth.compact:CompactDepth', 'dpt': 'ssr_jax.nn.depth.dpt:DPT'},
    _photo,
    adjustable=('resolution',),
    limits={
      'resolution': _DEPTH_SIDE,
      'widths': _POSITIVE,
      'blocks': _COUNT,
      'group': _DIVISOR,
      'heads': _DIVISOR,
      'patch': (8, 64),
      'layers': (1, 64),
      'taps': (0, 63),
      'positions': (1, 128),
      'eps': (0, 1),
      'deviation': (1e-6, 1e6),
    },
  ),
  'dkenet': Part(
    {'compact': 'ssr_jax.systems.ssr.dkenet:DKENet'},
    _dkenet,
    limits={'features': _POSITIVE, 'taps': (1, 4096)},
  ),
  'nbsr': Part(
    {'compact': 'ssr_jax.nn.rrdb:NBSR'},
    _nbsr,
    limits={**_RRDB, 'taps': (1, 4096)},
  ),
  'vae': _VAE,
  'unet': _AMF_UNET,
  # The UNet, distilled to few steps, and the autoencoder with the decoder that was trained with it.
  'student': _AMF_UNET,
  'student_vae': _VAE,
  # NBSR, trained further with the student, whose latent it also sees; makes the image instead of a decoder.
  'student_nbsr': Part(
    {'compact': 'ssr_jax.nn.rrdb:LatentNBSR'},
    _student_nbsr,
    limits={**_RRDB, 'latent_channels': (1, 64)},
  ),
}
