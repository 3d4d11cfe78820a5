"""Any system's model as one call: an LR image in, the super-resolved image and the system's other outputs out.

Images are padded to a few fixed sizes, so that one compiled program serves all images of a size class, or to what the
system asks for. An image larger than a tile runs as overlapping tiles, row by row, and what no later tile reaches is
passed on in bands of rows (`bands`), so that memory is that of a row of tiles. Images and tiles run one at a time, or
one on each of several devices (`spread`): a result does not depend on the rest of the batch. The file is above 400
lines, because what `sample` and `stream` take is said where they take it.
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
from ssr_jax.runtime import defocus, inputs, spread
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
    devices: two or more that tiles are spread over, or nothing, which is JAX's default device.
  """

  system: System
  config: Mapping[str, Any]
  variables: Mapping[str, Any] = dataclasses.field(repr=False)
  modules: Mapping[str, Any] = dataclasses.field(repr=False)
  dtype: str = 'float32'
  traces: collections.Counter = dataclasses.field(default_factory=collections.Counter, repr=False)
  devices: tuple[Any, ...] = ()

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
    how = {'seed': seed, 'scale': scale, 'size': size, 'keep_kernels': keep_kernels, 'tile': tile, 'progress': progress}
    return self._begun(self._waiting(), lr, **how, given=given, trust=trust, keep_defocus=keep_defocus, **options)()

  def together(self, calls: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[Callable[[], Result]]:
    """Several calls of `sample`, of images of any sizes; on several devices images of a size class run together.

    Nothing runs before a result is asked for. Then as many images as there are devices run at once, one on each: that
    one, and those of one tile of its size class and options that wait. An image in tiles has all devices for itself.

    Args:
      calls: (lr, options) of each; as of `sample`.

    Returns:
      for each call what gives its result, which is that of `sample`, or raises what `sample` would, once.
    """
    waiting = self._waiting()

    def begun(lr, options) -> Callable[[], Result]:
      try:
        return self._begun(waiting, lr, **options)
      except SSRError as error:
        return functools.partial(_raise, error)

    return [begun(lr, options) for lr, options in calls]

  @property
  def at_once(self) -> int:
    """How many tiles run at once, one on each device."""
    return max(1, len(self.devices))

  def _begun(
    self,
    waiting: spread.Waiting,
    lr,
    seed=0,
    scale=None,
    size=None,
    keep_kernels=True,
    tile=TILE,
    progress=None,
    given=None,
    trust=False,
    keep_defocus=0.0,
    **options,
  ) -> Callable[[], Result]:
    """A call of `sample` whose arguments are checked and whose images of one tile wait."""
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
    more = {'trust': trust, 'keep_defocus': keep_defocus, 'waiting': waiting}
    kept = self._kept(keep_kernels)
    shapes = {o.name: (h, w) if o.at_lr else target for o in self.system.outputs} | {trust_lib.OUTPUT: (h, w)}
    begun = []
    for i, (rows, number) in enumerate(zip(images.rows, seeds, strict=True)):
      its = {name: values[i] for name, values in known.items()}
      begun.append(self._bands(rows, int(number), layout, plan, kept, ticks, its, target, **more))

    def result() -> Result:
      results = [gathered(bands, shapes) for bands in begun]
      names = [o.name for o in self.system.outputs] + [trust_lib.OUTPUT] * trust
      found = {name: None if results[0].get(name) is None else [r[name] for r in results] for name in names}
      found = {name: x if x is None else x[0] if images.single else np.stack(x) for name, x in found.items()}
      answer = found.pop(self.system.outputs[-1].name)
      assert answer is not None, f'{self.system.name} returned no image'
      return Result(answer, found)

    return result

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
    more = {'trust': trust, 'keep_defocus': keep_defocus, 'waiting': self._waiting()}
    kept = self._kept(inputs.typed('keep_kernels', keep_kernels, bool))
    return self._bands(rows, inputs.seeds(seed, 1)[0], layout, plan, kept, ticks, {}, target, **more)

  def _kept(self, kernels: bool) -> tuple[str, ...]:
    return tuple(o.name for o in self.system.outputs if kernels or o.kind != 'kernels')

  def _layout(self, size: tuple[int, int], tile: int, plan: Any) -> Layout:
    padding = self.system.padding(self.modules, plan)
    return Layout.of(*size, tile, self.system.alignment(self.modules, plan), padding)

  def _bands(
    self, rows, seed, layout: Layout, plan, kept, ticks, given, target, trust, keep_defocus, waiting
  ) -> Iterator[Band]:
    """The outputs of an image, finished, resized, and images in the dtype of `rows`; and the trust map."""
    outputs = {o.name: o for o in self.system.outputs}
    at_lr = {name for name, o in outputs.items() if o.at_lr} | {defocus.OUTPUT}
    # Depth and maps keep their range, as bilinear weights are not negative.
    methods = {n: 'bicubic' if o.kind == 'image' else 'bilinear' for n, o in outputs.items() if n not in at_lr}
    height, width = (plan.scale * side for side in layout.size)
    names = trust_lib.Names.of(self.system.outputs) if trust else None
    wanted = self._kept(True) if names else kept
    if layout.tiles > 1:
      bands = self._restored(rows, seed, layout, plan, wanted, ticks, given, keep_defocus > 0)
    else:
      wanted = (*wanted, *[defocus.OUTPUT] * (keep_defocus > 0))
      tile = lambda: self._tile(rows[: layout.size[0]], (0, 0), seed, layout, plan, self._seen(given, plan))
      alike = (layout.shape, tuple((name, x.shape[-1]) for name, x in given.items()))
      found = waiting.add(tile, alike, plan, wanted)
      bands = self._blended(((found(), (0, 0), layout.size[0]) for _ in range(1)), layout, plan, ticks)
    bands = finished(bands, lambda found: self.system.finish(found, plan), self.system.reach(plan), height, at_lr)
    if names:
      gathering = lambda kernels: self.system.gathering(kernels, plan)
      bands = trust_lib.measured(bands, rows, names, plan.scale, names.kernels in kept, gathering)
    if keep_defocus > 0:
      bands = defocus.kept(bands, rows, self.system.outputs[-1].name, keep_defocus, plan.scale)
    return self._checked(sized(bands, (height, width), target, methods), rows)

  def _checked(self, bands: Iterator[Band], rows) -> Iterator[Band]:
    """What is returned of them, which must be finite, images in the dtype of `rows`."""
    kinds = {o.name: o.kind for o in self.system.outputs} | {trust_lib.OUTPUT: 'map'}
    for band in bands:
      for name, x in band.items():
        if not np.isfinite(np.sum(x)):  # no copy, as isfinite of each would make
          raise SSRError(
            f"model '{self.config['name']}': output '{name}' is not finite; verify the model or its weights"
          )
      yield {n: rows.finish(x) if kinds[n] == 'image' else x for n, x in band.items() if n in kinds}

  def _cut(self, plan: Any) -> dict[str, int]:
    """{output that a tile gets its own piece of, where it is given: pixels of it per LR pixel}."""
    return {o.name: 1 if o.at_lr else plan.scale for o in self.system.outputs if o.at_lr or o.kind == 'image'}

  def _passes(self, layout: Layout, plan: Any, keep_defocus: float = 0.0) -> int:
    return self.system.passes(plan) + (keep_defocus > 0) if layout.tiles > 1 else 1

  def _seen(self, given: Mapping[str, np.ndarray], plan: Any) -> dict[str, np.ndarray]:
    """What was given of an image, as its tiles get it: whole, to be cut, or as small as the system's view."""
    view, cut = self.system.view_size(self.modules, plan), self._cut(plan)
    assert view is not None or cut.keys() >= given.keys(), f'{self.system.name} accepts {set(given)}, has no view size'
    return {name: x if name in cut or view is None else resized(x, view) for name, x in given.items()}

  def _restored(self, lr, seed, layout: Layout, plan, kept, ticks, given, measured: bool) -> Iterator[Band]:
    """An image of several tiles, rows [n, w, 3] float32. If `measured`, all of `defocus.OUTPUT` comes before."""
    context = None
    variables = {part: self.variables[part] for part in plan.parts}
    view, given = self.system.view_size(self.modules, plan), self._seen(given, plan)
    if view is not None:
      seen, first = View(layout.size, view), 0
      for _, _, end in layout.rows:
        seen.add(lr[first:end])
        first = end
      context = self._prepare(variables, seen.result()[None], plan=plan)
      for _ in range(self._passes(layout, plan) - 1):
        seen = View((plan.scale * layout.size[0], plan.scale * layout.size[1]), view)
        for band in self._pass(lr, seed, layout, context, plan, (), ticks, given):
          seen.add(band['view'])
        context = self._advance(variables, context, seen.result()[None], plan=plan)
    if measured:
      bands = self._pass(lr, seed, layout, context, plan, (defocus.OUTPUT,), ticks, given)
      yield gathered(bands, {defocus.OUTPUT: layout.size})
    yield from self._pass(lr, seed, layout, context, plan, kept, ticks, given)

  def _pass(self, lr, seed, layout: Layout, context, plan, kept, ticks, given) -> Iterator[Band]:
    """Runs every tile once and blends the results: the outputs `kept`, or, if that is empty, the next pass's view."""
    context = self._spread.shared(context) if self._spread else context

    def tiles():
      for y, columns, end in layout.rows:
        rows = lr[y : min(y + layout.shape[0], layout.size[0])]
        for x in columns:
          yield self._tile(rows, (y, x), seed, layout, plan, given), (y, x), end if x == columns[-1] else None

    def results():
      for group in spread.groups(tiles(), self.at_once):
        found = self._run([tile for tile, _, _ in group], plan, kept, context)
        yield from ((one, *place) for one, (_, *place) in zip(found, group, strict=True))

    return self._blended(results(), layout, plan, ticks)

  def _blended(self, results, layout: Layout, plan, ticks) -> Iterator[Band]:
    """Joins tiles, (outputs, origin, the LR row that the next row of tiles begins at or None within a row)."""
    h, w = layout.size
    large, small = Blend((plan.scale * h, plan.scale * w), plan.scale), Blend((h, w), 1)
    at_lr = {o.name for o in self.system.outputs if o.at_lr} | {defocus.OUTPUT}
    for found, origin, end in results:
      alone = layout.tiles == 1
      small.add({name: v for name, v in found.items() if name in at_lr}, origin, alone)
      large.add({name: v for name, v in found.items() if name not in at_lr}, origin, alone)
      ticks()
      if end is not None:
        yield {**large.take(end), **small.take(end)}

  def _tile(self, rows, origin: tuple[int, int], seed: int, layout: Layout, plan, given) -> spread.Tile:
    """A tile of an image, padded; `rows` are the image's from its first on, `given` as of `_seen`."""
    (h, w), (y, x), scales = layout.size, origin, self._cut(plan)

    def cut(array, scale=1, y=y):
      th, tw = (scale * side for side in layout.shape)
      return pad(array[scale * y : scale * y + th, scale * x : scale * x + tw], (th, tw))[None]

    window = Window(np.array([h, w], np.int32), np.array([y, x], np.int32))
    noise = NoiseField(np.array(seed % 2**32, np.uint32), np.array([y, x], np.int32))
    known = {name: cut(a, scales[name]) if name in scales else a[None] for name, a in given.items()}
    return spread.Tile(cut(rows, y=0), window, noise, known or None)

  def _waiting(self) -> spread.Waiting:
    return spread.Waiting(self._run, self.at_once)

  def _run(self, tiles: Sequence[spread.Tile], plan, kept, context=None) -> Iterator[dict[str, Array]]:
    """What comes of tiles, at most `at_once`: {output: [1, h, w, c]} of each."""
    if self._spread:
      yield from self._spread(tiles, context, plan=plan, kept=kept)
      return
    variables = {part: self.variables[part] for part in plan.parts}
    for tile in tiles:
      known = [tile.given] if tile.given else []
      yield self._restore(variables, tile.lr, tile.window, context, tile.noise, *known, plan=plan, kept=kept)

  def _restore_one(self) -> Callable[..., dict[str, Array]]:
    """(variables, lr [1, h, w, 3], window, context, noise, given; plan, kept) -> {output: array}, to be compiled."""

    def restore(variables, lr, window, context, noise, given=None, *, plan, kept):
      self.traces['restore'] += 1
      more = {'given': given} if given else {}
      found = self.system.restore(self.modules, variables, lr, window, context, noise, plan, last=bool(kept), **more)
      if defocus.OUTPUT in kept:
        kernels, depth = inputs.kernels(self.system, self.config, 'keep_defocus'), inputs.first(self.system, 'depth')
        deep = None if depth is None else found[depth]
        found = {**found, defocus.OUTPUT: defocus.measured(found[kernels], deep, plan.scale)}
      return {name: value for name, value in found.items() if name in (kept or ('view',))}

    return restore

  @functools.cached_property
  def _restore(self) -> Callable[..., dict[str, Array]]:
    """The program of one tile."""
    return xla.jit(self._restore_one(), keep=PROGRAMS, identity=self._identity, static_argnames=('plan', 'kept'))

  @functools.cached_property
  def _spread(self) -> spread.Spread | None:
    """The same on several devices; None where there is one."""
    if not self.devices:
      return None
    return spread.Spread(self.devices, self._restore_one(), self.variables, PROGRAMS)

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


def load(
  name_or_path: str | os.PathLike = 'compact', *, dtype: str = 'float32', devices: int | None = None
) -> Restorer:
  """Loads a model by name ('compact' comes with the package) or from a model directory.

  JAX runs threads, which a forked process lacks: a program that forks must do so before, or start its processes with
  `multiprocessing.get_context('spawn')` and load the model in each.

  Args:
    name_or_path: of the model.
    dtype: dtype that the networks compute in, 'float32' or 'bfloat16'. The latter is faster and smaller on GPUs and
      TPUs; its results differ by rounding. Kernels, latents between steps and images are float32 with both, and so are
      the parameters that a network does not round itself.
    devices: how many of this process's devices tiles and images are spread over, one on each; default all, or the one
      that `jax.default_device` names. Each has a copy of the model. The images are those of one device.

  Raises:
    SSRError: an unknown model or dtype, a damaged or missing file, a config field that does not exist, or more devices
      than there are.
  """
  used = spread.local(None if devices is None else inputs.typed('devices', devices, int))
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
  return Restorer(system, model.config, jax.device_put(variables), modules, dtype, devices=used)


def sample(
  lr: Any,
  model: str | os.PathLike | Restorer = 'compact',
  *,
  dtype: str | None = None,
  devices: int | None = None,
  **options: Any,
) -> Result:
  """Super-resolves images; a model given by name is loaded once and cached.

  Args:
    lr: as of `Restorer.sample`.
    model: a name, a model directory, or what `load` returned.
    dtype: as of `load`, for a model given by name; default float32.
    devices: as of `load`, for a model given by name.
    **options: as of `Restorer.sample`.

  >>> result = sample(np.zeros((32, 24, 3), np.uint8), steps=0)
  >>> result.image.shape, result.image.dtype, result.kernels.shape
  ((128, 96, 3), dtype('uint8'), (32, 24, 441))
  >>> sample(np.zeros((32, 24)))
  Traceback (most recent call last):
    ...
  ssr_jax.types.SSRError: lr must be [h, w, 3] or [b, h, w, 3] with RGB last; got shape [32, 24]
  """
  devices = None if devices is None else inputs.typed('devices', devices, int)
  if not isinstance(model, Restorer):
    changed = (store.resolve(inputs.model(model)) / format.MODEL_FILE).stat().st_mtime_ns
    compute = inputs.typed('dtype', 'float32' if dtype is None else dtype, str)
    model = _loaded(os.fspath(model), compute, devices, changed)
  elif dtype not in (None, model.dtype):
    raise SSRError(f'dtype is {dtype!r}, but the model was loaded with {model.dtype!r}; load it with that dtype')
  elif devices not in (None, model.at_once):
    raise SSRError(f'devices is {devices}, but the model was loaded on {model.at_once}; load it with that many')
  return model.sample(lr, **options)


@functools.lru_cache(maxsize=2)
def _loaded(name_or_path: str, dtype: str, devices: int | None, changed: int) -> Restorer:
  del changed  # a key of the cache: a model whose file has changed is loaded again
  return load(name_or_path, dtype=dtype, devices=devices)


def _raise(error: Exception) -> Any:
  raise error


def _in_dtypes(variables: Mapping[str, Any], part: str, config: Mapping[str, Any], dtype: Any, system: str) -> Tree:
  """A part's variables in the dtypes that its network needs them in: bfloat16 where it would round them anyway."""
  wanted = format.abstract_variables(part, config, dtype, system=system)
  return format.unflatten({k: x.astype(wanted[k].dtype, copy=False) for k, x in format.flatten(variables).items()})
