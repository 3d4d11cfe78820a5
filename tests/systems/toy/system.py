"""The toy as a system of the house."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp

from ssr_jax.systems import fields
from ssr_jax.systems.base import Output, System
from ssr_jax.types import SSRError
from tests.systems.toy import core
from tests.systems.toy.options import Options
from tests.systems.toy.parts import PARTS
from tests.systems.toy.sizes import SIZES
from tests.systems.toy.stages import STAGES

SECTIONS = {'sampling': {'amount': 1.0}}
"""The toy's sections of model.json, as a new one has them."""


class Sampling(fields.Section):
  """Of the section 'sampling'."""

  amount: fields.Fraction


SECTION_TYPES = {'sampling': Sampling}


@dataclasses.dataclass(frozen=True)
class Plan:
  """Options with the model's own values filled in.

  Attributes:
    amount: share of the residual that is added.
    scale: HR size divided by LR size.
    parts: those that run.
  """

  amount: float
  scale: int
  parts: tuple[str, ...] = ('residual',)


class ToySystem(System):
  """Bicubic enlargement with a learned residual."""

  name = 'toy'
  parts = PARTS
  outputs = (Output('bicubic', 'image', 'bicubic'), Output('image', 'image', 'result'))
  sections = SECTIONS
  section_types = SECTION_TYPES
  stages = STAGES
  Options = Options
  sizes = SIZES

  def required(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: Options) -> tuple[str, ...]:
    """Its one part."""
    return ('residual',)

  def plan(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: Options) -> Plan:
    """As of `System`."""
    if 'residual' not in modules:
      raise SSRError(f"model '{config['name']}' has no part residual; train it or choose another model")
    amount = config['sampling']['amount'] if options.amount is None else options.amount
    if not 0 <= amount <= 1:
      raise SSRError(f'amount {amount}: must lie in [0, 1]')
    return Plan(float(amount), config['scale'])

  def restore(self, modules, variables, lr, window, context, noise, plan, last=True) -> dict[str, Any]:
    """Enlarges a tile."""
    bicubic, image = core.enlarge(modules, variables, lr, plan.scale, plan.amount)
    return {'bicubic': jnp.clip(bicubic, 0, 1), 'image': jnp.clip(image, 0, 1)}


SYSTEM = ToySystem()
