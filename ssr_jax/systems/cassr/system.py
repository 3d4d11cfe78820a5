"""CasSR's implementation of the `System` interface."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssr_jax import diffusion
from ssr_jax.diffusion.noise import NoiseField
from ssr_jax.image.resize import upscale
from ssr_jax.systems.base import Output, System, Variant, Window
from ssr_jax.systems.cassr import core
from ssr_jax.systems.cassr import options as options_lib
from ssr_jax.systems.cassr.networks import PROMPTS
from ssr_jax.systems.cassr.parts import PARTS
from ssr_jax.systems.cassr.sections import SECTION_TYPES, SECTIONS
from ssr_jax.systems.cassr.sizes import SIZES
from ssr_jax.systems.cassr.stages import STAGES, check_trunk
from ssr_jax.systems.ssr import core as ssr
from ssr_jax.systems.ssr.plan import COLOUR_FIXES
from ssr_jax.systems.ssr.svkr import RULES
from ssr_jax.systems.ssr.system import fix_colours
from ssr_jax.types import Array, SSRError

_MOST_ITERATIONS = 32  # as of SSR
_SAMPLES = ('vae', 'prior', 'cassr')


@dataclasses.dataclass(frozen=True)
class Plan:
  """Options with the model's values filled in; hashable, a static argument of the compiled programs.

  Attributes:
    steps: calls of the guided network; 0 stops at the reference image.
    guidance: w.
    sampler: a name of `diffusion.SAMPLERS`.
    reference: one of `core.REFERENCES`.
    prompt: one of `PROMPTS`.
    attention: whether the way up attends to features of the images.
    colour_fix: one of `COLOUR_FIXES`.
    iterations: T of SVKR.
    gamma: of SVKR.
    rule: of SVKR.
    unroll: of SVKR.
    tile: side of the squares that larger latents are denoised in.
    overlap: of neighbouring ones.
    schedule: the forward process.
    scale: s.
    given: outputs that the caller gave instead of having them made.
  """

  steps: int
  guidance: float
  sampler: str
  reference: str
  prompt: str
  attention: bool
  colour_fix: str
  iterations: int
  gamma: float
  rule: str
  unroll: int | bool
  tile: int
  overlap: int
  schedule: diffusion.Schedule
  scale: int
  given: tuple[str, ...] = ()

  @property
  def parts(self) -> tuple[str, ...]:
    """The parts that run."""
    activating = () if 'restored' in self.given else core.REFERENCES[self.reference]
    return tuple(dict.fromkeys((*activating, *(_SAMPLES if self.steps else ()))))

  @property
  def svkr(self) -> dict[str, Any]:
    """Keyword arguments of `ssr.core.refine`, but for the scale."""
    return {name: getattr(self, name) for name in ('iterations', 'gamma', 'rule', 'unroll')}

  @property
  def refines(self) -> bool:
    """Whether SVKR makes the reference image."""
    return self.reference == 'svkr' and 'restored' not in self.given

  @property
  def sampling(self) -> core.Sampling:
    """How latents are sampled."""
    return core.Sampling(self.sampler, self.steps, self.guidance, self.prompt, self.attention, self.tile, self.overlap)


class CasSRSystem(System):
  """Samples a photo from a frozen diffusion model, steered by the LR image and by a restored one."""

  name = 'cassr'
  parts = PARTS
  outputs = (
    Output('enlarged', 'image', 'bicubic'),
    Output('restored', 'image', 'reference'),
    Output('image', 'image', 'result'),
  )
  sections = SECTIONS
  section_types = SECTION_TYPES
  stages = STAGES
  Options = options_lib.Options
  sizes = SIZES
  depth_part = 'depth'
  accepts = ('restored',)

  @property
  def variants(self) -> Mapping[str, Variant]:
    """The reference image, and the answer."""
    return {'restored': Variant('restored', {'steps': 0}), 'result': Variant('image')}

  def required(
    self, config: Mapping[str, Any], modules: Mapping[str, Any], options: options_lib.Options
  ) -> tuple[str, ...]:
    """The parts that make the reference image, and those that sample."""
    del modules
    own = {**SECTIONS['sampling'], **config['sampling']}
    reference = own['reference'] if options.reference is None else options.reference
    steps = own['steps'] if options.steps is None else options.steps
    return tuple(dict.fromkeys((*core.REFERENCES.get(reference, ()), *(_SAMPLES if steps else ()))))

  def plan(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: options_lib.Options) -> Plan:
    """As of `System`."""
    own = {**SECTIONS['svkr'], 'unroll': 1, **config['svkr'], **SECTIONS['sampling'], **config['sampling']}
    asked = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    values = own | {name: value for name, value in asked.items() if value is not None}
    schedule = diffusion.Schedule(**config['schedule'])
    steps, iterations = values['steps'], values['iterations']
    if not isinstance(steps, int | np.integer) or not 0 <= steps <= schedule.steps:
      raise SSRError(f'steps {steps!r}: must be a whole number from 0, for the reference image, to {schedule.steps}')
    if not 0 <= values['guidance'] <= 100:  # written so that NaN fails too
      raise SSRError(f'guidance {values["guidance"]!r}: must lie in [0, 100]; 1 is none')
    if not isinstance(iterations, int | np.integer) or not 0 <= iterations <= _MOST_ITERATIONS:
      raise SSRError(f'iterations {iterations!r}: must be a whole number from 0 to {_MOST_ITERATIONS}')
    for field, known in (
      ('sampler', tuple(diffusion.SAMPLERS)),
      ('reference', tuple(core.REFERENCES)),
      ('prompt', PROMPTS),
      ('colour_fix', COLOUR_FIXES),
      ('rule', RULES),
    ):
      if values[field] not in known:
        raise SSRError(f"{field} '{values[field]}': unknown; known: {', '.join(known)}")
    tile, overlap = values['tile'], values['overlap']
    if tile and not 0 <= overlap < tile:
      raise SSRError(f'sampling.overlap {overlap} in model.json: must be below sampling.tile {tile}')
    plan = Plan(
      **{field: values[field] for field in ('sampler', 'reference', 'prompt', 'colour_fix', 'rule', 'unroll')},
      steps=int(steps),
      guidance=float(values['guidance']),
      attention=bool(values['attention']),
      iterations=int(iterations),
      gamma=float(values['gamma']),
      tile=tile,
      overlap=overlap,
      schedule=schedule,
      scale=config['scale'],
    )
    lacking = [part for part in plan.parts if part not in modules]
    if lacking:
      makes = set(lacking) & set(core.REFERENCES[plan.reference])
      advice = 'take another --reference, ' if makes and not {'vae', 'prior'} & makes else ''
      names = ', '.join(lacking)
      raise SSRError(
        f"model '{config['name']}' has no part {names}; {advice}train or import it, or choose another model"
      )
    _check_tile(plan, modules)
    return plan

  def check_model(self, config: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
    """As of `System`: what steers has the prior's trunk, and the model's own options can be used."""
    for part in ('activation', 'cassr'):
      if part in modules:
        check_trunk(modules, part)
    choices = [options_lib.Options(reference=reference) for reference in core.REFERENCES]
    for options in (options_lib.Options(steps=0, reference='lr'), options_lib.Options(), *choices):
      if all(part in modules for part in self.required(config, modules, options)):
        self.plan(config, modules, options)

  def alignment(self, modules: Mapping[str, Any], plan: Plan) -> int:
    """LR pixels per latent pixel: windows of the noise field begin at whole latent pixels."""
    if 'vae' not in plan.parts:
      return 1
    return max(1, modules['vae'].reduction // plan.scale)

  def view_size(self, modules: Mapping[str, Any], plan: Plan) -> tuple[int, int] | None:
    """The depth net's working resolution, where SVKR needs the depth of the whole image."""
    return tuple(modules['depth'].resolution) if plan.refines else None

  def passes(self, plan: Plan) -> int:
    """One per round of SVKR, as in SSR."""
    return max(plan.iterations, 1) if plan.refines else 1

  def prepare(self, modules: core.Modules, variables: core.Variables, view: Array, plan: Plan) -> Array:
    """The depth for the first round, [1, 1, R, C, 1]; the first axis counts rounds."""
    del plan
    return ssr.apply(modules, variables, 'depth', view)[None]

  def advance(self, modules: core.Modules, variables: core.Variables, context: Array, view: Array, plan: Plan) -> Array:
    """Appends the depth of the last round's restored image."""
    del plan
    return jnp.concatenate([context, ssr.apply(modules, variables, 'depth', view)[None]])

  def restore(
    self,
    modules: core.Modules,
    variables: core.Variables,
    lr: Array,
    window: Window,
    context: Array | None,
    noise: NoiseField,
    plan: Plan,
    last: bool = True,
    given: Mapping[str, Array] | None = None,
  ) -> dict[str, Array]:
    """The reference image, then diffusion if the plan has steps."""
    u = jnp.clip(upscale(lr, plan.scale), 0, 1)

    def draw(part: str, images: Mapping[str, Array], field: NoiseField) -> Array:
      reduction, h = modules['vae'].reduction, lr.shape[1]
      shape = u.shape[1] // reduction, u.shape[2] // reduction, modules['vae'].latent_channels
      eps, key = field.window(shape, h)
      how = plan.sampling
      return core.restore(modules, variables, u, images, eps[None], key[None], plan.schedule, how, part)

    if given and 'restored' in given:
      restored = given['restored']
    else:
      more: dict[str, Any] = {}
      if plan.refines:
        depths = None if context is None else tuple(context)
        more = {'window': window, 'depths': depths, **plan.svkr}
      elif plan.reference == 'controlnet':
        if not plan.steps:
          raise SSRError('steps 0: a reference image by controlnet is sampled, too; give steps')
        other = NoiseField(noise.seed + jnp.uint32(1), noise.origin)  # not the noise of the second stage
        more = {'draw': lambda _: draw('activation', {}, other)}
      restored = core.activate(modules, variables, lr, plan.reference, scale=plan.scale, **more)
    if not last:
      return {'view': restored}
    found = {'enlarged': u, 'restored': restored}
    if plan.steps:
      found['image'] = draw('cassr', {'reference': restored}, noise)
    return found

  def neutral(self, modules: Mapping[str, Any], name: str) -> np.ndarray:
    """Gray everywhere, for an evaluation of what the reference image gives."""
    del modules, name
    return np.full(3, 0.5, np.float32)

  def finish(self, found: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The colour fix, against the enlarged LR image."""
    if not plan.steps:
      return {**found, 'image': found['restored']}
    return {**found, 'image': np.clip(fix_colours(found['image'], found['enlarged'], plan.colour_fix), 0, 1)}


def _check_tile(plan: Plan, modules: Mapping[str, Any]) -> None:
  """SSRError if the squares that latents are denoised in do not suit the prior."""
  if not plan.steps or not plan.tile:
    return
  prior = modules['prior']
  windows = [2**level * side for level, side in enumerate(prior.window or ()) if side]
  step = int(np.lcm.reduce([2 ** (len(prior.channels) - 1), *windows]))
  if plan.tile % step:
    raise SSRError(f'sampling.tile {plan.tile} in model.json: must be a multiple of {step}, or 0')


SYSTEM = CasSRSystem()
