"""Loading and running models: size buckets, tiles, compiled programs."""

from ssr_jax.runtime.restorer import MAX_PIXELS, OVERLAP, PROGRAMS, TILE, Restorer, Result, bucket, load, sample

__all__ = ['MAX_PIXELS', 'OVERLAP', 'PROGRAMS', 'TILE', 'Restorer', 'Result', 'bucket', 'load', 'sample']
