"""The method as pure functions, shared by sampling and training.

    estimate (one call of MCFormer: clean image and kernel) -> restore (Algorithm 2: a call a step, and guidance)

`modules` and `variables` are mappings from part names to Flax modules and their variables; the only part is 'mcformer'.
The network works on x, which is the image itself or a multiple of what it adds to the enlarged LR image; see `Domain`.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax import diffusion
from ssr_jax.diffusion import samplers
from ssr_jax.image.blur import blur_reduce
from ssr_jax.image.resize import RESAMPLING, resample, resampling_weights, upscale
from ssr_jax.types import Array, Float, Num

Modules = Mapping[str, Any]
Variables = Mapping[str, Any]

OPERATORS = ('estimated', 'bicubic', 'true')
_UNIT = 12288  # values of an LR image of 64 x 64 pixels
_FLOOR = 1e-12  # under a square root, whose gradient at 0 is not finite


@dataclasses.dataclass(frozen=True)
class Domain:
  """What the network's x is, and how LR images come about.

  Attributes:
    residual: x is gain * (image - u) instead of the image; noise then covers the detail alone.
    gain: of the residual, which brings its deviation nearer to that of noise.
    up: how the LR image is enlarged to u, bicubically: 'antialiased' with a = -0.5 as MATLAB and Pillow do it, 'torch'
      with -0.75 as the released weights saw it.
    down: how the blurred image is reduced, one of `blur.REDUCTIONS`.
    scale: s.
  """

  residual: bool = False
  gain: float = 1.0
  up: str = 'antialiased'
  down: str = 'bicubic'
  scale: int = 4

  def enlarge(self, lr: Float[Array, 'b h w 3']) -> Float[Array, 'b H W 3']:
    """The LR image at HR size, u."""
    if self.up == 'antialiased':
      return upscale(lr, self.scale)
    method = jnp.int32(RESAMPLING.index('bicubic'))
    rows, columns = (
      jnp.broadcast_to(weights, (len(lr), *weights.shape))
      for weights in (
        resampling_weights(method, jnp.int32(side), jnp.int32(self.scale * side), side, self.scale * side)
        for side in lr.shape[1:3]
      )
    )
    return resample(lr.transpose(0, 3, 1, 2), rows, columns).transpose(0, 2, 3, 1)

  def to_image(self, x: Float[Array, 'b H W 3'], u: Float[Array, 'b H W 3']) -> Float[Array, 'b H W 3']:
    """The image of x, not clipped."""
    return u + x / self.gain if self.residual else x

  def from_image(self, image: Float[Array, 'b H W 3'], u: Float[Array, 'b H W 3']) -> Float[Array, 'b H W 3']:
    """X of an image."""
    return self.gain * (image - u) if self.residual else image

  @property
  def step(self) -> float:
    """Factor from a gradient with respect to x to the change of x that is a step against the image's gradient."""
    return self.gain**2 if self.residual else 1.0


@dataclasses.dataclass(frozen=True)
class Guidance:
  """The kernel-aware gradient term of Algorithm 2.

  Attributes:
    weight: lambda; 0 leaves the term out.
    operator: 'estimated', blur with the kernel of the same step; 'bicubic', no blur; 'true', blur with a kernel that
      the caller knows.
    stop_kernel: leave out the gradient through the kernel estimate.
    shrink: weight of the norm of the image itself, beside that of the LR residual. The released code has 0.1, of which
      the paper says nothing.
  """

  weight: float = 1.0
  operator: str = 'estimated'
  stop_kernel: bool = False
  shrink: float = 0.0


def predict(
  modules: Modules, variables: Variables, x_t: Float[Array, 'b H W 3'], t: Num[Array, ' b'], u: Float[Array, 'b H W 3']
) -> tuple[Float[Array, 'b H W 3'], Float[Array, 'b taps']]:
  """What the network predicts at step t [b], and its kernel. The second image of a learned variance is not used."""
  prediction, kernel = modules['mcformer'].apply(variables['mcformer'], x_t, t, u)
  return prediction[..., :3], kernel


def estimate(
  modules: Modules,
  variables: Variables,
  x_t: Float[Array, 'b H W 3'],
  t: Num[Array, ' b'],
  u: Float[Array, 'b H W 3'],
  schedule: diffusion.Schedule,
) -> tuple[Float[Array, 'b H W 3'], Float[Array, 'b taps']]:
  """Clean x (Eq. 4, with the product abar_t that it needs) and kernel k (Eq. 15) from x_t; neither is clipped."""
  prediction, kernel = predict(modules, variables, x_t, t, u)
  return schedule.to_x0(prediction, x_t, t), kernel


def mismatch(
  image: Float[Array, 'b H W 3'],
  kernel: Float[Array, 'b taps'] | None,
  lr: Float[Array, 'b h w 3'],
  domain: Domain,
  shrink: float = 0.0,
) -> Float[Array, ' b']:
  """How far an image is from the LR image: the norm of y - (k * x) reduced by s, of each image by itself.

  It is the plain norm: the paper squares it, but lambda = 1 belongs to the released code, which does not. The factor
  sqrt(n / 12288), n values of the LR image, makes a step as large at a pixel of an image of any size.

  Args:
    image: the HR estimate.
    kernel: k; None for no blur.
    lr: y.
    domain: with the reduction.
    shrink: see `Guidance`.

  Returns:
    [b], not negative.
  """
  error = lr - blur_reduce(image, kernel, domain.scale, domain.down)
  length = lambda x: jnp.sqrt(jnp.square(x).sum((1, 2, 3)) + _FLOOR)
  value = length(error) + shrink * length(image) if shrink else length(error)
  return (lr[0].size / _UNIT) ** 0.5 * value


def guided(
  modules: Modules,
  variables: Variables,
  x_t: Float[Array, 'b H W 3'],
  t: Num[Array, ' b'],
  u: Float[Array, 'b H W 3'],
  lr: Float[Array, 'b h w 3'],
  schedule: diffusion.Schedule,
  domain: Domain,
  guidance: Guidance,
  known: Float[Array, 'b taps'] | None = None,
) -> tuple[Float[Array, 'b H W 3'], Float[Array, 'b H W 3'] | None, Float[Array, 'b taps']]:
  """A step's estimate, and the gradient of `mismatch` with respect to x_t, through the network and the kernel.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    x_t: noisy x.
    t: [b], its step.
    u: the enlarged LR image.
    lr: y.
    schedule: the forward process.
    domain: of x.
    guidance: the gradient's options.
    known: the kernel of operator 'true'.

  Returns:
    clean x; the gradient, None without guidance; the kernel.

  Raises:
    ValueError: an unknown operator, or 'true' without a kernel.
  """
  if guidance.operator not in OPERATORS:
    raise ValueError(f'operator {guidance.operator!r}; known: {", ".join(OPERATORS)}')
  if guidance.operator == 'true' and known is None:
    raise ValueError("operator 'true' needs the kernel")

  def total(x_t: Array) -> tuple[Array, tuple[Array, Array]]:
    x0, kernel = estimate(modules, variables, x_t, t, u, schedule)
    own = jax.lax.stop_gradient(kernel) if guidance.stop_kernel else kernel
    applied = {'estimated': own, 'bicubic': None, 'true': known}[guidance.operator]
    return mismatch(domain.to_image(x0, u), applied, lr, domain, guidance.shrink).sum(), (x0, kernel)

  if not guidance.weight:
    x0, kernel = estimate(modules, variables, x_t, t, u, schedule)
    return x0, None, kernel
  gradient, (x0, kernel) = jax.grad(total, has_aux=True)(x_t)
  return x0, gradient, kernel


def restore(
  modules: Modules,
  variables: Variables,
  lr: Float[Array, 'b h w 3'],
  eps: Float[Array, 'b H W 3'],
  keys: Array,
  schedule: diffusion.Schedule,
  domain: Domain,
  guidance: Guidance = Guidance(),
  *,
  steps: int = 50,
  spacing: str = 'linspace',
  known: Float[Array, 'b taps'] | None = None,
) -> tuple[Float[Array, 'b H W 3'], Float[Array, 'steps b taps']]:
  """Algorithm 2: ancestral sampling, each step moved against the gradient of `mismatch`.

  The kernel is estimated anew from x_t and u in each step; nothing of it is carried over. The gradient is taken at x_t
  and subtracted from x_{t-1}, also in the last step. Fewer steps mean weaker guidance at one lambda.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    lr: y, [b, h, w, 3] in [0, 1]; sides such that those of the HR image suit the network.
    eps: the first x_t, standard normal noise.
    keys: [b], for the noise between steps.
    schedule: the forward process.
    domain: of x.
    guidance: of the steps.
    steps: calls of the network.
    spacing: of the time steps, as in `Schedule.timesteps`.
    known: the kernel of operator 'true'.

  Returns:
    the image, not clipped, float32; and the kernel of each step, the last one's being the answer.
  """
  u = domain.enlarge(lr)

  def step(x_t: Array, t: Array) -> tuple[Array, Array | None, Array]:
    x0, gradient, kernel = guided(modules, variables, x_t, t, u, lr, schedule, domain, guidance, known)
    move = None if gradient is None else -guidance.weight * domain.step * gradient
    return x0, move, kernel

  x, kernels = samplers.ddpm_by(step, schedule, keys, eps, steps, spacing=spacing)
  return domain.to_image(x, u), kernels


def loss(
  modules: Modules,
  variables: Variables,
  key: Array,
  image: Float[Array, 'b H W 3'],
  lr: Float[Array, 'b h w 3'],
  kernel: Float[Array, 'b taps'],
  schedule: diffusion.Schedule,
  domain: Domain,
  *,
  levels: int,
  weight: float = 1.0,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Eq. 13: mean squared error of the prediction, and the L1 of the kernel summed over its taps; means over the batch.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    key: of the time steps and the noise.
    image: HR.
    lr: y.
    kernel: the true k.
    schedule: the forward process; with 'v' the error is that of v.
    domain: of x.
    levels: how many time steps are drawn from, spread over the schedule as in sampling with as many steps.
    weight: of the kernel's L1, 1 in the paper; 0 for the ablation without it.

  Returns:
    the loss; and its terms, 'noise' and 'kernel_l1'.
  """
  t_key, eps_key = jax.random.split(key)
  t = jnp.asarray(schedule.timesteps(levels, spacing='linspace'))
  t = t[jax.random.randint(t_key, (len(image),), 0, levels)]
  eps = jax.random.normal(eps_key, image.shape)
  u = domain.enlarge(lr)
  x = domain.from_image(image, u)
  prediction, found = predict(modules, variables, schedule.add_noise(x, eps, t), t, u)
  noise = jnp.square(prediction - schedule.target(x, eps, t)).mean()
  l1 = jnp.abs(found - kernel).sum(-1).mean()
  return noise + weight * l1, {'noise': noise, 'kernel_l1': l1}
