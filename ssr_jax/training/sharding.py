"""Sharding of arrays over many devices, by one mesh and a short table of rules.

The mesh has the axes (data, fsdp, tensor). A batch is split over data and fsdp together. A parameter is split over
tensor if a rule matches its path, and over fsdp along its largest divisible axis; small ones are replicated. Optimiser
moments and averages have their parameter's path and shape, and so its sharding.
"""

from collections.abc import Mapping, Sequence
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from ssr_jax.types import SSRError

Tree = Any

AXES = ('data', 'fsdp', 'tensor')

TENSOR_RULES: tuple[tuple[str, int], ...] = (
  # Megatron's pairs: the first layer is split by its outputs, the second by its inputs.
  (r'/(to_q|to_k|to_v|conv1)/kernel$', -1),
  (r'/(to_out|conv2)/kernel$', -2),
)
"""(regular expression on the parameter's path, axis to split over `tensor`)."""


BATCH = PartitionSpec(('data', 'fsdp'))
"""How a batch is split along its first axis."""


def make_mesh(
  shape: Mapping[str, int],
  devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]  # a variable in jax
) -> Mesh:
  """The mesh of a run.

  Args:
    shape: {axis: size} for the axes of `AXES`; one may be -1, for the remaining devices.
    devices: default all devices of all processes.

  Returns:
    a mesh with automatic axes: the compiler chooses the shardings that are not given.

  Raises:
    SSRError: sizes that do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [int(shape.get(axis, 1)) for axis in AXES]
  fixed = math.prod(size for size in sizes if size != -1)
  if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes) or len(devices) % fixed:
    named = dict(zip(AXES, sizes, strict=True))
    raise SSRError(f'config.mesh is {named}: does not divide {len(devices)} devices; use -1 once, for what remains')
  sizes = [len(devices) // fixed if size == -1 else size for size in sizes]
  if math.prod(sizes) != len(devices):
    named = dict(zip(AXES, sizes, strict=True))
    raise SSRError(f'config.mesh is {named}: {math.prod(sizes)} of {len(devices)} devices; use -1 once')
  kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.make_mesh(tuple(sizes), AXES, axis_types=kinds, devices=devices)


def spec(path: str, shape: Sequence[int], mesh: Mesh, min_size: int) -> PartitionSpec:
  """The partition of one array.

  Args:
    path: its names joined by '/'.
    shape: its shape.
    mesh: from `make_mesh`.
    min_size: arrays with fewer elements are replicated, since splitting them costs more than it saves.

  Returns:
    a spec with one entry per axis, or an empty one.
  """
  if math.prod(shape) < min_size:
    return PartitionSpec()
  axes: list[str | None] = [None] * len(shape)
  for pattern, axis in TENSOR_RULES:
    if mesh.shape['tensor'] > 1 and len(shape) >= -axis and re.search(pattern, path):
      if shape[axis] % mesh.shape['tensor'] == 0:
        axes[axis] = 'tensor'
      break
  if mesh.shape['fsdp'] > 1:
    free = [i for i, size in enumerate(shape) if axes[i] is None and size % mesh.shape['fsdp'] == 0]
    if free:
      # The last of equal axes: the output channels of a square kernel.
      axes[max(free, key=lambda i: (shape[i], i))] = 'fsdp'
  return PartitionSpec(*axes)


def shardings(tree: Tree, mesh: Mesh, min_size: int) -> Tree:
  """A sharding for every leaf of a tree of arrays or of their shapes."""

  def place(path, leaf):
    names = '/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path)
    return NamedSharding(mesh, spec(names, leaf.shape, mesh, min_size))

  return jax.tree_util.tree_map_with_path(place, tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of replicated arrays."""
  return NamedSharding(mesh, PartitionSpec())


def put(tree: Tree, places: Tree) -> Tree:
  """Makes global arrays with the shardings `places` from host arrays that every process holds whole."""

  def one(x, place):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, place, lambda index: x[index])

  return jax.tree.map(one, tree, places)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes the global batch, split over data and fsdp, from this process's records, `host_shard(mesh)` of it."""
  place = NamedSharding(mesh, BATCH)
  with jax.transfer_guard_host_to_device('allow'):  # the only transfer of a training loop
    return {name: jax.make_array_from_process_local_data(place, np.asarray(value)) for name, value in batch.items()}


def put_whole(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Makes a global batch from one that every process holds whole; it is split if it divides evenly."""

  def place(x):
    even = len(x) % (mesh.shape['data'] * mesh.shape['fsdp']) == 0
    return NamedSharding(mesh, BATCH if even else PartitionSpec())

  return {name: put(value, place(value)) for name, value in batch.items()}


def host_shard(mesh: Mesh) -> tuple[int, int]:
  """The part of each batch that this process reads: (index, count), the index-th of count equal shards.

  Processes that differ along `tensor` alone read the same shard.

  Raises:
    SSRError: a mesh whose processes would read overlapping shards.
  """
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  rows = mesh.devices.reshape(ways, -1)
  seen: dict[int, set[int]] = {}
  for row, devices in enumerate(rows):
    for device in devices:
      seen.setdefault(device.process_index, set()).add(row)
  shards = sorted({tuple(sorted(found)) for found in seen.values()})
  if sum(map(len, shards)) != ways or len({len(p) for p in shards}) != 1:
    named = dict(mesh.shape)
    raise SSRError(f'config.mesh is {named}: its tensor axis cuts across processes unevenly; make it smaller')
  return shards.index(tuple(sorted(seen[jax.process_index()]))), len(shards)


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
  """Raises SSRError unless all devices get the same number of records in each accumulation step."""
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size % (ways * accumulate):
    raise SSRError(
      f'train.batch_size={batch_size}: must be a multiple of data x fsdp x train.accumulate = '
      f'{mesh.shape["data"]} x {mesh.shape["fsdp"]} x {accumulate}'
    )
