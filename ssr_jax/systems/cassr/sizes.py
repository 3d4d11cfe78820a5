"""The sizes that CasSR's networks come in: plain values, read by the configs and by `ssr info`.

The autoencoder and the networks of SVKR, which make the reference image, have the sizes that SSR's have.
"""

from typing import Any

from ssr_jax.systems.ssr.sizes import SIZES as SSR_SIZES

Fields = dict[str, Any]


def _size(of_ssr: str, trunk: Fields, prior: Fields, steering: Fields) -> dict[str, Fields]:
  """A prior and what steers it, with a trunk in common; and the parts that are SSR's, of that size of SSR."""
  alone = {'controls': ('lr',), 'multiple_attention': False}  # a plain ControlNet
  return {
    **{part: SSR_SIZES[of_ssr][part] for part in ('depth', 'dkenet', 'nbsr', 'vae')},
    'prior': {**trunk, **prior},
    'activation': {**trunk, **steering, **alone},
    'cassr': {**trunk, **steering, 'controls': ('lr', 'reference'), 'multiple_attention': True},
  }


_LEARNED: Fields = {'tokens': 1, 'learned': True}

SIZES: dict[str, dict[str, Fields]] = {
  # For tests.
  'tiny': _size(
    'tiny',
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
  ),
  # On the autoencoder of SSR's compact model. Its windows are what a patch of 128 pixels has at these levels.
  'compact': _size(
    'compact',
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
  ),
  # The paper's, on Stable Diffusion 1.5.
  'full': _size(
    'sd15',
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
  ),
}
"""{size: {part: fields}}; what is left out is the module's own."""
