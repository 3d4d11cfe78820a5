"""The sizes that SSR's networks come in: plain values, read by the configs and by `ssr info`.

The paper gives the autoencoder (f = 8, 4 channels), AMF's hidden width (128) and no more. At its size the other widths
are those of MANet and RRDB-SFT where there are such, else ours.
"""

from typing import Any

Fields = dict[str, Any]

_TINY: dict[str, Fields] = {
  'depth': {'resolution': (32, 32), 'widths': (8, 8, 8, 8, 8), 'group': 4, 'heads': 2},
  'dkenet': {'features': 4, 'depth_features': 4},
  'nbsr': {'blocks': 1, 'features': 8, 'growth': 4, 'global_skip': True},
  'vae': {
    'channels': (8, 8),
    'latent_channels': 4,
    'encoder_blocks': 1,
    'decoder_blocks': 1,
    'groups': 4,
    'mid_attention': False,
    'patch': 2,
    'shortcut': True,
  },
  'unet': {
    'channels': (8, 8),
    'blocks': 1,
    'attention': (False, False),
    'head_dim': 4,
    'cross_attention_dim': None,
    'groups': 4,
    'amf_hidden': 4,
    'kernel_channels': (4, 4),
    'depth_channels': (4, 4),
    'lr_channels': (8, 8),
    'lr_blocks': 1,
    'map_features': 4,
    'lr_features': 4,
  },
}

_COMPACT: dict[str, Fields] = {
  'depth': {'resolution': (128, 128)},
  'dkenet': {'features': 40, 'depth_features': 16},
  'nbsr': {'blocks': 4, 'features': 48, 'growth': 16, 'global_skip': True},
  # Eight latent channels: with four, reconstructions of held-out photos stayed near bicubic's PSNR.
  'vae': {
    'channels': (48, 96),
    'latent_channels': 8,
    'encoder_blocks': 1,
    'decoder_blocks': 2,
    'groups': 8,
    'mid_attention': False,
    'patch': 2,
    'shortcut': True,
  },
  'unet': {
    'channels': (32, 64, 128),
    'latent_channels': 8,
    'blocks': 1,
    'attention': (False, False, False),
    'head_dim': 32,
    'cross_attention_dim': None,
    'groups': 8,
    'amf_hidden': 32,
    'kernel_channels': (16, 24, 32),
    'depth_channels': (16, 24, 32),
    'lr_channels': (24, 48, 96),
    'lr_blocks': 1,
    'map_features': 32,
    'lr_features': 32,
  },
}


def _full(heads: int | tuple[int, ...], cross_attention_dim: int) -> dict[str, Fields]:
  """The paper's size, on a Stable Diffusion with these attention heads and this width of its text."""
  return {
    'depth': {'family': 'dpt'},  # the defaults are DPT-Large's
    'dkenet': {'features': 128, 'depth_features': 64},
    'nbsr': {'blocks': 10, 'features': 64, 'growth': 32},
    'vae': {
      'channels': (128, 256, 512, 512),
      'latent_channels': 4,
      'encoder_blocks': 2,
      'decoder_blocks': 3,
      'groups': 32,
      'scaling_factor': 0.18215,
    },
    'unet': {
      'channels': (320, 640, 1280, 1280),
      'blocks': 2,
      'attention': (True, True, True, False),
      'prompt_tokens': 77,
      'groups': 32,
      'amf_hidden': 128,
      'kernel_channels': (64, 64, 128, 128),
      'depth_channels': (64, 64, 128, 128),
      'lr_channels': (256, 256, 512, 512),
      'lr_blocks': 2,
      'map_features': 64,
      'lr_features': 256,
      'heads': heads,
      'cross_attention_dim': cross_attention_dim,
    },
  }


SIZES: dict[str, dict[str, Fields]] = {
  'tiny': _TINY,  # for tests
  'compact': _COMPACT,
  'sd21': _full((5, 10, 20, 20), 1024),
  'sd15': _full(8, 768),
}
"""{size: {part: fields}}; a student is the UNet again."""
