"""From an HR image to an LR image with its kernels: `LR = (HR (*) K) downsampled by s + n`, then JPEG (Eq. 1), or the
second-order chain of Real-ESRGAN.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from ssr_jax.degrade import fields, realesrgan
from ssr_jax.degrade.recipes import Recipe
from ssr_jax.image import blur
from ssr_jax.image import jpeg as jpeg_lib
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.types import Array, SSRError


@flax.struct.dataclass
class Degraded:
  """An LR image and all that made it.

  The chain of Real-ESRGAN blurs up to three times at three resolutions, with noise and JPEG between: no kernel at each
  LR pixel tells what it did. Its `kernels`, `field` and `lr_clean` are None, and `draws` holds the parameters of its
  kernels (`realesrgan.kernels` makes them).

  Attributes:
    lr: [b, h, w, 3], in [0, 1], rounded to 8 bit.
    target: [b, H, W, 3], the image to restore: HR, which the chain sharpens.
    kernels: [b, h, w, k*k].
    lr_clean: [b, h, w, 3], before noise, JPEG and rounding.
    noise_sigma: [b], standard deviation of the noise, of 1; 0 where there is none. Of the chain, the root mean square
      of the second stage's noise.
    jpeg_quality: [b], 0 where there is no JPEG. Of the chain, that of the last.
    depth: [b, h, w], the relative inverse depth that was given; None where none was.
    field: (lambda1, lambda2, theta), each [b, h, w]: the kernels in compact form.
    draws: everything else that was drawn, [b] each. Of Eq. 1: `kind` (index into `fields.KINDS`), and as far as the
      kind has them `period`, `strength`, `focus`, `widest`, `share`. Of the chain, see `realesrgan.draw`.
  """

  lr: Array
  target: Array
  kernels: Array | None
  lr_clean: Array | None
  noise_sigma: Array
  jpeg_quality: Array
  depth: Array | None
  field: fields.Field | None
  draws: dict[str, Array]


def kernel_field(key: Array, recipe: Recipe, height: int, width: int, depth: Array | None = None) -> fields.Field:
  """Draws the field of one image.

  Args:
    key: one key.
    recipe: what to draw; not a chain.
    height: h, LR rows.
    width: w, LR columns.
    depth: relative inverse depth [h, w]; needed by 'depth' and 'depth_motion', used by 'mixed'.

  Returns:
    (lambda1, lambda2, theta), each [h, w].
  """
  return _draw_field(key, recipe, height, width, depth)[0]


def _draw_field(key: Array, recipe: Recipe, height: int, width: int, depth: Array | None):
  """The field, and what it was drawn from."""
  if recipe.needs_depth and depth is None:
    raise SSRError(f"recipe: field '{recipe.field}' needs a depth map; give one, or choose another field")
  if recipe.chain:
    raise SSRError(f"recipe: '{recipe.field}' has no kernel at each pixel; choose a field of Eq. 1")
  field_key, period_key, choice_key = jax.random.split(key, 3)
  period = jax.random.uniform(period_key, (), minval=recipe.period[0], maxval=recipe.period[1])
  strength = lambda k: {'period': period, 'strength': fields.motion_strength(jax.random.split(k, 3)[2])}
  eigenvalues = recipe.eigenvalues
  makers = {
    'invariant': lambda k: (fields.invariant(k, height, width, eigenvalues), {}),
    'smooth': lambda k: (fields.smooth(k, height, width, eigenvalues, period), {'period': period}),
    'motion': lambda k: (fields.motion(k, height, width, eigenvalues, period), strength(k)),
  }
  if depth is not None:
    lens = lambda k: dict(zip(('focus', 'widest'), fields.lens(k, depth, eigenvalues), strict=True))
    makers['depth'] = lambda k: (fields.defocus(k, depth, eigenvalues), lens(k))
  kind = {'kind': jnp.int32(fields.KINDS.index(recipe.field))}
  if recipe.field in fields.MODES:
    return fields.manet_mode(field_key, recipe.field, height, width, recipe.scale), kind
  if recipe.field == 'depth_motion':
    field, draws = fields.depth_motion(field_key, depth, eigenvalues, period)
    return field, kind | draws
  if recipe.field != 'mixed':
    field, draws = makers[recipe.field](field_key)
    return field, kind | draws
  # All are drawn and one kept: under vmap a switch would evaluate them all anyway.
  drawn = [make(field_key) for make in makers.values()]
  choice = jax.random.randint(choice_key, (), 0, len(drawn))
  kinds = jnp.array([fields.KINDS.index(name) for name in makers])
  draws = {name: value for _, found in drawn for name, value in found.items()}
  field = tuple(jnp.stack(parts)[choice] for parts in zip(*(field for field, _ in drawn), strict=True))
  return field, draws | {'kind': kinds[choice]}


def degrade(key: Array, hr: Array, recipe: Recipe, depth: Array | None = None) -> Degraded:
  """Degrades a batch; image i depends only on key i.

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
  depth = None if depth is None else depth.reshape(b, h, w)
  return _second_order(keys, hr, recipe, depth) if recipe.chain else _first_order(keys, hr, recipe, depth)


def _second_order(keys: Array, hr: Array, recipe: Recipe, depth: Array | None) -> Degraded:
  keys = jax.vmap(jax.random.split)(keys)  # [b, 2]
  draws = jax.vmap(lambda k: realesrgan.draw(k, recipe.chain))(keys[:, 0])
  lr, target, rms = realesrgan.apply(keys[:, 1], hr, recipe.chain, recipe.scale, draws)
  return Degraded(
    lr=lr,
    target=target,
    kernels=None,
    lr_clean=None,
    noise_sigma=rms,
    jpeg_quality=draws['second_quality'],
    depth=depth,
    field=None,
    draws=draws,
  )


def _first_order(keys: Array, hr: Array, recipe: Recipe, depth: Array | None) -> Degraded:
  h, w = (side // recipe.scale for side in hr.shape[1:3])
  field_keys = jax.vmap(lambda k: jax.random.split(k, 5)[0])(keys)
  if depth is None:
    field, draws = jax.vmap(lambda k: _draw_field(k, recipe, h, w, None))(field_keys)
  else:
    field, draws = jax.vmap(lambda k, d: _draw_field(k, recipe, h, w, d))(field_keys, depth)
  return from_field(keys, hr, recipe, field).replace(depth=depth, draws=draws)


def from_field(keys: Array, hr: Array, recipe: Recipe, field: fields.Field) -> Degraded:
  """Eq. 1 with a field that is there already: blur, then noise and JPEG as the recipe's mode says.

  Args:
    keys: one for each image, [b]; those of `degrade` give its noise and quality.
    hr: [b, H, W, 3] in [0, 1].
    recipe: its `field` matters only in that an 'invariant' one has the same kernel everywhere, which is faster.
    field: (lambda1, lambda2, theta), each [b, h, w].

  Returns:
    A `Degraded` without depth and draws.
  """
  b, _, _, channels = hr.shape
  s = recipe.scale
  h, w = field[0].shape[1:]
  keys = jax.vmap(lambda k: jax.random.split(k, 5))(keys)  # [b, 5]
  if recipe.field == 'invariant':  # one kernel serves the whole image; the others are copies for who asks
    kernels = kernel_lib.gaussian_kernels(*(f[:, :1, :1] for f in field), scale=s)
    clean = blur.blur_downsample(hr, kernels, s)
    kernels = jnp.broadcast_to(kernels, (b, h, w, kernels.shape[-1]))
  else:
    kernels = kernel_lib.gaussian_kernels(*field, scale=s)
    clean = blur.blur_downsample(hr, kernels, s)

  uniform = jax.vmap(lambda k, low, high: jax.random.uniform(k, (), minval=low, maxval=high), (0, None, None))
  level = {'no_noise': 0, 'no_jpeg': 1, 'noise_jpeg': 2}.get(recipe.mode)
  level = jax.vmap(lambda k: jax.random.randint(k, (), 0, 3))(keys[:, 1]) if level is None else jnp.full((b,), level)
  sigma = jnp.where(level >= 1, uniform(keys[:, 2], *recipe.noise), 0.0)
  quality = jnp.where(level >= 2, jnp.round(uniform(keys[:, 3], *recipe.quality)), 0.0)

  lr = clean
  if recipe.mode != 'no_noise':
    noise = jax.vmap(lambda k: jax.random.normal(k, (h, w, channels)))(keys[:, 4])
    lr = lr + sigma[:, None, None, None] * noise
  lr = jnp.round(jnp.clip(lr, 0, 1) * 255) / 255
  if recipe.mode in ('noise_jpeg', 'mixed'):
    coded = jpeg_lib.jpeg(lr, jnp.maximum(quality, 1))
    lr = jnp.where((quality > 0)[:, None, None, None], coded, lr)
  return Degraded(
    lr=lr,
    target=hr,
    kernels=kernels,
    lr_clean=clean,
    noise_sigma=sigma,
    jpeg_quality=quality,
    depth=None,
    field=field,
    draws={},
  )
