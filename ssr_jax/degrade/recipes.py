"""Recipes: named degradations, one registry for configs, command lines, evaluation and contact sheets."""

import dataclasses
import re
import zlib

import jax

from ssr_jax.degrade import fields, realesrgan, uniform
from ssr_jax.types import Array, SSRError

MODES = ('no_noise', 'no_jpeg', 'noise_jpeg', 'mixed', 'isp')
MIXTURES = {'real': {'mixed/mixed': 0.35, 'mixed/isp': 0.4, 'realesrgan-light': 0.15, 'realesrgan': 0.1}}
"""Recipes that draw another recipe for each image: its parts and their probabilities. Parts of Eq. 1 have one field."""
FIELDS = (*fields.KINDS, *uniform.FIELDS, *realesrgan.CHAINS, *MIXTURES)
_FIXED = re.compile(r'(noise|jpeg)-(\d{1,3})')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What degradation to draw; hashable, so that it can be a static argument of jit.

  Attributes:
    field: kind of kernel field, one of `fields.KINDS`, or 'invariant-L1-L2-DEGREES', one known kernel (see
      `fields.known`); one kernel for the image at full resolution, one of `uniform.FIELDS` or 'isotropic-SIGMA';
      'realesrgan' or 'realesrgan-light', the second-order chain; or 'real', one of `MIXTURES`. 'mixed' draws per image
      among invariant, smooth and motion, and defocus where a depth is given. A chain has blur, noise and JPEG of its
      own, so that of the other attributes only the scale applies to it, and the eigenvalues, to which its effective
      kernels are clipped. A mixture has no mode: its parts have.
    mode: the paper's Table 3, which does not give its levels (the ranges below are ours): 'no_noise' (blur and
      subsampling alone), 'no_jpeg' (and Gaussian noise), 'noise_jpeg' (and JPEG); 'mixed' draws one per image. And
      'isp': what a camera does, see `isp`; it has noise and JPEG of its own. For benchmarks 'noise-SIGMA', noise of one
      deviation in gray levels of 255 and no JPEG, and 'jpeg-QUALITY', JPEG of one quality and no noise.
    scale: s.
    eigenvalues: range of the covariance eigenvalues in HR pixels squared; MANet's anisotropic range at x4. Kernels of
      `uniform` have ranges of their own.
    period: range of the distance between the nodes of smooth fields, LR pixels.
    noise: range of the noise's standard deviation, of 1.
    quality: range of the JPEG quality.
  """

  field: str = 'smooth'
  mode: str = 'no_noise'
  scale: int = 4
  eigenvalues: tuple[float, float] = (0.7, 10.0)
  period: tuple[float, float] = (16.0, 64.0)
  noise: tuple[float, float] = (1 / 255, 15 / 255)
  quality: tuple[float, float] = (40.0, 95.0)

  def __post_init__(self):
    if self.field not in FIELDS and self.blur is None and self.kernel is None:
      known = f'{", ".join(FIELDS)}, isotropic-SIGMA, invariant-L1-L2-DEGREES'
      raise SSRError(f'recipe: unknown field {self.field!r}; known: {known}')
    if self.mode not in MODES and self.fixed is None:
      raise SSRError(f'recipe: unknown mode {self.mode!r}; known: {", ".join(MODES)}, noise-SIGMA, jpeg-QUALITY')
    if not 0 < self.eigenvalues[0] <= self.eigenvalues[1]:
      raise SSRError(f'recipe: eigenvalues must be a positive range; got {self.eigenvalues}')

  @classmethod
  def parse(cls, name: str, **kwargs) -> 'Recipe':
    """A recipe by its name: 'FIELD/MODE' such as 'smooth/isp', 'FIELD' (mode no_noise), 'realesrgan' or 'real'.

    >>> Recipe.parse('smooth/isp').mode, Recipe.parse('smooth').name
    ('isp', 'smooth/no_noise')
    >>> Recipe.parse('smoth')
    Traceback (most recent call last):
      ...
    ssr_jax.types.SSRError: recipe: unknown field 'smoth'; known: ...
    """
    field, _, mode = name.partition('/')
    if mode and (field in realesrgan.CHAINS or field in MIXTURES):
      raise SSRError(f'recipe {name!r}: {field} has noise and JPEG of its own and takes no mode; write {field!r}')
    return cls(field=field, mode=mode or 'no_noise', **kwargs)

  @property
  def name(self) -> str:
    """What `parse` makes this kind of recipe from."""
    return self.field if self.chain or self.mixture else f'{self.field}/{self.mode}'

  @property
  def chain(self) -> realesrgan.Chain | None:
    """The parameter set of a second-order chain; None for Eq. 1 and for mixtures."""
    return realesrgan.CHAINS.get(self.field)

  @property
  def blur(self) -> uniform.Blur | None:
    """The kernels of a recipe with one for the whole image; None for other recipes."""
    return uniform.parse(self.field)

  @property
  def kernel(self) -> tuple[float, float, float] | None:
    """(lambda1, lambda2, theta) of a field of one known kernel; None for other recipes."""
    return fields.known(self.field)

  @property
  def constant(self) -> bool:
    """Whether the field of Eq. 1 is the same at every pixel."""
    return self.field == 'invariant' or self.kernel is not None

  @property
  def fixed(self) -> tuple[str, int] | None:
    """('noise', deviation in gray levels) or ('jpeg', quality) of a mode with one level; None for other modes."""
    found = _FIXED.fullmatch(self.mode)
    if not found or not 1 <= int(found[2]) <= (100 if found[1] == 'jpeg' else 255):
      return None
    return found[1], int(found[2])

  @property
  def coded(self) -> bool:
    """Whether the mode can end with JPEG."""
    return self.mode in ('noise_jpeg', 'mixed', 'isp') or (self.fixed is not None and self.fixed[0] == 'jpeg')

  @property
  def mixture(self) -> dict[str, float] | None:
    """The names of a mixture's parts and their probabilities; None for other recipes."""
    return MIXTURES.get(self.field)

  @property
  def needs_depth(self) -> bool:
    """Whether the recipe is an error without a depth map."""
    return self.field in fields.NEED_DEPTH

  @property
  def takes_depth(self) -> bool:
    """Whether a depth map makes a difference: 'mixed' and mixtures use one, but do not need it."""
    return self.needs_depth or self.field == 'mixed' or self.mixture is not None


NAMES = (
  *(f'{field}/{mode}' for field in (*fields.KINDS, *uniform.FIELDS) for mode in MODES),
  *realesrgan.CHAINS,
  *MIXTURES,
)
"""Every recipe, but for those with numbers in their names."""


def image_key(seed: int, name: str) -> Array:
  """The key of an image in a set: a function of the seed and its file name, whatever else is in the set.

  evaluate.py and `ssr degrade` both use it and so make the same LR image of a file.
  """
  # crc32 rather than hash(), which differs from process to process.
  return jax.random.key(zlib.crc32(f'{seed}:{name}'.encode(errors='surrogateescape')))
