"""The sizes that RRDBNet comes in: plain values, read by `ssr info`."""

from typing import Any

SIZES: dict[str, dict[str, dict[str, Any]]] = {
  # For tests.
  'tiny': {'restorer': {'blocks': 2, 'features': 8, 'growth': 4}},
  # Real-ESRGAN's for drawings, x4plus_anime_6B.
  'anime': {'restorer': {'blocks': 6}},
  # ESRGAN's and Real-ESRGAN's x4plus.
  'full': {'restorer': {}},
}
"""{size: {part: fields}}; what is left out is the module's own."""
