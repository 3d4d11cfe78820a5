"""The sizes that the toy's network comes in: plain values, read by the config and by `ssr info`."""

SIZES = {'small': {'residual': {'features': 8}}}
"""{size: {part: fields}}."""
