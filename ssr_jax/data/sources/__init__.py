"""Sources: random access to records of images, decoded on demand. `from_spec` opens the source that a spec names.

The syntax of a spec is in `ssr_jax.data.sources.spec`; there is one file for each kind of source.
"""

from ssr_jax.data.sources.array_record import ArrayRecord
from ssr_jax.data.sources.base import Cached, Groups, Joined, Record, Source, Subset, split
from ssr_jax.data.sources.decode import BadRecord, decode_depth, decode_image, pair_scale
from ssr_jax.data.sources.files import DEPTH_SUFFIXES, image_suffixes
from ssr_jax.data.sources.folder import Folder
from ssr_jax.data.sources.paired import Paired
from ssr_jax.data.sources.rgbd import RGBD
from ssr_jax.data.sources.spec import KINDS, from_spec

__all__ = [
  'DEPTH_SUFFIXES',
  'KINDS',
  'RGBD',
  'ArrayRecord',
  'BadRecord',
  'Cached',
  'Folder',
  'Groups',
  'Joined',
  'Paired',
  'Record',
  'Source',
  'Subset',
  'decode_depth',
  'decode_image',
  'from_spec',
  'image_suffixes',
  'pair_scale',
  'split',
]
