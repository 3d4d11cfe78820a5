"""The whole method as one call: LR image in; super-resolved image, depth, kernels and restored image out.

    SVKR (depth, kernels, restored image) -> latents -> AMF-UNet sampler -> VAE decoder -> colour fix

Images are padded to a few fixed sizes, so that the compiled stages serve every image of a size class. An image larger
than a tile runs as overlapping tiles, which bounds memory. Each image, and each tile, runs by itself: its result does
not depend on what else is in the batch.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssr_jax import diffusion, nn, xla
from ssr_jax.image import colourfix, resize, tiles
from ssr_jax.image import kernels as kernel_maths
from ssr_jax.systems.ssr import encoders, svkr
from ssr_jax.types import Array, SSRError
from ssr_jax.weights import format, store

TILE = 192
"""Largest LR side that runs in one piece."""
OVERLAP = 32
"""LR pixels that neighbouring tiles share, at least."""
MAX_PIXELS = 2**22
"""Largest LR image (2048 x 2048): results are float32 until the end and lie in memory, about 0.7 kB per LR pixel."""
COLOUR_FIXES = ('none', 'adain', 'wavelet')

_RESTORING = ('depth', 'dkenet', 'nbsr')
_GENERATORS = ('student', 'unet')  # the networks that sample, the preferred one first
_SECTIONS = {
  'svkr': ('iterations', 'gamma', 'rule', 'unroll'),
  'schedule': tuple(field.name for field in dataclasses.fields(diffusion.Schedule)),
  'sampling': ('sampler', 'steps', 'start', 'colour_fix', 'wavelet_levels', 'strength', 'student'),
}
# Fields of the section 'sampling.student'.
_STUDENT = ('steps', 'start', 'noise', 'wavelet_levels', 'chroma_levels', 'strength')
_NOISE_BLOCK = 64
_BAND = 512  # rows whose colours are fixed at a time
_WAVELET_LEVELS = 5  # of the colour fix, where model.json does not say otherwise: what varies over some 32 pixels


@dataclasses.dataclass(frozen=True)
class Result:
  """What the method found; where the input was [h, w, 3] the arrays lack their b axis.

  Attributes:
    image: [b, H, W, 3], the super-resolved image, dtype of the input.
    depth: [b, H, W, 1] float32, relative inverse depth in [0, 1], 1 nearest.
    kernels: [b, h, w, k*k] float32, one blur kernel per LR pixel; None where `keep_kernels` was off.
    restored: [b, H, W, 3], SVKR's image before diffusion, dtype of the input.
  """

  image: np.ndarray
  depth: np.ndarray
  kernels: np.ndarray | None
  restored: np.ndarray


def bucket(size: int) -> int:
  """Padded LR side of an image side: the next multiple of 32 up to 128, of 64 above."""
  step = 32 if size <= 128 else 64
  return max(1, -(-size // step)) * step


@dataclasses.dataclass(frozen=True, eq=False)
class SSR:
  """A model ready to run: variables on the device, stages compiled once per size class. Made by `load`.

  Attributes:
    config: the content of model.json.
    variables: per part, its Flax variables.
    modules: per part, its Flax module.
    dtype: what the networks compute in, by name.
    traces: how often each stage ('restore', 'generate', 'depth') was traced, which is how often it was compiled.
  """

  config: Mapping[str, Any]
  variables: Mapping[str, Any] = dataclasses.field(repr=False)
  modules: Mapping[str, Any] = dataclasses.field(repr=False)
  dtype: str = 'float32'
  traces: collections.Counter = dataclasses.field(default_factory=collections.Counter, repr=False)

  @property
  def generates(self) -> bool:
    """Whether the model has the parts that the diffusion stage needs."""
    return any({self._autoencoder(network), network} <= self.modules.keys() for network in _GENERATORS)

  def sample(
    self,
    lr: Any,
    *,
    steps: int | None = None,
    seed: int | Sequence[int] = 0,
    scale: int = 4,
    sampler: str | None = None,
    start: float | None = None,
    colour_fix: str | None = None,
    strength: float | None = None,
    keep_kernels: bool = True,
    tile: int = TILE,
    progress: Callable[[int, int], None] | None = None,
  ) -> Result:
    """Super-resolves images.

    Args:
      lr: [h, w, 3] or [b, h, w, 3], uint8 or float in [0, 1], any size up to `MAX_PIXELS` pixels.
      steps: diffusion steps; 0 stops at the restored image. None takes the model's own way: its distilled student,
        which has its own number and start, where it has one, else its own number of the UNet's.
      seed: of the diffusion noise. One number serves every image of the batch, so that an image gets the same result
        alone and in a batch; a sequence gives each image its own. A student that begins without noise has none to draw.
      scale: must be the model's.
      sampler: 'ddpm', 'ddim' or 'dpmpp_2m', of the UNet; None takes the model's.
      start: where sampling starts, as a fraction of the schedule: 1 is pure noise, less is the restored image's latent
        with that much noise, by the UNet; None takes the model's.
      colour_fix: 'none', 'adain' or 'wavelet', against the restored image; None takes the model's.
      strength: how much of what diffusion changed in the restored image is kept, 0 to 1; None takes the model's.
      keep_kernels: False leaves `Result.kernels` out; they take 1.8 kB per LR pixel.
      tile: largest LR side that runs in one piece, one of `bucket`'s sizes, 64 or more. Larger images run as
        overlapping tiles; depth is then seen once, on the whole image, and not refined.
      progress: called with (tiles done, tiles in all) after each tile.

    Returns:
      a `Result` of NumPy arrays.

    Raises:
      SSRError: an argument that cannot be used, or a model that lacks a part; the message says which.
    """
    options, finishing = self.check(
      steps=steps, scale=scale, sampler=sampler, start=start, colour_fix=colour_fix, strength=strength, tile=tile
    )
    images, finish = _as_batch(lr)
    b, h, w, _ = images.shape
    if h * w > MAX_PIXELS:
      raise SSRError(f'image of {w}x{h} pixels: more than {MAX_PIXELS} pixels; scale it down or cut it up')
    seeds = [seed] * b if isinstance(seed, (int, np.integer)) else list(seed)
    if len(seeds) != b:
      raise SSRError(f'seed: {len(seeds)} numbers for {b} images; give one, or one for each image')

    shape = min(bucket(h), tile), min(bucket(w), tile)
    origins = tiles.origins((h, w), shape, OVERLAP)
    done = 0

    def tick():
      nonlocal done
      done += 1
      if progress:
        progress(done, b * len(origins))

    results = []
    for image, number in zip(images, seeds, strict=True):
      found = self._one(image, int(number), shape, origins, options, keep_kernels, tick)
      if options['steps']:
        own = self._own_sampling(options['network'])
        levels = {'levels': own['wavelet_levels'], 'chroma_levels': own.get('chroma_levels')}
        image = _fix_colours(found['image'], found['restored'], finishing['colour_fix'], levels)
        if finishing['strength'] < 1:
          image = found['restored'] + np.float32(finishing['strength']) * (image - found['restored'])
        found['image'] = image
      results.append(finish(found))
    if np.ndim(lr) == 3:
      return Result(**results[0])
    stacked = {name: np.stack([r[name] for r in results]) for name in results[0] if results[0][name] is not None}
    return Result(**{'kernels': None, **stacked})

  def _one(self, lr, seed, shape, origins, options, keep_kernels, tick) -> dict[str, Any]:
    """One image [h, w, 3] float32 as tiles of `shape`; a small image is a single tile, padded."""
    h, w, _ = lr.shape
    s = self.config['scale']
    restoring = {part: self.variables[part] for part in _RESTORING}
    whole_depth = self._whole_depth(lr) if len(origins) > 1 else None
    large, small = _Blend((s * h, s * w), s), _Blend((h, w), 1)
    for y, x in origins:
      window = np.s_[y : y + shape[0], x : x + shape[1]]
      piece = _pad(lr[window], shape)[None]
      depth = None if whole_depth is None else _pad(whole_depth[window], shape)[None]
      depth, kernels, restored, code = self._restore(restoring, piece, depth)
      found = {'depth': depth, 'restored': restored}
      if options['steps']:
        network = options['network']
        generating = {part: self.variables[part] for part in (self._autoencoder(network), network)}
        place = np.array([seed % 2**32, y, x], np.uint32)
        found['image'] = self._generate(generating, piece, code, depth, restored, place, **options)
      large.add(found, (y, x), alone=len(origins) == 1)
      if keep_kernels:
        small.add({'kernels': kernels}, (y, x), alone=len(origins) == 1)
      tick()
    found = {'kernels': None, **large.results(), **small.results()}
    if not options['steps']:
      found['image'] = found['restored']
    return found

  @functools.cached_property
  def _restore(self) -> Callable[..., tuple[Array, Array, Array, Array]]:
    """(variables, lr [b, h, w, 3], depth [b, h, w, 1] or None) -> depth HR, kernels, restored image, kernel code."""

    def restore(variables, lr, depth):
      self.traces['restore'] += 1

      def apply_depth(image):
        if depth is None:
          return self.modules['depth'].apply(variables['depth'], image)
        return jnp.clip(resize.resize(depth, image.shape[1:3], 'bilinear'), 0, 1)

      found = svkr.svkr(
        apply_depth,
        lambda lr, depth: self.modules['dkenet'].apply(variables['dkenet'], lr, depth),
        lambda lr, kernels: self.modules['nbsr'].apply(variables['nbsr'], lr, kernels),
        lr,
        scale=self.config['scale'],
        **self.config['svkr'],
      )
      code = kernel_maths.pca_code(found.kernels, variables['nbsr']['constants']['pca'])
      return found.depth, found.kernels, jnp.clip(found.image, 0, 1), code

    return xla.jit(restore)

  @functools.cached_property
  def _generate(self) -> Callable[..., Array]:
    """(variables, lr, kernel code, depth HR, restored, [seed, y, x]; network, steps, ...) -> image [b, H, W, 3]."""
    schedule = self._schedule

    def generate(variables, lr, code, depth, restored, place, *, network, steps, sampler, start, noise):
      self.traces['generate'] += 1
      unet, autoencoder = self.modules[network], self._autoencoder(network)
      vae = functools.partial(self.modules[autoencoder].apply, variables[autoencoder])
      b, h, w, _ = lr.shape
      bicubic = jnp.clip(resize.upscale(lr, self.config['scale']), 0, 1)
      both = jnp.concatenate([bicubic, restored])  # one pass, for half the compilation
      latents = vae(both, method='to_latents')
      lr_latent, first = latents[:b], latents[b:]
      conditions = encoders.Conditions(
        kernel_code=code, depth=resize.resize(depth, (h, w), 'area'), lr=lr, lr_latent=lr_latent
      )
      seed, origin = place[0], place[1:].astype(jnp.int32)
      key_field, key_steps = jax.random.split(jax.random.key(seed))
      origin = origin * first.shape[1] // h
      latents = _noise_field(key_field, origin, first.shape[1:])[None]
      if start < 1 or noise < 1:
        latents = schedule.add_noise(first, noise * latents, jnp.int32(schedule.timesteps(steps, start)[0]))
      maps = unet.apply(variables[network], conditions, method='encode_maps')
      latents = diffusion.SAMPLERS[sampler](
        lambda z, t: unet.apply(variables[network], z, t, conditions, maps=maps),
        schedule,
        jax.random.fold_in(jax.random.fold_in(key_steps, origin[0]), origin[1])[None],
        latents,
        steps,
        start,
      )
      return jnp.clip(vae(latents, method='from_latents'), 0, 1)

    return xla.jit(generate, static_argnames=('network', 'steps', 'sampler', 'start', 'noise'))

  @functools.cached_property
  def _depth(self) -> Callable[..., Array]:
    def depth(variables, image):
      self.traces['depth'] += 1
      return self.modules['depth'].apply(variables, image)

    return xla.jit(depth)

  def _whole_depth(self, lr: np.ndarray) -> np.ndarray:
    """Depth [h, w, 1] of a whole image that is too large for one tile, seen at one fixed size."""
    h, w, _ = lr.shape
    small = np.stack([_resize_plane(lr[..., c], (256, 256)) for c in range(3)], -1)
    depth = np.asarray(self._depth(self.variables['depth'], np.clip(small, 0, 1)[None])[0, ..., 0])
    return np.clip(_resize_plane(depth, (h, w)), 0, 1)[..., None]

  @functools.cached_property
  def _schedule(self) -> diffusion.Schedule:
    return diffusion.Schedule(**self.config['schedule'])

  def parts(
    self, *, steps: int | None = None, sampler: str | None = None, start: float | None = None
  ) -> tuple[str, ...]:
    """The parts that `sample` uses with these options, whether the model has them or not.

    The last one is the network that samples, the one before it the autoencoder of its latents.
    """
    if steps == 0:
      return _RESTORING
    student = 'student' in self.modules and (steps, sampler, start) == (None,) * 3
    network = 'student' if student else 'unet'
    return *_RESTORING, self._autoencoder(network), network

  def _autoencoder(self, network: str) -> str:
    """The part whose latents a network samples: a student can have its own."""
    return 'student_vae' if network == 'student' and 'student_vae' in self.modules else 'vae'

  def _own_sampling(self, network: str) -> dict[str, Any]:
    """How model.json says that one of the networks samples."""
    own = {
      'colour_fix': 'wavelet',
      'wavelet_levels': _WAVELET_LEVELS,
      'noise': 1.0,
      'strength': 1.0,
      **self.config['sampling'],
    }
    student = own.pop('student', {})
    return own | student | {'sampler': diffusion.STUDENT_SAMPLER} if network == 'student' else own

  def check(
    self, *, steps=None, scale=4, sampler=None, start=None, colour_fix=None, strength=None, tile=TILE
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checks the options of `sample` without an image.

    Returns:
      the options of the sampler, the network among them, with the model's own filled in; and of what follows it, the
      colour fix and the strength.

    Raises:
      SSRError: the option that cannot be used, or the parts that the model lacks for it.
    """
    needed = self.parts(steps=steps, sampler=sampler, start=start)
    own = self._own_sampling(needed[-1])
    if not isinstance(own['wavelet_levels'], int) or own['wavelet_levels'] < 1:
      raise SSRError(f'sampling.wavelet_levels {own["wavelet_levels"]!r} in model.json: must be a whole number from 1')
    chroma = own.get('chroma_levels')
    if chroma is not None and (not isinstance(chroma, int) or chroma < 0):
      raise SSRError(f'sampling.student.chroma_levels {chroma!r} in model.json: must be a whole number or null')
    if not isinstance(own['noise'], (int, float)) or not 0 <= own['noise'] <= 1:
      raise SSRError(f'sampling.student.noise {own["noise"]!r} in model.json: must lie in [0, 1]')
    asked = dict(steps=steps, sampler=sampler, start=start, colour_fix=colour_fix, strength=strength)
    steps, sampler, start, colour_fix, strength = (own[k] if value is None else value for k, value in asked.items())
    if scale != self.config['scale']:
      raise SSRError(f"scale {scale}: model '{self.config['name']}' makes {self.config['scale']} only; use that")
    if tile != bucket(tile) or tile < 2 * OVERLAP:
      raise SSRError(f'tile {tile}: not a size that tiles have; use {max(bucket(tile), 2 * OVERLAP)}')
    if not isinstance(steps, (int, np.integer)) or steps < 0:
      raise SSRError(f'steps {steps!r}: must be a whole number, 0 for the restored image only')
    if not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
      raise SSRError(f'strength {strength!r}: must lie in [0, 1], 0 being the restored image')
    if not 0 < start <= 1:
      raise SSRError(f'start {start!r}: must be above 0 and up to 1 (pure noise)')
    if steps > round(start * self._schedule.steps):
      raise SSRError(f'steps {steps}: more than the {round(start * self._schedule.steps)} that start {start} leaves')
    for field, value, known in (('sampler', sampler, diffusion.SAMPLERS), ('colour_fix', colour_fix, COLOUR_FIXES)):
      if value not in known:
        raise SSRError(f"{field} '{value}': unknown; known: {', '.join(known)}")
    lacking = [part for part in needed if part not in self.modules]
    if lacking:
      restores = all(part in self.modules for part in _RESTORING)
      advice = 'use steps=0 (--restored-only)' if restores else 'train them or choose another model'
      raise SSRError(f"model '{self.config['name']}' has no part {', '.join(lacking)}; {advice}")
    network, noise = needed[-1], float(own['noise'])
    options = {'network': network, 'steps': int(steps), 'sampler': sampler, 'start': float(start), 'noise': noise}
    return options, {'colour_fix': colour_fix, 'strength': float(strength)}


def load(name_or_path: str | os.PathLike = 'compact', *, dtype: str = 'float32') -> SSR:
  """Loads a model by name ('compact' comes with the package) or from a model directory.

  Args:
    name_or_path: of the model.
    dtype: what the networks compute in, 'float32' or 'bfloat16': faster and smaller on GPUs and TPUs, with results
      that differ by rounding. Kernels, latents between two steps and images are float32 with either; so are those
      parameters that the networks do not round at once.

  Raises:
    SSRError: an unknown model or dtype, a damaged or missing file, a config field that does not exist.
  """
  compute = nn.dtype_of(dtype, 'dtype')
  model = store.load_model(name_or_path)
  for section, known in _SECTIONS.items():
    for field in model.config[section]:
      if field not in known:
        path = model.directory / format.MODEL_FILE
        raise SSRError(f"{path}: unknown field '{section}.{field}'; known: {', '.join(known)}")
  if model.config['svkr']['rule'] not in svkr.RULES:
    rule = model.config['svkr']['rule']
    raise SSRError(f"{model.directory / format.MODEL_FILE}: svkr.rule '{rule}'; known: {', '.join(svkr.RULES)}")
  modules = {part: format.build(part, entry['config'], dtype=compute) for part, entry in model.config['parts'].items()}
  student = model.config['sampling'].get('student', {})
  if 'student' in modules and set(student) != set(_STUDENT):
    path = model.directory / format.MODEL_FILE
    raise SSRError(f'{path}: sampling.student has {", ".join(student) or "nothing"}; it needs {", ".join(_STUDENT)}')
  variables = {
    part: _stored(part, model.config['parts'][part]['config'], x, compute) for part, x in model.variables.items()
  }
  ssr = SSR(config=model.config, variables=jax.device_put(variables), modules=modules, dtype=dtype)
  try:
    ssr.check(scale=model.config['scale'], steps=0)  # and with it every value that model.json gives
    if 'student' in modules and ssr.generates:
      ssr.check(scale=model.config['scale'])
  except SSRError:
    if all(part in modules for part in _RESTORING):
      raise
  except ValueError as error:
    raise SSRError(f'{model.directory / format.MODEL_FILE}: {error}; correct it') from error
  return ssr


def sample(lr: Any, model: str | os.PathLike | SSR = 'compact', *, dtype: str | None = None, **options: Any) -> Result:
  """Super-resolves images with a model that is loaded once.

  Args:
    lr: as of `SSR.sample`.
    model: a name, a model directory, or what `load` returned.
    dtype: as of `load`, for a model that this loads; default float32.
    **options: as of `SSR.sample`.
  """
  if not isinstance(model, SSR):
    changed = (store.resolve(model) / format.MODEL_FILE).stat().st_mtime_ns
    model = _loaded(os.fspath(model), dtype or 'float32', changed)
  elif dtype not in (None, model.dtype):
    raise SSRError(f'dtype is {dtype!r}, but the model was loaded with {model.dtype!r}; load it with that dtype')
  return model.sample(lr, **options)


@functools.lru_cache(maxsize=2)
def _loaded(name_or_path: str, dtype: str, changed: int) -> SSR:
  del changed  # a model that was trained on since is another model
  return load(name_or_path, dtype=dtype)


def _stored(part: str, config: Mapping[str, Any], variables: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
  """A part's variables in the dtypes that its network needs them in: bfloat16 where it would round them anyway."""
  wanted = format.abstract_variables(part, config, dtype)
  return format.unflatten({k: x.astype(wanted[k].dtype, copy=False) for k, x in format.flatten(variables).items()})


def _as_batch(lr: Any) -> tuple[np.ndarray, Callable[[dict[str, Any]], dict[str, Any]]]:
  """Images as [b, h, w, 3] float32, and the function that gives one image's results the input's dtype."""
  lr = np.asarray(lr)
  if lr.ndim not in (3, 4) or lr.shape[-1] != 3 or 0 in lr.shape:
    raise SSRError(f'lr must be [h, w, 3] or [b, h, w, 3] with RGB last; got shape {list(lr.shape)}')
  dtype = lr.dtype
  if dtype == np.uint8:
    images = lr.astype(np.float32) / 255
  elif jnp.issubdtype(dtype, jnp.floating):
    images = lr.astype(np.float32)
    if not (images.min() >= -1e-3 and images.max() <= 1 + 1e-3):  # written so that NaN fails too
      raise SSRError(f'lr of dtype {dtype} must lie in [0, 1]; got [{images.min():.4g}, {images.max():.4g}]')
    images = np.clip(images, 0, 1)
  else:
    raise SSRError(f'lr must be uint8, or float in [0, 1]; got {dtype}')

  def finish(found: dict[str, Any]) -> dict[str, Any]:
    for name in ('image', 'restored'):
      image = np.clip(found[name], 0, 1)
      found[name] = np.rint(image * 255).astype(np.uint8) if dtype == np.uint8 else image.astype(dtype)
    return found

  return images if images.ndim == 4 else images[None], finish


def _pad(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """[h, w, c] grown to `shape` at the bottom and right: reflected, so that texture goes on."""
  h, w, _ = image.shape
  grow = ((0, shape[0] - h), (0, shape[1] - w), (0, 0))
  return np.pad(image, grow, mode='reflect') if any(high for _, high in grow) else image


def _resize_plane(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """[h, w] float32 resized on the host, where a new size costs no compilation."""
  resized = Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize(shape[::-1], Image.Resampling.BILINEAR)
  return np.asarray(resized)


def _fix_colours(image: np.ndarray, reference: np.ndarray, how: str, levels: Mapping[str, int | None]) -> np.ndarray:
  """[H, W, 3], in bands: an image of many megapixels would otherwise need several times its memory."""
  if how == 'none':
    return image
  if how == 'adain':
    return np.concatenate([colourfix.adain(image[..., c : c + 1], reference[..., c : c + 1]) for c in range(3)], -1)
  # What lies this far away from a pixel does not reach it.
  reach = 2 ** max(level for level in levels.values() if level is not None)
  out = np.empty_like(image)
  for top in range(0, len(image), _BAND):
    first, last = max(top - reach, 0), min(top + _BAND + reach, len(image))
    fixed = colourfix.wavelet(image[first:last], reference[first:last], **levels)
    out[top : top + _BAND] = fixed[top - first : top - first + _BAND]
  return out


def _noise_field(key: Array, origin: Array, shape: tuple[int, int, int]) -> Array:
  """A window of an endless field of Gaussian noise: tiles that overlap see the same noise where they do.

  Args:
    key: of the field.
    origin: (y, x) of the window, int32.
    shape: (h, w, c) of the window.

  Returns:
    [h, w, c] float32.
  """
  h, w, c = shape
  rows, columns = (-(-size // _NOISE_BLOCK) + 1 for size in (h, w))
  first = origin // _NOISE_BLOCK

  def block(row, column):
    place = jax.random.fold_in(jax.random.fold_in(key, first[0] + row), first[1] + column)
    return jax.random.normal(place, (_NOISE_BLOCK, _NOISE_BLOCK, c))

  blocks = jax.vmap(jax.vmap(block, (None, 0)), (0, None))(jnp.arange(rows), jnp.arange(columns))
  field = blocks.transpose(0, 2, 1, 3, 4).reshape(rows * _NOISE_BLOCK, columns * _NOISE_BLOCK, c)
  y, x = origin - first * _NOISE_BLOCK
  return jax.lax.dynamic_slice(field, (y, x, 0), (h, w, c))


class _Blend:
  """Joins overlapping tiles of several arrays on the host: sum(weight * tile) / sum(weight)."""

  def __init__(self, shape: tuple[int, int], scale: int):
    self.shape, self.scale = shape, scale
    self.totals: dict[str, np.ndarray] = {}
    self.weights = None

  def add(self, found: Mapping[str, Array], origin: tuple[int, int], alone: bool) -> None:
    """Adds tiles [1, th, tw, c] whose corner is at `origin` (in LR pixels); what lies outside the image is dropped."""
    H, W = self.shape
    if alone:
      self.totals = {name: np.asarray(tile[0])[:H, :W] for name, tile in found.items()}
      return
    y, x = (self.scale * o for o in origin)
    th, tw = next(iter(found.values())).shape[1:3]
    place = np.s_[y : min(y + th, H), x : min(x + tw, W)]
    weights = tiles.gaussian_weights((th, tw))[: H - y, : W - x, None]
    if self.weights is None:
      self.weights = np.zeros((H, W, 1), np.float32)
    self.weights[place] += weights
    for name, tile in found.items():
      if name not in self.totals:
        self.totals[name] = np.zeros((H, W, tile.shape[-1]), np.float32)
      self.totals[name][place] += weights * np.asarray(tile[0])[: H - y, : W - x]

  def results(self) -> dict[str, np.ndarray]:
    """[*shape, c] each; the blend is used up."""
    if self.weights is not None:
      for total in self.totals.values():
        total /= self.weights
    return self.totals
