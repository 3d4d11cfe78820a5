"""The method as pure functions, shared by sampling and training.

    activate (stage 1: a reference image) -> see (hints of LR and reference) -> predict, in every step -> decode

`modules` and `variables` are mappings from part names ('prior', 'cassr', ...) to Flax modules and their variables.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax import diffusion
from ssr_jax.diffusion.guidance import classifier_free
from ssr_jax.image import tiles
from ssr_jax.image.resize import upscale
from ssr_jax.systems.cassr.networks import CONTROLS, PROMPTS
from ssr_jax.systems.ssr import core as ssr
from ssr_jax.types import Array, Float, Num

Modules = Mapping[str, Any]
Variables = Mapping[str, Any]
Hints = Mapping[str, Float[Array, 'b _ _ _']]
"""{one of `CONTROLS`: hint [b, h, w, channels] at the latent's size}."""

REFERENCES: Mapping[str, tuple[str, ...]] = {
  'svkr': ssr.RESTORING,
  'lr': (),
  'restorer': ('restorer',),
  'controlnet': ('vae', 'prior', 'activation'),
}
"""{how the reference image is made: the parts that make it}."""

_BEFORE = {'self': 'reference', 'cross': 'lr'}
"""Whose features are attended to before which attention: Eq. 1 before self-attention, Eq. 2 before that to the text."""


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How latents are sampled.

  Attributes:
    sampler: a name of `diffusion.SAMPLERS`.
    steps: calls of the guided network.
    guidance: w; 1 leaves out the negative prompt.
    prompt: one of `PROMPTS`, the positive one; the negative one is 'degraded'.
    attention: whether the way up attends to features of the images.
    tile: side of the squares of latent pixels that a larger latent is denoised in; 0 for none.
    overlap: of neighbouring ones, in latent pixels.
  """

  sampler: str = 'ddim'
  steps: int = 50
  guidance: float = 5.5
  prompt: str = 'clean'
  attention: bool = True
  tile: int = 64
  overlap: int = 32


def see(modules: Modules, variables: Variables, part: str, images: Mapping[str, Array], latents: Hints) -> Hints:
  """The hints of a part's images, which do not depend on the time step.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    part: 'cassr' or 'activation'.
    images: {one of `CONTROLS`: [b, H, W, 3] in [0, 1]}; those that do not steer this part are left out.
    latents: theirs, which a hint of latents is made of.
  """
  module = modules[part]
  names = [name for name in CONTROLS if name in module.controls]
  given = latents if module.hint == 'latent' else images
  embedded = ssr.apply(modules, variables, part, jnp.concatenate([given[name] for name in names]), method='embed')
  return dict(zip(names, jnp.split(embedded, len(names)), strict=True))


def predict(
  modules: Modules,
  variables: Variables,
  z_t: Float[Array, 'b h w c'],
  t: Num[Array, ' b'],
  context: Float[Array, 'b n e'],
  hints: Hints | None = None,
  *,
  part: str = 'cassr',
  attention: bool = True,
) -> Float[Array, 'b h w c']:
  """What the prior predicts at step t, steered by one ControlNet's features of each image.

  The images are one batch of the ControlNet. The sums of its residuals are added to the prior's skip connections and
  middle; its taps, which lie before the zero convolutions, are what the transformers of the way up attend to.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    z_t: noisy latents.
    t: [b], time steps.
    context: of `prompts`.
    hints: of `see`; None for the prior alone.
    part: which steers, 'cassr' or 'activation'.
    attention: False leaves out the attention, the ablation of the paper.
  """
  if hints is None:
    return ssr.apply(modules, variables, 'prior', z_t, t, context)
  module, names = modules[part], list(hints)
  repeat = lambda x: jnp.concatenate([x] * len(names))
  hint = jnp.concatenate([hints[name] for name in names])
  control = ssr.apply(modules, variables, part, repeat(z_t), repeat(t), repeat(context), hint, method='control')
  add = lambda x: sum(jnp.split(x, len(names)))
  residuals = [add(x) for x in control.residuals], add(control.middle)
  taps = [dict(zip(names, jnp.split(tap, len(names)), strict=True)) for tap in control.taps]

  def attend(place: str, block: int, before: str, y: Array) -> Array:
    name = _BEFORE[before]
    if block or name not in hints:
      return jnp.zeros_like(y)
    return ssr.apply(modules, variables, part, place, name, y, [tap[name] for tap in taps], method='attend')

  how = attend if attention and module.multiple_attention else None
  return ssr.apply(modules, variables, 'prior', z_t, t, context, residuals, how)


def prompts(modules: Modules, variables: Variables, names: Sequence[str]) -> list[Float[Array, 'n e']]:
  """The embeddings of some of `PROMPTS`."""
  table = ssr.apply(modules, variables, 'prior', method='prompts')
  return [table[PROMPTS.index(name)] for name in names]


def in_tiles(
  call: Callable[[Array, Hints], Array], z: Float[Array, 'b h w c'], hints: Hints, tile: int, overlap: int
) -> Float[Array, 'b h w c']:
  """Applies a function to overlapping squares of a latent and of its hints, one after the other, and blends them.

  A latent that fits into a square is not cut.

  Args:
    call: (z, hints), cut to the same place -> [b, h, w, c].
    z: the latent.
    hints: at its size.
    tile: side of a square in latent pixels; 0 cuts nothing.
    overlap: of neighbours, at least.
  """
  b, h, w, c = z.shape
  shape = (min(tile, h), min(tile, w)) if tile else (h, w)
  origins = tiles.origins((h, w), shape, overlap)
  if len(origins) == 1:
    return call(z, hints)
  cut = lambda x, at: jax.lax.dynamic_slice(x, (0, at[0], at[1], 0), (b, *shape, x.shape[3]))
  found = jax.lax.map(
    lambda at: call(cut(z, at), {name: cut(hint, at) for name, hint in hints.items()}), jnp.asarray(origins)
  )
  weights = tiles.gaussian_weights(shape)[..., None]
  total, weight = jnp.zeros((b, h, w, c)), np.zeros((h, w, 1), np.float32)
  for (y, x), one in zip(origins, found, strict=True):
    place = np.s_[y : y + shape[0], x : x + shape[1]]
    total = total.at[:, *place].add(weights * one)
    weight[place] += weights
  return total / weight


def generate(
  modules: Modules,
  variables: Variables,
  images: Mapping[str, Array],
  latents: Hints,
  eps: Float[Array, 'b h w c'],
  keys: Array,
  schedule: diffusion.Schedule,
  how: Sampling,
  part: str = 'cassr',
) -> Float[Array, 'b h w c']:
  """Samples latents from the LR image's, noised to the first time step: even there SD has a rest of the image.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    images: as of `see`.
    latents: as of `see`; that of 'lr' is what sampling begins from.
    eps: standard normal noise.
    keys: [b], for the noise that a sampler draws between steps.
    schedule: the forward process.
    how: see `Sampling`.
    part: which steers, 'cassr' or 'activation'.

  Returns:
    The clean latents, float32.
  """
  first = latents['lr']
  z = schedule.add_noise(first, eps, jnp.int32(schedule.timesteps(how.steps)[0]))
  hints = see(modules, variables, part, images, latents)
  wide = lambda x: jnp.broadcast_to(x, (len(first), *x.shape))
  positive, negative = map(wide, prompts(modules, variables, (how.prompt, 'degraded')))

  def one(z: Array, t: Array, context: Array) -> Array:
    more = {name: jnp.concatenate([hint] * (len(z) // len(first))) for name, hint in hints.items()}

    def call(z: Array, hints: Hints) -> Array:
      return predict(modules, variables, z, t, context, hints, part=part, attention=how.attention)

    return in_tiles(call, z, more, how.tile, how.overlap)

  guided = classifier_free(one, positive, negative, how.guidance)
  return diffusion.SAMPLERS[how.sampler](guided, schedule, keys, z, how.steps)


def activate(
  modules: Modules,
  variables: Variables,
  lr: Float[Array, 'b h w 3'],
  reference: str,
  *,
  scale: int = 4,
  draw: Callable[[Float[Array, 'b H W 3']], Float[Array, 'b H W 3']] | None = None,
  **svkr: Any,
) -> Float[Array, 'b H W 3']:
  """Stage 1, image activation: an image of the result's size that shows what the photo may show.

  The paper's is a sample of Stable Diffusion steered by SCEdit, and it finds the choice nearly free.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    lr: y, in [0, 1].
    reference: one of `REFERENCES`.
    scale: s.
    draw: with 'controlnet': the enlarged LR image -> a sample steered by it alone.
    **svkr: with 'svkr': arguments of `ssr.core.refine`.

  Returns:
    in [0, 1].
  """
  if reference == 'svkr':
    image = ssr.refine(modules, variables, lr, scale=scale, **svkr).image
  elif reference == 'restorer':
    image = ssr.apply(modules, variables, 'restorer', lr)
  elif reference == 'lr':
    image = upscale(lr, scale)
  elif reference == 'controlnet' and draw is not None:
    image = draw(upscale(lr, scale))
  else:
    raise ValueError(f'reference {reference!r}; known: {", ".join(REFERENCES)}; controlnet needs `draw`')
  return jnp.clip(image, 0, 1)


def restore(
  modules: Modules,
  variables: Variables,
  u: Float[Array, 'b H W 3'],
  images: Mapping[str, Array],
  eps: Float[Array, 'b h w c'],
  keys: Array,
  schedule: diffusion.Schedule,
  how: Sampling,
  part: str = 'cassr',
) -> Float[Array, 'b H W 3']:
  """Encodes the images, samples and decodes.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    u: the enlarged LR image, in [0, 1].
    images: {one of `CONTROLS` beside 'lr': [b, H, W, 3] in [0, 1]}.
    eps: as of `generate`, of the latent's size.
    keys: as of `generate`.
    schedule: the forward process.
    how: see `Sampling`.
    part: as of `generate`.

  Returns:
    in [0, 1], before the colour fix.
  """
  images = {'lr': u, **images}
  # One batch, to compile one encoder; a hint of pixels needs the latent of the LR image only.
  encoded = images if modules[part].hint == 'latent' else {'lr': u}
  both = ssr.encode(modules, variables, jnp.concatenate(list(encoded.values())))
  latents = dict(zip(encoded, jnp.split(both, len(encoded)), strict=True))
  z = generate(modules, variables, images, latents, eps, keys, schedule, how, part)
  return jnp.clip(ssr.decode(modules, variables, z), 0, 1)


def loss(
  modules: Modules,
  variables: Variables,
  key: Array,
  z0: Float[Array, 'b h w c'],
  context: Float[Array, 'b n e'],
  schedule: diffusion.Schedule,
  hints: Hints | None = None,
  part: str = 'cassr',
) -> Float[Array, ' b']:
  """Eq. 3: squared error of the prediction, of each image by itself; there is no other term.

  Args:
    modules: {part: module}.
    variables: {part: variables}.
    key: of the time steps, uniform over the schedule, and of the noise.
    z0: clean latents.
    context: the prompt of each image.
    schedule: the forward process; with 'v' the error is that of v.
    hints: of `see`; None for the prior alone, on the same draws.
    part: as of `predict`.
  """
  t_key, eps_key = jax.random.split(key)
  t = jax.random.randint(t_key, (len(z0),), 0, schedule.steps)
  eps = jax.random.normal(eps_key, z0.shape)
  found = predict(modules, variables, schedule.add_noise(z0, eps, t), t, context, hints, part=part)
  return jnp.square(found - schedule.target(z0, eps, t)).mean((1, 2, 3))
