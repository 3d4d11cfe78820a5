"""Any system's model as one call: an LR image in, the super-resolved image and the system's other outputs out.

Images are padded to a few fixed sizes, so that one compiled program serves all images of a size class, or to what the
system asks for. An image larger than a tile runs as overlapping tiles, row by row, and what no later tile reaches is
passed on in bands of rows (`bands`), so that memory is that of a row of tiles. Images and tiles run one at a time: a
result does not depend on the rest of the batch. The file is above 400 lines, because what `sample` and `stream` take is
said where they take it.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import inspect
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ssr_jax import nn, systems, xla
from ssr_jax.diffusion.noise import NoiseField
from ssr_jax.image import opening
from ssr_jax.runtime import defocus, inputs
from ssr_jax.runtime import trust as trust_lib
from ssr_jax.runtime.bands import OVERLAP, Band, Layout, Ticks, View, bucket, finished, gathered, pad, resized, sized
from ssr_jax.runtime.blend import Blend
from ssr_jax.runtime.result import Result
from ssr_jax.systems.base import System, Tree, Window
from ssr_jax.types import Array, SSRError
from ssr_jax.weights import format, store

TILE = 192
"""Largest LR side that runs in one piece."""
PROGRAMS = 8
"""Size classes whose compiled programs a model keeps, those used last; another one is compiled again."""


@dataclasses.dataclass(frozen=True, eq=False)
class Restorer:
  """A model ready to run: variables on the device, programs compiled once per size class. Use `load` to make one.

  Attributes:
    system: the method.
    config: the content of model.json.
    variables: {part: Flax variables}.
    modules: {part: Flax module}.
    dtype: name of the dtype that the networks compute in.
    traces: number of times that each program ('restore', 'prepare', 'advance') was traced, and so compiled.
  """

  system: System
  config: Mapping[str, Any]
  variables: Mapping[str, Any] = dataclasses.field(repr=False)
  modules: Mapping[str, Any] = dataclasses.field(repr=False)
  dtype: str = 'float32'
  traces: collections.Counter = dataclasses.field(default_factory=collections.Counter, repr=False)

  def sample(
    self,
    lr: Any,
    *,
    seed: int | Sequence[int] = 0,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    keep_kernels: bool = True,
    tile: int = TILE,
    progress: Callable[[int, int], None] | None = None,
    given: Mapping[str, Any] | None = None,
    trust: bool = False,
    keep_defocus: float = 0.0,
    **options: Any,
  ) -> Result:
    """Super-resolves images.

    Args:
      lr: [h, w, 3] or [b, h, w, 3], uint8, uint16 or float in [0, 1], any size. Or one image as a path or a PIL image,
        which becomes uint8 RGB (of more than 8 bits: float32): orientation is applied, transparency and colour profile
        are ignored; `ssr upscale` keeps them.
      seed: of the diffusion noise. One number is used for every image of a batch, so that an image gets the same result
        alone and in a batch; a sequence gives each image its own. Unused by a student that starts without noise.
      scale: of the result, 1 to 8; default the model's. The model makes its own scale, and the result is resized from
        it, bicubically and antialiased, before it is rounded. 1 restores an image at the size that it has.
      size: (H, W) of the result instead of a scale, each 1 to 8 times the image's.
      keep_kernels: False drops outputs of the kind 'kernels', which take 1.8 kB per LR pixel.
      tile: largest LR side that runs in one piece, one of `bucket`'s sizes, 64 or more. Larger images run as
        overlapping tiles.
      progress: called with (tiles done, tiles in total) after each tile; each of several passes counts its tiles.
      given: {output: array} of what is known and need not be estimated, of the system's `accepts`: for SSR 'depth'
        [H, W, 1], relative inverse depth in [0, 1] at the result's size, and 'kernels' [h, w, k*k], each non-negative
        and summing to one; with a leading b axis for a batch. They are used as they are in every round and come back
        among the outputs, depth in the depth net's resolution.
      trust: True also returns `trust` [h, w, 3], what was found and what was invented; see `runtime.trust`. It needs a
        system that estimates kernels.
      keep_defocus: share of the defocus that is kept, 0 to 1: with 1, what lies out of focus stays as in the photo; see
        `runtime.defocus`. It needs kernels too. The trust map is that of the result without it.
      **options: fields of the system's `Options`; None takes the model's value. SSR has steps, sampler, start,
        colour_fix, blend, mode and iterations (`ssr_jax.systems.ssr.options.Options` documents them).

    Returns:
      a `Result` of NumPy arrays.

    Raises:
      SSRError: an invalid argument, or a part that the model lacks; the message names it.
    """
    plan = self.check(scale=scale, size=size, tile=tile, trust=trust, keep_defocus=keep_defocus, **options)
    tile, keep_defocus = int(tile), float(keep_defocus)  # NumPy's numbers will do
    progress, keep_kernels = inputs.progress(progress), inputs.typed('keep_kernels', keep_kernels, bool)
    images = inputs.Images(lr, opening.MAX_PIXELS)
    b, h, w = images.shape
    seeds = inputs.seeds(seed, b)
    target = inputs.target(scale, size, (h, w), self.config['scale'])
    known = inputs.given(self.system, given, (b, h, w), plan.scale, images.single)
    if known:
      plan = dataclasses.replace(plan, given=tuple(sorted(known)))
    layout = self._layout((h, w), tile, plan)
    ticks = Ticks(progress, b * layout.tiles * self._passes(layout, plan, keep_defocus))
    more = {'trust': trust, 'keep_defocus': keep_defocus}
    kept = self._kept(keep_kernels)
    results = []
    for i, (rows, number) in enumerate(zip(images.rows, seeds, strict=True)):
      its = {name: values[i] for name, values in known.items()}
      shapes = {o.name: (h, w) if o.at_lr else target for o in self.system.outputs} | {trust_lib.OUTPUT: (h, w)}
      results.append(gathered(self._bands(rows, int(number), layout, plan, kept, ticks, its, target, **more), shapes))
    names = [o.name for o in self.system.outputs] + [trust_lib.OUTPUT] * trust
    found = {name: None if results[0].get(name) is None else [r[name] for r in results] for name in names}
    found = {name: x if x is None else x[0] if images.single else np.stack(x) for name, x in found.items()}
    answer = found.pop(self.system.outputs[-1].name)
    assert answer is not None, f'{self.system.name} returned no image'
    return Result(answer, found)

  def stream(
    self,
    rows: Any,
    *,
    seed: int = 0,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    keep_kernels: bool = False,
    tile: int = TILE,
    progress: Callable[[int, int], None] | None = None,
    trust: bool = False,
    keep_defocus: float = 0.0,
    **options: Any,
  ) -> Iterator[Band]:
    """Super-resolves an image that need not fit into memory, and gives the result in bands of rows.

    The result is that of `sample`. Every pass, and the look at the whole image before the first, reads all rows from
    the top to the bottom, in slices that overlap.

    Args:
      rows: the image: has `shape` [h, w, 3] and `dtype` uint8, uint16 or float, and `rows[a:b]` is an array [b - a, w,
        3]; an array, for one.
      seed: as of `sample`; so are the others.
      scale: of the result.
      size: of the result.
      keep_kernels: True also gives outputs of the kind 'kernels', whose rows may come earlier than the result's.
      tile: largest LR side of a tile.
      progress: called after each tile.
      trust: True also gives the whole map, in a band of its own at the end.
      keep_defocus: as of `sample`; it takes another pass over an image in tiles.
      **options: of the system.

    Yields:
      {output: [n, W, c]}, each output's rows from the top to the bottom.

    Raises:
      SSRError: as of `sample`.
    """
    plan = self.check(scale=scale, size=size, tile=tile, trust=trust, keep_defocus=keep_defocus, **options)
    tile, keep_defocus = int(tile), float(keep_defocus)  # NumPy's numbers will do
    rows = rows if isinstance(rows, inputs.Rows) else inputs.Rows(rows)
    h, w, _ = rows.shape
    target = inputs.target(scale, size, (h, w), self.config['scale'])
    layout = self._layout((h, w), tile, plan)
    ticks = Ticks(inputs.progress(progress), layout.tiles * self._passes(layout, plan, keep_defocus))
    more = {'trust': trust, 'keep_defocus': keep_defocus}
    kept = self._kept(inputs.typed('keep_kernels', keep_kernels, bool))
    return self._bands(rows, inputs.seeds(seed, 1)[0], layout, plan, kept, ticks, {}, target, **more)

  def _kept(self, kernels: bool) -> tuple[str, ...]:
    return tuple(o.name for o in self.system.outputs if kernels or o.kind != 'kernels')

  def _layout(self, size: tuple[int, int], tile: int, plan: Any) -> Layout:
    padding = self.system.padding(self.modules, plan)
    return Layout.of(*size, tile, self.system.alignment(self.modules, plan), padding)

  def _bands(self, rows, seed, layout: Layout, plan, kept, ticks, given, target, trust, keep_defocus) -> Iterator[Band]:
    """The outputs of an image, finished, resized, and images in the dtype of `rows`; and the trust map."""
    outputs = {o.name: o for o in self.system.outputs}
    known = {*outputs, trust_lib.OUTPUT}
    at_lr = {name for name, o in outputs.items() if o.at_lr} | {defocus.OUTPUT}
    # Depth and maps keep their range, as bilinear weights are not negative.
    methods = {n: 'bicubic' if o.kind == 'image' else 'bilinear' for n, o in outputs.items() if n not in at_lr}
    height, width = (plan.scale * side for side in layout.size)
    names = trust_lib.Names.of(self.system.outputs) if trust else None
    wanted = self._kept(True) if names else kept
    bands = self._restored(rows, seed, layout, plan, wanted, ticks, given, keep_defocus > 0)
    bands = finished(bands, lambda found: self.system.finish(found, plan), self.system.reach(plan), height, at_lr)
    if names:
      gathering = lambda kernels: self.system.gathering(kernels, plan)
      bands = trust_lib.measured(bands, rows, names, plan.scale, names.kernels in kept, gathering)
    if keep_defocus > 0:
      bands = defocus.kept(bands, rows, self.system.outputs[-1].name, keep_defocus, plan.scale)
    for band in sized(bands, (height, width), target, methods):
      for name, x in band.items():
        if not np.isfinite(np.sum(x)):  # no copy, as isfinite of each would make
          raise SSRError(
            f"model '{self.config['name']}': output '{name}' is not finite; verify the model or its weights"
          )
      yield {
        n: rows.finish(x) if n in outputs and outputs[n].kind == 'image' else x for n, x in band.items() if n in known
      }

  def _cut(self, plan: Any) -> dict[str, int]:
    """{output that a tile gets its own piece of, where it is given: pixels of it per LR pixel}."""
    return {o.name: 1 if o.at_lr else plan.scale for o in self.system.outputs if o.at_lr or o.kind == 'image'}

  def _passes(self, layout: Layout, plan: Any, keep_defocus: float = 0.0) -> int:
    return self.system.passes(plan) + (keep_defocus > 0) if layout.tiles > 1 else 1

  def _restored(self, lr, seed, layout: Layout, plan, kept, ticks, given, measured: bool = False) -> Iterator[Band]:
    """One image, rows [n, w, 3] float32, in tiles; a small image is a single tile, padded.

    If `measured`, all of `defocus.OUTPUT` comes before, or, of a single tile, with the first rows.
    """
    context = None
    variables = {part: self.variables[part] for part in plan.parts}
    view = self.system.view_size(self.modules, plan)
    cut = self._cut(plan)
    assert view is not None or cut.keys() >= given.keys(), f'{self.system.name} accepts {set(given)}, has no view size'
    given = {name: x if name in cut or view is None else resized(x, view) for name, x in given.items()}
    if layout.tiles > 1 and view is not None:
      seen, first = View(layout.size, view), 0
      for _, _, end in layout.rows:
        seen.add(lr[first:end])
        first = end
      context = self._prepare(variables, seen.result()[None], plan=plan)
      for _ in range(self._passes(layout, plan) - 1):
        seen = View((plan.scale * layout.size[0], plan.scale * layout.size[1]), view)
        for band in self._pass(lr, seed, layout, context, variables, plan, (), ticks, given):
          seen.add(band['view'])
        context = self._advance(variables, context, seen.result()[None], plan=plan)
    arguments = (lr, seed, layout, context, variables, plan)
    if measured and layout.tiles > 1:
      yield gathered(self._pass(*arguments, (defocus.OUTPUT,), ticks, given), {defocus.OUTPUT: layout.size})
    yield from self._pass(*arguments, (*kept, *[defocus.OUTPUT] * (measured and layout.tiles == 1)), ticks, given)

  def _pass(self, lr, seed, layout: Layout, context, variables, plan, kept, ticks, given) -> Iterator[Band]:
    """Runs every tile once and blends the results: the outputs `kept`, or, if that is empty, the next pass's view."""
    h, w = layout.size
    large, small = Blend((plan.scale * h, plan.scale * w), plan.scale), Blend((h, w), 1)
    at_lr = {o.name for o in self.system.outputs if o.at_lr} | {defocus.OUTPUT}
    scales = self._cut(plan)
    for y, columns, end in layout.rows:
      rows = lr[y : min(y + layout.shape[0], h)]
      for x in columns:

        def cut(array, scale=1, y=y, x=x):
          th, tw = (scale * side for side in layout.shape)
          return pad(array[scale * y : scale * y + th, scale * x : scale * x + tw], (th, tw))[None]

        crop = cut(rows, y=0)
        window = Window(np.array([h, w], np.int32), np.array([y, x], np.int32))
        noise = NoiseField(np.array(seed % 2**32, np.uint32), np.array([y, x], np.int32))
        known = {name: cut(a, scales[name]) if name in scales else a[None] for name, a in given.items()}
        found = self._restore(
          variables, crop, window, context, noise, *([known] if known else []), plan=plan, kept=kept
        )
        alone = layout.tiles == 1
        small.add({name: v for name, v in found.items() if name in at_lr}, (y, x), alone)
        large.add({name: v for name, v in found.items() if name not in at_lr}, (y, x), alone)
        ticks()
      yield {**large.take(end), **small.take(end)}

  @functools.cached_property
  def _restore(self) -> Callable[..., dict[str, Array]]:
    """(variables, lr [1, h, w, 3], window, context, noise, given; plan, kept) -> {output: array}."""

    def restore(variables, lr, window, context, noise, given=None, *, plan, kept):
      self.traces['restore'] += 1
      more = {'given': given} if given else {}
      found = self.system.restore(self.modules, variables, lr, window, context, noise, plan, last=bool(kept), **more)
      if defocus.OUTPUT in kept:
        kernels, depth = inputs.kernels(self.system, self.config, 'keep_defocus'), inputs.first(self.system, 'depth')
        deep = None if depth is None else found[depth]
        found = {**found, defocus.OUTPUT: defocus.measured(found[kernels], deep, plan.scale)}
      return {name: value for name, value in found.items() if name in (kept or ('view',))}

    return xla.jit(restore, keep=PROGRAMS, identity=self._identity, static_argnames=('plan', 'kept'))

  def _identity(self) -> str:
    """What `restore` depends on beside its arguments: the networks, and the system's code if it lies elsewhere."""
    code = pathlib.Path(inspect.getfile(type(self.system)))
    package = (code.parent / '__init__.py').exists()
    files = sorted(code.parent.rglob('*.py')) if package else [code]
    own = hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()
    return f'{self.system.name} {own} {self.dtype} {dict(self.modules)!r}'

  @functools.cached_property
  def _prepare(self) -> Callable[..., Tree]:
    def prepare(variables, view, *, plan):
      self.traces['prepare'] += 1
      return self.system.prepare(self.modules, variables, view, plan)

    return xla.jit(prepare, keep=PROGRAMS, static_argnames=('plan',))

  @functools.cached_property
  def _advance(self) -> Callable[..., Tree]:
    def advance(variables, context, view, *, plan):
      self.traces['advance'] += 1
      return self.system.advance(self.modules, variables, context, view, plan)

    return xla.jit(advance, keep=PROGRAMS, static_argnames=('plan',))

  def required(self, **options: Any) -> tuple[str, ...]:
    """The parts that `sample` needs with these options; the model may lack some."""
    return self.system.required(self.config, self.modules, self._options(options))

  def result_size(
    self, lr: tuple[int, int], scale: float | None = None, size: tuple[int, int] | None = None
  ) -> tuple[int, int]:
    """(height, width) of the result of an image of `lr`, (height, width); the others and errors as of `sample`."""
    return inputs.target(scale, size, lr, self.config['scale'])

  def check(
    self,
    *,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    tile: int = TILE,
    trust: bool = False,
    keep_defocus: float = 0.0,
    **options: Any,
  ) -> Any:
    """Checks the options of `sample` without an image.

    Returns:
      the system's plan, with defaults from the model filled in.

    Raises:
      SSRError: an invalid option, or parts that the model lacks for it.
    """
    tile, trust = inputs.typed('tile', tile, int), inputs.typed('trust', trust, bool)
    plan = self.system.plan(self.config, self.modules, self._options(options))
    inputs.target(scale, size, None, self.config['scale'])
    defocus.check(inputs.typed('keep_defocus', keep_defocus, float))
    for what in ['trust'] * trust + ['keep_defocus'] * (keep_defocus > 0):
      inputs.kernels(self.system, self.config, what)
    if tile != bucket(tile) or tile < 2 * OVERLAP:
      raise SSRError(f'tile {tile}: not a size that tiles have; use {max(bucket(tile), 2 * OVERLAP)}')
    return plan

  def _options(self, options: Mapping[str, Any]) -> Any:
    options = systems.renamed(self.system.Options, options)
    known = [field.name for field in dataclasses.fields(self.system.Options)]
    unknown = [name for name in options if name not in known]
    if unknown:
      raise SSRError(f'sample: unknown option {unknown[0]!r}; system {self.system.name!r} has {", ".join(known)}')
    return inputs.options(self.system.Options, options)


def load(name_or_path: str | os.PathLike = 'compact', *, dtype: str = 'float32') -> Restorer:
  """Loads a model by name ('compact' comes with the package) or from a model directory.

  JAX runs threads, which a forked process lacks: a program that forks must do so before, or start its processes with
  `multiprocessing.get_context('spawn')` and load the model in each.

  Args:
    name_or_path: of the model.
    dtype: dtype that the networks compute in, 'float32' or 'bfloat16'. The latter is faster and smaller on GPUs and
      TPUs; its results differ by rounding. Kernels, latents between steps and images are float32 with both, and so are
      the parameters that a network does not round itself.

  Raises:
    SSRError: an unknown model or dtype, a damaged or missing file, a config field that does not exist.
  """
  compute = nn.dtype_of(inputs.typed('dtype', dtype, str), 'dtype')
  model = store.load_model(inputs.model(name_or_path))
  system = systems.get(model.config['system'])
  entries, name = model.config['parts'], model.config['system']
  modules = {part: format.build(part, entry['config'], system=name, dtype=compute) for part, entry in entries.items()}
  try:
    system.check_model(model.config, modules)
  except ValueError as error:  # SSRError is one
    raise SSRError(f'{model.directory / format.MODEL_FILE}: {error}') from error
  variables = {
    part: x if dtype == 'float32' else _in_dtypes(x, part, entries[part]['config'], compute, name)
    for part, x in model.variables.items()
  }
  return Restorer(system, model.config, jax.device_put(variables), modules, dtype)


def sample(
  lr: Any, model: str | os.PathLike | Restorer = 'compact', *, dtype: str | None = None, **options: Any
) -> Result:
  """Super-resolves images; a model given by name is loaded once and cached.

  Args:
    lr: as of `Restorer.sample`.
    model: a name, a model directory, or what `load` returned.
    dtype: as of `load`, for a model given by name; default float32.
    **options: as of `Restorer.sample`.
  """
  if not isinstance(model, Restorer):
    changed = (store.resolve(inputs.model(model)) / format.MODEL_FILE).stat().st_mtime_ns
    model = _loaded(os.fspath(model), inputs.typed('dtype', 'float32' if dtype is None else dtype, str), changed)
  elif dtype not in (None, model.dtype):
    raise SSRError(f'dtype is {dtype!r}, but the model was loaded with {model.dtype!r}; load it with that dtype')
  return model.sample(lr, **options)


@functools.lru_cache(maxsize=2)
def _loaded(name_or_path: str, dtype: str, changed: int) -> Restorer:
  del changed  # a key of the cache: a model whose file has changed is loaded again
  return load(name_or_path, dtype=dtype)


def _in_dtypes(variables: Mapping[str, Any], part: str, config: Mapping[str, Any], dtype: Any, system: str) -> Tree:
  """A part's variables in the dtypes that its network needs them in: bfloat16 where it would round them anyway."""
  wanted = format.abstract_variables(part, config, dtype, system=system)
  return format.unflatten({k: x.astype(wanted[k].dtype, copy=False) for k, x in format.flatten(variables).items()})
