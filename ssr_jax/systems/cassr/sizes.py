"""The sizes that CasSR's networks come in: plain values, read by the configs and by `ssr info`.

The autoencoder and the networks of SVKR, which make the reference image, have the sizes that SSR's have.
"""

from typing import Any

Fields = dict[str, Any]


def _size(trunk: Fields, prior: Fields, steering: Fields, **of_ssr: Fields) -> dict[str, Fields]:
  """A prior and what steers it, with a trunk in common; and the parts that are SSR's."""
  alone = {'controls': ('lr',), 'multiple_attention': False}  # a plain ControlNet
  return {
    **of_ssr,
    'prior': {**trunk, **prior},
    'activation': {**trunk, **steering, **alone},
    'cassr': {**trunk, **steering, 'controls': ('lr', 'reference'), 'multiple_attention': True},
  }


_LEARNED: Fields = {'tokens': 1, 'learned': True}

SIZES: dict[str, dict[str, Fields]] = {
  # For tests.
  'tiny': _size(
    {
      'channels': (8, 8),
      'blocks': 1,
      'attention': (False, True),
      'heads': None,
      'head_dim': 4,
      'groups': 4,
      'cross_attention_dim': 4,
      'window': (0, 8),
    },
    _LEARNED,
    {'hint': 'latent'},
    depth={'resolution': (32, 32), 'widths': (8, 8, 8, 8, 8), 'group': 4, 'heads': 2},
    dkenet={'features': 4, 'depth_features': 4},
    nbsr={'blocks': 1, 'features': 8, 'growth': 4, 'global_skip': True},
    vae={
      'channels': (8, 8),
      'latent_channels': 4,
      'encoder_blocks': 1,
      'decoder_blocks': 1,
      'groups': 4,
      'mid_attention': False,
      'patch': 2,
      'shortcut': True,
    },
  ),
  # On the autoencoder of SSR's compact model. Its windows are what a patch of 128 pixels has at these levels.
  'compact': _size(
    {
      'channels': (32, 64, 96),
      'latent_channels': 8,
      'blocks': 1,
      'attention': (False, True, True),
      'heads': None,
      'head_dim': 32,
      'groups': 8,
      'cross_attention_dim': 32,
      'window': (0, 16, 8),
    },
    _LEARNED,
    {'hint': 'latent'},
    depth={'resolution': (128, 128)},
    dkenet={'features': 40, 'depth_features': 16},
    nbsr={'blocks': 4, 'features': 48, 'growth': 16, 'global_skip': True},
    vae={
      'channels': (48, 96),
      'latent_channels': 8,
      'encoder_blocks': 1,
      'decoder_blocks': 2,
      'groups': 8,
      'mid_attention': False,
      'patch': 2,
      'shortcut': True,
    },
  ),
  # The paper's, on Stable Diffusion 1.5.
  'full': _size(
    {
      'channels': (320, 640, 1280, 1280),
      'latent_channels': 4,
      'blocks': 2,
      'attention': (True, True, True, False),
      'heads': 8,
      'groups': 32,
      'cross_attention_dim': 768,
    },
    {'tokens': 77, 'learned': False},
    {'hint': 'pixels', 'hint_channels': (16, 32, 96, 256)},
    depth={'family': 'dpt'},
    dkenet={'features': 128, 'depth_features': 64},
    nbsr={'blocks': 10, 'features': 64, 'growth': 32},
    vae={
      'channels': (128, 256, 512, 512),
      'latent_channels': 4,
      'encoder_blocks': 2,
      'decoder_blocks': 3,
      'groups': 32,
      'scaling_factor': 0.18215,
    },
  ),
}
"""{size: {part: fields}}; what is left out is the module's own."""
