"""From an HR image to an LR image with its kernels.

`LR = (HR (*) K) downsampled by s + n`, then JPEG (Eq. 1); or the same with one kernel at full resolution and another
reduction; or a camera's processing instead of noise and JPEG; or the second-order chain of Real-ESRGAN; or one of these
for each image.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from ssr_jax.degrade import fields, isp, realesrgan, uniform
from ssr_jax.degrade.recipes import Recipe
from ssr_jax.image import blur
from ssr_jax.image import jpeg as jpeg_lib
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.types import Array, Bool, Float, SSRError

_FieldAndDraws = tuple[fields.Field, dict[str, Array]]


class Degraded(flax.struct.PyTreeNode):
  """An LR image and all that made it.

  The chain of Real-ESRGAN blurs up to three times at three resolutions, with noise and JPEG between. Its `kernels` and
  `field` are those of the Gaussian whose covariance is the sum of what each step adds
  (`realesrgan.effective_field`), the same at each pixel, and `draws` holds what it really did: `realesrgan.kernels`
  makes its filters from them.

  Attributes:
    lr: [b, h, w, 3], in [0, 1], rounded to 8 bit.
    target: [b, H, W, 3], the image to restore: HR, which a chain by itself sharpens; a mixture's chains do not.
    kernels: [b, h, w, k*k]. Of `uniform` the same for each pixel of an image, centred on the middle tap, as
      `blur.blur_reduce` takes them.
    lr_clean: [b, h, w, 3], HR blurred with `kernels` and subsampled: of Eq. 1 and `uniform` the image before noise,
      JPEG and rounding, of the chain an approximation of it.
    noise_sigma: [b], standard deviation of the noise, of 1; 0 where there is none. Of a camera, the root mean square of
      its noise before denoising; of the chain, that of the second stage's noise.
    jpeg_quality: [b], 0 where there is no JPEG. Of the chain, that of the last.
    depth: [b, h, w], the relative inverse depth that was given; None where none was.
    field: (lambda1, lambda2, theta), each [b, h, w]: the kernels in compact form.
    draws: everything else that was drawn, [b] each. Of Eq. 1: `kind` (index into `fields.KINDS`), and as far as the
      kind has them `period`, `strength`, `focus`, `widest`, `share`. Of `uniform`: those of `uniform.draw`. Of a
      camera, those of `isp.draw` with the prefix `isp_`. Of the chain, see `realesrgan.draw`. Of a mixture `part`, the
      index of the recipe that was drawn, and what each part draws, of which only that part's has had an effect.
  """

  lr: Array
  target: Array
  kernels: Array
  lr_clean: Array
  noise_sigma: Array
  jpeg_quality: Array
  depth: Array | None
  field: fields.Field
  draws: dict[str, Array]


def kernel_field(
  key: Array, recipe: Recipe, height: int, width: int, depth: Float[Array, 'h w'] | None = None
) -> fields.Field:
  """Draws the field of one image.

  Args:
    key: one key.
    recipe: what to draw; neither a chain nor a mixture.
    height: h, LR rows.
    width: w, LR columns.
    depth: relative inverse depth [h, w]; needed by 'depth' and 'depth_motion', used by 'mixed'.

  Returns:
    (lambda1, lambda2, theta), each [h, w].
  """
  return _draw_field(key, recipe, height, width, depth)[0]


def _draw_field(
  key: Array, recipe: Recipe, height: int, width: int, depth: Array | None, known: Array | None = None
) -> _FieldAndDraws:
  """The field, and what it was drawn from. Without `known`, 'mixed' draws no defocus, which is the last kind."""
  if recipe.needs_depth and depth is None:
    raise SSRError(f"recipe: field '{recipe.field}' needs a depth map; give one, or choose another field")
  if recipe.chain or recipe.mixture or recipe.blur:
    raise SSRError(f"recipe: '{recipe.field}' draws no field before its images; choose a field of Eq. 1")
  if recipe.kernel:
    lambda1, lambda2, theta = (jnp.full((height, width), value) for value in recipe.kernel)
    return (lambda1, lambda2, theta), {'kind': jnp.int32(fields.KINDS.index('invariant'))}
  field_key, period_key, choice_key = jax.random.split(key, 3)
  period = jax.random.uniform(period_key, (), minval=recipe.period[0], maxval=recipe.period[1])
  strength = lambda k: {'period': period, 'strength': fields.motion_strength(jax.random.split(k, 3)[2])}
  eigenvalues = recipe.eigenvalues
  makers: dict[str, Callable[[Array], _FieldAndDraws]] = {
    'invariant': lambda k: (fields.invariant(k, height, width, eigenvalues), {}),
    'smooth': lambda k: (fields.smooth(k, height, width, eigenvalues, period), {'period': period}),
    'motion': lambda k: (fields.motion(k, height, width, eigenvalues, period), strength(k)),
  }
  if depth is not None:

    def defocus(k: Array) -> _FieldAndDraws:
      focus, widest = fields.lens(k, depth, eigenvalues)
      return fields.defocus(k, depth, eigenvalues), {'focus': focus, 'widest': widest}

    makers['depth'] = defocus
  kind = {'kind': jnp.int32(fields.KINDS.index(recipe.field))}
  if recipe.field in fields.MODES:
    return fields.manet_mode(field_key, recipe.field, height, width, recipe.scale), kind
  if recipe.field == 'depth_motion' and depth is not None:
    field, draws = fields.depth_motion(field_key, depth, eigenvalues, period)
    return field, kind | draws
  if recipe.field != 'mixed':
    field, draws = makers[recipe.field](field_key)
    return field, kind | draws
  # All are drawn and one is kept: under vmap `switch` would evaluate all of them too.
  drawn = [make(field_key) for make in makers.values()]
  last = len(drawn) if known is None else jnp.where(known, len(drawn), len(drawn) - 1)
  choice = jax.random.randint(choice_key, (), 0, last)
  kinds = jnp.array([fields.KINDS.index(name) for name in makers])
  draws = {name: value for _, found in drawn for name, value in found.items()}
  lambda1, lambda2, theta = (jnp.stack(parts)[choice] for parts in zip(*(field for field, _ in drawn), strict=True))
  return (lambda1, lambda2, theta), draws | {'kind': kinds[choice]}


def degrade(
  key: Array,
  hr: Float[Array, 'b H W 3'],
  recipe: Recipe,
  depth: Float[Array, 'b h w *one'] | None = None,
  known: Bool[Array, ' b'] | None = None,
) -> Degraded:
  """Degrades a batch; image i depends only on key i.

  Args:
    key: one key for the batch (folded with the image's index), or one key per image, [b].
    hr: [b, H, W, 3] in [0, 1]; H and W multiples of the scale.
    recipe: what to draw.
    depth: relative inverse depth at LR size, [b, h, w] or [b, h, w, 1], or None.
    known: bool [b], images whose depth is real; the others get no defocus from 'mixed' and mixtures. None: all.

  Returns:
    A `Degraded`.

  Raises:
    ValueError: sizes that are no multiple of the scale.

  >>> hr = jnp.zeros((2, 64, 96, 3))
  >>> found = degrade(jax.random.key(0), hr, Recipe.parse('smooth/no_noise'))
  >>> found.lr.shape, found.kernels.shape
  ((2, 16, 24, 3), (2, 16, 24, 441))
  """
  b, H, W, _ = hr.shape
  s = recipe.scale
  if H % s or W % s:
    raise ValueError(f'image {H}x{W} is not a multiple of the scale {s}')
  h, w = H // s, W // s
  keys = key if key.ndim else jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(b))
  depth = None if depth is None else depth.reshape(b, h, w)
  if recipe.mixture:
    return _mixture(keys, hr, recipe, recipe.mixture, depth, known)
  if recipe.chain:
    return _second_order(keys, hr, recipe, recipe.chain, depth)
  if recipe.blur:
    return _uniform(keys, hr, recipe, recipe.blur, depth)
  return _first_order(keys, hr, recipe, depth, known)


def _second_order(keys: Array, hr: Array, recipe: Recipe, chain: realesrgan.Chain, depth: Array | None) -> Degraded:
  keys, draws = _chain_draws(keys, chain)
  lr, target, rms = realesrgan.apply(keys, hr, chain, recipe.scale, draws)
  field = _chain_field(draws, hr, recipe, chain)
  kernels, clean = _blurred(hr, field, recipe.scale, constant=True)
  return Degraded(
    lr=lr,
    target=target,
    kernels=kernels,
    lr_clean=clean,
    noise_sigma=rms,
    jpeg_quality=draws['second_quality'],
    depth=depth,
    field=field,
    draws=draws,
  )


def _chain_draws(keys: Array, chain: realesrgan.Chain) -> tuple[Array, dict[str, Array]]:
  """The keys of the chain's noise and its parameters, [b] each."""
  keys = jax.vmap(jax.random.split)(keys)  # [b, 2]
  return keys[:, 1], jax.vmap(lambda k: realesrgan.draw(k, chain))(keys[:, 0])


def _chain_field(draws: dict[str, Array], hr: Array, recipe: Recipe, chain: realesrgan.Chain) -> fields.Field:
  """The effective field of a chain, each [b, h, w]."""
  b, H, W, _ = hr.shape
  found = realesrgan.effective_field(draws, chain, (H, W), recipe.scale, recipe.eigenvalues)
  size = b, H // recipe.scale, W // recipe.scale
  lambda1, lambda2, theta = (jnp.broadcast_to(f[:, None, None], size) for f in found)
  return lambda1, lambda2, theta


def _uniform(keys: Array, hr: Array, recipe: Recipe, family: uniform.Blur, depth: Array | None) -> Degraded:
  kernels, draws = jax.vmap(lambda k: uniform.draw(jax.random.split(k, 5)[0], family))(keys)
  clean = blur.blur_reduce(hr, kernels, recipe.scale, family.down)
  lr, sigma, quality, noise_draws = _noisy(keys, clean, recipe)
  if recipe.coded:
    lr = _coded(lr, quality)
  at_each_pixel = lambda x: jnp.broadcast_to(x[:, None, None], (*clean.shape[:3], *x.shape[1:]))
  return Degraded(
    lr=lr,
    target=hr,
    kernels=at_each_pixel(kernels),
    lr_clean=clean,
    noise_sigma=sigma,
    jpeg_quality=quality,
    depth=depth,
    field=(at_each_pixel(draws['sigma1'] ** 2), at_each_pixel(draws['sigma2'] ** 2), at_each_pixel(draws['angle'])),
    draws=draws | noise_draws,
  )


def _first_order(keys: Array, hr: Array, recipe: Recipe, depth: Array | None, known: Array | None) -> Degraded:
  field, draws = _fields(keys, hr, recipe, depth, known)
  made = from_field(keys, hr, recipe, field)
  return made.replace(depth=depth, draws=draws | made.draws)


def _fields(keys: Array, hr: Array, recipe: Recipe, depth: Array | None, known: Array | None) -> _FieldAndDraws:
  """`_draw_field` of a batch."""
  h, w = (side // recipe.scale for side in hr.shape[1:3])
  keys = jax.vmap(lambda k: jax.random.split(k, 5)[0])(keys)
  if depth is None:
    return jax.vmap(lambda k: _draw_field(k, recipe, h, w, None))(keys)
  known = jnp.full(len(keys), True) if known is None else known
  return jax.vmap(lambda k, d, real: _draw_field(k, recipe, h, w, d, real))(keys, depth, known)


def from_field(keys: Array, hr: Float[Array, 'b H W 3'], recipe: Recipe, field: fields.Field) -> Degraded:
  """Eq. 1 with a given field: blur, then noise and JPEG as the recipe's mode says.

  Args:
    keys: one for each image, [b]; those of `degrade` give its noise and quality.
    hr: [b, H, W, 3] in [0, 1].
    recipe: of its field only `constant` matters: the field is then the same everywhere, which is faster.
    field: (lambda1, lambda2, theta), each [b, h, w].

  Returns:
    A `Degraded` without depth, and without draws other than those of a camera.
  """
  kernels, clean = _blurred(hr, field, recipe.scale, constant=recipe.constant)
  lr, sigma, quality, draws = _noisy(keys, clean, recipe)
  if recipe.coded:
    lr = _coded(lr, quality)
  return Degraded(
    lr=lr,
    target=hr,
    kernels=kernels,
    lr_clean=clean,
    noise_sigma=sigma,
    jpeg_quality=quality,
    depth=None,
    field=field,
    draws=draws,
  )


def _blurred(hr: Array, field: fields.Field, scale: int, constant: bool) -> tuple[Array, Array]:
  """Kernels [b, h, w, k*k] of a field, which can be the same at each pixel, and HR after them and subsampling."""
  if not constant:
    kernels = kernel_lib.gaussian_kernels(*field, scale=scale)
    return kernels, blur.blur_downsample(hr, kernels, scale)
  # The blur needs one kernel for the whole image; the copies at each pixel are made only if the caller uses them.
  lambda1, lambda2, theta = (f[:, :1, :1] for f in field)
  kernels = kernel_lib.gaussian_kernels(lambda1, lambda2, theta, scale=scale)
  clean = blur.blur_downsample(hr, kernels, scale)
  return jnp.broadcast_to(kernels, (*field[0].shape, kernels.shape[-1])), clean


def _noisy(keys: Array, clean: Array, recipe: Recipe) -> tuple[Array, Array, Array, dict[str, Array]]:
  """What the recipe's mode does before JPEG.

  Returns:
    the image, rounded to 8 bit; the noise's deviation; the quality of the JPEG that is to follow, 0 for none; and the
    draws of a camera.
  """
  b, h, w, channels = clean.shape
  keys = jax.vmap(lambda k: jax.random.split(k, 5))(keys)  # [b, 5]
  if recipe.mode == 'isp':
    draw_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys[:, 4])
    draws = jax.vmap(isp.draw)(draw_keys)
    lr, rms = isp.apply(noise_keys, clean, draws)
    return lr, rms, draws['quality'], {f'isp_{name}': value for name, value in draws.items()}

  uniform = jax.vmap(lambda k, low, high: jax.random.uniform(k, (), minval=low, maxval=high), (0, None, None))
  level = {'no_noise': 0, 'no_jpeg': 1, 'noise_jpeg': 2}.get(recipe.mode)
  level = jax.vmap(lambda k: jax.random.randint(k, (), 0, 3))(keys[:, 1]) if level is None else jnp.full((b,), level)
  sigma = jnp.where(level >= 1, uniform(keys[:, 2], *recipe.noise), 0.0)
  quality = jnp.where(level >= 2, jnp.round(uniform(keys[:, 3], *recipe.quality)), 0.0)
  if recipe.fixed:
    what, value = recipe.fixed
    sigma = jnp.full((b,), value / 255 if what == 'noise' else 0.0)
    quality = jnp.full((b,), float(value) if what == 'jpeg' else 0.0)

  lr = clean
  if recipe.mode != 'no_noise' and not (recipe.fixed and recipe.fixed[0] == 'jpeg'):
    noise = jax.vmap(lambda k: jax.random.normal(k, (h, w, channels)))(keys[:, 4])
    lr = lr + sigma[:, None, None, None] * noise
  return jnp.round(jnp.clip(lr, 0, 1) * 255) / 255, sigma, quality, {}


def _coded(lr: Array, quality: Array) -> Array:
  """JPEG where the quality is above 0."""
  coded = jpeg_lib.jpeg(lr, jnp.maximum(quality, 1))
  return jnp.where((quality > 0)[:, None, None, None], coded, lr)


def _mixture(
  keys: Array,
  hr: Array,
  recipe: Recipe,
  shares: Mapping[str, float],
  depth: Array | None,
  known: Array | None,
) -> Degraded:
  """Another recipe for each image: what that recipe makes with the image's key, except that no chain sharpens."""
  parts = [dataclasses.replace(Recipe.parse(name), **_parameters(recipe)) for name in shares]
  # Not a small number: `fold_in` of one may give the key that `split` gives.
  part_keys = jax.vmap(lambda k: jax.random.fold_in(k, 0x6D697874))(keys)
  part = realesrgan.index(jax.vmap(jax.random.uniform)(part_keys), tuple(shares.values()))
  draws = {'part': part}

  def choose(found: Mapping[int, Any]) -> Any:
    """From each part's arrays [b, ...], by the part's index: for each image those of the part that was drawn."""
    first, *others = found
    chosen = found[first]
    for n in others:
      drawn = lambda theirs, ours, n=n: jnp.where((part == n).reshape(-1, *[1] * (ours.ndim - 1)), theirs, ours)
      chosen = jax.tree.map(drawn, found[n], chosen)
    return chosen

  # The chains differ in what they draw, not in what they do: one run serves them all.
  chains = {n: p.chain for n, p in enumerate(parts) if p.chain}
  widest = lambda stage: max((getattr(chain, stage) for chain in chains.values()), key=lambda one: one.factor[1])
  chain = realesrgan.Chain(first=widest('first'), second=widest('second'), sharpen=False)
  noise_keys = _chain_draws(keys, chain)[0]
  chain_draws = choose({n: _chain_draws(keys, one)[1] for n, one in chains.items()})
  chained = functools.reduce(jnp.logical_or, [part == n for n in chains])
  chain_lr, chain_rms = realesrgan.apply_where(chained, noise_keys, hr, chain, recipe.scale, chain_draws)

  # The parts of Eq. 1 differ in what they do after the blur.
  plain = {n: p for n, p in enumerate(parts) if not p.chain}
  field, field_draws = _fields(keys, hr, next(iter(plain.values())), depth, known)
  where_chained = lambda yes, no: jnp.where(chained.reshape(-1, *[1] * (no.ndim - 1)), yes, no)
  lambda1, lambda2, theta = map(where_chained, _chain_field(chain_draws, hr, recipe, chain), field)
  field = lambda1, lambda2, theta
  kernels, clean = _blurred(hr, field, recipe.scale, constant=False)
  noisy = {n: _noisy(keys, clean, p) for n, p in plain.items()}
  lr, sigma, quality = choose({n: found[:3] for n, found in noisy.items()})
  for *_, found in noisy.values():
    draws |= found
  return Degraded(
    lr=where_chained(chain_lr, _coded(lr, quality)),
    target=hr,
    kernels=kernels,
    lr_clean=clean,
    noise_sigma=where_chained(chain_rms, sigma),
    jpeg_quality=where_chained(chain_draws['second_quality'], quality),
    depth=depth,
    field=field,
    draws=draws | field_draws | chain_draws,
  )


def _parameters(recipe: Recipe) -> dict[str, Any]:
  """What a mixture hands to its parts: all but field and mode."""
  return {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name not in ('field', 'mode')}
