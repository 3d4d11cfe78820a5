"""What a model finds in a photo besides a larger image: blur, depth, and how noisy it is.

The photo runs in bands of rows; of its kernels, 1.8 kB a pixel, only some are kept.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from ssr_jax.image import kernels as kernel_lib
from ssr_jax.image import noise
from ssr_jax.runtime import inputs
from ssr_jax.runtime.restorer import TILE, Restorer
from ssr_jax.types import ArrayLike, Float, SSRError

_VIEW = 192
"""Rows and columns of kernels that are kept for a picture, at most."""


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What was found in a photo of h x w pixels.

  Attributes:
    scale: pixels of the result, and so kernel taps, per pixel of the photo.
    blur: [h, w, 3] float32: standard deviation of the blur along its longest axis and across it, in pixels of the
      photo, and the angle of the longest axis in degrees from the x axis towards the y axis (down), in [0, 180).
    depth: [h, w] float32, relative inverse depth in [0, 1] with 1 nearest; None where the system estimates none.
    noise: [3] float32, standard deviation in each channel, of 1; see `image.noise.noise_level`.
    kernels: {(x, y): [k, k]} of the points that were asked for.
    field: [h', w', k*k], the kernels of every n-th pixel, at most 192 x 192.
  """

  scale: int
  blur: np.ndarray
  depth: np.ndarray | None
  noise: np.ndarray
  kernels: Mapping[tuple[int, int], np.ndarray]
  field: np.ndarray

  def spread(self, x: int, y: int) -> float:
    """Standard deviation of the blur at a pixel, in pixels of the photo, the mean variance over all directions."""
    return float(spread(self.blur[y, x]))


def spread(blur: Float[np.ndarray, '*shape 3']) -> Float[np.ndarray, '*shape']:
  """Standard deviation over all directions, [...], of `Inspection.blur`, [..., 3]."""
  return np.asarray(np.sqrt((blur[..., 0] ** 2 + blur[..., 1] ** 2) / 2))


def blur_of(kernels: Float[ArrayLike, '*shape taps'], scale: int) -> Float[np.ndarray, '*shape 3']:
  """Extent and direction of blur kernels, as of `Inspection.blur`.

  Args:
    kernels: [..., k*k], each summing to one.
    scale: s.

  Returns:
    [..., 3] float32.

  >>> along, across, angle = blur_of(kernel_lib.gaussian_kernels(9.0, 4.0, 0.0, size=31), scale=4)
  >>> round(float(along), 2), round(float(across), 2), round(float(angle))  # 3 and 2 pixels of the large image
  (0.75, 0.5, 0)
  """
  covariance = np.asarray(kernel_lib.moments(kernels, scale)[1])
  yy, xx, xy = covariance[..., 0, 0], covariance[..., 1, 1], covariance[..., 0, 1]
  middle, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
  deviations = (np.sqrt(np.maximum(middle + sign * half, 0)) / scale for sign in (1, -1))
  angle = np.rad2deg(np.arctan2(2 * xy, xx - yy) / 2) % 180
  return np.stack([*deviations, angle], -1).astype(np.float32)


def inspect(
  model: Restorer,
  lr: Any,
  *,
  at: Sequence[tuple[int, int]] = (),
  tile: int = TILE,
  progress: Callable[[int, int], None] | None = None,
) -> Inspection:
  """Finds blur, depth and noise of a photo, without making a larger image where the system can do so.

  Args:
    model: of `load`.
    lr: one image, as of `Restorer.sample`.
    at: (x, y) of the pixels whose kernels are wanted.
    tile: as of `Restorer.sample`; so is progress.
    progress: called after each tile.

  Raises:
    SSRError: a system without kernels, a point outside the photo, or what `Restorer.sample` refuses.
  """
  kernels = inputs.kernels(model.system, model.config, 'inspect')
  depth = inputs.first(model.system, 'depth')
  images = inputs.Images(lr, None)
  if not images.single:
    raise SSRError('inspect: takes one image, not a batch')
  rows = images.rows[0]
  h, w, _ = rows.shape
  for x, y in at:
    if not (0 <= x < w and 0 <= y < h):
      raise SSRError(f'point {x},{y}: outside the photo, whose pixels go from 0,0 to {w - 1},{h - 1}')
  native, step = model.config['scale'], -(-max(h, w) // _VIEW)
  found: dict[str, list[np.ndarray]] = {'blur': [], 'depth': [], 'field': []}
  points, top = {}, 0
  # At scale 1 the depth comes at the size of the photo.
  options = {'scale': 1, 'tile': tile, 'keep_kernels': True, 'progress': progress, **model.system.estimating}
  for band in model.stream(rows, **options):
    if depth in band:
      found['depth'].append(band[depth][..., 0])
    if kernels not in band:
      continue
    some = band[kernels]
    found['blur'].append(blur_of(some, native))
    found['field'].append(some[-top % step :: step, ::step].copy())
    k = kernel_lib.side(some)
    points |= {(x, y): some[y - top, x].reshape(k, k).copy() for x, y in at if top <= y < top + len(some)}
    top += len(some)
  whole = {name: np.concatenate(parts) if parts else None for name, parts in found.items()}
  assert whole['blur'] is not None and whole['field'] is not None
  level = noise.noise_level(rows)
  return Inspection(native, whole['blur'], whole['depth'], level, points, whole['field'])
