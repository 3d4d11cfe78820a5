"""Compiles programs for TPUs and GPUs that are not here: what they need of memory and links, and whether they fit.

  python tools/compile_for.py --config=configs/sd21.py:diffusion --topology=v5e-16 [--batch=32,64,128] \
      [--config.path.to.field=value ...]
  python tools/compile_for.py --config=configs/sd21.py --topology=h200-1 --sampling [--sides=128,192]

The program is the step of train.py that a run with these fields would do: same stage, same shardings, the state
donated. Nothing is allocated; a CPU with libtpu (`pip install '.[tpu]'`) or with JAX's plugin for CUDA (`pip install
'.[cuda]'`) is enough. A topology is a kind of device and a number: of a TPU's slice as its maker counts, or of the GPUs
of one host. Several topologies and global batches are separated by commas; without --batch it is train.batch_size.

With --sampling it compiles what `SSR.sample` runs, on one chip: 'restore' (SVKR) and 'generate' (diffusion) for one LR
tile of each side. Its options are those of the model, or config.eval.sampling's.

Where the model that config.parts_from names is not on this machine the frozen parts are taken as the config has them;
the shapes are all that is needed. The output says so.

--json=FILE writes what is found in bytes, too. Columns, in GiB on each chip: arguments (state, frozen parts, batch),
results that do not lie in the arguments' place, temporaries, all three ('needed') and their share of the chip's memory,
and the peak that the compiler itself reports, which may be less than what it sets aside; TFLOP of the model over all
chips, from the program before compilation, without what is computed twice to save memory. Before the table, for each
program what the chips send each other, as the bytes that one chip has of it once it is whole, and how often (loops
count as often as they run), and how often it names kernels of CUDA's libraries.
Exit code 3 if any program does not fit.

For GPUs the compiler cannot try out which algorithm is fastest: matrix products are left to cuBLAS here, and what cuDNN
and cuBLAS take for themselves while they run is not in the figures. A program fits where it needs no more than the
share of the memory that JAX takes at the start: 75 %, where XLA_PYTHON_CLIENT_MEM_FRACTION does not say otherwise.
"""

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import functools
from json import dumps
import math
import os
import pathlib
import re
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))

from configs import common  # noqa: E402

GIB = 2**30
DOES_NOT_FIT = 3

# To be set before jax is imported. With libtpu installed both look for the TPUs of this machine: in the cloud's
# metadata (for minutes, where there is none), and for a lock that a program which uses them holds. The type only has
# to be one that libtpu knows.
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}

# What JAX takes of a GPU's memory: https://docs.jax.dev/en/latest/gpu_memory_allocation.html
GPU_SHARE = 0.75

# With a GPU the compiler tries for each matrix product how to divide it, and whether cuBLAS is faster. Without one it
# takes a division that is not possible for some, and gives up; cuBLAS takes all of them.
GPU_OPTIONS = {'xla_gpu_enable_triton_gemm': False}

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
  """What XLA has to know of an NVIDIA GPU, by its data sheet.

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
    from ssr_jax import xla

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
  from ssr_jax.types import SSRError

  kind, _, number = topology.partition('-')
  if kind not in CHIPS or not number.isdigit() or int(number) not in CHIPS[kind].slices:
    known = '; '.join(f'{kind}-{{{",".join(map(str, chip.slices))}}}' for kind, chip in CHIPS.items())
    raise SSRError(f'--topology={topology}: unknown; known: {known}')
  return CHIPS[kind], f'{kind}:{CHIPS[kind].slices[int(number)]}'


def devices(topology: str) -> list[Any]:
  """The devices of a topology, good for compiling and nothing else.

  Raises:
    SSRError: an unknown topology, or its compiler is not installed.
  """
  from ssr_jax.types import SSRError

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


# ---- Programs --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
  """A program to be compiled.

  Attributes:
    label: what of, for the table.
    size: the batch or the image.
    lower: () -> the lowered program; called where programs are made for TPUs.
    work: operations of the model.
  """

  label: str
  size: str
  lower: Any
  work: int


def train_jobs(config, mesh, batches: list[int]) -> Iterator[Job]:
  """The train step of a config on a mesh, for each of some global batches."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import NamedSharding

  from ssr_jax.training import flops, shapes, sharding
  from ssr_jax.training import state as state_lib

  for batch_size in batches:
    sharding.check_batch_size(batch_size, config.train.accumulate, mesh)
  stage, params, stats, frozen = shapes.of_run(config)
  program = state_lib.program(stage, config, mesh, params, stats, frozen)
  state = jax.eval_shape(program.create, params, stats)
  scalar = jax.ShapeDtypeStruct((), jnp.int32)

  def place(tree, places):
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, places)

  smallest = min(batches)
  work = flops.of_step(config, params, stats, frozen, shapes.of_batch(stage, config, smallest))
  for batch_size in batches:
    split = NamedSharding(mesh, sharding.BATCH)
    batch = shapes.of_batch(stage, config, batch_size)
    arguments = (
      place(state, program.places),
      place(frozen, program.frozen_places),
      place(batch, dict.fromkeys(batch, split)),
      place(scalar, sharding.replicated(mesh)),
    )
    lower = lambda arguments=arguments: program.step.trace(*arguments).lower()
    yield Job(f'{config.stage} step', f'batch {batch_size}', lower, work * batch_size // smallest)


def sampling_jobs(config, device, sides: list[int]) -> Iterator[Job]:
  """The two programs of `SSR.sample` on one device, for an LR tile of each of some sides."""
  import jax
  import jax.numpy as jnp

  from ssr_jax import nn, pipeline
  from ssr_jax.training import flops
  from ssr_jax.types import SSRError
  from ssr_jax.weights import format, store

  if config.parts_from:
    model = format.read_config(store.resolve(config.parts_from))
    fields = {part: entry['config'] for part, entry in model['parts'].items()}
  else:
    model = format.new_config(config.name) | {'schedule': config.schedule.to_dict()}
    fields = config.model.to_dict()
  own = jax.sharding.SingleDeviceSharding(device)
  compute = nn.dtype_of(config.eval.dtype, 'config.eval.dtype')

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=own)

  variables = {}
  for part, entry in fields.items():
    found = format.abstract_variables(part, entry, compute)
    variables[part] = format.unflatten({name: shape(*x.shape, dtype=x.dtype) for name, x in found.items()})
  ssr = pipeline.SSR(
    config=model,
    variables=variables,
    modules={part: format.build(part, entry, dtype=compute) for part, entry in fields.items()},
    dtype=config.eval.dtype,
  )
  asked = config.eval.sampling
  options, _ = ssr.check(steps=asked.steps, sampler=asked.sampler, start=asked.start)
  scale = model['scale']
  for side in sides:
    if side != pipeline.bucket(side):
      raise SSRError(f'--sides={side}: not a size that tiles have; use {pipeline.bucket(side)}')
    lr, hr = shape(1, side, side, 3), shape(1, scale * side, scale * side, 3)
    code = shape(1, side, side, variables['nbsr']['constants']['pca'].shape[-1])
    depth = shape(1, scale * side, scale * side, 1)
    restoring = {part: variables[part] for part in ('depth', 'dkenet', 'nbsr')}
    size = f'{side}x{side}'
    calls = {'restore': (ssr._restore, (restoring, lr, None), {})}
    if ssr.generates and options['steps']:
      parts = ssr.parts(steps=asked.steps, sampler=asked.sampler, start=asked.start)
      generating = {part: variables[part] for part in parts[-2:]}
      arguments = generating, lr, code, depth, hr, shape(3, dtype=jnp.uint32)
      calls[f'generate, {options["sampler"]} x{options["steps"]}'] = ssr._generate, arguments, options
    for label, (call, arguments, keywords) in calls.items():
      inside = functools.partial(call.__wrapped__, **keywords)  # without the options of this machine's compiler
      work = flops.count(inside, *arguments)
      lower = lambda call=call, arguments=arguments, keywords=keywords: call.trace(*arguments, **keywords).lower()
      yield Job(label, size, lower, work)


# ---- What a compiled program needs -----------------------------------------------------------------------------------


_COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
_BITS = {'pred': 8, 'bf16': 16, 'token': 0}
_ARRAY = re.compile(r'\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]')
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) (?P<kind>[a-z][\w-]*)\(', re.MULTILINE
)
_CALLS = re.compile(r'(?:calls|to_apply|body|true_computation|false_computation)=%([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_LIMIT = re.compile(r'condition=%([\w.-]+)')


def collectives(text: str) -> tuple[dict[str, tuple[int, int]], bool]:
  """What the devices of a compiled program send each other.

  Args:
    text: the optimised HLO.

  Returns:
    {kind: (how often, bytes in all)}: the bytes of the arrays that one device has once they are whole: gathered, or
    before they are reduced or scattered; and whether that is all, or the length of a loop in which something is sent
    could not be read (such a loop counts once).
  """
  computations, entry = _computations(text)
  known = True

  def visit(name: str) -> collections.Counter:
    nonlocal known
    if name in done:
      return done[name]
    found = collections.Counter()
    for line in computations.get(name, ()):
      instruction = _INSTRUCTION.match(line)
      if not instruction or instruction['kind'] in ('async-update', 'async-done'):  # named where they start
        continue
      kind = instruction['kind'].removesuffix('-start')
      if kind in _COLLECTIVES:
        # XLA's TPU backend writes a reduce-scatter as a fusion of an all-reduce with the slice that stays.
        fused = kind == 'all-reduce' and name.startswith('all-reduce-scatter')
        found['reduce-scatter' if fused else kind, 'times'] += 1
        found['reduce-scatter' if fused else kind, 'bytes'] += _bytes(instruction, line)
        continue
      times = 1
      if kind == 'while':
        times = _trips(line, computations.get(_LIMIT.search(line)[1], ()))
      inside = _CALLS.findall(line) + [
        name.strip(' %') for group in _BRANCHES.findall(line) for name in group.split(',')
      ]
      for other in inside:
        sent = visit(other)
        known &= times is not None or not sent
        for key, count in sent.items():
          found[key] += count * (times or 1)
    done[name] = found
    return found

  done: dict[str, collections.Counter] = {}
  found = visit(entry)
  kinds = sorted({kind for kind, _ in found})
  return {kind: (found[kind, 'times'], found[kind, 'bytes']) for kind in kinds}, known


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """{name: its lines}, and the name of the one that the program enters."""
  computations, entry, lines = {}, '', []
  for line in text.splitlines():
    head = re.match(r'^(ENTRY )?%([\w.-]+) \(.*\{$', line)
    if head:
      lines = computations[head[2]] = []
      entry = head[2] if head[1] else entry
    else:
      lines.append(line)
  return computations, entry


def _bytes(instruction: re.Match, line: str) -> int:
  """Bytes of what a collective makes whole on one device."""
  arrays = [(kind, [int(n) for n in sizes.split(',') if n]) for kind, sizes in _ARRAY.findall(instruction['type'])]
  sizes = []
  for kind, shape in arrays:
    bits = _BITS.get(kind) if kind in _BITS else int(re.search(r'\d+', kind)[0])
    for n in shape:
      bits *= n
    sizes.append(bits // 8)
  kind = instruction['kind']
  if kind in ('all-gather-start', 'collective-permute-start', 'reduce-scatter-start'):
    # (operands, results) and, for a permutation, two counters: as many results as operands.
    sizes = [size for size, (kind_, shape) in zip(sizes, arrays, strict=True) if kind_ != 'u32' or shape]
    half = len(sizes) // 2
    sizes = sizes[:half] if kind == 'reduce-scatter-start' else sizes[half:]
  return sum(sizes) * (_group(line) if kind == 'reduce-scatter' else 1)


def _group(line: str) -> int:
  """How many devices take part in a collective: of groups as [groups,devices]<=..., {{0,1},...}, or axes of a mesh."""
  axes = re.search(r'replica_groups=\S*mesh\[(?P<sizes>[^\]]*)\][^{]*\{(?P<used>[^}]*)\}', line)
  if axes:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes['sizes']))
    # An axis, or a part of one: 'axis' or 'axis':(before)size.
    return math.prod(int(part or sizes[name]) for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes['used']))
  groups = re.search(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})', line)
  return int(groups[1]) if groups[1] else len(groups[2].split(','))


def _trips(loop: str, condition: list[str]) -> int | None:
  """How often a loop runs: as XLA says, else the number that the condition of a loop from 0 compares with."""
  said = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop)
  if said:
    return int(said[1])
  limits = [int(n) for n in re.findall(r' = s32\[\]\S* constant\((\d+)\)', '\n'.join(condition))]
  counted = any(' compare(' in line and 'direction=LT' in line for line in condition)
  return limits[0] if counted and len(limits) == 1 else None


@dataclasses.dataclass(frozen=True)
class Need:
  """What a program needs on each device, in bytes; None where the compiler gave up before it knew.

  Attributes:
    arguments, results, temporaries: of memory; results are those that do not lie in the arguments' place.
    needed: their sum; where the program does not fit, what the compiler says that it would need.
    peak: as the compiler reports it, which may be less than what it sets aside.
    fits: whether the compiler found room for it.
    sent: from `collectives`.
    complete: whether `sent` is all.
    calls: {library's kernel: how often the program names it}, such as cuDNN's convolutions and attention.
    complaint: what the compiler said where it does not fit.
    seconds: that compiling took.
  """

  arguments: int | None
  results: int | None
  temporaries: int | None
  needed: int | None
  peak: int | None
  fits: bool
  sent: Mapping[str, tuple[int, int]]
  complete: bool
  calls: Mapping[str, int]
  complaint: str
  seconds: float


_USED = re.compile(r'(?:Used|HLO temporaries \()\s*([\d.]+)([KMGT]?)')


def compile_(lowered, room: float = math.inf, options: Mapping[str, Any] | None = None) -> Need:
  """Compiles a lowered program and looks at what came out.

  Args:
    lowered: the program.
    room: what there is of memory, in bytes: the compiler for TPUs refuses what does not fit, that for GPUs does not.
    options: of the compiler.
  """
  import jax

  start = time.perf_counter()
  try:
    compiled = lowered.compile(compiler_options=dict(options or {}))
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if 'RESOURCE_EXHAUSTED' not in message:
      raise
    used = _USED.search(message)
    needed = used and round(float(used[1]) * 1024 ** ' KMGT'.index(used[2] or ' '))
    line = message.removeprefix('RESOURCE_EXHAUSTED: ').splitlines()[0]
    return Need(None, None, None, needed, None, False, {}, True, {}, line, time.perf_counter() - start)
  memory = compiled.memory_analysis()
  text = compiled.as_text()
  sent, complete = collectives(text)
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  needed = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
  complaint = f'{needed / GIB:.2f} GiB, and there are {room / GIB:.2f}'
  return Need(
    arguments=memory.argument_size_in_bytes,
    results=results,
    temporaries=memory.temp_size_in_bytes,
    needed=needed,
    peak=memory.peak_memory_in_bytes,
    fits=needed <= room,
    sent=sent,
    complete=complete,
    calls=dict(collections.Counter(re.findall(r'custom_call_target="([^"]+)"', text)).most_common()),
    complaint='' if needed <= room else complaint,
    seconds=time.perf_counter() - start,
  )


# ---- The table -------------------------------------------------------------------------------------------------------


_HEADS = (
  'topology',
  'mesh',
  'program',
  'size',
  'arguments',
  'results',
  'temporaries',
  'needed',
  'of memory',
  'peak',
  'TFLOP',
  '',
)


def row(topology: str, mesh: str, job: Job, need: Need) -> tuple[str, ...]:
  """A row of the table."""
  chip, _ = find_chip(topology)
  gib = lambda size: '-' if size is None else f'{size / GIB:.3f}'
  share = '-' if need.needed is None else f'{need.needed / chip.memory:.1%}'
  return (
    topology,
    mesh,
    job.label,
    job.size,
    gib(need.arguments),
    gib(need.results),
    gib(need.temporaries),
    gib(need.needed),
    share,
    gib(need.peak),
    f'{job.work / 1e12:.4g}',
    'fits' if need.fits else 'does not fit',
  )


def traffic(need: Need) -> str:
  """What is sent, and which kernels of CUDA's libraries are called, in a line."""
  if not need.fits:
    return need.complaint
  parts = [f'{kind} {count} x, {size / 2**20:.1f} MiB' for kind, (count, size) in need.sent.items()]
  rest = '' if need.complete else '; more in loops of unknown length'
  calls = ''.join(f'; {name} {count} x' for name, count in need.calls.items() if name.startswith('__'))
  return 'sent: ' + ('; '.join(parts) or 'nothing') + rest + calls


OPTIONS = {'topology': None, 'batch': '', 'sampling': False, 'sides': '128', 'json': ''}
"""Flags beside --config, with their defaults."""


def main(config, topology: str, batch: str, sampling: bool, sides: str, json: str) -> int:
  """Compiles everything that is asked for and prints the table; returns the exit code."""
  for name in topology.split(','):
    find_chip(name)
  os.environ.update(ENVIRONMENT)
  import jax

  jax.config.update('jax_platforms', 'cpu')  # whoever imported jax before has read the environment without it

  from ssr_jax import xla
  from ssr_jax.evaluation.report import tables
  from ssr_jax.training import shapes, sharding
  from ssr_jax.types import SSRError

  def numbers(name, text):
    items = text.split(',')
    if not all(item.isdigit() and int(item) for item in items):
      raise SSRError(f'--{name}={text}: must be whole numbers, separated by commas')
    return [int(item) for item in items]

  batches = numbers('batch', batch or str(config.train.batch_size))
  sizes = numbers('sides', sides)
  slices = {name: devices(name) for name in topology.split(',')}
  if not sampling and not config.stage:
    raise SSRError('--config names no stage; name one after the colon, or give --sampling')
  said = shapes.without_weights(config)
  if said:
    print(said, flush=True)

  rows, records, code = [], [], 0
  for name, chips in slices.items():
    chip, _ = find_chip(name)
    if sampling:
      mesh, jobs = '1 chip', sampling_jobs(config, chips[0], sizes)
    else:
      made = sharding.make_mesh(config.mesh, chips)
      mesh = ' x '.join(f'{axis} {size}' for axis, size in made.shape.items() if size > 1) or '1 chip'
      jobs = train_jobs(config, made, batches)
    for job in list(jobs):
      if chip.gpu:
        with xla.compiling_for('gpu', chip.gpu.capability):
          need = compile_(job.lower(), GPU_SHARE * chip.memory, GPU_OPTIONS)
      else:
        with xla.compiling_for('tpu'):
          need = compile_(job.lower())
      rows.append(row(name, mesh, job, need))
      about = {'topology': name, 'mesh': mesh, 'program': job.label, 'size': job.size, 'operations': job.work}
      records.append(about | dataclasses.asdict(need))
      print(f'{name}, {job.label}, {job.size}: {rows[-1][-1]}, compiled in {need.seconds:.0f} s', flush=True)
      print(f'  {traffic(need)}', flush=True)
      code = code if need.fits else DOES_NOT_FIT
  print(', '.join(dict.fromkeys([f'jax {jax.__version__}', *(compiler(find_chip(name)[0]) for name in slices)])))
  print(tables.plain(_HEADS, rows))
  if json:
    pathlib.Path(json).write_text(dumps(records, indent=2) + '\n')
  return code


if __name__ == '__main__':
  common.run(main, __doc__, options=OPTIONS)
