"""The method as pure functions, shared by sampling and all training stages.

    refine (SVKR: depth, kernels, restored image) -> conditions -> generate (AMF-UNet) -> decode

`modules` and `variables` are mappings from part names ('depth', 'dkenet', ...) to Flax modules and their variables.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax import diffusion
from ssr_jax.diffusion import samplers
from ssr_jax.image.blur import blur_downsample
from ssr_jax.image.kernels import pca_code
from ssr_jax.image.resize import resize, upscale, window_weights
from ssr_jax.systems.base import Window
from ssr_jax.systems.ssr.encoders import Conditions
from ssr_jax.systems.ssr.svkr import SVKR, svkr
from ssr_jax.types import Array, Float

Modules = Mapping[str, Any]
Variables = Mapping[str, Any]

RESTORING = ('depth', 'dkenet', 'nbsr')
"""The parts that `refine` runs."""


def apply(modules: Modules, variables: Variables, part: str, *arguments: Any, **options: Any) -> Any:
  """Calls a part's module with its variables."""
  return modules[part].apply(variables[part], *arguments, **options)


def see(
  image: Float[Array, 'b H W 3'], size: tuple[int, int], window: Window | None = None, scale: int = 1
) -> Float[Array, 'b R C 3']:
  """Resizes an image for the depth net, bilinearly and antialiased, without padding.

  Args:
    image: [b, H, W, 3]; with a window, a whole image padded at the bottom and right.
    size: working resolution of the net.
    window: its `scale * window.size` is the size without padding; None if there is no padding.
    scale: pixels of `image` per LR pixel.

  Returns:
    [b, *size, 3].
  """
  if window is None:
    return resize(image, size, 'bilinear')
  zero = jnp.int32(0)
  rows, columns = (
    window_weights(scale * window.size[axis], jnp.int32(size[axis]), zero, image.shape[1 + axis], size[axis])
    for axis in (0, 1)
  )
  image = jnp.einsum('rh,bhwc->brwc', rows, image, precision='highest')
  return jnp.einsum('sw,brwc->brsc', columns, image, precision='highest')


def spread_depth(
  depth: Float[Array, 'b R C 1'], shape: tuple[int, int], window: Window | None = None, scale: int = 1
) -> Float[Array, 'b h w 1']:
  """Resizes depth from the net's resolution to an image's, or to that of one tile.

  Args:
    depth: [b, R, C, 1] in [0, 1], of the whole image.
    shape: (h, w) of the result.
    window: of the tile; the border is repeated outside the image. None: `shape` is the whole image.
    scale: samples of `shape` per LR pixel.

  Returns:
    [b, *shape, 1] in [0, 1].
  """
  if window is None:
    return jnp.clip(resize(depth, shape, 'bilinear'), 0, 1)
  rows, columns = (
    window_weights(
      jnp.int32(depth.shape[1 + axis]),
      scale * window.size[axis],
      scale * window.origin[axis],
      depth.shape[1 + axis],
      shape[axis],
    )
    for axis in (0, 1)
  )
  depth = jnp.einsum('rh,bhwc->brwc', rows, depth, precision='highest')
  return jnp.clip(jnp.einsum('sw,brwc->brsc', columns, depth, precision='highest'), 0, 1)


def refine(
  modules: Modules,
  variables: Variables,
  lr: Float[Array, 'b h w 3'],
  *,
  window: Window | None = None,
  depths: Sequence[Float[Array, 'b R C 1']] | None = None,
  kernels: Float[Array, 'b h w taps'] | None = None,
  scale: int = 4,
  iterations: int = 3,
  gamma: float = 0.9,
  rule: str = 'algorithm1',
  unroll: int | bool = 1,
) -> SVKR:
  """SVKR (Algorithm 1) with the parts 'depth', 'dkenet' and 'nbsr'.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    lr: [b, h, w, 3] in [0, 1]; with a window and without depths, a whole image with padding.
    window: position of `lr` in the image; None: `lr` is the whole image, without padding.
    depths: D^1 to D^t of the whole image, each [b, R, C, 1], for a tile, which cannot estimate them. Round t is then
      the last; D^{t+1} is estimated from its image.
    kernels: K, normalised, used instead of every estimate; None estimates them.
    scale: s.
    iterations: T; with depths, their number counts instead.
    gamma: weight of the newer kernel estimate.
    rule: of the update, as in `svkr`.
    unroll: as in `svkr`.

  Returns:
    an `SVKR` whose depth is the whole image's at the depth net's resolution, [b, R, C, 1]; see `spread_depth`.
  """
  size = tuple(modules['depth'].resolution)

  def estimate_depth(image: Array) -> Array:
    return apply(modules, variables, 'depth', see(image, size, window, scale))

  def estimate_kernels(lr: Array, depth: Array) -> Array:
    if kernels is not None:
      return kernels
    _, h, w, _ = lr.shape
    return apply(modules, variables, 'dkenet', lr, spread_depth(depth, (h, w), window))

  def restore(lr: Array, kernels: Array) -> Array:
    return apply(modules, variables, 'nbsr', lr, kernels)

  options = {'scale': scale, 'iterations': iterations, 'gamma': gamma, 'rule': rule, 'unroll': unroll}
  if depths is None:
    return svkr(estimate_depth, estimate_kernels, restore, lr, **options)
  if iterations:  # unrolled, so that each round takes the next of the given depths
    options |= {'iterations': len(depths), 'unroll': True}
  given = iter(depths)
  return svkr(lambda image: next(given), estimate_kernels, restore, lr, **options)


def encode(
  modules: Modules,
  variables: Variables,
  image: Float[Array, 'b H W 3'],
  key: Array | None = None,
  autoencoder: str = 'vae',
) -> Float[Array, 'b hl wl c']:
  """Scaled latents of images [b, H, W, 3], clipped to [0, 1]: posterior samples with a key, else posterior means."""
  return apply(modules, variables, autoencoder, jnp.clip(image, 0, 1), key, method='to_latents')


def decode(
  modules: Modules,
  variables: Variables,
  latents: Float[Array, 'b hl wl c'],
  decoder: str = 'vae',
  restored: Float[Array, 'b H W 3'] | None = None,
  steer: Conditions | None = None,
) -> Float[Array, 'b H W 3']:
  """Decodes scaled latents to images [b, H, W, 3], not clipped.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    latents: [b, hl, wl, c].
    decoder: an autoencoder, or 'student_nbsr', which restores the LR image again, with the latent.
    restored: in [0, 1], the guide of a guided decoder.
    steer: the UNet's conditions, of which 'student_nbsr' sees the LR image and the kernel code.
  """
  if decoder == 'student_nbsr':
    assert steer is not None
    return apply(modules, variables, decoder, latents, steer.lr, steer.kernel_code)
  guide = (restored,) if getattr(modules[decoder], 'guided', False) else ()
  return apply(modules, variables, decoder, latents, *guide, method='from_latents')


def conditions(
  variables: Variables,
  lr: Float[Array, 'b h w 3'],
  kernels: Float[Array, 'b h w taps'],
  depth: Float[Array, 'b R C 1'],
  lr_latent: Float[Array, 'b hl wl c'],
  window: Window | None = None,
) -> Conditions:
  """The conditions of the UNet.

  Args:
    variables: with the PCA basis of the kernel code, a constant of 'nbsr'.
    lr: [b, h, w, 3] in [0, 1].
    kernels: [b, h, w, k*k].
    depth: [b, R, C, 1], from `refine`.
    lr_latent: latent of the bicubically upscaled `lr`.
    window: position of `lr` in the image.
  """
  code = pca_code(kernels, variables['nbsr']['constants']['pca'])
  _, h, w, _ = lr.shape
  return Conditions(code, spread_depth(depth, (h, w), window), lr, lr_latent)


def observe(
  modules: Modules, variables: Variables, lr: Float[Array, 'b h w 3'], refined: SVKR, scale: int
) -> Conditions:
  """`conditions` from LR images and the result of `refine`; the autoencoder is 'vae'."""
  lr_latent = encode(modules, variables, upscale(lr, scale))
  return conditions(variables, lr, refined.kernels, refined.depth, lr_latent)


def generate(
  modules: Modules,
  variables: Variables,
  steer: Conditions,
  first: Float[Array, 'b hl wl c'],
  eps: Float[Array, 'b hl wl c'],
  keys: Array,
  schedule: diffusion.Schedule,
  *,
  network: str = 'unet',
  sampler: str = 'dpmpp_2m',
  steps: int = 20,
  start: float = 1.0,
  noise: float = 1.0,
  unroll: bool = False,
  correct: Callable[[Array, Array], Array] | None = None,
) -> Float[Array, 'b hl wl c']:
  """Samples latents.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    steer: the network's conditions.
    first: [b, hl, wl, c], latent of the restored image.
    eps: standard normal noise, the shape of `first`.
    keys: [b], for the noise that a sampler draws between steps.
    schedule: the forward process.
    network: the part that samples, 'unet' or 'student'.
    sampler: a name of `diffusion.SAMPLERS`.
    steps: calls of the network.
    start: fraction of the schedule to begin at, from `first` with that step's noise; 1 is pure noise.
    noise: factor of the noise on `first`; below 1 sampling begins from `first` even with start 1.
    unroll: no loop, to train through the sampler.
    correct: see `diffusion.samplers.common.Correct`.

  Returns:
    The clean latent, float32 [b, hl, wl, c].
  """
  module, own = modules[network], variables[network]
  latents = eps
  if start < 1 or noise < 1:
    latents = schedule.add_noise(first, noise * eps, jnp.int32(schedule.timesteps(steps, start)[0]))
  maps = module.apply(own, steer, method='encode_maps')  # they do not depend on the time step

  def predict(z: Array, t: Array) -> Array:
    return module.apply(own, z, t, steer, maps=maps)

  sample = diffusion.SAMPLERS[sampler]
  return sample(predict, schedule, keys, latents, steps, start, unroll=unroll, correct=correct)


def guidance(
  weight: float,
  decoded: Callable[[Array], Array],
  lr: Float[Array, 'b h w 3'],
  kernels: Float[Array, 'b h w taps'],
  scale: int,
) -> Callable[[Array, Array], Array]:
  """Kernel-aware guidance with spatially variant kernels: pulls each predicted clean latent towards the LR image.

  The residual is r = y - A(z), A(z) the blurred and subsampled decoded latent (Eq. 1). With J the Jacobian of A, the
  latent goes along d = J^T r, the direction in which |r|^2 falls most, by the step |d|^2 / |J d|^2 after which it would
  be least, were A linear. The step is of each image by itself, and depends neither on the size of the image nor on the
  latents' scale. The gradient does not pass through the UNet.

  Args:
    weight: lambda, in steps: 1 takes the whole step, 0 none.
    decoded: (latents) -> image [b, H, W, 3].
    lr: y, in [0, 1].
    kernels: K.
    scale: s.

  Returns:
    A `diffusion.samplers.common.Correct`.
  """

  def correct(x0: Array, t: Array) -> Array:
    del t
    modelled = lambda z: blur_downsample(decoded(z), kernels, scale)
    image, back = jax.vjp(modelled, x0)
    (direction,) = back(lr - image)  # J^T r
    _, change = jax.jvp(modelled, (x0,), (direction,))
    along, across = (jnp.square(x).sum((1, 2, 3), keepdims=True) for x in (direction, change))
    return x0 + weight * along / jnp.maximum(across, 1e-20) * direction

  return correct


def image_noise(keys: Array, shape: tuple[int, ...]) -> Float[Array, ' b *shape']:
  """The initial noise of sampling: standard normal [b, *shape], each image from its own key."""
  return samplers.image_noise(keys, -1, shape)
