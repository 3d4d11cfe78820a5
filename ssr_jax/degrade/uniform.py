"""Recipes with one kernel for the whole image: blur at full resolution, then a bicubic or strided reduction.

The kernels are Gaussians of 21x21 taps around the middle one, as benchmarks of blind super-resolution have them (IKC,
DAN, KernelGAN), given by standard deviations. With 'bicubic' the LR image is the antialiased bicubic reduction of the
blurred one, and aligned with it. With 'stride' it is every s-th pixel from the first one, which is Eq. 1 by the letter;
the LR image then lies (s - 1) / 2 pixels to the top left.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp

from ssr_jax.image import kernels as kernel_lib
from ssr_jax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Blur:
  """A family of kernels; hashable.

  Attributes:
    sigma: range of the standard deviations, HR pixels.
    levels: 0 to draw uniformly from the range; n to draw one of n evenly spaced values.
    anisotropic: whether the two axes have deviations of their own, and a direction in [-pi, pi).
    jitter: each tap is multiplied by 1 + U(0, jitter) before the kernel is normalised.
    down: how the blurred image is reduced, 'bicubic' or 'stride'.
  """

  sigma: tuple[float, float]
  levels: int = 0
  anisotropic: bool = False
  jitter: float = 0.0
  down: str = 'bicubic'


BLURS = {
  'isotropic': Blur((0.2, 4.0)),
  'anisotropic': Blur((0.6, 5.0), anisotropic=True, jitter=0.25),
  'gaussian8': Blur((1.8, 3.2), levels=8),
}
"""Setting 1 of blind super-resolution at x4, setting 2, and the eight kernels that setting 1 is tested with.

Setting 2 is that of KernelGAN and DAN: 21x21 taps, of which BlindDiff's text says 11x11.
"""

FIELDS = tuple(f'{name}{suffix}' for suffix in ('', '-stride') for name in BLURS)
"""Their names; and 'isotropic-SIGMA' or 'isotropic-stride-SIGMA', one deviation from 0.1 to 10, such as 2.4."""

GAUSSIAN8 = tuple(f'isotropic-{tenths / 10:.1f}' for tenths in range(18, 34, 2))
"""The eight kernels of 'gaussian8' by themselves, isotropic-1.8 to isotropic-3.2."""


@functools.cache
def parse(field: str) -> Blur | None:
  """The family of a name, see `FIELDS`; None for any other name."""
  match = re.fullmatch(r'([a-z]+8?)(-stride)?(?:-(\d{1,2}\.\d{1,3}))?', field)
  if not match or match[1] not in BLURS:
    return None
  blur = dataclasses.replace(BLURS[match[1]], down='stride' if match[2] else 'bicubic')
  if match[3] is None:
    return blur
  sigma = float(match[3])
  if match[1] != 'isotropic' or not 0.1 <= sigma <= 10:
    return None
  return dataclasses.replace(blur, sigma=(sigma, sigma))


def draw(key: Array, blur: Blur) -> tuple[Float[Array, ' taps'], dict[str, Float[Array, '']]]:
  """One kernel.

  Returns:
    its taps [k*k]; and 'sigma1', 'sigma2' and 'angle' (radians from the x axis towards y), scalars.
  """
  first, second, angle, taps = jax.random.split(key, 4)
  low, high = blur.sigma

  def deviation(key):
    if not blur.levels:
      return jax.random.uniform(key, (), minval=low, maxval=high) if low < high else jnp.float32(low)
    return low + (high - low) * jax.random.randint(key, (), 0, blur.levels) / (blur.levels - 1)

  sigma1 = deviation(first)
  sigma2 = deviation(second) if blur.anisotropic else sigma1
  theta = jax.random.uniform(angle, (), minval=-jnp.pi, maxval=jnp.pi) if blur.anisotropic else jnp.zeros(())
  kernel = kernel_lib.shaped_kernels(sigma1, sigma2, theta, 1.0, False, kernel_lib.SIZE)
  if blur.jitter:
    kernel = kernel * (1 + blur.jitter * jax.random.uniform(taps, kernel.shape))
    kernel = kernel / kernel.sum()
  return kernel, {'sigma1': sigma1, 'sigma2': sigma2, 'angle': theta}
