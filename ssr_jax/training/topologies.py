"""TPU slices and GPU hosts by name, as devices to compile for on a machine that does not have them."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from ssr_jax import xla
from ssr_jax.training.compiled import GIB
from ssr_jax.types import SSRError

# https://docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e: memory of a chip, and its slices by the number in
# their name, which counts chips for v5e and v6e but TensorCores, two a chip, for v4 and v5p.
_SQUARES = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}
_CUBES = {
  8: '2x2x1',
  16: '2x2x2',
  32: '2x2x4',
  64: '2x4x4',
  128: '4x4x4',
  256: '4x4x8',
  512: '4x8x8',
  1024: '8x8x8',
  2048: '8x8x16',
  4096: '8x16x16',
}


# Per multiprocessor, by compute capability: lanes for float32, KiB of shared memory, threads. From the tables of
# https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities, as are the limits in `Gpu.target`.
_MULTIPROCESSORS = {8.0: (64, 164, 2048), 8.9: (128, 100, 1536), 9.0: (128, 228, 2048)}


@dataclasses.dataclass(frozen=True)
class Gpu:
  """What XLA has to know about an NVIDIA GPU, from its data sheet.

  Attributes:
    name: in full.
    capability: CUDA's compute capability.
    processors: multiprocessors.
    ghz: boost clock.
    bandwidth: of the memory, GB/s.
    l2: MiB of L2 cache.
  """

  name: str
  capability: float
  processors: int
  ghz: float
  bandwidth: int
  l2: int

  def target(self, memory: int) -> str:
    """XLA's description of it, a GpuTargetConfigProto as text, with `memory` bytes."""
    lanes, shared, threads = _MULTIPROCESSORS[self.capability]
    major, minor = str(self.capability).split('.')
    fields = {
      'name': f'"{self.name}"',
      'device_vendor': '"NVIDIA Corporation"',
      'cuda_compute_capability': f'{{ major: {major} minor: {minor} }}',
      'device_memory_size': memory,
      'memory_bandwidth': self.bandwidth * 10**9,
      'l2_cache_size': self.l2 * 2**20,
      'core_count': self.processors,
      'fpus_per_core': lanes,
      'clock_rate_ghz': self.ghz,
      'shared_memory_per_core': shared * 1024,
      'shared_memory_per_block_optin': (shared - 1) * 1024,
      'shared_memory_per_block': 48 * 1024,
      'threads_per_core_limit': threads,
      'threads_per_block_limit': 1024,
      'threads_per_warp': 32,
      'registers_per_core_limit': 65536,
      'registers_per_block_limit': 65536,
      'thread_dim_limit_x': 1024,
      'thread_dim_limit_y': 1024,
      'thread_dim_limit_z': 64,
      'block_dim_limit_x': 2**31 - 1,
      'block_dim_limit_y': 65535,
      'block_dim_limit_z': 65535,
      'driver_version': '"12.8.0"',
      'runtime_version': '"12.8.0"',
      'compile_time_toolkit_version': '"12.8.0"',
      'dnn_version': f'"{".".join(map(str, xla.CUDNN))}"',
    }
    about = ' '.join(f'{field}: {value}' for field, value in fields.items())
    version = ' '.join(f'{field}: {value}' for field, value in zip(('major', 'minor', 'patch'), xla.CUDNN, strict=True))
    return (
      f'gpu_device_info {{ {about} }} platform_name: "CUDA" dnn_version_info {{ {version} }} '
      f'device_description_str: "{self.name}"'
    )


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of TPU or GPU.

  Attributes:
    memory: bytes of HBM, or of a GPU's memory.
    slices: {number in the name: devices along each axis}.
    options: what libtpu has to be told besides. A v4 chip's two cores are one device ('megacore') unless asked
      otherwise on the chip itself, while libtpu's topologies have two.
    gpu: None for a TPU.
  """

  memory: int
  slices: Mapping[int, str]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  gpu: Gpu | None = None


_HOSTS = {number: f'1x1x{number}' for number in (1, 2, 4, 8)}  # partitions, hosts in each, GPUs in each

CHIPS = {
  'v4': Chip(32 * GIB, _CUBES, {'chip_config_name': 'megacore'}),
  'v5e': Chip(16 * GIB, _SQUARES),
  'v5p': Chip(95 * GIB, _CUBES),
  'v6e': Chip(32 * GIB, _SQUARES),
  'a100': Chip(80 * GIB, _HOSTS, gpu=Gpu('NVIDIA A100-SXM4-80GB', 8.0, 108, 1.41, 2039, 40)),
  'h100': Chip(80 * GIB, _HOSTS, gpu=Gpu('NVIDIA H100 80GB HBM3', 9.0, 132, 1.98, 3350, 50)),
  'h200': Chip(141 * GIB, _HOSTS, gpu=Gpu('NVIDIA H200', 9.0, 132, 1.98, 4800, 50)),
  'rtx4060': Chip(8 * GIB, _HOSTS, gpu=Gpu('NVIDIA GeForce RTX 4060', 8.9, 24, 2.46, 272, 24)),
  'rtx4090': Chip(24 * GIB, _HOSTS, gpu=Gpu('NVIDIA GeForce RTX 4090', 8.9, 128, 2.52, 1008, 72)),
}


def find_chip(topology: str) -> tuple[Chip, str]:
  """The chip of a topology such as 'v5e-16' or 'h200-8', and its compiler's name of that: 'v5e:4x4', 'h200:1x1x8'.

  Raises:
    SSRError: a topology that there is not.
  """
  kind, _, number = topology.partition('-')
  if kind not in CHIPS or not number.isdigit() or int(number) not in CHIPS[kind].slices:
    known = '; '.join(f'{kind}-{{{",".join(map(str, chip.slices))}}}' for kind, chip in CHIPS.items())
    raise SSRError(f'--topology={topology}: unknown; known: {known}')
  return CHIPS[kind], f'{kind}:{CHIPS[kind].slices[int(number)]}'


def devices(topology: str) -> list[Any]:
  """The devices of a topology, which programs can be compiled for but not run on.

  Raises:
    SSRError: an unknown topology, or its compiler is not installed.
  """
  chip, name = find_chip(topology)
  if compiler(chip) is None:
    if chip.gpu:
      raise SSRError("JAX's plugin for CUDA, which compiles for GPUs, is not installed; pip install 'jax[cuda12]'")
    raise SSRError("libtpu, which compiles for TPUs, is not installed; pip install 'jax[tpu]'")
  from jax.experimental import topologies

  if chip.gpu:
    kind, _, shape = name.partition(':')
    target = chip.gpu.target(chip.memory)
    found = topologies.get_topology_desc(platform='cuda', topology_name=kind, topology=shape, target_config=target)
    return list(found.devices)
  options = dict(chip.options)
  if name.endswith(':1x1'):
    options['chips_per_host_bounds'] = (1, 1, 1)
  return list(topologies.get_topology_desc(platform='tpu', topology_name=name, **options).devices)


def compiler(chip: Chip) -> str | None:
  """The package that compiles for a chip, with its version; None where it is not installed."""
  import importlib.metadata
  import importlib.util

  for module in ('jax_cuda13_plugin', 'jax_cuda12_plugin') if chip.gpu else ('libtpu',):
    if importlib.util.find_spec(module):
      package = module.replace('_', '-')
      return f'{package} {importlib.metadata.version(package)}'
  return None
