"""The sizes that MCFormer comes in: plain values, read by the configs and by `ssr info`."""

from typing import Any

SIZES: dict[str, dict[str, dict[str, Any]]] = {
  # For tests.
  'tiny': {
    'mcformer': {
      'features': 4,
      'blocks': (1, 0, 0, 1),
      'heads': (1, 1, 2, 2),
      'refinement': 0,
      'stem': 2,
      'skip': False,
      'modulate': 'both',
    },
  },
  'compact': {
    'mcformer': {
      'features': 32,
      'blocks': (1, 1, 2, 2),
      'heads': (1, 2, 4, 8),
      'refinement': 1,
      'stem': 2,
      'skip': False,
      'modulate': 'both',
    },
  },
  # The paper's, whose fixed variance (Eq. 3) needs one image; the released weights return a second one.
  'full': {'mcformer': {'modulate': 'both'}},
  'released': {'mcformer': {'variance': 'learned'}},
}
"""{size: {part: fields}}; what is left out is the module's own."""
