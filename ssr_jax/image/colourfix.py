"""Gives a generated image the colours of a reference, because latent diffusion shifts colours.

Both functions accept NumPy arrays and JAX arrays (traced ones too) and stay in that library: the pipeline runs them on
the host, where an image of a new size costs no compilation.
"""

from ssr_jax.types import AnyArray

_TAPS = (0.25, 0.5, 0.25)  # the 3x3 binomial filter, one axis at a time


def adain(image: AnyArray, reference: AnyArray, eps: float = 1e-5) -> AnyArray:
  """Matches mean and standard deviation of each image and channel to the reference's.

  Args:
    image: [..., H, W, c], any range.
    reference: the same number of leading axes and channels; its H and W may differ.
    eps: added to the variances.

  Returns:
    [..., H, W, c]; it can leave the range of `image`.
  """
  xp = image.__array_namespace__()
  mean, reference_mean = (xp.mean(x, axis=(-3, -2), keepdims=True) for x in (image, reference))
  variance, reference_variance = (xp.var(x, axis=(-3, -2), keepdims=True) for x in (image, reference))
  return (image - mean) * ((reference_variance + eps) / (variance + eps)) ** 0.5 + reference_mean


def wavelet(image: AnyArray, reference: AnyArray, levels: int = 5, chroma_levels: int | None = None) -> AnyArray:
  """Keeps the image's detail and takes the reference's low frequencies: high(image) + low(reference).

  With `chroma_levels` below `levels` the reference also gives finer colour. Eyes hardly see detail in colour, but they
  see false colours at edges.

  Args:
    image: [..., H, W, c], any range.
    reference: the same shape.
    levels: levels of the a-trous decomposition; 5 leaves what varies over some 32 pixels and more.
    chroma_levels: levels of colour, for images with c = 3; 0 takes the reference's colours unchanged. None: `levels`.

  Returns:
    [..., H, W, c]; it can leave the range of `image`.

  Raises:
    ValueError: shapes that differ.
  """
  if image.shape != reference.shape:
    raise ValueError(f'image {image.shape} and reference {reference.shape} must have the same shape')
  # The decomposition is linear: one pass over the difference replaces one over each image.
  difference = reference - image
  if chroma_levels is None or chroma_levels == levels:
    return image + low_frequencies(difference, levels)
  brightness = 0.299 * difference[..., 0:1] + 0.587 * difference[..., 1:2] + 0.114 * difference[..., 2:3]
  return image + low_frequencies(brightness, levels) + low_frequencies(difference - brightness, chroma_levels)


def low_frequencies(image: AnyArray, levels: int = 5) -> AnyArray:
  """The low frequencies of [..., H, W, c] after `levels` levels of an a-trous decomposition; level i dilates by 2^i."""
  for level in range(levels):
    for axis in (-3, -2):
      image = _binomial(image, axis, 2**level)
  return image


def _binomial(image: AnyArray, axis: int, dilation: int) -> AnyArray:
  """The three taps along one axis, border replicated."""
  xp = image.__array_namespace__()
  size = image.shape[axis]
  pad = [(0, 0)] * image.ndim
  pad[axis] = (dilation, dilation)
  padded = xp.pad(image, pad, mode='edge')
  index = [slice(None)] * image.ndim
  shifted = []
  for tap, weight in enumerate(_TAPS):
    index[axis] = slice(tap * dilation, tap * dilation + size)
    shifted.append(weight * padded[tuple(index)])
  before, middle, after = shifted
  return before + middle + after
