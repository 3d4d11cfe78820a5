"""What SSR's stages share in addition to `config_stage`: refinement, depth, NBSR's kernel basis, metrics, figures."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax import diffusion
from ssr_jax.degrade import Degraded, Recipe
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.image.resize import resize, upscale
from ssr_jax.nn import lpips
from ssr_jax.systems.base import StepContext, Tree
from ssr_jax.systems.config_stage import (
  Batch,
  ConfigStage,
  charbonnier,
  images,
  read_recipe,
  record_keys,
  some,
  y_psnr,
)
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.parts import PARTS
from ssr_jax.systems.ssr.svkr import SVKR
from ssr_jax.types import Array, SSRError

__all__ = [
  'LPIPS_METRICS',
  'Batch',
  'KernelBasis',
  'Perceptual',
  'SSRStage',
  'charbonnier',
  'gray',
  'images',
  'kernel_basis',
  'kernel_psnr',
  'read_recipe',
  'record_keys',
  'some',
  'true_depth',
  'variance_map',
  'y_psnr',
]


LPIPS_METRICS = {'vgg': 'lpips-vgg', 'alex': 'lpips'}
"""{backbone: the metric that has its weights}."""

_SEEN = 2  # stream of a record's draws: which depth DKENet sees


class SSRStage(ConfigStage):
  """A stage of SSR, made from a config."""

  parts = PARTS

  def check_sections(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """SSRError if the stage has a schedule and it differs from the one that the weights were trained with."""
    if 'schedule' not in self.sections:
      return
    a, b = (dataclasses.asdict(diffusion.Schedule(**s['schedule'])) for s in (self.sections, sections))
    for name in a:
      if a[name] != b[name]:
        raise SSRError(
          f'config.schedule.{name} is {a[name]!r}, the UNet was trained with {b[name]!r}; go on with '
          f'--config.schedule.{name}={b[name]}, or start from scratch'
        )

  def refine(self, variables: core.Variables, lr: Array, **changes: Any) -> SVKR:
    """SVKR with the config's section `svkr`; `changes` override its fields."""
    section = self.config.svkr
    options = {'iterations': section.iterations, 'gamma': section.gamma, 'rule': section.rule} | changes
    return core.refine(self.modules, variables, lr, scale=self.recipe.scale, **options)

  def degrade_by_depth(self, variables: core.Variables, batch: Batch) -> tuple[Array, Degraded, Array]:
    """HR, its degradation, and the depth at LR size that DKENet sees.

    Defocus follows a record's true depth, or the depth net's estimate on HR if the record has none. DKENet gets the
    depth that it will get when sampling: for half of the records the estimate on the enlarged LR image, as in the first
    round of SVKR; for the others the estimate on HR, as in the last round. A record with a true depth uses that instead
    with probability 1/3.
    """
    hr = images(batch)
    s = self.recipe.scale
    size = tuple(self.modules['depth'].resolution)
    shape = hr.shape[1] // s, hr.shape[2] // s

    def estimate(image: Array) -> Array:
      return core.spread_depth(core.apply(self.modules, variables, 'depth', core.see(image, size)), shape)

    on_hr = estimate(hr)
    truth = true_depth(batch, on_hr)
    low = self.degrade(batch, truth)
    coin = jax.vmap(jax.random.uniform)(record_keys(batch, _SEEN))[:, None, None, None]
    seen = jnp.where(coin < 1 / 2, estimate(upscale(low.lr, s)), on_hr)
    if 'depth' in batch:
      real = batch['has_depth'][:, None, None, None] if 'has_depth' in batch else True
      seen = jnp.where(real & (jnp.abs(coin - 1 / 2) < 1 / 6), truth, seen)
    return hr, low, seen


class Perceptual:
  """Mixin of stages whose loss can have a term of LPIPS, `loss.lpips`; 0 leaves it out and needs no weights."""

  config: Any
  dtype: Any
  learned: tuple[str, ...]

  def read_perceptual(self) -> None:
    """Reads the fields of the term; SSRError for one that cannot be used."""
    weights, patch = self.config.loss, self.config.data.patch
    if weights.lpips < 0:
      raise SSRError(f'config.loss.lpips is {weights.lpips}: must be at least 0')
    if not weights.lpips:
      return
    if weights.lpips_backbone not in LPIPS_METRICS:
      known = ', '.join(LPIPS_METRICS)
      raise SSRError(f'config.loss.lpips_backbone is {weights.lpips_backbone!r}; known: {known}')
    smallest = lpips.SMALLEST[weights.lpips_backbone]
    if patch < smallest:
      raise SSRError(f'config.data.patch is {patch}: with loss.lpips it must be at least {smallest}')
    self.learned = (LPIPS_METRICS[weights.lpips_backbone],)

  def lpips(self, ctx: StepContext, image: Array, target: Array) -> Array:
    """The mean LPIPS of two batches [b, H, W, 3] in [0, 1], a scalar; only for a stage that has the term."""
    (name,) = self.learned
    module = lpips.LPIPS(self.config.loss.lpips_backbone, dtype=self.dtype)
    return lpips.lpips_loss(ctx.frozen[name], image, target, module)


class KernelBasis:
  """Mixin of stages that train NBSR: its PCA basis is computed from the recipe's kernels."""

  modules: Mapping[str, Any]
  recipe: Recipe

  def init_constants(self, part: str, key: Array, constants: Tree) -> Tree:
    """As of `SSRStage`."""
    if part != 'nbsr':
      return constants
    return {'pca': kernel_basis(key, self.recipe, self.modules['nbsr'].components)}


def kernel_psnr(kernels: Array, target: Array) -> Array:
  """20 log10(1 / RMSE) over all taps, per image, [b]; both [b, h, w, k*k]."""
  return -20 * jnp.log10(jnp.sqrt(((kernels - target) ** 2).mean((1, 2, 3))))


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

  # A callback, so that `jax.eval_shape` of a stage's init does not compute kernels.
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
