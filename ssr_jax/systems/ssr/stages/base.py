"""What a stage is, and what stages share."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax import nn, systems
from ssr_jax.degrade import Recipe
from ssr_jax.image import colour
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.image.resize import resize, upscale
from ssr_jax.nn.remat import check as check_remat
from ssr_jax.systems.ssr import svkr as svkr_lib
from ssr_jax.systems.ssr.encoders import Conditions
from ssr_jax.types import Array, SSRError
from ssr_jax.weights import format, store

Tree = Any
Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Stage:
  """What `train.py` needs to know of a stage.

  Attributes:
    parts: the trained parts that are exported.
    needs: the frozen parts it reads.
    modules: {part: module} of the exported parts.
    init: key -> (params {part: tree}, stats {part: tree}, constants {part: tree}).
    loss: (params, stats, frozen, batch, key, step) -> (loss, (scalars, stats)); `frozen` holds the variables of `needs`
      and, under 'constants', the constants of the trained parts.
    validate: (params, stats, frozen, batch, key) -> scalars, the means over a batch of held-out images.
    metric: the scalar that decides which weights are better.
    higher_is_better: its direction.
    figures: (params, stats, frozen, batch, key) -> {name: images [b, H, W, 3]}, shown side by side.
    export: (params, stats, frozen, batch) -> {part: {config field: value}}, measured on held-out images.
    measures: {part: its config fields that `export` measures}.
    fixed: regular expressions of its parameters that stay as they are, beside those of `config.train.frozen`.
    sections: of model.json that the parts are useless without, {section: {field: value}}.
    prepare: (params, stats, frozen, batch) -> (params, stats), before the first step of a start without `init_from`.
    origin: what such a start is called.
    depth: whether its batches have true depth: 'needs' it (of rendered scenes where the source has none), 'uses' what
      there is, or 'none'.
  """

  parts: tuple[str, ...]
  needs: tuple[str, ...]
  modules: Mapping[str, Any]
  init: Callable[[Array], tuple[Tree, Tree, Tree]]
  loss: Callable[..., tuple[Array, tuple[dict[str, Array], Tree]]]
  validate: Callable[..., dict[str, Array]]
  metric: str
  higher_is_better: bool
  figures: Callable[..., dict[str, Array]]
  export: Callable[..., dict[str, dict[str, Any]]] = lambda *_: {}
  measures: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  fixed: tuple[str, ...] = ()
  sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  prepare: Callable[..., tuple[Tree, Tree]] = lambda params, stats, frozen, batch: (params, stats)
  origin: str = 'scratch'
  depth: str = 'none'


def build_part(config, part: str):
  """The module of a part that is trained, as the config says."""
  if part not in config.model:
    raise SSRError(f'config.model has no part {part!r}; the stage {config.stage!r} needs it')
  remat = check_remat(config.train.remat, 'config.train.remat')
  return systems.build(part, dtype=compute_dtype(config), remat=remat, **config.model[part].to_dict())


def compute_dtype(config):
  """The dtype of the networks' computation; parameters, their moments and losses stay float32."""
  return nn.dtype_of(config.train.dtype, 'config.train.dtype')


def frozen_modules(config, parts: tuple[str, ...]) -> dict[str, Any]:
  """Modules of the frozen parts, with the fields of `frozen_fields`."""
  dtype = compute_dtype(config)
  return {part: systems.build(part, dtype=dtype, **fields) for part, fields in frozen_fields(config, parts).items()}


def frozen_fields(config, parts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
  """Fields of the frozen parts, as their weights say and not the config: the autoencoder's scaling is measured.

  Where `config.parts_from` is '' there are no weights, and they are the config's own: enough for a program that is
  compiled and not run.
  """
  if config.parts_from:
    where = f'parts_from={config.parts_from}: that model'
    entries = format.read_config(store.resolve(config.parts_from))['parts']
    found = {part: entry['config'] for part, entry in entries.items()}
  else:
    where, found = 'config.model', config.model.to_dict()
  for part in parts:
    if part not in found:
      raise SSRError(
        f'{where} has no {part!r}, which the stage {config.stage!r} needs; train that part first, or name a model '
        'that has it'
      )
  return {part: found[part] for part in parts}


def read_recipe(config) -> Recipe:
  """The config's degradation; SSRError for a field that there is not."""
  fields = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in config.recipe.to_dict().items()}
  known = [f.name for f in dataclasses.fields(Recipe)]
  unknown = [name for name in fields if name not in known]
  if unknown:
    raise SSRError(f'config.recipe has no field {unknown[0]!r}; known: {", ".join(known)}')
  return Recipe(**fields)


def kernel_recipe(config) -> Recipe:
  """The recipe of a stage that learns from true kernels."""
  recipe = read_recipe(config)
  if recipe.chain:
    raise SSRError(
      f'config.recipe.field={recipe.field}: the stage {config.stage!r} learns from the kernel at each pixel, which '
      'that chain does not have; choose a field of Eq. 1, such as mixed'
    )
  return recipe


def images(batch: Batch) -> Array:
  """uint8 [b, H, W, 3] -> float [0, 1]."""
  return batch['hr'].astype(jnp.float32) / 255


def record_keys(batch: Batch, stream: int = 0) -> Array:
  """One key per record from its own seed; streams are independent."""
  return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), stream))(batch['seed'])


def split_variables(variables: Mapping[str, Tree]) -> tuple[Tree, Tree, Tree]:
  """Flax variables of one part -> (params, batch statistics, constants)."""
  return variables['params'], variables.get('batch_stats', {}), variables.get('constants', {})


def initialiser(
  inputs: Mapping[str, Callable[[], tuple]], modules: Mapping[str, Any], constants=lambda part, key, c: c
):
  """An `init` from example inputs: {part: () -> positional arguments}."""

  def init(key):
    trees = {}
    for i, (part, module) in enumerate(modules.items()):
      part_key = jax.random.fold_in(key, i)
      params, stats, fixed = split_variables(jax.jit(module.init)(part_key, *inputs[part]()))
      trees[part] = params, stats, constants(part, part_key, fixed)
    return tuple({part: trees[part][i] for part in modules} for i in range(3))

  return init


def y_psnr(image: Array, target: Array) -> Array:
  """Y-PSNR per image, [b]; both [b, H, W, 3] in [0, 1]."""
  error = colour.luma(jnp.clip(image, 0, 1)) - colour.luma(target)
  return -10 * jnp.log10(jnp.mean(error.reshape(len(error), -1) ** 2, -1) + 1e-12)


def charbonnier(prediction: Array, target: Array) -> Array:
  """L1 that is smooth within a thousandth."""
  return jnp.mean(jnp.sqrt((prediction - target) ** 2 + 1e-6))


def refine(modules: Mapping[str, Any], variables: Mapping[str, Tree], lr: Array, options, scale: int, **changes):
  """SVKR on a batch.

  Args:
    modules: of 'depth', 'dkenet' and 'nbsr'.
    variables: theirs.
    lr: [b, h, w, 3].
    options: the config's `svkr` section.
    scale: of the super-resolution.
    **changes: arguments of `svkr.svkr` that differ from the section.
  """
  return svkr_lib.svkr(
    lambda image: modules['depth'].apply(variables['depth'], image),
    lambda lr, depth: modules['dkenet'].apply(variables['dkenet'], lr, depth),
    lambda lr, kernels: modules['nbsr'].apply(variables['nbsr'], lr, kernels),
    lr,
    scale=scale,
    **{'iterations': options.iterations, 'gamma': options.gamma, 'rule': options.rule} | changes,
  )


def latents(modules: Mapping[str, Any], variables: Mapping[str, Tree], image: Array, key: Array | None = None) -> Array:
  """Latents of images [b, H, W, 3]; sampled with a key, else the posterior's means."""
  return modules['vae'].apply(variables['vae'], jnp.clip(image, 0, 1), key, method='to_latents')


def conditions(modules: Mapping[str, Any], variables: Mapping[str, Tree], lr: Array, refined, scale: int) -> Conditions:
  """What steers the UNet: LR images [b, h, w, 3] and their latents, and what `refine` found of them."""
  code = kernel_lib.pca_code(refined.kernels, variables['nbsr']['constants']['pca'])
  depth = resize(refined.depth, lr.shape[1:3], 'area')
  return Conditions(code, depth, lr, latents(modules, variables, upscale(lr, scale)))


def kernel_basis(key: Array, recipe: Recipe, components: int, count: int = 4096) -> Array:
  """PCA basis [k*k, t] of kernels drawn over the recipe's whole eigenvalue range (NBSR's constant).

  It is scaled by one number that gives the codes of these kernels a mean square of 1. Taps are a few thousandths, and
  so would be their codes, a twenty-seventh of the scale of the features that they are to steer.
  """
  k1, k2, k3 = jax.random.split(key, 3)
  low, high = recipe.eigenvalues
  lambdas = [jax.random.uniform(k, (count,), minval=low, maxval=high) for k in (k1, k2)]
  theta = jax.random.uniform(k3, (count,), maxval=jnp.pi)
  kernels = kernel_lib.gaussian_kernels(*lambdas, theta, scale=recipe.scale)

  def scaled_basis(kernels):
    kernels = np.asarray(kernels)
    basis = kernel_lib.pca_basis(kernels, components)
    return (basis / np.sqrt(np.mean((kernels @ basis) ** 2))).astype(np.float32)

  # A callback, so that `jax.eval_shape` of a stage's start tells the shape without drawing a kernel.
  shape = jax.ShapeDtypeStruct((kernels.shape[-1], components), jnp.float32)
  return jax.pure_callback(scaled_basis, shape, kernels)


def variance_map(kernels: Array, scale: int) -> Array:
  """A picture of a kernel field: trace of the covariance over twice the largest of the training range, as gray."""
  _, covariance = kernel_lib.moments(kernels, scale)
  trace = jnp.trace(covariance, axis1=-2, axis2=-1)[..., None] / 20
  return jnp.repeat(upscale(jnp.clip(trace, 0, 1), scale, 'nearest'), 3, -1)


def true_depth(batch: Batch, estimate: Array) -> Array:
  """The batch's own depth at the estimate's size, 0 to 1 in each image; the estimate where a record has none."""
  if 'depth' not in batch:
    return estimate
  depth = resize(batch['depth'][..., None], estimate.shape[1:3], 'area')
  low, high = depth.min((1, 2, 3), keepdims=True), depth.max((1, 2, 3), keepdims=True)
  depth = (depth - low) / jnp.maximum(high - low, 1e-6)
  return jnp.where(batch['has_depth'][:, None, None, None], depth, estimate) if 'has_depth' in batch else depth


def gray(depth: Array) -> Array:
  """[b, h, w, 1] -> [b, h, w, 3], to be looked at."""
  return jnp.repeat(depth, 3, -1)
