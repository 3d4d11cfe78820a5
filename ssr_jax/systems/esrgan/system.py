"""ESRGAN's implementation of the `System` interface."""

from collections.abc import Mapping
import dataclasses
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp

from ssr_jax.systems.base import Output, System, Window
from ssr_jax.systems.esrgan import options as options_lib
from ssr_jax.systems.esrgan.parts import PARTS
from ssr_jax.systems.esrgan.sizes import SIZES
from ssr_jax.types import Array, SSRError


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a compiled program depends on.

  Attributes:
    scale: HR size divided by LR size.
    parts: those that run.
  """

  scale: int
  parts: tuple[str, ...] = ('restorer',)


class ESRGANSystem(System):
  """One network, one call; every pixel depends on the photo within the network's reach only."""

  name = 'esrgan'
  parts = PARTS
  outputs = (Output('image', 'image', 'result'),)
  sections = MappingProxyType({})
  stages = MappingProxyType({})
  Options = options_lib.Options
  sizes = SIZES

  def required(
    self, config: Mapping[str, Any], modules: Mapping[str, Any], options: options_lib.Options
  ) -> tuple[str, ...]:
    """Its one part."""
    del config, modules, options
    return ('restorer',)

  def plan(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: options_lib.Options) -> Plan:
    """As of `System`; the factor is the network's, and model.json must say the same."""
    del options
    if 'restorer' not in modules:
      raise SSRError(f"model '{config['name']}' has no part restorer; import one (`ssr weights import`)")
    unshuffle = modules['restorer'].unshuffle
    if unshuffle * config['scale'] != 4:
      raise SSRError(
        f"model '{config['name']}': scale is {config['scale']}, but its restorer with unshuffle {unshuffle} makes a "
        f'factor of {4 / unshuffle:g}; correct model.json or import the weights again'
      )
    return Plan(config['scale'])

  def check_model(self, config: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
    """As of `System`."""
    if 'restorer' in modules:
      self.plan(config, modules, options_lib.Options())

  def alignment(self, modules: Mapping[str, Any], plan: Plan) -> int:
    """Tiles begin where the cells of the unshuffling do."""
    del plan
    return modules['restorer'].unshuffle

  def restore(
    self,
    modules: Mapping[str, Any],
    variables: Mapping[str, Any],
    lr: Array,
    window: Window,
    context: None,
    noise: Any,
    plan: Plan,
    last: bool = True,
    given: Mapping[str, Any] | None = None,
  ) -> dict[str, Array]:
    """Restores a tile."""
    del window, context, noise, plan, last, given
    return {'image': jnp.clip(modules['restorer'].apply(variables['restorer'], lr), 0, 1)}


SYSTEM = ESRGANSystem()
