"""One builder per training stage: what is trained, on which loss, against which validation figure.

A stage is a handful of pure functions; `train.py` runs any of them with the same loop.
"""

import dataclasses
from typing import Any, Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax import models, svkr as svkr_lib
from ssr_jax.degrade import Degraded, Recipe, degrade
from ssr_jax.image import colour, kernels as kernel_lib
from ssr_jax.image.resize import resize, space_to_depth, upscale
from ssr_jax.types import Array, SSRError
from ssr_jax.weights import registry

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
    export: (params, stats, frozen, batch) -> {part: {config field: scalar}}, measured on held-out images.
    prepare: (params, stats, frozen, batch) -> (params, stats), before the first step of a start from scratch.
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
  prepare: Callable[..., tuple[Tree, Tree]] = lambda params, stats, frozen, batch: (params, stats)
  depth: str = 'none'


def build(config) -> Stage:
  """The stage that a config names; SSRError for an unknown one."""
  if config.stage not in _BUILDERS:
    raise SSRError(
        f'config.stage is {config.stage!r}; name one after the colon of --config: {", ".join(_BUILDERS)}'
    )
  return _BUILDERS[config.stage](config)


# ----------------------------------------------------------------------------------------------------------------------
# What stages share.


def _module(config, part: str):
  if part not in config.model:
    raise SSRError(f'config.model has no part {part!r}; the stage {config.stage!r} needs it')
  return models.build(part, dtype=_dtype(config), **config.model[part].to_dict())


def _dtype(config):
  """The dtype of the networks' computation; parameters, their moments and losses stay float32."""
  known = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
  if config.train.dtype not in known:
    raise SSRError(f"config.train.dtype is {config.train.dtype!r}; known: {', '.join(known)}")
  return known[config.train.dtype]


def _frozen_modules(config, parts: tuple[str, ...]) -> dict[str, Any]:
  """Modules of the frozen parts, as their weights say and not the config: the autoencoder's scaling is measured."""
  entries = registry.read_config(registry.resolve(config.parts_from))['parts']
  for part in parts:
    if part not in entries:
      raise SSRError(
          f'parts_from={config.parts_from}: that model has no {part!r}, which the stage {config.stage!r} needs; '
          'train that part first, or name a model that has it'
      )
  return {part: models.build(part, dtype=_dtype(config), **entries[part]['config']) for part in parts}


def _recipe(config) -> Recipe:
  fields = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in config.recipe.to_dict().items()}
  known = [f.name for f in dataclasses.fields(Recipe)]
  unknown = [name for name in fields if name not in known]
  if unknown:
    raise SSRError(f"config.recipe has no field {unknown[0]!r}; known: {', '.join(known)}")
  return Recipe(**fields)


def _recipe_with_kernels(config) -> Recipe:
  """The recipe of a stage that learns from true kernels."""
  recipe = _recipe(config)
  if recipe.chain:
    raise SSRError(
        f'config.recipe.field={recipe.field}: the stage {config.stage!r} learns from the kernel at each pixel, which '
        'that chain does not have; choose a field of Eq. 1, such as mixed'
    )
  return recipe


def _images(batch: Batch) -> Array:
  """uint8 [b, H, W, 3] -> float [0, 1]."""
  return batch['hr'].astype(jnp.float32) / 255


def _keys(batch: Batch, stream: int = 0) -> Array:
  """One key per record from its own seed; streams are independent."""
  return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), stream))(batch['seed'])


def _split(variables: Mapping[str, Tree]) -> tuple[Tree, Tree, Tree]:
  """Flax variables of one part -> (params, batch statistics, constants)."""
  return variables['params'], variables.get('batch_stats', {}), variables.get('constants', {})


def _initialiser(inputs: Mapping[str, Callable[[], tuple]], modules: Mapping[str, Any], constants=lambda part, key, c: c):
  """An `init` from example inputs: {part: () -> positional arguments}."""

  def init(key):
    trees = {}
    for i, (part, module) in enumerate(modules.items()):
      part_key = jax.random.fold_in(key, i)
      params, stats, fixed = _split(jax.jit(module.init)(part_key, *inputs[part]()))
      trees[part] = params, stats, constants(part, part_key, fixed)
    return tuple({part: trees[part][i] for part in modules} for i in range(3))

  return init


def _y_psnr(image: Array, target: Array) -> Array:
  """Y-PSNR per image, [b]; both [b, H, W, 3] in [0, 1]."""
  error = colour.luma(jnp.clip(image, 0, 1)) - colour.luma(target)
  return -10 * jnp.log10(jnp.mean(error.reshape(len(error), -1) ** 2, -1) + 1e-12)


def _charbonnier(prediction: Array, target: Array) -> Array:
  return jnp.mean(jnp.sqrt((prediction - target) ** 2 + 1e-6))


def kernel_basis(key: Array, recipe: Recipe, components: int, count: int = 4096) -> Array:
  """PCA basis [k*k, t] of kernels drawn over the recipe's whole eigenvalue range (NBSR's constant).

  It is scaled by one number that gives the codes of these kernels a mean square of 1. Taps are a few thousandths, and
  so would be their codes, a twenty-seventh of the scale of the features that they are to steer.
  """
  k1, k2, k3 = jax.random.split(key, 3)
  low, high = recipe.eigenvalues
  lambdas = [jax.random.uniform(k, (count,), minval=low, maxval=high) for k in (k1, k2)]
  theta = jax.random.uniform(k3, (count,), maxval=jnp.pi)
  kernels = np.asarray(kernel_lib.gaussian_kernels(*lambdas, theta, scale=recipe.scale))
  basis = kernel_lib.pca_basis(kernels, components)
  return jnp.asarray(basis / np.sqrt(np.mean((kernels @ basis) ** 2)))


def variance_map(kernels: Array, scale: int) -> Array:
  """A picture of a kernel field: trace of the covariance over twice the largest of the training range, as gray."""
  _, covariance = kernel_lib.moments(kernels, scale)
  trace = jnp.trace(covariance, axis1=-2, axis2=-1)[..., None] / 20
  return jnp.repeat(upscale(jnp.clip(trace, 0, 1), scale, 'nearest'), 3, -1)


def _true_depth(batch: Batch, estimate: Array) -> Array:
  """The batch's own depth at the estimate's size, 0 to 1 in each image; the estimate where a record has none."""
  if 'depth' not in batch:
    return estimate
  depth = resize(batch['depth'][..., None], estimate.shape[1:3], 'area')
  low, high = depth.min((1, 2, 3), keepdims=True), depth.max((1, 2, 3), keepdims=True)
  depth = (depth - low) / jnp.maximum(high - low, 1e-6)
  return jnp.where(batch['has_depth'][:, None, None, None], depth, estimate) if 'has_depth' in batch else depth


def _gray(depth: Array) -> Array:
  return jnp.repeat(depth, 3, -1)


# ----------------------------------------------------------------------------------------------------------------------
# depth


def _depth(config) -> Stage:
  from ssr_jax.models.depth import depth_loss, standardise

  module = _module(config, 'depth')
  recipe = _recipe(config)

  def views(batch):
    """The scene, or for half of the records its degraded and enlarged self: SVKR asks for the depth of both."""
    hr = _images(batch)
    lr = degrade(_keys(batch), hr, recipe).lr
    coin = jax.vmap(jax.random.bernoulli)(_keys(batch, 1))[:, None, None, None]
    return jnp.where(coin, upscale(lr, recipe.scale), hr)

  def loss(params, stats, frozen, batch, key, step):
    del frozen, key, step
    raw = module.apply({'params': params['depth']}, views(batch), raw=True)
    return depth_loss(raw, batch['depth'][..., None]), ({}, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, frozen, key
    raw = module.apply({'params': params['depth']}, views(batch), raw=True)
    target = batch['depth'][..., None]
    # Pearson correlation of inverse depth: what scale and shift alignment leaves.
    a, b = (x - x.mean((1, 2, 3), keepdims=True) for x in (raw, target))
    norm = jnp.sqrt((a**2).sum((1, 2, 3)) * (b**2).sum((1, 2, 3)))
    return {
        'correlation': ((a * b).sum((1, 2, 3)) / jnp.maximum(norm, 1e-9)).mean(),
        'aligned_l1': jnp.abs(standardise(raw) - standardise(target)).mean(),
    }

  def figures(params, stats, frozen, batch, key):
    del stats, frozen, key
    depth = batch['depth'][..., None]
    low, high = depth.min((1, 2, 3), keepdims=True), depth.max((1, 2, 3), keepdims=True)
    image = views(batch)
    estimate = module.apply({'params': params['depth']}, image)
    return {'image': image, 'estimate': _gray(estimate), 'truth': _gray((depth - low) / (high - low))}

  size = config.data.patch
  return Stage(
      parts=('depth',),
      needs=(),
      modules={'depth': module},
      init=_initialiser({'depth': lambda: (jnp.zeros((1, size, size, 3)),)}, {'depth': module}),
      loss=loss,
      validate=validate,
      metric='aligned_l1',
      higher_is_better=False,
      figures=figures,
      depth='needs',
  )


# ----------------------------------------------------------------------------------------------------------------------
# kernel


def _kernel(config) -> Stage:
  module, depth_module = _module(config, 'dkenet'), _frozen_modules(config, ('depth',))['depth']
  recipe = _recipe_with_kernels(config)

  def inputs(frozen, batch) -> tuple[Array, Degraded, Array]:
    """HR, its degradation, and the depth at LR size that DKENet sees: the depth net's estimate on HR, as in SVKR.

    A defocus field follows the true depth where it is known. Where it is not, the estimate stands for it, so that the
    two agree, which is what depth can teach.
    """
    hr = _images(batch)
    h, w = hr.shape[1] // recipe.scale, hr.shape[2] // recipe.scale
    depth = resize(depth_module.apply(frozen['depth'], hr), (h, w), 'area')
    return hr, degrade(_keys(batch), hr, recipe, _true_depth(batch, depth)), depth

  def loss(params, stats, frozen, batch, key, step):
    del key, step
    _, low, depth = inputs(frozen, batch)
    kernels = module.apply({'params': params['dkenet']}, low.lr, depth)
    l1 = jnp.abs(kernels - low.kernels).mean()
    return config.loss.kernel * l1, ({'kernel_l1': l1}, stats)

  def validate(params, stats, frozen, batch, key):
    from ssr_jax.image.blur import blur_downsample

    del stats, key
    hr, low, depth = inputs(frozen, batch)
    kernels = module.apply({'params': params['dkenet']}, low.lr, depth)
    rmse = jnp.sqrt(((kernels - low.kernels) ** 2).mean((1, 2, 3)))
    blurred = blur_downsample(hr, kernels, recipe.scale)
    return {
        'kernel_psnr': (-20 * jnp.log10(rmse)).mean(),
        'lr_psnr': _y_psnr(blurred, low.lr_clean).mean(),
        'kernel_l1': jnp.abs(kernels - low.kernels).mean(),
    }

  def figures(params, stats, frozen, batch, key):
    del stats, key
    _, low, depth = inputs(frozen, batch)
    kernels = module.apply({'params': params['dkenet']}, low.lr, depth)
    return {
        'lr': upscale(low.lr, recipe.scale, 'nearest'),
        'depth': _gray(upscale(depth, recipe.scale, 'nearest')),
        'estimate': variance_map(kernels, recipe.scale),
        'truth': variance_map(low.kernels, recipe.scale),
    }

  def example():
    side = config.data.patch // recipe.scale
    return jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side, 1))

  return Stage(
      parts=('dkenet',),
      needs=('depth',),
      modules={'dkenet': module},
      init=_initialiser({'dkenet': example}, {'dkenet': module}),
      loss=loss,
      validate=validate,
      metric='kernel_l1',
      higher_is_better=False,
      figures=figures,
      depth='uses',
  )


# ----------------------------------------------------------------------------------------------------------------------
# nbsr


def _disturb(key: Array, kernels: Array) -> Array:
  """Mixes into each field up to a fifth of the next image's: NBSR must live with kernels that are nearly right."""
  amount = 0.2 * jax.random.uniform(key, (len(kernels), 1, 1, 1)) * jax.random.bernoulli(key, 0.5, (len(kernels), 1, 1, 1))
  return (1 - amount) * kernels + amount * jnp.roll(kernels, 1, 0)


def _nbsr_init(config, modules, recipe, inputs):
  def constants(part, key, fixed):
    if part != 'nbsr':
      return fixed
    return {'pca': kernel_basis(key, recipe, modules['nbsr'].components)}

  return _initialiser(inputs, modules, constants)


def _nbsr_example(config, recipe):
  side = config.data.patch // recipe.scale
  return lambda: (jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side, kernel_lib.SIZE**2)))


def _nbsr(config) -> Stage:
  module = _module(config, 'nbsr')
  recipe = _recipe_with_kernels(config)

  def restore(params, frozen, lr, kernels):
    return module.apply({'params': params['nbsr'], 'constants': frozen['constants']['nbsr']}, lr, kernels)

  def loss(params, stats, frozen, batch, key, step):
    del step
    hr = _images(batch)
    low = degrade(_keys(batch), hr, recipe)
    sr = restore(params, frozen, low.lr, _disturb(key, low.kernels))
    return _charbonnier(sr, hr), ({'psnr': _y_psnr(sr, hr).mean()}, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, key
    hr = _images(batch)
    low = degrade(_keys(batch), hr, recipe)
    sr = restore(params, frozen, low.lr, low.kernels)
    return {'psnr': _y_psnr(sr, hr).mean(), 'bicubic_psnr': _y_psnr(upscale(low.lr, recipe.scale), hr).mean()}

  def figures(params, stats, frozen, batch, key):
    del stats, key
    hr = _images(batch)
    low = degrade(_keys(batch), hr, recipe)
    sr = restore(params, frozen, low.lr, low.kernels)
    return {'bicubic': upscale(low.lr, recipe.scale), 'restored': sr, 'truth': hr}

  return Stage(
      parts=('nbsr',),
      needs=(),
      modules={'nbsr': module},
      init=_nbsr_init(config, {'nbsr': module}, recipe, {'nbsr': _nbsr_example(config, recipe)}),
      loss=loss,
      validate=validate,
      metric='psnr',
      higher_is_better=True,
      figures=figures,
  )


# ----------------------------------------------------------------------------------------------------------------------
# svkr: DKENet and NBSR together, through the loop


def _svkr(config) -> Stage:
  modules = {part: _module(config, part) for part in ('dkenet', 'nbsr')}
  depth_module = _frozen_modules(config, ('depth',))['depth']
  recipe = _recipe_with_kernels(config)

  def run(params, frozen, lr):
    return svkr_lib.svkr(
        lambda image: depth_module.apply(frozen['depth'], image),
        lambda lr, depth: modules['dkenet'].apply({'params': params['dkenet']}, lr, depth),
        lambda lr, kernels: modules['nbsr'].apply(
            {'params': params['nbsr'], 'constants': frozen['constants']['nbsr']}, lr, kernels
        ),
        lr,
        scale=recipe.scale,
        iterations=config.svkr.iterations,
        gamma=config.svkr.gamma,
        rule=config.svkr.rule,
        unroll=True,
    )

  def inputs(frozen, batch):
    hr = _images(batch)
    h, w = hr.shape[1] // recipe.scale, hr.shape[2] // recipe.scale
    depth = resize(depth_module.apply(frozen['depth'], hr), (h, w), 'area')
    return hr, degrade(_keys(batch), hr, recipe, _true_depth(batch, depth))

  def loss(params, stats, frozen, batch, key, step):
    del key, step
    hr, low = inputs(frozen, batch)
    out = run(params, frozen, low.lr)
    restoration = _charbonnier(out.image, hr)
    l1 = jnp.abs(out.kernels - low.kernels).mean()
    # The kernel term keeps K a blur kernel: without it the pair drifts to a private code.
    total = restoration + 1e-3 * config.loss.kernel * l1
    return total, ({'restoration': restoration, 'kernel_l1': l1, 'psnr': _y_psnr(out.image, hr).mean()}, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, key
    hr, low = inputs(frozen, batch)
    out = run(params, frozen, low.lr)
    rmse = jnp.sqrt(((out.kernels - low.kernels) ** 2).mean((1, 2, 3)))
    return {
        'psnr': _y_psnr(out.image, hr).mean(),
        'bicubic_psnr': _y_psnr(upscale(low.lr, recipe.scale), hr).mean(),
        'kernel_psnr': (-20 * jnp.log10(rmse)).mean(),
    }

  def figures(params, stats, frozen, batch, key):
    del stats, key
    hr, low = inputs(frozen, batch)
    out = run(params, frozen, low.lr)
    return {
        'bicubic': upscale(low.lr, recipe.scale),
        'restored': out.image,
        'truth': hr,
        'depth': _gray(out.depth),
        'estimate': variance_map(out.kernels, recipe.scale),
        'kernels': variance_map(low.kernels, recipe.scale),
    }

  def dkenet_example():
    side = config.data.patch // recipe.scale
    return jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side, 1))

  return Stage(
      parts=('dkenet', 'nbsr'),
      needs=('depth',),
      modules=modules,
      init=_nbsr_init(config, modules, recipe, {'dkenet': dkenet_example, 'nbsr': _nbsr_example(config, recipe)}),
      loss=loss,
      validate=validate,
      metric='psnr',
      higher_is_better=True,
      figures=figures,
      depth='uses',
  )


# ----------------------------------------------------------------------------------------------------------------------
# vae: KL autoencoder with a patch discriminator


def _vae(config) -> Stage:
  from ssr_jax.models import discriminator as disc_lib
  from ssr_jax.models import vae as vae_lib

  module = _module(config, 'vae')
  critic = disc_lib.Discriminator(dtype=_dtype(config))
  weights = config.loss
  start = int(weights.adversarial_start * config.train.steps)

  def loss(params, stats, frozen, batch, key, step):
    del frozen
    hr = _images(batch)
    variables = {'params': params['vae']}
    mean, logvar = module.apply(variables, hr, method='encode')
    posterior_key, amount_key, noise_key = jax.random.split(key, 3)
    z = vae_lib.sample_posterior(posterior_key, mean, logvar)
    if weights.latent_noise:
      # What diffusion hands the decoder is not quite a photo's latent; so it learns to bear latents that are a bit off.
      amount = jax.random.uniform(amount_key, (len(hr), 1, 1, 1), maxval=weights.latent_noise)
      z += amount * jax.lax.stop_gradient(jnp.std(mean)) * jax.random.normal(noise_key, z.shape)
    image = module.apply(variables, z, method='decode')
    reconstruction = vae_lib.reconstruction_loss(image, hr)
    detail = vae_lib.detail_loss(image, hr)
    kl = vae_lib.kl_loss(mean, logvar)
    total = reconstruction + weights.detail * detail + weights.kl * kl
    scalars = {'reconstruction': reconstruction, 'detail': detail, 'kl': kl, 'psnr': _y_psnr(image, hr).mean()}

    # One backward pass trains both: the generator's term sees fixed critic weights, the critic's a fixed image.
    def adversarial():
      fixed = jax.lax.stop_gradient(params['critic'])
      fool = disc_lib.generator_loss(critic.apply({'params': fixed}, image))
      both = jnp.concatenate([hr, jax.lax.stop_gradient(image)])
      real, fake = jnp.split(critic.apply({'params': params['critic']}, both), 2)
      return fool, disc_lib.hinge_loss(real, fake)

    if weights.adversarial:
      fool, judge = adversarial()
      total += jnp.where(step >= start, weights.adversarial, 0.0) * fool + judge
      scalars |= {'generator': fool, 'critic': judge}
    return total, (scalars, stats)

  def validate(params, stats, frozen, batch, key):
    del stats, frozen, key
    hr = _images(batch)
    image, mean, logvar = module.apply({'params': params['vae']}, hr)
    energy = lambda x: jnp.abs(jnp.diff(colour.luma(x), axis=1)).mean() + jnp.abs(jnp.diff(colour.luma(x), axis=2)).mean()
    return {
        'psnr': _y_psnr(image, hr).mean(),
        'objective': vae_lib.reconstruction_loss(image, hr) + weights.detail * vae_lib.detail_loss(image, hr),
        'sharpness': energy(jnp.clip(image, 0, 1)) / energy(hr),  # 1: as much gradient as the photo
        'kl': vae_lib.kl_loss(mean, logvar),
    }

  def figures(params, stats, frozen, batch, key):
    del stats, frozen, key
    hr = _images(batch)
    return {'image': hr, 'reconstruction': module.apply({'params': params['vae']}, hr)[0]}

  def export(params, stats, frozen, batch):
    """The scaling factor makes the latents of photos unit variance: of Stable Diffusion's kind by one number; where the
    shortcut begins as a whitened code, channel by channel."""
    del stats, frozen
    variables = {'params': params['vae']}
    mean, _ = module.apply(variables, _images(batch), method='encode')
    if not module.shortcut:
      return {'vae': {'scaling_factor': 1 / jnp.std(mean)}}
    decode = lambda z: module.apply(variables, z, method='decode')
    return {'vae': {'scaling_factor': vae_lib.visible_scaling(decode, mean, jax.random.key(0))}}

  def prepare(params, stats, frozen, batch):
    """The shortcut starts as the PCA of squares of pixels, whitened; the networks around it start silent.

    With eight components of 4x4 squares that is 31 dB on photos before the first step; from random weights
    500 steps reached about 26 dB.
    """
    del frozen
    if not module.shortcut:
      return params, stats
    squares = np.asarray(space_to_depth(2 * _images(batch) - 1, module.reduction), np.float64)
    squares = squares.reshape(-1, squares.shape[-1])
    values, vectors = np.linalg.eigh(squares.T @ squares / len(squares))
    values, vectors = (a[..., ::-1][..., : module.latent_channels] for a in (values, vectors))
    deviations = np.sqrt(np.maximum(values, 1e-8))
    tree = jax.tree.map(jnp.asarray, params['vae'])
    tree['shortcut_in']['kernel'] = jnp.asarray(vectors / deviations, jnp.float32)
    tree['shortcut_out']['kernel'] = jnp.asarray((vectors * deviations).T, jnp.float32)
    for layer in (tree['quant_conv'], tree['decoder']['conv_out']):
      layer['kernel'] = jnp.zeros_like(layer['kernel'])
    return params | {'vae': tree}, stats

  def init(key):
    side = config.data.patch
    images = jnp.zeros((1, side, side, 3))
    params, stats, constants = _initialiser({'vae': lambda: (images,)}, {'vae': module})(key)
    params['critic'] = critic.init(jax.random.fold_in(key, 1), images)['params']
    return params, stats, constants

  return Stage(
      parts=('vae',),
      needs=(),
      modules={'vae': module},
      init=init,
      loss=loss,
      validate=validate,
      metric='objective',
      higher_is_better=False,
      figures=figures,
      export=export,
      prepare=prepare,
  )


# ----------------------------------------------------------------------------------------------------------------------
# diffusion: AMF-UNet on the latents of the frozen autoencoder, conditioned by the frozen SVKR


def _diffusion(config) -> Stage:
  from ssr_jax import diffusion
  from ssr_jax.models import amf as amf_lib

  module = _module(config, 'unet')
  recipe = _recipe(config)
  schedule = diffusion.Schedule(**config.schedule.to_dict())
  lambdas = tuple(config.loss.constraints)
  draws = config.loss.draws
  needs = ('depth', 'dkenet', 'nbsr', 'vae')
  fixed = _frozen_modules(config, needs)

  def refine(frozen, lr, iterations):
    return svkr_lib.svkr(
        lambda image: fixed['depth'].apply(frozen['depth'], image),
        lambda lr, depth: fixed['dkenet'].apply(frozen['dkenet'], lr, depth),
        lambda lr, kernels: fixed['nbsr'].apply(frozen['nbsr'], lr, kernels),
        lr,
        scale=recipe.scale,
        iterations=iterations,
        gamma=config.svkr.gamma,
        rule=config.svkr.rule,
    )

  def latents(frozen, image, key=None):
    return fixed['vae'].apply(frozen['vae'], jnp.clip(image, 0, 1), key, method='to_latents')

  def condition(frozen, lr, refined):
    code = kernel_lib.pca_code(refined.kernels, frozen['nbsr']['constants']['pca'])
    depth = resize(refined.depth, lr.shape[1:3], 'area')
    return amf_lib.Conditions(code, depth, lr, latents(frozen, upscale(lr, recipe.scale)))

  def inputs(frozen, batch, iterations):
    hr = _images(batch)
    low = degrade(_keys(batch), hr, recipe)
    refined = refine(frozen, low.lr, iterations)
    return low.target, low.lr, refined, condition(frozen, low.lr, refined)

  def variables(params, stats, frozen):  # the constant is the prompt's embedding, where there is one
    return {'params': params['unet'], 'batch_stats': stats['unet'], 'constants': frozen['constants']['unet']}

  def objective(params, stats, frozen, batch, key, train):
    hr, _, _, conditions = inputs(frozen, batch, config.svkr.iterations)
    conditions = jax.lax.stop_gradient(conditions)
    latent_key, loss_key = jax.random.split(key)
    z0 = jax.lax.stop_gradient(latents(frozen, hr, latent_key))
    if train and draws > 1:
      conditions, z0 = jax.tree.map(lambda x: jnp.repeat(x, draws, 0), (conditions, z0))

    def predict(z_t, t):
      v = variables(params, stats, frozen)
      if train:
        (prediction, features), updated = module.apply(
            v, z_t, t, conditions, train=True, return_features=True, mutable=['batch_stats']
        )
      else:
        (prediction, features), updated = module.apply(v, z_t, t, conditions, return_features=True), {}
      return prediction, module.apply(v, features, method='reconstruct'), updated

    targets = (conditions.kernel_code, conditions.depth, z0)
    return diffusion.diffusion_loss(loss_key, predict, z0, schedule, targets, lambdas, tuple(config.loss.focus))

  def loss(params, stats, frozen, batch, key, step):
    del step
    value, out = objective(params, stats, frozen, batch, key, True)
    names = ('kernel', 'depth', 'image')
    scalars = {f'constraint_{n}': c for n, c in zip(names, out['constraints']) if c is not None}
    return value, ({'noise': out['noise'], **scalars}, {'unet': out['aux']['batch_stats']})

  def validate(params, stats, frozen, batch, key):
    keys = jax.random.split(key, 4)  # four draws of (t, noise): the loss depends on t more than on the image
    return {'noise': jnp.mean(jnp.stack([objective(params, stats, frozen, batch, k, False)[1]['noise'] for k in keys]))}

  def figures(params, stats, frozen, batch, key):
    batch = {name: value[:4] for name, value in batch.items()}
    hr, lr, refined, conditions = inputs(frozen, batch, 3)
    z = diffusion.sample(
        lambda z_t, t: module.apply(variables(params, stats, frozen), z_t, t, conditions),
        schedule,
        jax.random.split(key, len(hr)),
        latent=latents(frozen, refined.image),
        steps=10,
        start=0.4,
    )
    decode = lambda z: fixed['vae'].apply(frozen['vae'], z, method='from_latents')
    return {
        'bicubic': upscale(lr, recipe.scale),
        'restored': refined.image,
        'result': decode(z),
        'autoencoder': decode(latents(frozen, hr)),
        'truth': hr,
    }

  def prepare(params, stats, frozen, batch):
    """BN's scale and offset start at the deviation and mean of what they normalise."""
    target, _, _, conditions = inputs(frozen, batch, config.svkr.iterations)
    z0 = latents(frozen, target)
    t = jnp.linspace(0, schedule.steps - 1, len(z0)).astype(jnp.int32)
    noise = jax.random.normal(jax.random.key(0), z0.shape)
    calibrated = amf_lib.calibrate(module, variables(params, stats, frozen), schedule.add_noise(z0, noise, t), t, conditions)
    return {'unet': calibrated['params']}, {'unet': calibrated['batch_stats']}

  return Stage(
      parts=('unet',),
      needs=needs,
      modules={'unet': module},
      init=_initialiser({'unet': lambda: registry.example_inputs('unet', module)}, {'unet': module}),
      loss=loss,
      validate=validate,
      metric='noise',
      higher_is_better=False,
      figures=figures,
      prepare=prepare,
  )


_BUILDERS = {
    'depth': _depth,
    'kernel': _kernel,
    'nbsr': _nbsr,
    'svkr': _svkr,
    'vae': _vae,
    'diffusion': _diffusion,
}
