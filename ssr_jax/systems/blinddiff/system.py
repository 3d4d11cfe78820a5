"""BlindDiff's implementation of the `System` interface."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssr_jax import diffusion
from ssr_jax.diffusion.noise import NoiseField
from ssr_jax.image.blur import gathered_kernels
from ssr_jax.image.kernels import shaped_kernels
from ssr_jax.systems.base import Output, System, Variant, Window
from ssr_jax.systems.blinddiff import core
from ssr_jax.systems.blinddiff import options as options_lib
from ssr_jax.systems.blinddiff.parts import PARTS
from ssr_jax.systems.blinddiff.sections import SECTION_TYPES, SECTIONS
from ssr_jax.systems.blinddiff.sizes import SIZES
from ssr_jax.systems.blinddiff.stages import STAGES
from ssr_jax.types import Array, SSRError


@dataclasses.dataclass(frozen=True)
class Plan:
  """Options with the model's values filled in; hashable, a static argument of the compiled programs.

  Attributes:
    steps: calls of the network.
    guidance: lambda.
    operator: one of `core.OPERATORS`.
    sigma: of the kernel of operator 'true'.
    stop_kernel: whether the gradient leaves out the kernel estimate.
    shrink: see `core.Guidance`.
    spacing: of the time steps.
    schedule: the forward process.
    domain: of x.
    parts: those that run.
  """

  steps: int
  guidance: float
  operator: str
  sigma: float
  stop_kernel: bool
  shrink: float
  spacing: str
  schedule: diffusion.Schedule
  domain: core.Domain
  parts: tuple[str, ...] = ('mcformer',)

  @property
  def scale(self) -> int:
    """HR size divided by LR size."""
    return self.domain.scale


class BlindDiffSystem(System):
  """Diffuses pixels, and pulls each step towards the photo through the blur kernel that the same network estimates."""

  name = 'blinddiff'
  parts = PARTS
  outputs = (Output('kernels', 'kernels', 'kernel'), Output('image', 'image', 'result'))
  sections = SECTIONS
  section_types = SECTION_TYPES
  stages = STAGES
  Options = options_lib.Options
  sizes = SIZES

  @property
  def variants(self) -> Mapping[str, Variant]:
    """The clean image of the first call, which is what one step without guidance makes; and the answer."""
    return {'first': Variant('image', {'steps': 1, 'guidance': 0.0}), 'result': Variant('image')}

  def required(
    self, config: Mapping[str, Any], modules: Mapping[str, Any], options: options_lib.Options
  ) -> tuple[str, ...]:
    """Its one part."""
    del config, modules, options
    return ('mcformer',)

  def plan(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: options_lib.Options) -> Plan:
    """As of `System`."""
    if 'mcformer' not in modules:
      raise SSRError(f"model '{config['name']}' has no part mcformer; train it or choose another model")
    own = {**SECTIONS['sampling'], **config['sampling']}
    asked = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    values = own | {name: value for name, value in asked.items() if value is not None}
    schedule = diffusion.Schedule(**{**SECTIONS['schedule'], **config['schedule']})
    if not isinstance(values['steps'], int | np.integer) or not 1 <= values['steps'] <= schedule.steps:
      raise SSRError(f'steps {values["steps"]!r}: must be a whole number from 1 to {schedule.steps}')
    if not 0 <= values['guidance'] <= 1e6:  # written so that NaN fails too
      raise SSRError(f'guidance {values["guidance"]!r}: must be 0 for none, or more')
    if values['operator'] not in core.OPERATORS:
      raise SSRError(f"operator '{values['operator']}': unknown; known: {', '.join(core.OPERATORS)}")
    if not 0.1 <= values['sigma'] <= 10:
      raise SSRError(f'sigma {values["sigma"]!r}: must lie in [0.1, 10] HR pixels')
    domain = core.Domain(**{**SECTIONS['domain'], **config['domain']}, scale=config['scale'])
    return Plan(
      steps=int(values['steps']),
      guidance=float(values['guidance']),
      operator=values['operator'],
      sigma=float(values['sigma']),
      stop_kernel=bool(values['stop_kernel']),
      shrink=float(values['shrink']),
      spacing=values['spacing'],
      schedule=schedule,
      domain=domain,
    )

  def check_model(self, config: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
    """As of `System`."""
    if 'mcformer' in modules:
      self.plan(config, modules, options_lib.Options())

  def padding(self, modules: Mapping[str, Any], plan: Plan) -> int:
    """What the network needs, and no more: the kernel is a mean over the padding too, and attention sees it."""
    return int(np.lcm(8 * modules['mcformer'].stem, plan.scale)) // plan.scale

  def restore(
    self,
    modules: core.Modules,
    variables: core.Variables,
    lr: Array,
    window: Window,
    context: None,
    noise: NoiseField,
    plan: Plan,
    last: bool = True,
    given: Mapping[str, Any] | None = None,
  ) -> dict[str, Array]:
    """Algorithm 2 on a tile; each tile has a kernel of its own."""
    del window, context, last, given
    b, h, w, _ = lr.shape
    eps, key = noise.window((plan.scale * h, plan.scale * w, 3), h)
    guidance = core.Guidance(plan.guidance, plan.operator, plan.stop_kernel, plan.shrink)
    known = shaped_kernels(plan.sigma, plan.sigma, 0.0, 1.0, False, 21)[None] if plan.operator == 'true' else None
    image, kernels = core.restore(
      modules,
      variables,
      lr,
      eps[None],
      key[None],
      plan.schedule,
      plan.domain,
      guidance,
      steps=plan.steps,
      spacing=plan.spacing,
      known=known,
    )
    last_kernel = kernels[-1][:, None, None]
    return {
      'kernels': jnp.broadcast_to(last_kernel, (b, h, w, last_kernel.shape[-1])),
      'image': jnp.clip(image, 0, 1),
    }

  def gathering(self, kernels: np.ndarray, plan: Plan) -> np.ndarray:
    """Together with the reduction, which comes after them."""
    return gathered_kernels(kernels, plan.scale, plan.domain.down)


SYSTEM = BlindDiffSystem()
