"""SSR's implementation of the `System` interface."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssr_jax.diffusion.noise import NoiseField
from ssr_jax.image import colourfix
from ssr_jax.image.edges import REACH, smooth, smoothing_reach, steepen
from ssr_jax.image.kernels import gaussian_kernels
from ssr_jax.image.resize import upscale
from ssr_jax.systems.base import Output, System, Variant, Window
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr import options as options_lib
from ssr_jax.systems.ssr import plan as plan_lib
from ssr_jax.systems.ssr.parts import PARTS
from ssr_jax.systems.ssr.sections import SECTION_TYPES
from ssr_jax.systems.ssr.sizes import SIZES
from ssr_jax.systems.ssr.stages import STAGES
from ssr_jax.systems.ssr.svkr import SVKR
from ssr_jax.types import Array, SSRError

_BAND = 512  # rows per step of what finishes an image


class SSRSystem(System):
  """Refines spatially variant kernels and depth, and conditions a latent diffusion model on them and the photo."""

  name = 'ssr'
  parts = PARTS
  outputs = (
    Output('depth', 'depth', 'depth'),
    Output('kernels', 'kernels', 'kernels'),
    Output('restored', 'image', 'restored'),
    Output('image', 'image', 'result'),
  )
  sections = plan_lib.SECTIONS
  section_types = SECTION_TYPES
  stages = STAGES
  Options = options_lib.Options
  sizes = SIZES
  depth_part = 'depth'
  accepts = ('depth', 'kernels')

  @property
  def variants(self) -> Mapping[str, Variant]:
    """Before and after diffusion."""
    return {'restored': Variant('restored', {'steps': 0}), 'result': Variant('image')}

  @property
  def estimating(self) -> Mapping[str, Any]:
    """SVKR alone: diffusion comes after it."""
    return {'steps': 0}

  def plan(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: options_lib.Options) -> plan_lib.Plan:
    """As of `System`."""
    return plan_lib.plan(config, modules, options)

  def required(
    self, config: Mapping[str, Any], modules: Mapping[str, Any], options: options_lib.Options
  ) -> tuple[str, ...]:
    """As of `System`."""
    del config
    return plan_lib.required(modules, options)

  def check_model(self, config: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
    """As of `System`."""
    plan_lib.check_model(config, modules)

  def alignment(self, modules: Mapping[str, Any], plan: plan_lib.Plan) -> int:
    """LR pixels per latent pixel: windows of the noise field begin at whole latent pixels."""
    if not plan.steps:
      return 1
    return max(1, modules[plan.autoencoder].reduction // plan.scale)

  def view_size(self, modules: Mapping[str, Any], plan: plan_lib.Plan) -> tuple[int, int]:
    """The depth net's working resolution."""
    del plan
    return tuple(modules['depth'].resolution)

  def passes(self, plan: plan_lib.Plan) -> int:
    """One per round of SVKR: the next round's depth is estimated from the whole restored image, if it is not given."""
    return 1 if 'depth' in plan.given else max(plan.iterations, 1)

  def prepare(self, modules: core.Modules, variables: core.Variables, view: Array, plan: plan_lib.Plan) -> Array:
    """The depth for the first round, [1, 1, R, C, 1]; the first axis counts rounds."""
    del plan
    return core.apply(modules, variables, 'depth', view)[None]

  def advance(
    self, modules: core.Modules, variables: core.Variables, context: Array, view: Array, plan: plan_lib.Plan
  ) -> Array:
    """Appends the depth of the last round's restored image."""
    del plan
    return jnp.concatenate([context, core.apply(modules, variables, 'depth', view)[None]])

  def restore(
    self,
    modules: core.Modules,
    variables: core.Variables,
    lr: Array,
    window: Window,
    context: Array | None,
    noise: NoiseField,
    plan: plan_lib.Plan,
    last: bool = True,
    given: Mapping[str, Array] | None = None,
  ) -> dict[str, Array]:
    """SVKR, then diffusion if the plan has steps."""
    given = given or {}
    depths = None if context is None else tuple(context)
    if 'depth' in given:
      depths = (given['depth'],)  # one round: all others would find the same kernels from it
    more = {}
    if 'kernels' in given:
      more['kernels'], taps = given['kernels'], modules['dkenet'].taps
      if given['kernels'].shape[-1] != taps:
        raise SSRError(f'given kernels have {given["kernels"].shape[-1]} taps; those of this model have {taps}')
    refined = core.refine(modules, variables, lr, window=window, depths=depths, **more, **plan.svkr)
    if not last:
      return {'view': refined.image}
    H, W = (plan.scale * side for side in lr.shape[1:3])
    restored = jnp.clip(refined.image, 0, 1)
    depth = core.spread_depth(refined.depth, (H, W), window, plan.scale)
    found = {'depth': depth, 'kernels': refined.kernels, 'restored': restored}
    if plan.steps:
      found['image'] = self._generate(modules, variables, lr, refined, restored, window, noise, plan)
    return found

  def _generate(
    self,
    modules: core.Modules,
    variables: core.Variables,
    lr: Array,
    refined: SVKR,
    restored: Array,
    window: Window,
    noise: NoiseField,
    plan: plan_lib.Plan,
  ) -> Array:
    """Samples an image from the restored one, before the colour fix."""
    b, h, _, _ = lr.shape
    both = jnp.concatenate([upscale(lr, plan.scale), restored])  # one batch, to compile one encoder
    latents = core.encode(modules, variables, both, autoencoder=plan.autoencoder)
    lr_latent, first = latents[:b], latents[b:]
    steer = core.conditions(variables, lr, refined.kernels, refined.depth, lr_latent, window)
    _, hl, wl, c = first.shape
    eps, key = noise.window((hl, wl, c), h)
    decoded = lambda z: core.decode(modules, variables, z, plan.decoder, restored, steer)
    correct = core.guidance(plan.guidance, decoded, lr, refined.kernels, plan.scale) if plan.guidance else None
    latents = core.generate(
      modules,
      variables,
      steer,
      first,
      eps[None],
      key[None],
      plan.schedule,
      network=plan.network,
      sampler=plan.sampler,
      steps=plan.steps,
      start=plan.start,
      noise=plan.noise,
      correct=correct,
    )
    return jnp.clip(decoded(latents), 0, 1)

  def neutral(self, modules: Mapping[str, Any], name: str) -> np.ndarray:
    """Half of the depth's range, everywhere; the isotropic Gaussian in the middle of the range of blurs.

    The paper is silent on what takes the place of a modality in its Table 2. We use values that the networks know from
    training: MANet's variances at x4 go from 0.7 to 10 HR pixels squared, and sqrt(0.7 * 10) is in the middle.
    """
    if name == 'depth':
      return np.full(1, 0.5, np.float32)
    middle = 7.0**0.5
    return np.asarray(gaussian_kernels(middle, middle, 0.0, size=round(modules['dkenet'].taps ** 0.5)))

  def finish(self, found: dict[str, Any], plan: plan_lib.Plan) -> dict[str, Any]:
    """The colour fix against the restored image, the blend with it, and sharpening."""
    image = restored = found['restored']
    if plan.steps:
      image = fix_colours(found['image'], restored, plan.colour_fix, *plan.levels)
      if plan.blend < 1 or plan.smooth:
        change = image - restored
        if plan.smooth:
          change = _in_bands(lambda x: smooth(x, plan.smooth), smoothing_reach(plan.smooth), change)
        image = restored + np.float32(plan.blend) * change
    if plan.sharpen:
      image = _in_bands(lambda x: steepen(x, plan.sharpen), REACH, image)
    return {**found, 'image': image}

  def reach(self, plan: plan_lib.Plan) -> int | None:
    """Those of the colour fix, of smoothing and of sharpening; AdaIN takes means over the whole image."""
    reach = REACH if plan.sharpen else 0
    if not plan.steps:
      return reach
    if plan.colour_fix == 'adain':
      return None
    colours = 0 if plan.colour_fix == 'none' else wavelet_reach(*plan.levels)
    return colours + smoothing_reach(plan.smooth) + reach


def wavelet_reach(levels: int, chroma_levels: int | None) -> int:
  """Rows above and below a row that the wavelet colour fix looks at, rounded up."""
  return 2 ** max(levels, chroma_levels or 0)


def fix_colours(
  image: np.ndarray, reference: np.ndarray, how: str, levels: int = 5, chroma_levels: int | None = None
) -> np.ndarray:
  """Gives an image [H, W, 3] the colours of a reference, in bands of rows to bound memory.

  Args:
    image: the image to fix.
    reference: the image with the right colours.
    how: 'none', 'adain' or 'wavelet'.
    levels: of the wavelet.
    chroma_levels: of the wavelet in the colour channels; None takes `levels`.
  """
  if how == 'none':
    return image
  if how == 'adain':
    xp = image.__array_namespace__()
    return xp.concatenate([colourfix.adain(image[..., c : c + 1], reference[..., c : c + 1]) for c in range(3)], -1)
  fix = lambda image, reference: colourfix.wavelet(image, reference, levels, chroma_levels)
  return _in_bands(fix, wavelet_reach(levels, chroma_levels), image, reference)


def _in_bands(function: Callable[..., Any], reach: int, *images: Any) -> Any:
  """`function(*images)`, in bands of rows to bound memory; a row of it depends on rows up to `reach` from it."""
  if not isinstance(images[0], np.ndarray):  # traced, for an export: the bands save memory on the host only
    return function(*images)
  out = np.empty_like(images[0])
  for top in range(0, len(out), _BAND):
    first, last = max(top - reach, 0), min(top + _BAND + reach, len(out))
    band = function(*(image[first:last] for image in images))
    out[top : top + _BAND] = band[top - first : top - first + _BAND]
  return out


SYSTEM = SSRSystem()
