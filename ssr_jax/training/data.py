"""The data of a run: training batches, and batches of held-out photos."""

import dataclasses
from typing import Any

from ssr_jax.data import loader, records, sources
from ssr_jax.systems.base import Stage
from ssr_jax.training import resume, sharding

_HELD_BATCH = 8  # held-out patches per batch
_SCENES = 64  # held-out scenes of a stage that trains on scenes only
_EPOCH = 16  # scenes per photo in an epoch of scenes


@dataclasses.dataclass(frozen=True)
class Data:
  """The data of a run.

  Attributes:
    photos: the training photos.
    fingerprint: of all photos, from `resume.fingerprint`.
    batches: training batches, this process's shard of each.
    held: batches of held-out photos, the same in every run.
  """

  photos: sources.Source
  fingerprint: dict[str, Any]
  batches: loader.Dataset
  held: list[loader.Batch]

  @property
  def first(self) -> loader.Batch:
    """The whole first batch, on every process."""
    return dataclasses.replace(self.batches, process_index=0, process_count=1)[0]

  def name(self, record: int) -> str:
    """Name of the source of a batch's record."""
    source = self.batches.source
    return source.name(record) if isinstance(source, sources.Source) else f'scene {record}'


def read(config: Any, stage: Stage, mesh: sharding.Mesh) -> Data:
  """Opens `config.data.train` for a stage.

  If the source has no depth, rendered scenes supply it: all records of a stage that needs depth, a share
  `config.data.scenes` of one that uses it.
  """
  settings = config.data
  optional = stage.optional + (() if stage.depth == 'none' else ('depth',))
  everything = sources.from_spec(settings.train, ('hr',), optional)
  rendered = {'needs': 1.0, 'uses': settings.scenes, 'none': 0.0}[stage.depth] * ('depth' not in everything.keys)
  photos, held_photos = sources.split(everything, settings.holdout)
  held_photos = held_photos if len(held_photos) else photos
  cache = settings.cache_mb << 20
  drawn = settings.patch, settings.shrink, settings.places
  record, held_record = records.photo_record(*drawn), records.photo_record(settings.patch)
  source, held_source = photos, held_photos
  if rendered:
    # A scene draws its own photos, so each worker process caches those that it drew.
    textures = [sources.Cached(p, cache // max(1, settings.workers)) for p in (photos, held_photos)]
    record, held_record = (records.scene_record(p, settings.patch, settings.patch) for p in textures)
    if rendered < 1:
      record = records.partly(rendered, record, *drawn)
      held_record = records.partly(rendered, held_record, settings.patch)
    else:
      source, held_source = range(len(photos) * _EPOCH), range(_SCENES)
  options = dict(max_bad_records=settings.max_bad_records, cache_bytes=cache)
  index, count = sharding.host_shard(mesh)
  batches = loader.dataset(
    source,
    record,
    config.train.batch_size,
    config.train.seed,
    process_index=index,
    process_count=count,
    **options,
  )
  # Held-out crops and their degradation do not depend on the run's seed.
  held_out = loader.dataset(held_source, held_record, _HELD_BATCH, seed=0, **options)
  held = [held_out[i] for i in range(config.train.validation_batches)]
  for batch in held:
    del batch['record']
  return Data(photos, resume.fingerprint(everything), batches, held)
