"""Training records: patches of photos and rendered scenes, from a source's record and a random generator.

Each function returns a record function (whole record, rng) -> training record, for `ssr_jax.data.loader.dataset`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ssr_jax.data import scenes, sources
from ssr_jax.types import SSRError

TrainingRecord = dict[str, Any]
"""Arrays and numbers of fixed shapes by name; the loader stacks those of a batch."""

RecordFunction = Callable[[Any, np.random.Generator], TrainingRecord]

_MIN_RELIEF = 0.02  # range of relative inverse depth that a patch should have: flat patches teach a depth net nothing
_TRIES = 4  # draws of a place before a flat patch is accepted
_MIN_TEXTURE = 24  # smallest side of a photo that textures a scene, in pixels
_TEXTURES = 6  # photos in a scene


def photo_record(patch: int, shrink: tuple[float, float] = (1.0, 1.0), places: int = 1) -> RecordFunction:
  """Records of the stages that train on photos: a random patch with a random flip and rotation.

  A record has 'hr' uint8 [patch, patch, 3] and 'seed' uint32, from which the device draws the degradation. Where the
  source has them also 'lr' uint8 [patch/s, patch/s, 3], 'taught' uint8 [patch, patch, 3] and 'depth' float32
  [patch, patch], which stays relative to the whole photo. A record with depth is only mirrored left-right.

  Args:
    patch: side of the HR patch in pixels.
    shrink: the photo is reduced by a factor drawn uniformly from this range, but not below the size of a patch; (1, 1)
      leaves it as it is. Reduced photos are sharp and free of noise and JPEG blocks, which an adversarial loss would
      otherwise teach the network to produce.
    places: how many places are drawn, of which the one with the most detail (mean absolute gradient) is taken: photos
      have large smooth and out-of-focus areas that teach a network little.

  Raises:
    SSRError: places is not positive; shrink is not such a range; when a record is read, shrink is not (1, 1) although
      the source has LR images, or patch is not a multiple of their scale.
    BadRecord: when a record is read, the photo is smaller than the patch.
  """
  low, high = shrink
  if not 0 < low <= high <= 1:
    raise SSRError(f'data.shrink={shrink}: must be two factors above 0 and up to 1, the smaller first; (1, 1) is none')

  if places < 1:
    raise SSRError(f'data.places={places}: must be 1 or more')

  def record(whole: sources.Record, rng: np.random.Generator) -> TrainingRecord:
    side = patch
    if low < 1:
      if 'lr' in whole:
        raise SSRError(f'data.shrink={shrink}: not for pairs, because it would change their scale; set it to (1, 1)')
      smallest = min(whole['hr'].shape[:2])
      least = min(patch / smallest, 1)
      side = max(patch, min(round(patch / rng.uniform(max(low, least), max(high, least))), smallest))
    crops = _crop(whole, side, rng, places)
    if side != patch:
      crops = {name: _resize(crop, patch) for name, crop in crops.items()}
    patches = {name: np.ascontiguousarray(crop) for name, crop in crops.items()}
    return patches | {'seed': rng.integers(2**32, dtype=np.uint32)}

  return record


def _crop(record: sources.Record, side: int, rng: np.random.Generator, places: int) -> sources.Record:
  """Takes the same random square, flip and rotation from every image of a record; `side` is in HR pixels.

  A record with depth is only mirrored left-right, because which way is down is the strongest cue for depth.
  """
  H, W, _ = record['hr'].shape
  if min(H, W) < side:
    raise sources.BadRecord(
      f'a training image is {H}x{W}, smaller than data.patch={side}; remove it or lower data.patch'
    )
  scale = H // record['lr'].shape[0] if 'lr' in record else 1
  if side % scale:
    raise SSRError(f'data.patch={side} is not a multiple of {scale}, the scale of the LR images; change it')

  def draw() -> tuple[int, int]:
    y = x = 0
    for _ in range(_TRIES):
      y, x = (scale * int(rng.integers((length - side) // scale + 1)) for length in (H, W))
      if 'depth' not in record or np.ptp(record['depth'][y : y + side, x : x + side]) >= _MIN_RELIEF:
        break
    return y, x

  drawn = [draw() for _ in range(places)]
  y, x = drawn[0] if places == 1 else max(drawn, key=lambda at: _detail(record['hr'], *at, side))
  turns = 0 if 'depth' in record else int(rng.integers(4))
  mirror = rng.integers(2)
  crops = {}
  for name, image in record.items():
    factor = scale if name == 'lr' else 1
    top, left, length = y // factor, x // factor, side // factor
    crop = np.rot90(image[top : top + length, left : left + length], turns)
    crops[name] = crop[:, ::-1] if mirror else crop
  return crops


def _detail(image: np.ndarray, y: int, x: int, side: int) -> float:
  """Mean absolute difference of neighbouring pixels of green in a square, to right and down."""
  green = image[y : y + side, x : x + side, 1].astype(np.int16)
  return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())


def _resize(image: np.ndarray, side: int) -> np.ndarray:
  """Resizes a square image, uint8 [s, s, 3] by Lanczos; a depth map, float32 [s, s], by the mean of each area."""
  method = Image.Resampling.BOX if image.ndim == 2 else Image.Resampling.LANCZOS
  return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((side, side), method))


def scene_record(photos: sources.Source, height: int, width: int) -> RecordFunction:
  """Records of the depth stage: rendered scenes with the photos of a source as textures.

  A record has 'hr' uint8 [H, W, 3], 'depth' float32 [H, W], inverse depth, and 'seed' uint32. The whole record that the
  function is given is ignored: a scene draws its photos itself, by the weights of the source where it has some.

  Args:
    photos: source of the textures.
    height: H, of the scene in pixels.
    width: W, of the scene in pixels.

  Raises:
    BadRecord: when a record is made, a photo is damaged or smaller than 24x24.
  """
  groups = photos.groups()
  shares = None
  if groups is not None:
    shares = np.divide([weight for weight, _ in groups], sum(weight for weight, _ in groups))

  def record(unused: Any, rng: np.random.Generator) -> TrainingRecord:
    del unused
    if groups is None:
      chosen = [int(i) for i in rng.integers(len(photos), size=_TEXTURES)]
    else:
      chosen = [int(rng.choice(groups[k][1])) for k in rng.choice(len(groups), size=_TEXTURES, p=shares)]
    textures = [photos[i]['hr'] for i in chosen]
    for i, photo in zip(chosen, textures, strict=True):
      if min(photo.shape[:2]) < _MIN_TEXTURE:
        size = f'{photo.shape[0]}x{photo.shape[1]}'
        raise sources.BadRecord(f'{photos.name(i)}: {size}, too small for a texture; remove it or use larger ones')
    image, depth = scenes.render_scene(rng, textures, height, width)
    return {
      'hr': np.round(image * 255).astype(np.uint8),
      'depth': depth.astype(np.float32),
      'seed': rng.integers(2**32, dtype=np.uint32),
    }

  return record


def partly(
  share: float,
  scene: RecordFunction | None,
  patch: int,
  shrink: tuple[float, float] = (1.0, 1.0),
  places: int = 1,
) -> RecordFunction:
  """Records that are a rendered scene with some probability, and otherwise a patch of a photo.

  A record has 'hr' and 'seed', 'has_depth' bool, which is True for a scene, and 'depth', which is 0 for a photo.

  Args:
    share: probability of a scene.
    scene: makes a scene, see `scene_record`; may be None where share is 0.
    patch: side of the patch, and of the scenes.
    shrink: see `photo_record`.
    places: see `photo_record`.
  """
  photo = photo_record(patch, shrink, places)

  def record(whole: sources.Record, rng: np.random.Generator) -> TrainingRecord:
    if rng.random() < share:
      assert scene is not None
      return scene(None, rng) | {'has_depth': np.bool_(True)}
    return photo(whole, rng) | {'depth': np.zeros((patch, patch), np.float32), 'has_depth': np.bool_(False)}

  return record
