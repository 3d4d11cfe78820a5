"""What the training stages of all systems share: how a config makes them, their data on the device, common losses."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax import nn
from ssr_jax.degrade import Degraded, Recipe, degrade
from ssr_jax.image import colour
from ssr_jax.nn.remat import check as check_remat
from ssr_jax.systems.base import Inherited, Part, Stage, Tree
from ssr_jax.types import Array, SSRError

Batch = Mapping[str, Array]


class ConfigStage(Stage):
  """A stage whose modules and degradation a config describes.

  Attributes:
    parts: of the system.
    config: the run's.
    dtype: what the networks compute in.
    recipe: how HR photos become LR.
    modules: {part: module} of `trains` and `needs`.
    inherited: where the frozen parts come from.
  """

  parts: Mapping[str, Part]

  def __init__(self, config: Any, inherited: Inherited):
    """Builds the modules.

    Args:
      config: an ml_collections config with the fields of `configs.common.base`.
      inherited: the model that the frozen parts come from; their fields are those of its weights and not the config's,
        since some are measured.

    Raises:
      SSRError: a part that the config or that model lacks, or a field that cannot be used.
    """
    self.config = config
    self.needs = self.needed(config)
    self.dtype = nn.dtype_of(config.train.dtype, 'config.train.dtype')
    self.recipe = read_recipe(config)
    trained = {part: self.build(part) for part in self.trains}
    for part in self.needs:
      if part not in inherited.parts:
        where = 'config.model' if inherited.name is None else f'parts_from={inherited.name}: that model'
        raise SSRError(
          f'{where} has no {part!r}, which the stage {config.stage!r} needs; train that part first, or name a model '
          'that has it'
        )
    frozen = {part: self.parts[part].build(part, dtype=self.dtype, **inherited.parts[part]) for part in self.needs}
    self.modules = {**frozen, **trained}
    self.inherited = inherited

  def build(self, part: str) -> Any:
    """The module of a trained part, as the config says."""
    config = self.config
    if part not in config.model:
      raise SSRError(f'config.model has no part {part!r}; the stage {config.stage!r} needs it')
    remat = check_remat(config.train.remat, 'config.train.remat')
    return self.parts[part].build(part, dtype=self.dtype, remat=remat, **config.model[part].to_dict())

  def example(self, part: str) -> tuple[Any, ...]:
    """Arguments that initialise a trained part."""
    return self.parts[part].example(self.modules[part])

  def init_constants(self, part: str, key: Array, constants: Tree) -> Tree:
    """The constants of a fresh part; `constants` are what its module makes."""
    del part, key
    return constants

  def init(self, key: Array) -> tuple[Tree, Tree, Tree]:
    """Fresh variables of the trained parts, each from a key of its own."""
    params, stats, constants = {}, {}, {}
    for i, part in enumerate(self.trains):
      part_key = jax.random.fold_in(key, i)
      variables = jax.jit(self.modules[part].init)(part_key, *self.example(part))
      params[part], stats[part] = variables['params'], variables.get('batch_stats', {})
      constants[part] = self.init_constants(part, part_key, variables.get('constants', {}))
    return params, stats, constants

  def degrade(self, batch: Batch, depth: Array | None = None) -> Degraded:
    """The batch's photos, degraded by the recipe; each record draws from its own seed.

    Records whose depth is only an estimate get no defocus from recipes that can do without.
    """
    return degrade(record_keys(batch), images(batch), self.recipe, depth, batch.get('has_depth'))


def read_recipe(config: Any) -> Recipe:
  """The config's degradation; SSRError for a field that does not exist."""
  fields: dict[str, Any] = {
    k: tuple(v) if isinstance(v, list | tuple) else v for k, v in config.recipe.to_dict().items()
  }
  known = [f.name for f in dataclasses.fields(Recipe)]
  unknown = [name for name in fields if name not in known]
  if unknown:
    raise SSRError(f'config.recipe has no field {unknown[0]!r}; known: {", ".join(known)}')
  return Recipe(**fields)


def some(batch: Batch, count: int = 4) -> Batch:
  """The first records of a batch, for figures."""
  return {name: value[:count] for name, value in batch.items()}


def images(batch: Batch) -> Array:
  """uint8 [b, H, W, 3] -> float [0, 1]."""
  return jnp.asarray(batch['hr'], jnp.float32) / 255


def record_keys(batch: Batch, stream: int = 0) -> Array:
  """One key per record from its own seed; streams are independent."""
  return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), stream))(batch['seed'])


def y_psnr(image: Array, target: Array) -> Array:
  """Y-PSNR per image, [b]; both [b, H, W, 3] in [0, 1]."""
  error = colour.luma(jnp.clip(image, 0, 1)) - colour.luma(target)
  return -10 * jnp.log10(jnp.mean(error.reshape(len(error), -1) ** 2, -1) + 1e-12)


def charbonnier(prediction: Array, target: Array) -> Array:
  """L1 that is smooth within a thousandth."""
  return jnp.mean(jnp.sqrt((prediction - target) ** 2 + 1e-6))
