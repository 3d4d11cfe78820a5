"""The method as pure functions, which sampling and every training stage call alike.

    refine (SVKR: depth, kernels, restored image) -> conditions -> generate (AMF-UNet) -> decode

`modules` and `variables` are mappings from part names ('depth', 'dkenet', ...) to Flax modules and their variables.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ssr_jax import diffusion
from ssr_jax.diffusion import samplers
from ssr_jax.image.kernels import pca_code
from ssr_jax.image.resize import resize, upscale, window_weights
from ssr_jax.systems.base import Window
from ssr_jax.systems.ssr.encoders import Conditions
from ssr_jax.systems.ssr.svkr import SVKR, svkr
from ssr_jax.types import Array

Modules = Mapping[str, Any]
Variables = Mapping[str, Any]

RESTORING = ('depth', 'dkenet', 'nbsr')
"""The parts that `refine` runs."""


def apply(modules: Modules, variables: Variables, part: str, *arguments: Any, **options: Any) -> Any:
  """Calls a part's module with its variables."""
  return modules[part].apply(variables[part], *arguments, **options)


def see(image: Array, size: tuple[int, int], window: Window | None = None, scale: int = 1) -> Array:
  """An image as the depth net sees it: bilinear, antialiased, its own content only.

  Args:
    image: [b, H, W, 3]; with a window it is a whole image, padded at the bottom and right.
    size: working resolution of the net.
    window: tells how much of it is content, `scale * window.size`; None: all of it.
    scale: pixels of `image` to an LR pixel.

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


def spread_depth(depth: Array, shape: tuple[int, int], window: Window | None = None, scale: int = 1) -> Array:
  """Depth at the net's resolution, brought to an image's size, or to that of one tile of it.

  Args:
    depth: [b, R, C, 1] in [0, 1], of the whole image.
    shape: (h, w) of what comes out.
    window: of the tile; where it reaches past the image, the border is repeated. None: `shape` is the whole image.
    scale: samples of `shape` to an LR pixel.

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
  lr: Array,
  *,
  window: Window | None = None,
  depths: Sequence[Array] | None = None,
  scale: int = 4,
  iterations: int = 3,
  gamma: float = 0.9,
  rule: str = 'algorithm1',
  unroll: int | bool = 1,
) -> SVKR:
  """SVKR (Algorithm 1) with the parts 'depth', 'dkenet' and 'nbsr'.

  Args:
    modules: of these parts.
    variables: theirs.
    lr: [b, h, w, 3] in [0, 1]; with a window and without depths a whole image, padded.
    window: which part of the image `lr` is; None: all of it, without padding.
    depths: [b, R, C, 1] each, D^1 to D^t of the whole image, for a tile that cannot estimate them: round t is then the
      last. The image of round t is what D^{t+1} is estimated from.
    scale: s.
    iterations: T, where there are no depths.
    gamma: weight of the newer kernel estimate.
    rule: of the update, as in `svkr`.
    unroll: as in `svkr`.

  Returns:
    An `SVKR` whose depth is [b, R, C, 1], the whole image's at the depth net's resolution: see `spread_depth`.
  """
  size = tuple(modules['depth'].resolution)

  def estimate_depth(image: Array) -> Array:
    return apply(modules, variables, 'depth', see(image, size, window, scale))

  def estimate_kernels(lr: Array, depth: Array) -> Array:
    _, h, w, _ = lr.shape
    return apply(modules, variables, 'dkenet', lr, spread_depth(depth, (h, w), window))

  def restore(lr: Array, kernels: Array) -> Array:
    return apply(modules, variables, 'nbsr', lr, kernels)

  options = {'scale': scale, 'iterations': iterations, 'gamma': gamma, 'rule': rule, 'unroll': unroll}
  if depths is None:
    return svkr(estimate_depth, estimate_kernels, restore, lr, **options)
  if iterations:  # the estimates of depth are those given, one after the other; the loop must not be a loop for that
    options |= {'iterations': len(depths), 'unroll': True}
  given = iter([depths[0], *depths])
  return svkr(lambda image: next(given), estimate_kernels, restore, lr, **options)


def encode(
  modules: Modules, variables: Variables, image: Array, key: Array | None = None, autoencoder: str = 'vae'
) -> Array:
  """Scaled latents of images [b, H, W, 3] clipped to [0, 1]: sampled with a key, else the posterior's means."""
  return apply(modules, variables, autoencoder, jnp.clip(image, 0, 1), key, method='to_latents')


def decode(modules: Modules, variables: Variables, latents: Array, autoencoder: str = 'vae') -> Array:
  """Images [b, H, W, 3] of scaled latents, not clipped."""
  return apply(modules, variables, autoencoder, latents, method='from_latents')


def conditions(
  variables: Variables, lr: Array, kernels: Array, depth: Array, lr_latent: Array, window: Window | None = None
) -> Conditions:
  """What steers the UNet.

  Args:
    variables: those of 'nbsr' hold the PCA basis of the kernel code.
    lr: [b, h, w, 3] in [0, 1].
    kernels: [b, h, w, k*k].
    depth: [b, R, C, 1], of `refine`.
    lr_latent: latent of the bicubic enlargement of `lr`.
    window: which part of the image `lr` is.
  """
  code = pca_code(kernels, variables['nbsr']['constants']['pca'])
  _, h, w, _ = lr.shape
  return Conditions(code, spread_depth(depth, (h, w), window), lr, lr_latent)


def observe(modules: Modules, variables: Variables, lr: Array, refined: SVKR, scale: int) -> Conditions:
  """`conditions` of LR images and what `refine` found of them; the autoencoder is 'vae'."""
  lr_latent = encode(modules, variables, upscale(lr, scale))
  return conditions(variables, lr, refined.kernels, refined.depth, lr_latent)


def generate(
  modules: Modules,
  variables: Variables,
  steer: Conditions,
  first: Array,
  eps: Array,
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
) -> Array:
  """Samples latents.

  Args:
    modules: of the network, among others.
    variables: its.
    steer: what conditions it.
    first: [b, hl, wl, c], latent of the restored image.
    eps: standard normal noise of its shape.
    keys: [b], of the noise that a sampler draws between its steps.
    schedule: the forward process.
    network: the part that samples, 'unet' or 'student'.
    sampler: a name of `diffusion.SAMPLERS`.
    steps: calls of the network.
    start: fraction of the schedule to begin at, from `first` with that much noise; 1 is pure noise.
    noise: share of that noise that is put on `first`; below 1 sampling begins from `first` even where start is 1.
    unroll: no loop, to train through the sampler.
    correct: hook of the samplers on the predicted clean latent.

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


def image_noise(keys: Array, shape: tuple[int, ...]) -> Array:
  """The noise that sampling begins with: standard normal [b, *shape], image by image from its own key."""
  return samplers.image_noise(keys, -1, shape)
