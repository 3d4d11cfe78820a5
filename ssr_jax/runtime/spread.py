"""Tiles on several devices at once: one on each, by the very program that restores one tile.

A group of tiles is a batch that is split over the devices. Each device gets a batch of one and a copy of the variables,
so that a result does not depend on what runs beside it, and there is nothing to communicate. Images of one tile wait
for others of their size class (`Waiting`); the tiles of a larger image are a group by themselves.
"""

import collections
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
import itertools
from typing import Any, TypeVar

import flax.struct
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from ssr_jax import xla
from ssr_jax.types import SSRError

Found = dict[str, Any]
T = TypeVar('T')

AXIS = 'tile'
"""Name of the mesh's only axis."""


@flax.struct.dataclass
class Tile:
  """What the program of a tile gets beside the variables and the image's context.

  Attributes:
    lr: [1, h, w, 3] in [0, 1].
    window: `systems.base.Window`, where it lies.
    noise: its `NoiseField`.
    given: {output: its piece of what the caller gave}, or None.
  """

  lr: Any
  window: Any
  noise: Any
  given: Any = None


def local(count: int | None) -> tuple[Any, ...]:
  """The first devices of this process.

  Args:
    count: how many; None for all of them, or for one where JAX was told a default device.

  Returns:
    the devices, or nothing for a single one, which needs no mesh.

  Raises:
    SSRError: there are not that many.
  """
  have = jax.local_devices()
  if count is None:
    named = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    count = len(have) if named is None else 1
  if not 1 <= count <= len(have):
    raise SSRError(f'devices {count}: must be from 1 to {len(have)}, the devices that this process has')
  return tuple(have[:count]) if count > 1 else ()


class Spread:
  """Runs the program of a tile on several devices."""

  def __init__(self, devices: Sequence[Any], restore: Callable[..., Found], variables: Mapping[str, Any], keep: int):
    """Compiles and copies nothing yet.

    Args:
      devices: two or more.
      restore: (variables, lr, window, context, noise, given, plan=, kept=) -> {output: [1, ...]}, of one tile.
      variables: {part: Flax variables}; each device gets a copy of the parts that run.
      keep: programs for different shapes that stay in memory.
    """
    mesh = Mesh(np.array(devices), (AXIS,))
    self._devices, self._variables = tuple(devices), variables
    self._whole, self._split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    self._copies: dict[str, Any] = {}

    def restore_all(variables, context, tiles, *, plan, kept):
      def on_one(variables, context, tiles):
        tile = jax.tree.map(lambda x: x[0], tiles)
        return restore(variables, tile.lr, tile.window, context, tile.noise, tile.given, plan=plan, kept=kept)

      whole, split = PartitionSpec(), PartitionSpec(AXIS)
      # What varies over the mesh need not be tracked where nothing is communicated.
      run = jax.shard_map(on_one, mesh=mesh, in_specs=(whole, whole, split), out_specs=split, check_vma=False)
      return run(variables, context, tiles)

    self._program = xla.jit(restore_all, keep=keep, static_argnames=('plan', 'kept'))

  def shared(self, tree: Any) -> Any:
    """A copy of it on each device."""
    return jax.device_put(tree, self._whole)

  def __call__(self, tiles: Sequence[Tile], context: Any, *, plan: Any, kept: tuple[str, ...]) -> list[Found]:
    """Restores at most as many tiles as there are devices.

    Args:
      tiles: of one shape. Where there are fewer, the last is repeated and what comes of it dropped: one program serves.
      context: of their image, of `shared`; or None.
      plan: of the system.
      kept: names of outputs.

    Returns:
      {output: [1, h, w, c]} of each tile, on its device.
    """
    assert 1 <= len(tiles) <= len(self._devices)
    for part in plan.parts:
      if part not in self._copies:
        self._copies[part] = self.shared(self._variables[part])
    padded = [*tiles, *[tiles[-1]] * (len(self._devices) - len(tiles))]
    batch = jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *padded), self._split)
    variables = {part: self._copies[part] for part in plan.parts}
    found = self._program(variables, context, batch, plan=plan, kept=kept)
    pieces = {name: {shard.device: shard.data for shard in x.addressable_shards} for name, x in found.items()}
    return [{name: x[device] for name, x in pieces.items()} for device, _ in zip(self._devices, tiles, strict=False)]


class Waiting:
  """Images of a single tile that wait to be restored; when one is asked for, those like it that wait run with it."""

  def __init__(self, run: Callable[[Sequence[Tile], Any, tuple[str, ...]], Iterable[Found]], at_once: int):
    """Nothing waits yet.

    Args:
      run: (tiles of one shape, plan, kept) -> what comes of each.
      at_once: how many it takes.
    """
    self._run, self._at_once = run, at_once
    self._queues: dict[Hashable, collections.deque[tuple[Future[Found], Callable[[], Tile]]]] = {}

  def add(self, make: Callable[[], Tile], shape: Hashable, plan: Any, kept: tuple[str, ...]) -> Callable[[], Found]:
    """Adds an image.

    Args:
      make: makes its tile when it is its turn.
      shape: whatever else its program depends on: images are alike if this, `plan` and `kept` are equal.
      plan: of the system.
      kept: names of outputs.

    Returns:
      what gives the result, or raises what restoring it raised.
    """
    queue = self._queues.setdefault((shape, plan, kept), collections.deque())
    future: Future[Found] = Future()
    queue.append((future, make))

    def found() -> Found:
      while not future.done():
        self._next(queue, plan, kept)
      return future.result()

    return found

  def _next(self, queue: collections.deque, plan: Any, kept: tuple[str, ...]) -> None:
    """Runs the first images of a queue; an error in making a tile is that image's alone."""
    group = [queue.popleft() for _ in range(min(self._at_once, len(queue)))]
    try:
      tiles: list[Tile] = []
      futures: list[Future[Found]] = []
      for future, make in group:
        try:
          tiles.append(make())
          futures.append(future)
        except Exception as error:
          future.set_exception(error)
      for future, found in zip(futures, self._run(tiles, plan, kept) if tiles else (), strict=True):
        future.set_result(found)
    except BaseException as error:
      for future, _ in group:
        if not future.done():
          future.set_exception(error)
      if not isinstance(error, Exception):  # such as KeyboardInterrupt
        raise


def groups(items: Iterable[T], count: int) -> Iterator[list[T]]:
  """`count` items at a time, the last time those that are left; no more are taken than are given."""
  coming = iter(items)
  while group := list(itertools.islice(coming, count)):
    yield group
