"""Surfaces' colours: photo crops as mip-mapped textures."""

import dataclasses

import numpy as np


class Texture:
  """A mip pyramid of a square photo crop, tiled by mirroring; coordinates are in units of the crop's side."""

  def __init__(self, crop: np.ndarray):
    """Builds the pyramid.

    Args:
      crop: float32 [n, n, 3] in [0, 1]; n is a power of two.
    """
    self.side = crop.shape[0]
    levels, offsets = [crop.reshape(-1, 3)], [0]
    while crop.shape[0] > 1:
      crop = 0.25 * (crop[::2, ::2] + crop[1::2, ::2] + crop[::2, 1::2] + crop[1::2, 1::2])
      offsets.append(offsets[-1] + len(levels[-1]))
      levels.append(crop.reshape(-1, 3))
    self.texels = np.concatenate(levels)
    self.offsets = np.array(offsets, np.int32)

  @property
  def mean(self) -> np.ndarray:
    """Mean colour [3]."""
    return self.texels[-1]

  def __call__(self, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Looks up colours [n, 3], bilinear in the level whose texels are nearest in size to a pixel's footprint.

    Args:
      u: horizontal coordinates [n], in sides.
      v: vertical coordinates [n], in sides.
      footprint: extent of a pixel on the surface [n], in sides.
    """
    level = np.rint(np.log2(np.maximum(footprint * self.side, 1e-6)))
    level = np.clip(level, 0, len(self.offsets) - 1).astype(np.int32)
    side = np.right_shift(np.int32(self.side), level)
    x, y = u * side - 0.5, v * side - 0.5
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = (x - x0)[:, None].astype(np.float32), (y - y0)[:, None].astype(np.float32)
    x0, y0 = x0.astype(np.int32), y0.astype(np.int32)
    base = self.offsets[level]

    def mirrored(i):
      i = i & (2 * side - 1)
      return np.minimum(i, 2 * side - 1 - i)

    left, right = mirrored(x0), mirrored(x0 + 1)
    top, bottom = base + mirrored(y0) * side, base + mirrored(y0 + 1) * side
    texels = self.texels
    upper = texels[top + left] * (1 - fx) + texels[top + right] * fx
    lower = texels[bottom + left] * (1 - fx) + texels[bottom + right] * fx
    return upper * (1 - fy) + lower * fy


@dataclasses.dataclass(frozen=True)
class Paint:
  """The colour of a surface.

  Attributes:
    texture: tiled over the surface.
    period: side of the texture in metres.
    gain: [3], factor on the colours: the paint's tint times the light.
    contrast: 0 is the texture's mean colour, 1 the texture itself.
  """

  texture: Texture
  period: float | np.floating
  gain: np.ndarray
  contrast: float

  def __call__(self, u: np.ndarray, v: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Colours [n, 3] at (u, v) for pixels of this footprint, all [n] and in metres."""
    colour = self.texture(u / self.period, v / self.period, footprint / self.period)
    return (self.texture.mean + self.contrast * (colour - self.texture.mean)) * self.gain
