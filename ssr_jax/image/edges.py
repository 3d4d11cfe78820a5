"""Smoothing, and steeper edges, of finished images.

Both accept NumPy arrays and JAX arrays (traced ones too) and stay in that library, as `colourfix` does.
"""

import math

from ssr_jax.types import AnyArray

_DEVIATION = 1.5  # pixels, of the blur whose difference to the image is amplified: edges of x4 images are that wide
_AROUND = 2  # pixels on each side among which a sharpened value must lie


def smooth(image: AnyArray, deviation: float) -> AnyArray:
  """Gaussian blur; the border is repeated outside.

  Args:
    image: [H, W, c], any range.
    deviation: in pixels, above 0.

  Returns:
    [H, W, c].
  """
  reach = smoothing_reach(deviation)
  taps = [math.exp(-((i / deviation) ** 2) / 2) for i in range(-reach, reach + 1)]
  for axis in (0, 1):
    first, *others = _shifted(image, axis, reach)
    image = taps[0] / sum(taps) * first
    for tap, x in zip(taps[1:], others, strict=True):
      image = image + tap / sum(taps) * x
  return image


def smoothing_reach(deviation: float) -> int:
  """Rows above and below a row that `smooth` looks at; 0 for a deviation of 0."""
  return math.ceil(3 * deviation)


REACH = smoothing_reach(_DEVIATION) + _AROUND
"""Rows above and below a row that `steepen` looks at."""


def steepen(image: AnyArray, amount: float) -> AnyArray:
  """Steepens edges without halos.

  The difference of brightness to its blur is amplified, and the result kept between the darkest and the brightest of
  the 5x5 pixels around. So an edge gets steeper up to a step, but nothing becomes brighter or darker than what lies
  beside it, and flat areas stay as they are. Colours change by brightness alone.

  Args:
    image: [H, W, 3], any range.
    amount: of the difference that is added; 0 changes nothing.

  Returns:
    [H, W, 3].
  """
  xp = image.__array_namespace__()
  y = 0.299 * image[..., 0:1] + 0.587 * image[..., 1:2] + 0.114 * image[..., 2:3]
  low = high = y
  for axis in (0, 1):
    for x in _shifted(low, axis, _AROUND):
      low = xp.minimum(low, x)
    for x in _shifted(high, axis, _AROUND):
      high = xp.maximum(high, x)
  steeper = xp.clip(y + amount * (y - smooth(y, _DEVIATION)), low, high)
  return image + (steeper - y)


def _shifted(image: AnyArray, axis: int, reach: int) -> list[AnyArray]:
  """The image moved by -reach to reach pixels along an axis; the border is repeated."""
  pad = [(0, 0)] * image.ndim
  pad[axis] = (reach, reach)
  padded = image.__array_namespace__().pad(image, pad, mode='edge')
  length, before = image.shape[axis], (slice(None),) * axis
  return [padded[(*before, slice(i, i + length))] for i in range(2 * reach + 1)]
