"""What of a result was found in the photo, and what was invented.

Two things are measured, both in units of the restored image's local contrast: how far the result departs from the
restored image, which is what diffusion made; and how far the result, degraded with the estimated kernels as Eq. 1 says,
departs from the photo, beyond the photo's noise. The measures are on luma and at the photo's size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np
from scipy import ndimage

from ssr_jax import xla
from ssr_jax.image import blur, colour, noise
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.runtime.bands import Band
from ssr_jax.systems.base import Output
from ssr_jax.types import ArrayLike, Float

CHANNELS = ('change', 'residual', 'invented')
"""What a map holds.

  change     result against restored image, root mean square over the local contrast; 1 is as strong as the image there
  residual   photo against the degraded result, likewise; the variance of the photo's noise is subtracted
  invented   (change^2 + residual^2) / (1 + change^2 + residual^2): 0 is found, 1/2 as much invented as found
"""
OUTPUT = 'trust'
"""Name of the map among the outputs of a result."""

_AROUND = 2.0  # LR pixels, standard deviation of what counts as local
_FAINT = 2 / 255  # added to the contrast: what nobody sees is not divided by
_BLOCK = 64  # LR pixels, side of what is degraded at once, so that one program serves every size


def share(found: Float[np.ndarray, 'h w 3']) -> float:
  """The one number of an image: the mean of the share that was invented, in [0, 1].

  Args:
    found: [h, w, 3], of `trust_map`.
  """
  return float(np.mean(found[..., CHANNELS.index('invented')]))


def trust_map(
  photo: Float[np.ndarray, 'h w 3'],
  restored: Float[np.ndarray, 'H W 3'] | None,
  image: Float[np.ndarray, 'H W 3'],
  kernels: Float[ArrayLike, 'h w taps'],
  noise: float = 0.0,
) -> Float[np.ndarray, 'h w 3']:
  """Where a result shows what the photo and its kernels say, and where something else.

  Args:
    photo: [h, w, 3] in [0, 1].
    restored: [H, W, 3] in [0, 1], the image before diffusion; None counts no change.
    image: [H, W, 3] in [0, 1], the result; H = s*h, W = s*w.
    kernels: [h, w, k*k], estimated for the photo, each summing to one, as `image.blur.blur_downsample` takes them.
    noise: standard deviation of the photo's noise in luma.

  Returns:
    [h, w, 3] float32, `CHANNELS`.
  """
  planes = _planes(colour.luma(photo), None if restored is None else colour.luma(restored), colour.luma(image), kernels)
  return _of_planes(planes, noise)


def _planes(
  photo: Float[np.ndarray, 'n w'],
  restored: Float[np.ndarray, 'rows W'] | None,
  image: Float[np.ndarray, 'rows W'],
  kernels: Float[ArrayLike, 'n w taps'],
  above: int = 0,
  below: int = 0,
) -> Float[np.ndarray, 'n w 4']:
  """[n, w, 4], at each pixel of the photo: restored, its square, squares of change and of residual.

  Args:
    photo: [n, w] luma.
    restored: luma, as `image`.
    image: [s*(above + n + below), s*w] luma.
    kernels: [n, w, k*k].
    above: LR rows of the images above these rows, 0 at the image's top.
    below: the same below.
  """
  n, w = photo.shape
  scale = image.shape[1] // w
  restored = image if restored is None else restored
  inside = np.s_[scale * above : scale * (above + n)]
  cells = lambda x: x[inside].reshape(n, scale, w, scale).mean((1, 3))
  change = cells((image - restored) ** 2)
  residual = (photo - degraded(image, kernels, above, below)) ** 2
  return np.stack([cells(restored), cells(restored**2), change, residual], -1).astype(np.float32)


def _of_planes(planes: Float[np.ndarray, 'h w 4'], noise: float) -> Float[np.ndarray, 'h w 3']:
  around = ndimage.gaussian_filter(planes, _AROUND, mode='nearest', axes=(0, 1))
  mean, square, change, residual = np.moveaxis(around, -1, 0)
  unit = np.sqrt(np.maximum(square - mean**2, 0)) + _FAINT
  change, residual = np.sqrt(np.maximum(change, 0)) / unit, np.sqrt(np.maximum(residual - noise**2, 0)) / unit
  strength = change**2 + residual**2
  return np.stack([change, residual, strength / (1 + strength)], -1).astype(np.float32)


def degraded(
  image: Float[np.ndarray, 'rows W'], kernels: Float[ArrayLike, 'n w taps'], above: int = 0, below: int = 0
) -> Float[np.ndarray, 'n w']:
  """`image.blur.blur_downsample` of a plane, block by block: memory and compiled programs do not depend on its size.

  Args:
    image: [s*(above + n + below), s*w].
    kernels: [n, w, k*k].
    above: LR rows of `image` above those of `kernels`.
    below: the same below.

  Returns:
    [n, w].
  """
  n, w, _ = kernels.shape
  scale = image.shape[1] // w
  reach = reach_of(kernels, scale)
  rows, columns = (-(-side // _BLOCK) * _BLOCK for side in (n, w))
  spare = [(reach - min(above, reach), reach - min(below, reach) + rows - n), (reach, reach + columns - w)]
  image = image[scale * max(above - reach, 0) : len(image) - scale * max(below - reach, 0)]
  image = np.pad(image, [(scale * a, scale * b) for a, b in spare], mode='edge')
  out = np.empty((n, w), np.float32)
  for y in range(0, n, _BLOCK):
    for x in range(0, w, _BLOCK):
      some = np.asarray(kernels[y : y + _BLOCK, x : x + _BLOCK])
      h, v, _ = some.shape
      side = _BLOCK + 2 * reach
      some = np.pad(some, ((reach, side - reach - h), (reach, side - reach - v), (0, 0)))
      piece = image[scale * y : scale * (y + side), scale * x : scale * (x + side)]
      found = _blur_downsample()(piece[None, ..., None], some[None], scale=scale)
      out[y : y + h, x : x + v] = np.asarray(found)[0, reach : reach + h, reach : reach + v, 0]
  return out


def reach_of(kernels: Float[ArrayLike, '*shape taps'], scale: int) -> int:
  """LR pixels that kernels of a stride look at beside their own, on each side."""
  return -(-(kernel_lib.side(kernels) // 2) // scale)


@functools.cache
def _blur_downsample():
  return xla.jit(blur.blur_downsample, static_argnames=('scale',))


class _Luma:
  """Luma of rows, as one channel."""

  def __init__(self, rows: Any):
    self._rows, self.shape, self.dtype = rows, (*rows.shape[:2], 1), np.dtype(np.float32)

  def __getitem__(self, rows: slice) -> np.ndarray:
    return colour.luma(self._rows[rows])[..., None]


@dataclasses.dataclass(frozen=True)
class Names:
  """What the outputs are called that a map is made of: `restored` is None where the system has none."""

  image: str
  restored: str | None
  kernels: str

  @classmethod
  def of(cls, outputs: Sequence[Output]) -> 'Names | None':
    """Those of a system; None where it has no kernels."""
    kernels = [output.name for output in outputs if output.kind == 'kernels']
    *before, image = [output.name for output in outputs if output.kind == 'image']
    return cls(image, before[-1] if before else None, kernels[0]) if kernels else None


def measured(
  bands: Iterable[Band],
  photo: Any,
  names: Names,
  scale: int,
  keep_kernels: bool,
  gathering: Callable[[np.ndarray], np.ndarray] = lambda kernels: kernels,
) -> Iterator[Band]:
  """Passes on an image's bands and adds the map, in a band of its own at the end.

  Args:
    bands: of the outputs at the model's scale, with the kernels.
    photo: [h, w, 3], gives float32 in [0, 1] for slices of its rows.
    names: of the outputs.
    scale: of the model.
    keep_kernels: whether kernels are passed on.
    gathering: of the system.
  """
  height = photo.shape[0]
  level = float(noise.noise_level(_Luma(photo))[0])
  lumas: dict[str, np.ndarray] = {}  # rows of the images from LR row `top` on
  kernels: np.ndarray | None = None  # from LR row `done` on
  planes, top, done = [], 0, 0
  for band in bands:
    for name in {names.image, names.restored} & band.keys():
      rows = colour.luma(np.clip(band[name], 0, 1))
      lumas[name] = np.concatenate([lumas[name], rows]) if name in lumas else rows
    if names.kernels in band:
      rows = gathering(band[names.kernels])
      kernels = rows if kernels is None or not len(kernels) else np.concatenate([kernels, rows])
    yield {name: x for name, x in band.items() if keep_kernels or name != names.kernels}
    if kernels is None or names.image not in lumas:
      continue
    reach = reach_of(kernels, scale)
    have = top + len(lumas[names.image]) // scale
    last = min(done + len(kernels), have if have == height else have - reach)
    if last <= done:
      continue
    end = min(last + reach, have)
    some = {name: x[: scale * (end - top)] for name, x in lumas.items()}
    restored = None if names.restored is None else some[names.restored]
    around = {'above': done - top, 'below': end - last}
    planes.append(_planes(colour.luma(photo[done:last]), restored, some[names.image], kernels[: last - done], **around))
    kernels, first = kernels[last - done :].copy(), max(last - reach, 0)
    lumas = {name: x[scale * (first - top) :].copy() for name, x in lumas.items()}
    top, done = first, last
  assert done == height, 'rows are missing'
  yield {OUTPUT: _of_planes(np.concatenate(planes), level)}
