"""Loading and running models: size buckets, tiles, compiled programs."""

from ssr_jax.runtime.bands import OVERLAP, Feed, bucket
from ssr_jax.runtime.restorer import PROGRAMS, TILE, Restorer, Result, load, sample

__all__ = ['OVERLAP', 'PROGRAMS', 'TILE', 'Feed', 'Restorer', 'Result', 'bucket', 'load', 'sample']
