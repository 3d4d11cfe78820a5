"""Eq. 1: from an HR image to an LR image with its kernels, `LR = (HR (*) K) downsampled by s + n`, then JPEG."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from ssr_jax.degrade import fields
from ssr_jax.image import blur
from ssr_jax.image import jpeg as jpeg_lib
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.types import Array, SSRError

MODES = ('no_noise', 'no_jpeg', 'noise_jpeg', 'mixed')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What degradation to draw; hashable, so that it can be a static argument of jit.

  Attributes:
    field: kind of kernel field, one of `fields.KINDS`. 'mixed' draws per image among invariant, smooth and motion, and
      defocus where a depth is given.
    mode: the paper's Table 3, which does not give its levels (the ranges below are ours): 'no_noise' (blur and
      subsampling alone), 'no_jpeg' (and Gaussian noise), 'noise_jpeg' (and JPEG); 'mixed' draws one per image.
    scale: s.
    eigenvalues: range of the covariance eigenvalues in HR pixels squared; MANet's anisotropic range at x4.
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
    if self.field not in fields.KINDS:
      raise SSRError(f"recipe: unknown field {self.field!r}; known: {', '.join(fields.KINDS)}")
    if self.mode not in MODES:
      raise SSRError(f"recipe: unknown mode {self.mode!r}; known: {', '.join(MODES)}")
    if not 0 < self.eigenvalues[0] <= self.eigenvalues[1]:
      raise SSRError(f'recipe: eigenvalues must be a positive range; got {self.eigenvalues}')

  @classmethod
  def parse(cls, name: str, **kwargs) -> 'Recipe':
    """`'FIELD/MODE'`, such as 'smooth/no_noise', as tables and command lines name recipes."""
    field, _, mode = name.partition('/')
    return cls(field=field, mode=mode or 'no_noise', **kwargs)


@flax.struct.dataclass
class Degraded:
  """An LR image and all that made it.

  Attributes:
    lr: [b, h, w, 3], in [0, 1], rounded to 8 bit.
    kernels: [b, h, w, k*k].
    lr_clean: [b, h, w, 3], before noise, JPEG and rounding.
    noise_sigma: [b], standard deviation of the noise, of 1; 0 where there is none.
    jpeg_quality: [b], 0 where there is no JPEG.
  """

  lr: Array
  kernels: Array
  lr_clean: Array
  noise_sigma: Array
  jpeg_quality: Array


def kernel_field(key: Array, recipe: Recipe, height: int, width: int, depth: Array | None = None) -> fields.Field:
  """Draws the field of one image.

  Args:
    key: one key.
    recipe: what to draw.
    height: h, LR rows.
    width: w, LR columns.
    depth: relative inverse depth [h, w]; needed by 'depth', used by 'mixed'.

  Returns:
    (lambda1, lambda2, theta), each [h, w].
  """
  if recipe.field == 'depth' and depth is None:
    raise SSRError("recipe: field 'depth' needs a depth map; give one, or choose another field")
  field_key, period_key, choice_key = jax.random.split(key, 3)
  period = jax.random.uniform(period_key, (), minval=recipe.period[0], maxval=recipe.period[1])
  makers = {
      'invariant': lambda k: fields.invariant(k, height, width, recipe.eigenvalues),
      'smooth': lambda k: fields.smooth(k, height, width, recipe.eigenvalues, period),
      'motion': lambda k: fields.motion(k, height, width, recipe.eigenvalues, period),
  }
  if depth is not None:
    makers['depth'] = lambda k: fields.defocus(k, depth, recipe.eigenvalues)
  if recipe.field in fields.MODES:
    return fields.manet_mode(field_key, recipe.field, height, width, recipe.scale)
  if recipe.field != 'mixed':
    return makers[recipe.field](field_key)
  # All are drawn and one kept: under vmap a switch would evaluate them all anyway.
  drawn = [make(field_key) for make in makers.values()]
  choice = jax.random.randint(choice_key, (), 0, len(drawn))
  return tuple(jnp.stack(parts)[choice] for parts in zip(*drawn))


def degrade(key: Array, hr: Array, recipe: Recipe, depth: Array | None = None) -> Degraded:
  """Degrades a batch by Eq. 1; image i depends only on key i.

  Args:
    key: one key for the batch (folded with the image's index), or one key per image, [b].
    hr: [b, H, W, 3] in [0, 1]; H and W multiples of the scale.
    recipe: what to draw.
    depth: relative inverse depth at LR size, [b, h, w] or [b, h, w, 1], or None.

  Returns:
    A `Degraded`.

  Raises:
    ValueError: sizes that are no multiple of the scale.
  """
  b, H, W, _ = hr.shape
  s = recipe.scale
  if H % s or W % s:
    raise ValueError(f'image {H}x{W} is not a multiple of the scale {s}')
  h, w = H // s, W // s
  keys = key if key.ndim else jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(b))
  keys = jax.vmap(lambda k: jax.random.split(k, 5))(keys)  # [b, 5]

  if depth is None:
    field = jax.vmap(lambda k: kernel_field(k, recipe, h, w))(keys[:, 0])
  else:
    field = jax.vmap(lambda k, d: kernel_field(k, recipe, h, w, d))(keys[:, 0], depth.reshape(b, h, w))
  kernels = kernel_lib.gaussian_kernels(*field, scale=s)
  clean = blur.blur_downsample(hr, kernels, s)

  uniform = jax.vmap(lambda k, low, high: jax.random.uniform(k, (), minval=low, maxval=high), (0, None, None))
  level = {'no_noise': 0, 'no_jpeg': 1, 'noise_jpeg': 2}.get(recipe.mode)
  level = jax.vmap(lambda k: jax.random.randint(k, (), 0, 3))(keys[:, 1]) if level is None else jnp.full((b,), level)
  sigma = jnp.where(level >= 1, uniform(keys[:, 2], *recipe.noise), 0.0)
  quality = jnp.where(level >= 2, jnp.round(uniform(keys[:, 3], *recipe.quality)), 0.0)

  lr = clean
  if recipe.mode != 'no_noise':
    noise = jax.vmap(lambda k: jax.random.normal(k, (h, w, hr.shape[-1])))(keys[:, 4])
    lr = lr + sigma[:, None, None, None] * noise
  lr = jnp.round(jnp.clip(lr, 0, 1) * 255) / 255
  if recipe.mode in ('noise_jpeg', 'mixed'):
    coded = jpeg_lib.jpeg(lr, jnp.maximum(quality, 1))
    lr = jnp.where((quality > 0)[:, None, None, None], coded, lr)
  return Degraded(lr=lr, kernels=kernels, lr_clean=clean, noise_sigma=sigma, jpeg_quality=quality)
