"""The second-order degradation of Real-ESRGAN (arXiv 2107.10833, section 3), batched, every draw per image.

Twice blur, resize, noise, JPEG; a last low-pass (sinc) filter before or after the last JPEG. All shapes are fixed: an
image between two resizes lies in the top left corner of a canvas that has room for the largest factor, and each step is
told the image's size. Differences from the published program: there, resizes and the kind of noise are drawn once a
batch; here, JPEG follows libjpeg to the rounding, and a resize by a factor takes the ratio of the two whole sizes, so
that the far border stays aligned.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.degrade import noise as noise_lib
from ssr_jax.image import blur, resize, sharpen
from ssr_jax.image import jpeg as jpeg_lib
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.types import Array, Bool, Float

KINDS = ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso', 'sinc', 'none')
"""Kinds of kernel; draws hold their index."""
DIRECTIONS = ('up', 'down', 'keep')


@dataclasses.dataclass(frozen=True)
class Stage:
  """One round of blur, resize, noise and JPEG; ranges are uniform. Defaults: the first stage of the training set.

  Attributes:
    blur: probability of a blur.
    sinc: probability that the blur is a sinc filter.
    kinds: probabilities of the first six of `KINDS`, where it is not.
    side: range of the kernel's odd number of taps.
    sigma: standard deviation of the kernel, each axis of its own where it is anisotropic.
    beta_gaussian: shape of generalised Gaussians; below and above 1 with equal probability.
    beta_plateau: shape of plateau kernels, likewise.
    resize: probabilities of `DIRECTIONS`.
    factor: the smallest and the largest factor; up draws above 1, down below.
    gaussian: probability of Gaussian noise, Poisson otherwise.
    sigma_noise: standard deviation of Gaussian noise, of 255.
    scale_poisson: scale of Poisson noise.
    gray: probability that the noise is gray.
    quality: of JPEG; rounded.
  """

  blur: float = 1.0
  sinc: float = 0.1
  kinds: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
  side: tuple[int, int] = (7, 21)
  sigma: tuple[float, float] = (0.2, 3.0)
  beta_gaussian: tuple[float, float] = (0.5, 4.0)
  beta_plateau: tuple[float, float] = (1.0, 2.0)
  resize: tuple[float, float, float] = (0.2, 0.7, 0.1)
  factor: tuple[float, float] = (0.15, 1.5)
  gaussian: float = 0.5
  sigma_noise: tuple[float, float] = (1.0, 30.0)
  scale_poisson: tuple[float, float] = (0.05, 3.0)
  gray: float = 0.4
  quality: tuple[float, float] = (30.0, 95.0)


@dataclasses.dataclass(frozen=True)
class Chain:
  """Both stages, the last sinc filter, and whether the image is sharpened first, and with it the training target.

  Attributes:
    first: at the image's size.
    second: its resize factor is relative to the target's size.
    final_sinc: probability of the last filter; its cut-off is U(pi/3, pi).
    sharpen: unsharp mask of the HR image, with the defaults of `sharpen.unsharp_mask`.
  """

  first: Stage = Stage()
  second: Stage = Stage(
    blur=0.8,
    sigma=(0.2, 1.5),
    resize=(0.3, 0.4, 0.3),
    factor=(0.3, 1.2),
    sigma_noise=(1.0, 25.0),
    scale_poisson=(0.05, 2.5),
  )
  final_sinc: float = 0.8
  sharpen: bool = True


CHAINS = {
  'realesrgan': Chain(),
  # The lighter set of the DIV2K-Val benchmark (StableSR's).
  'realesrgan-light': Chain(
    first=Stage(
      sigma=(0.2, 1.5),
      beta_gaussian=(0.5, 2.0),
      beta_plateau=(1.0, 1.5),
      factor=(0.3, 1.5),
      sigma_noise=(1.0, 15.0),
      scale_poisson=(0.05, 2.0),
      quality=(60.0, 95.0),
    ),
    second=Stage(
      blur=0.5,
      side=(7, 11),
      sigma=(0.2, 1.0),
      beta_gaussian=(0.5, 2.0),
      beta_plateau=(1.0, 1.5),
      resize=(0.3, 0.4, 0.3),
      factor=(0.6, 1.2),
      sigma_noise=(1.0, 12.0),
      scale_poisson=(0.05, 1.0),
      quality=(60.0, 100.0),
    ),
  ),
}
"""The two published parameter sets, by the name of their recipe."""


def draw(key: Array, chain: Chain) -> dict[str, Array]:
  """All parameters of one image's degradation.

  Args:
    key: one key.
    chain: what to draw.

  Returns:
    scalars: for each of the stages 'first' and 'second' `STAGE_kind` (index into `KINDS`), `_side`, `_sigma1`,
    `_sigma2`, `_theta`, `_beta`, `_omega` (those that the kind does not use are 0), `_direction` (into
    `DIRECTIONS`), `_factor`, `_method` (into `resize.RESAMPLING`), `_gaussian`, `_level` (standard deviation, of 1, or
    Poisson scale), `_gray`, `_quality`; and `final_sinc`, `final_side`, `final_omega`, `final_method`, `jpeg_last`.
  """
  # One call of the generator for all: each call costs more to compile than all of these numbers to draw.
  u = jax.random.uniform(key, (2 * len(_UNIFORMS) + 5,))
  first, second, u = jnp.split(u, (len(_UNIFORMS), 2 * len(_UNIFORMS)))
  draws = {f'first_{what}': value for what, value in _draw_stage(first, chain.first).items()}
  draws |= {f'second_{what}': value for what, value in _draw_stage(second, chain.second).items()}
  sinc = u[0] < chain.final_sinc
  return draws | {
    'final_sinc': sinc,
    'final_side': jnp.where(sinc, _odd(u[1], (7, 21)), 0),
    'final_omega': jnp.where(sinc, _between(u[2], np.pi / 3, np.pi), 0.0),
    'final_method': index(u[3], (1 / 3, 1 / 3, 1 / 3)),
    'jpeg_last': u[4] < 0.5,
  }


def kernels(draws: dict[str, Array]) -> dict[str, Array]:
  """The kernels of draws [b]: 'first', 'second' and 'final', [b, k*k]; where there is no blur, a lone middle tap."""
  found = {}
  for name in ('first', 'second'):
    kind, side, *shape = (draws[f'{name}_{what}'] for what in ('kind', 'side', 'sigma1', 'sigma2', 'theta', 'beta'))
    # Kinds without these parameters get 1, so that the values that `where` drops are not NaN.
    sigma1, sigma2, theta, beta = (jnp.where(kind < 6, value, 1.0) for value in shape)
    shaped = kernel_lib.shaped_kernels(sigma1, sigma2, theta, beta, (kind == 4) | (kind == 5), side)
    sinc = kernel_lib.sinc_kernels(jnp.where(kind == 6, draws[f'{name}_omega'], 1.0), side)
    found[name] = jnp.where((kind == 6)[:, None], sinc, shaped)
  omega = jnp.where(draws['final_sinc'], draws['final_omega'], 1.0)
  return found | {'final': kernel_lib.sinc_kernels(omega, draws['final_side'])}


def effective_field(
  draws: dict[str, Array], chain: Chain, size: tuple[int, int], scale: int, eigenvalues: tuple[float, float]
) -> tuple[Float[Array, ' b'], Float[Array, ' b'], Float[Array, ' b']]:
  """The Gaussian blur that a chain amounts to, as a field of one value for each image.

  Covariances of filters in a row add. Those of both blurs are measured on their taps, those of the three resizes on
  their weights, and each is scaled from the pixels that it acts on to HR pixels. Sinc filters count as nothing, because
  the second moment of an ideal low-pass is zero; so do bicubic resizes, whose own is slightly negative, noise and JPEG.

  Args:
    draws: of `draw`, each [b].
    chain: the ranges that were drawn from.
    size: (H, W).
    scale: s.
    eigenvalues: range to which the variances are clipped, in HR pixels squared.

  Returns:
    (lambda1, lambda2, theta), each [b], for `image.kernels.gaussian_kernels`.
  """
  taps = kernels(draws)
  steps = (
    ('first', size, 'first_factor', 'first_method', chain.first.factor[1]),
    ('second', tuple(side // scale for side in size), 'second_factor', 'second_method', chain.second.factor[1]),
    ('final', tuple(side // scale for side in size), None, 'final_method', 1.0),
  )
  now = [jnp.full(len(draws['final_method']), side) for side in size]  # samples of the image, [b] each
  canvas = size
  total = jnp.zeros((len(draws['final_method']), 2, 2))
  for name, base, factor, method, largest in steps:
    pixel = jnp.stack([side / n for side, n in zip(size, now, strict=True)], -1)  # [b, 2], in HR pixels
    if name != 'final':  # the last filter is a sinc
      blurs = (draws[f'{name}_kind'] < 6)[:, None, None]
      blurred = jnp.where(blurs, kernel_lib.moments(taps[name], 1)[1], 0.0)
      total = total + blurred * pixel[:, :, None] * pixel[:, None, :]
    factors = draws[factor] if factor else jnp.ones(len(pixel))
    variances, after, limits = [], [], []
    for source, columns, side in zip(now, canvas, base, strict=True):
      target, rows = _resized(side, factors, largest)
      measure = functools.partial(resize.resampling_variance, columns=columns, rows=rows)
      variances.append(jnp.maximum(jax.vmap(measure)(draws[method], source, target), 0))
      after.append(target)
      limits.append(rows)
    total = total + jax.vmap(jnp.diag)(jnp.stack(variances, -1) * pixel**2)
    now, canvas = after, tuple(limits)
  yy, xx, xy = total[:, 0, 0], total[:, 1, 1], total[:, 0, 1]
  middle, half = (xx + yy) / 2, jnp.sqrt(((xx - yy) / 2) ** 2 + xy**2)
  lambda1, lambda2 = (jnp.clip(value, *eigenvalues) for value in (middle + half, middle - half))
  return lambda1, lambda2, 0.5 * jnp.arctan2(2 * xy, xx - yy)


def apply_where(
  wanted: Bool[Array, ' b'], key: Array, hr: Float[Array, 'b H W 3'], chain: Chain, scale: int, draws: dict[str, Array]
) -> tuple[Float[Array, 'b h w 3'], Float[Array, ' b']]:
  """`apply` for some images of a batch, the others being 0.

  On a CPU the images are taken one by one and the others cost nothing. An accelerator runs the chain on the whole
  batch: it would otherwise work on one image at a time, and a batch that is split over devices must stay in one piece.

  Args:
    wanted: [b] bool, which images.
    key: one key for each image, [b].
    hr: [b, H, W, 3] in [0, 1].
    chain: as for `apply`.
    scale: s.
    draws: of `draw`, each [b].

  Returns:
    lr [b, h, w, 3] and the root mean square of the second stage's noise, [b].
  """

  def run(key, hr, draws):
    lr, _, rms = apply(key, hr, chain, scale, draws)
    return lr, rms

  def whole(wanted, key, hr, draws):
    lr, rms = run(key, hr, draws)
    return jnp.where(wanted[:, None, None, None], lr, 0.0), jnp.where(wanted, rms, 0.0)

  def one_by_one(wanted, key, hr, draws):
    _, H, W, c = hr.shape

    def one(inputs):
      wanted, *inputs = inputs
      nothing = lambda *_: (jnp.zeros((H // scale, W // scale, c)), jnp.zeros(()))
      alone = lambda *inputs: jax.tree.map(lambda x: x[0], run(*jax.tree.map(lambda x: x[None], inputs)))
      return jax.lax.cond(wanted, alone, nothing, *inputs)

    return jax.lax.map(one, (wanted, key, hr, draws))

  return jax.lax.platform_dependent(wanted, key, hr, draws, cpu=one_by_one, default=whole)


def apply(
  key: Array, hr: Float[Array, 'b H W 3'], chain: Chain, scale: int, draws: dict[str, Array]
) -> tuple[Float[Array, 'b h w 3'], Float[Array, 'b H W 3'], Float[Array, ' b']]:
  """Runs the chain.

  Args:
    key: one key for each image, [b]; of the noise.
    hr: [b, H, W, 3] in [0, 1], multiples of the scale.
    chain: the ranges that were drawn from, which set the sizes of the canvases.
    scale: s.
    draws: of `draw`, each [b].

  Returns:
    lr [b, h, w, 3], multiples of 1/255; the target [b, H, W, 3], which is `hr`, sharpened if the chain says so; and the
    root mean square of the second stage's noise, [b].
  """
  b, H, W, _ = hr.shape
  target = sharpen.unsharp_mask(hr) if chain.sharpen else hr
  taps = kernels(draws)
  noise_keys = jax.vmap(jax.random.split)(key)  # [b, 2]
  image = blur.convolve(target.transpose(0, 3, 1, 2), taps['first'])

  full = jnp.full(b, H), jnp.full(b, W)
  image, size = _resize(image, full, (H, W), draws['first_factor'], chain.first.factor[1], draws['first_method'])
  image, _ = _add_noise(noise_keys[:, 0], image, size, draws, 'first')
  image = _jpeg(image, draws['first_quality'], size)

  image = blur.convolve(image, taps['second'], size)
  lr_size = H // scale, W // scale
  image, size = _resize(image, size, lr_size, draws['second_factor'], chain.second.factor[1], draws['second_method'])
  image, rms = _add_noise(noise_keys[:, 1], image, size, draws, 'second')

  last = draws['jpeg_last'][:, None, None, None]
  coded = _jpeg(image, draws['second_quality'], size)
  image = jnp.where(last, image, coded)
  image, _ = _resize(image, size, lr_size, jnp.ones(b), 1.0, draws['final_method'])
  image = jnp.clip(blur.convolve(image, taps['final']), 0, 1)
  image = jnp.where(last, _jpeg(image, draws['second_quality']), image)
  return jnp.round(image.transpose(0, 2, 3, 1) * 255) / 255, target, rms


_UNIFORMS = (
  'blur',
  'sinc',
  'kind',
  'side',
  'sigma1',
  'sigma2',
  'theta',
  'below',
  'beta',
  'omega',
  'direction',
  'factor',
  'method',
  'gaussian',
  'level',
  'gray',
  'quality',
)


def _draw_stage(uniforms: Array, stage: Stage) -> dict[str, Array]:
  u = dict(zip(_UNIFORMS, uniforms, strict=True))
  kind = jnp.where(u['sinc'] < stage.sinc, 6, index(u['kind'], stage.kinds))
  kind = jnp.where(u['blur'] < stage.blur, kind, 7)
  shaped, isotropic, plateau = kind < 6, kind % 2 == 0, (kind == 4) | (kind == 5)
  side = _odd(u['side'], stage.side)
  sigma1, sigma2 = (_between(u[axis], *stage.sigma) for axis in ('sigma1', 'sigma2'))
  low, high = (jnp.where(plateau, p, g) for p, g in zip(stage.beta_plateau, stage.beta_gaussian, strict=True))
  beta = jnp.where(u['below'] < 0.5, _between(u['beta'], low, 1.0), _between(u['beta'], 1.0, high))
  lowest = jnp.where(side < 13, np.pi / 3, np.pi / 5)
  direction = index(u['direction'], stage.resize)
  up, down = _between(u['factor'], 1.0, stage.factor[1]), _between(u['factor'], stage.factor[0], 1.0)
  gaussian = u['gaussian'] < stage.gaussian
  sigma_noise, scale_poisson = (_between(u['level'], *bounds) for bounds in (stage.sigma_noise, stage.scale_poisson))
  return {
    'kind': kind,
    'side': jnp.where(kind < 7, side, 0),
    'sigma1': jnp.where(shaped, sigma1, 0.0),
    'sigma2': jnp.where(shaped, jnp.where(isotropic, sigma1, sigma2), 0.0),
    'theta': jnp.where(shaped & ~isotropic, _between(u['theta'], -np.pi, np.pi), 0.0),
    'beta': jnp.where(shaped, jnp.where(kind < 2, 1.0, beta), 0.0),
    'omega': jnp.where(kind == 6, _between(u['omega'], lowest, np.pi), 0.0),
    'direction': direction,
    'factor': jnp.where(direction == 0, up, jnp.where(direction == 1, down, 1.0)),
    'method': index(u['method'], (1 / 3, 1 / 3, 1 / 3)),
    'gaussian': gaussian,
    'level': jnp.where(gaussian, sigma_noise / 255, scale_poisson),
    'gray': u['gray'] < stage.gray,
    'quality': jnp.round(_between(u['quality'], *stage.quality)),
  }


def _resize(
  image: Array, size: tuple[Array, Array], base: tuple[int, int], factor: Array, largest: float, method: Array
) -> tuple[Array, tuple[Array, Array]]:
  """From `size` on its canvas to floor(factor * base) on a canvas of floor(largest * base)."""
  matrices, sizes = [], []
  for source, canvas, side in zip(size, image.shape[2:], base, strict=True):
    target, limit = _resized(side, factor, largest)
    weigh = functools.partial(resize.resampling_weights, columns=canvas, rows=limit)
    matrices.append(jax.vmap(weigh)(method, source, target))
    sizes.append(target)
  return resize.resample(image, *matrices), tuple(sizes)


def _resized(side: int, factor: Array, largest: float) -> tuple[Array, int]:
  """floor(factor * side), [b], and the length of its canvas."""
  limit = int(largest * side)
  return jnp.clip(jnp.floor(factor * side).astype(jnp.int32), 1, limit), limit


def _add_noise(key: Array, image: Array, size: tuple[Array, Array], draws: dict[str, Array], name: str):
  """The noisy image, clipped to [0, 1], and the root mean square of the noise, [b]."""
  inside = _inside((image.shape[2], image.shape[3]), size)
  parameters = (draws[f'{name}_{what}'] for what in ('gaussian', 'level', 'gray'))
  noise = jax.vmap(noise_lib.noise)(key, image, inside, *parameters)
  power = jnp.where(inside[:, None], noise**2, 0.0).sum((1, 2, 3)) / (3.0 * size[0] * size[1])
  return jnp.clip(image + noise, 0, 1), jnp.sqrt(power)


def _inside(canvas: tuple[int, int], size: tuple[Array, Array]) -> Array:
  rows, columns = (jnp.arange(side) < n[:, None] for side, n in zip(canvas, size, strict=True))
  return rows[:, :, None] & columns[:, None, :]


def _jpeg(planes: Array, quality: Array, size: tuple[Array, Array] | None = None) -> Array:
  """`jpeg` on [b, 3, H, W]."""
  return jpeg_lib.jpeg(planes.transpose(0, 2, 3, 1), quality, size).transpose(0, 3, 1, 2)


def _between(u: Array, low, high) -> Array:
  return low + (high - low) * u


def _odd(u: Array, bounds: tuple[int, int]) -> Array:
  """One of the odd numbers from bounds[0] to bounds[1]."""
  count = (bounds[1] - bounds[0]) // 2 + 1
  return bounds[0] + 2 * jnp.minimum(jnp.floor(u * count).astype(jnp.int32), count - 1)


def index(u: Array, probabilities: tuple[float, ...]) -> Array:
  """Draws from a categorical distribution: the index of the probability that u, uniform in [0, 1), selects."""
  return (u[..., None] >= np.cumsum(probabilities)[:-1]).sum(-1).astype(jnp.int32)
