"""ICC profiles made by the tests."""

import struct

import numpy as np

P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_D65, _D50 = np.array([0.95047, 1, 1.08883]), np.array([0.9642, 1, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

GAMMA = struct.pack('>4s4xIH2x', b'curv', 1, 563)  # 563 / 256, of Adobe RGB
LINEAR = struct.pack('>4s4xI', b'curv', 0)
SRGB_CURVE = struct.pack(
  '>4s4xH2x5i', b'para', 3, *[round(65536 * x) for x in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)]
)
PARAMETERS = struct.pack('>4s4xH2x7i', b'para', 4, *[round(65536 * x) for x in (2.2, 0.9, 0.1, 0.25, 0.1, 0.0, 0.0)])
TABLE = struct.pack('>4s4xI', b'curv', 9) + np.rint(65535 * np.linspace(0, 1, 9) ** 1.8).astype('>u2').tobytes()


def primaries(chromaticities):
  """[3, 3]: to XYZ at D50 from linear values, with white at D65 moved there by Bradford's method."""
  columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in chromaticities]).T
  columns = columns * np.linalg.solve(columns, _D65)
  adapt = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ _D50) / (_BRADFORD @ _D65)) @ _BRADFORD
  return adapt @ columns


def profile(chromaticities=P3, curve=SRGB_CURVE, more=()):
  """A display profile of three primaries and one tone curve."""
  xyz = lambda v: struct.pack('>4s4x3i', b'XYZ ', *[round(65536 * x) for x in v])
  text = lambda kind, words: struct.pack(f'>4s4xI{len(words) + 1}s', kind, len(words) + 1, words)
  tags = {b'desc': text(b'desc', b'made by a test') + bytes(78), b'wtpt': xyz(_D50)}
  tags[b'cprt'] = b'text' + bytes(4) + b'none\0'
  for letter, column in zip((b'r', b'g', b'b'), primaries(chromaticities).T, strict=True):
    tags[letter + b'XYZ'], tags[letter + b'TRC'] = xyz(column), curve
  tags |= dict(more)
  head, body, at = b'', b'', 128 + 4 + 12 * len(tags)
  for name, content in tags.items():
    content += bytes(-len(content) % 4)
    head, body, at = head + struct.pack('>4sII', name, at, len(content)), body + content, at + len(content)
  header = struct.pack(
    '>I4xI4s4s4s12x4s28x3i48x', at, 0x02400000, b'mntr', b'RGB ', b'XYZ ', b'acsp', 63190, 65536, 54061
  )
  return header[:128] + struct.pack('>I', len(tags)) + head + body
