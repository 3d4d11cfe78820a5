"""Loading and running models: size buckets, tiles, compiled programs."""

from ssr_jax.runtime.bands import OVERLAP, Feed, View, bucket
from ssr_jax.runtime.restorer import PROGRAMS, TILE, Restorer, load, sample
from ssr_jax.runtime.result import Result

__all__ = ['OVERLAP', 'PROGRAMS', 'TILE', 'Feed', 'Restorer', 'Result', 'View', 'bucket', 'load', 'sample']
