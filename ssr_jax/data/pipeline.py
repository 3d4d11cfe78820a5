"""Training batches with grain: random access, one generator per record, so record i is the same bytes on any machine."""

from typing import Any, Callable, Iterator, Sequence

import grain
import numpy as np

from ssr_jax.data import scenes
from ssr_jax.types import SSRError

Batch = dict[str, np.ndarray]


def crop_patch(image: np.ndarray, patch: int, rng: np.random.Generator) -> np.ndarray:
  """A random patch with a random one of the eight flips and rotations: [H, W, 3] -> [patch, patch, 3]."""
  H, W, _ = image.shape
  if min(H, W) < patch:
    raise SSRError(f'a training image is {H}x{W}, smaller than data.patch={patch}; remove it or lower data.patch')
  y, x = rng.integers(H - patch + 1), rng.integers(W - patch + 1)
  crop = image[y : y + patch, x : x + patch]
  crop = np.rot90(crop, rng.integers(4))
  return crop[:, ::-1] if rng.integers(2) else crop


def photo_record(patch: int) -> Callable[[np.ndarray, np.random.Generator], Batch]:
  """Record of the photo stages: 'hr' uint8 [patch, patch, 3] and 'seed' uint32, from which the device draws."""

  def record(image: np.ndarray, rng: np.random.Generator) -> Batch:
    return {
        'hr': np.ascontiguousarray(crop_patch(image, patch, rng)),
        'seed': rng.integers(2**32, dtype=np.uint32),
    }

  return record


def scene_record(photos: Sequence[np.ndarray], height: int, width: int) -> Callable[[Any, np.random.Generator], Batch]:
  """Record of the depth stage: a rendered scene 'hr' uint8 [H, W, 3], its inverse 'depth' [H, W], and 'seed'."""

  def record(unused, rng: np.random.Generator) -> Batch:
    del unused
    textures = [photos[i] for i in rng.integers(len(photos), size=6)]
    image, depth = scenes.render_scene(rng, textures, height, width)
    return {
        'hr': np.round(image * 255).astype(np.uint8),
        'depth': depth.astype(np.float32),
        'seed': rng.integers(2**32, dtype=np.uint32),
    }

  return record


def dataset(source: Sequence[Any], record: Callable, batch_size: int, seed: int) -> grain.MapDataset:
  """An endless dataset of batches, shuffled anew each epoch; batch i is a function of (source, seed, i) alone."""
  data = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(record)
  return data.batch(batch_size)


def batches(data: grain.MapDataset, start: int = 0, threads: int = 2, prefetch: int = 4) -> Iterator[Batch]:
  """Iterates from batch `start` on, read ahead by threads; the order does not depend on their number."""
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
  return iter(data[start:].to_iter_dataset(options))
