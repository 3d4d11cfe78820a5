"""Shared by SSR's stages: construction from a config, degradation on the device, losses and figures."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax import nn
from ssr_jax.degrade import Degraded, Recipe, degrade
from ssr_jax.image import colour
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.image.resize import resize, upscale
from ssr_jax.nn.remat import check as check_remat
from ssr_jax.systems.base import Inherited, Stage, Tree
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.parts import PARTS
from ssr_jax.systems.ssr.svkr import SVKR
from ssr_jax.types import Array, SSRError

Batch = Mapping[str, Array]


class SSRStage(Stage):
  """A stage of SSR, made from a config.

  Attributes:
    config: of the run.
    recipe: of the degradation.
    modules: {part: module} of `trains` and `needs`.
  """

  def __init__(self, config: Any, inherited: Inherited):
    """Builds the modules.

    Args:
      config: an ml_collections config with the fields of `configs.common.base`.
      inherited: the model that the frozen parts come from. Their fields are the model's, not the config's: some are
        measured.

    Raises:
      SSRError: a part that the config or that model lacks, or an invalid field.
    """
    self.config = config
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
    frozen = {part: PARTS[part].build(part, dtype=self.dtype, **inherited.parts[part]) for part in self.needs}
    self.modules = {**frozen, **trained}
    self.inherited = inherited

  def build(self, part: str) -> Any:
    """Makes the module of a trained part from the config."""
    config = self.config
    if part not in config.model:
      raise SSRError(f'config.model has no part {part!r}; the stage {config.stage!r} needs it')
    remat = check_remat(config.train.remat, 'config.train.remat')
    return PARTS[part].build(part, dtype=self.dtype, remat=remat, **config.model[part].to_dict())

  def example(self, part: str) -> tuple[Any, ...]:
    """Arguments that initialise a trained part."""
    return PARTS[part].example(self.modules[part])

  def init_constants(self, part: str, key: Array, constants: Tree) -> Tree:
    """The constants of a fresh part; `constants` are those that its module makes."""
    del part, key
    return constants

  def init(self, key: Array) -> tuple[Tree, Tree, Tree]:
    """Fresh variables of the trained parts, each from its own key."""
    params, stats, constants = {}, {}, {}
    for i, part in enumerate(self.trains):
      part_key = jax.random.fold_in(key, i)
      variables = jax.jit(self.modules[part].init)(part_key, *self.example(part))
      params[part], stats[part] = variables['params'], variables.get('batch_stats', {})
      constants[part] = self.init_constants(part, part_key, variables.get('constants', {}))
    return params, stats, constants

  def degrade(self, batch: Batch, depth: Array | None = None) -> Degraded:
    """Degrades the batch's photos by the recipe; each record draws from its own seed."""
    return degrade(record_keys(batch), images(batch), self.recipe, depth)

  def refine(self, variables: core.Variables, lr: Array, **changes: Any) -> SVKR:
    """SVKR with the config's section `svkr`; `changes` override its fields."""
    section = self.config.svkr
    options = {'iterations': section.iterations, 'gamma': section.gamma, 'rule': section.rule} | changes
    return core.refine(self.modules, variables, lr, scale=self.recipe.scale, **options)

  def degrade_by_depth(self, variables: core.Variables, batch: Batch) -> tuple[Array, Degraded, Array]:
    """HR, its degradation, and the depth at LR size that DKENet sees: the depth net's estimate on HR, as in SVKR.

    Defocus follows a record's true depth, or the estimate if it has none.
    """
    hr = images(batch)
    h, w = hr.shape[1] // self.recipe.scale, hr.shape[2] // self.recipe.scale
    seen = core.see(hr, tuple(self.modules['depth'].resolution))
    depth = core.spread_depth(core.apply(self.modules, variables, 'depth', seen), (h, w))
    return hr, self.degrade(batch, true_depth(batch, depth)), depth


class KernelBasis:
  """Mixin of stages that train NBSR: its PCA basis is computed from the recipe's kernels."""

  modules: Mapping[str, Any]
  recipe: Recipe

  def init_constants(self, part: str, key: Array, constants: Tree) -> Tree:
    """As of `SSRStage`."""
    if part != 'nbsr':
      return constants
    return {'pca': kernel_basis(key, self.recipe, self.modules['nbsr'].components)}


def read_recipe(config: Any) -> Recipe:
  """The config's degradation; raises SSRError for an unknown field."""
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
  return batch['hr'].astype(jnp.float32) / 255


def record_keys(batch: Batch, stream: int = 0) -> Array:
  """One key per record from its own seed; streams are independent."""
  return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), stream))(batch['seed'])


def y_psnr(image: Array, target: Array) -> Array:
  """Y-PSNR per image, [b]; both [b, H, W, 3] in [0, 1]."""
  error = colour.luma(jnp.clip(image, 0, 1)) - colour.luma(target)
  return -10 * jnp.log10(jnp.mean(error.reshape(len(error), -1) ** 2, -1) + 1e-12)


def kernel_psnr(kernels: Array, target: Array) -> Array:
  """20 log10(1 / RMSE) over all taps, per image, [b]; both [b, h, w, k*k]."""
  return -20 * jnp.log10(jnp.sqrt(((kernels - target) ** 2).mean((1, 2, 3))))


def charbonnier(prediction: Array, target: Array) -> Array:
  """Charbonnier loss, mean sqrt(d**2 + 1e-6): L1, smooth near 0."""
  return jnp.mean(jnp.sqrt((prediction - target) ** 2 + 1e-6))


def kernel_basis(key: Array, recipe: Recipe, components: int, count: int = 4096) -> Array:
  """PCA basis [k*k, t] of kernels drawn over the recipe's whole eigenvalue range (NBSR's constant).

  It is scaled by one number so that the codes of these kernels have a mean square of 1. Unscaled codes would be as
  small as the taps, a few thousandths, and 27 times smaller than the features that they modulate.
  """
  k1, k2, k3 = jax.random.split(key, 3)
  low, high = recipe.eigenvalues
  lambda1, lambda2 = (jax.random.uniform(k, (count,), minval=low, maxval=high) for k in (k1, k2))
  theta = jax.random.uniform(k3, (count,), maxval=jnp.pi)
  kernels = kernel_lib.gaussian_kernels(lambda1, lambda2, theta, scale=recipe.scale)

  def scaled_basis(kernels):
    kernels = np.asarray(kernels)
    basis = kernel_lib.pca_basis(kernels, components)
    return (basis / np.sqrt(np.mean((kernels @ basis) ** 2))).astype(np.float32)

  # A callback, so that `jax.eval_shape` of a stage's init needs no kernels.
  shape = jax.ShapeDtypeStruct((kernels.shape[-1], components), jnp.float32)
  return jax.pure_callback(scaled_basis, shape, kernels)


def variance_map(kernels: Array, scale: int) -> Array:
  """A kernel field as a gray image: the trace of the covariance over twice the largest training eigenvalue."""
  _, covariance = kernel_lib.moments(kernels, scale)
  trace = jnp.trace(covariance, axis1=-2, axis2=-1)[..., None] / 20
  return jnp.repeat(upscale(jnp.clip(trace, 0, 1), scale, 'nearest'), 3, -1)


def true_depth(batch: Batch, estimate: Array) -> Array:
  """The batch's depth at the estimate's size, in [0, 1] per image; the estimate if a record has none."""
  if 'depth' not in batch:
    return estimate
  _, h, w, _ = estimate.shape
  depth = resize(batch['depth'][..., None], (h, w), 'area')
  low, high = depth.min((1, 2, 3), keepdims=True), depth.max((1, 2, 3), keepdims=True)
  depth = (depth - low) / jnp.maximum(high - low, 1e-6)
  return jnp.where(batch['has_depth'][:, None, None, None], depth, estimate) if 'has_depth' in batch else depth


def gray(depth: Array) -> Array:
  """[b, h, w, 1] -> [b, h, w, 3], for figures."""
  return jnp.repeat(depth, 3, -1)
