"""Compiles the step of train.py for TPUs that are not here: what it needs of memory and links, and whether it fits.

  python tools/compile_tpu.py --config=configs/sd21.py:diffusion --topology=v5e-16 [--batch=32,64,128] \
      [--config.path.to.field=value ...]
  python tools/compile_tpu.py --config=configs/sd21.py --topology=v5e-1 --sampling [--sides=128,192]

The program is the one that a run with these fields would do: same stage, same step, same shardings, the state donated.
Nothing is allocated; a CPU with libtpu (`pip install '.[tpu]'`) is enough. Several topologies and global batches are
separated by commas; without --batch it is train.batch_size.

With --sampling it compiles what `SSR.sample` runs, on one chip: 'restore' (SVKR) and 'generate' (diffusion) for one LR
tile of each side. Its options are those of the model, or config.eval.sampling's.

Where the model that config.parts_from names is not on this machine the frozen parts are taken as the config has them;
the shapes are all that is needed. The output says so.

--json=FILE writes what is found in bytes, too. Columns, in GiB on each chip: arguments (state, frozen parts, batch),
results that do not lie in the arguments' place, temporaries, all three ('needed') and their share of the chip's memory,
and the peak that the compiler itself reports, which may be less than what it sets aside; TFLOP of the model over all
chips, from the program before compilation, without what is computed twice to save memory. Below each row what the chips
send each other, as the bytes that one chip has of it once it is whole, and how often. Loops count as often as they run.
Exit code 3 if any program does not fit.
"""

import collections
import dataclasses
import functools
from json import dumps
import os
import pathlib
import re
import sys
import time
from typing import Any, Iterator, Mapping

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

# https://docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e: memory of a chip, and its slices by the number in
# their name, which counts chips for v5e and v6e but TensorCores, two a chip, for v4 and v5p.
_SQUARES = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}
_CUBES = {
    8: '2x2x1', 16: '2x2x2', 32: '2x2x4', 64: '2x4x4', 128: '4x4x4', 256: '4x4x8', 512: '4x8x8', 1024: '8x8x8',
    2048: '8x8x16', 4096: '8x16x16',
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of TPU.

  Attributes:
    memory: bytes of HBM.
    slices: {number in the name: chips along each axis}.
    options: what libtpu has to be told besides. A v4 chip's two cores are one device ('megacore') unless asked
      otherwise on the chip itself, while libtpu's topologies have two.
  """

  memory: int
  slices: Mapping[int, str]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


CHIPS = {
    'v4': Chip(32 * GIB, _CUBES, {'chip_config_name': 'megacore'}),
    'v5e': Chip(16 * GIB, _SQUARES),
    'v5p': Chip(95 * GIB, _CUBES),
    'v6e': Chip(32 * GIB, _SQUARES),
}


def find_chip(topology: str) -> tuple[Chip, str]:
  """The chip of a slice such as 'v5e-16', and libtpu's name of the slice, 'v5e:4x4'.

  Raises:
    SSRError: a slice that there is not.
  """
  from ssr_jax.types import SSRError

  kind, _, number = topology.partition('-')
  if kind not in CHIPS or not number.isdigit() or int(number) not in CHIPS[kind].slices:
    known = '; '.join(f'{kind}-{{{",".join(map(str, chip.slices))}}}' for kind, chip in CHIPS.items())
    raise SSRError(f'--topology={topology}: unknown; known: {known}')
  return CHIPS[kind], f'{kind}:{CHIPS[kind].slices[int(number)]}'


def devices(topology: str) -> list[Any]:
  """The devices of a slice, good for compiling and nothing else.

  Raises:
    SSRError: an unknown slice, or no libtpu.
  """
  import importlib.util

  from ssr_jax.types import SSRError

  chip, name = find_chip(topology)
  if importlib.util.find_spec('libtpu') is None:
    raise SSRError("libtpu, which compiles for TPUs, is not installed; pip install 'jax[tpu]'")
  from jax.experimental import topologies

  options = dict(chip.options)
  if name.endswith(':1x1'):
    options['chips_per_host_bounds'] = (1, 1, 1)
  return list(topologies.get_topology_desc(platform='tpu', topology_name=name, **options).devices)


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
  from jax.sharding import NamedSharding
  import jax.numpy as jnp

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
  import copy

  import jax
  import jax.numpy as jnp

  from ssr_jax import models, pipeline
  from ssr_jax.training import flops
  from ssr_jax.types import SSRError
  from ssr_jax.weights import registry

  if config.parts_from:
    model = registry.read_config(registry.resolve(config.parts_from))
    fields = {part: entry['config'] for part, entry in model['parts'].items()}
  else:
    model = copy.deepcopy(registry.DEFAULTS) | {'name': config.name, 'schedule': config.schedule.to_dict()}
    fields = config.model.to_dict()
  own = jax.sharding.SingleDeviceSharding(device)
  compute = models.dtype_of(config.eval.dtype, 'config.eval.dtype')

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=own)

  variables = {}
  for part, entry in fields.items():
    found = registry.abstract_variables(part, entry, compute)
    variables[part] = registry.unflatten({name: shape(*x.shape, dtype=x.dtype) for name, x in found.items()})
  ssr = pipeline.SSR(
      config=model,
      variables=variables,
      modules={part: registry.build(part, entry, dtype=compute) for part, entry in fields.items()},
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
      calls[f"generate, {options['sampler']} x{options['steps']}"] = ssr._generate, arguments, options
    for label, (call, arguments, keywords) in calls.items():
      inside = functools.partial(call.__wrapped__, **keywords)  # without the options of this machine's compiler
      work = flops.count(inside, *arguments)
      lower = lambda call=call, arguments=arguments, keywords=keywords: call.trace(*arguments, **keywords).lower()
      yield Job(label, size, lower, work)


# ---- What a compiled program needs -----------------------------------------------------------------------------------


_COLLECTIVES = (
    'all-gather', 'all-reduce', 'all-to-all', 'collective-broadcast', 'collective-permute', 'ragged-all-to-all',
    'reduce-scatter',
)
_BITS = {'pred': 8, 'bf16': 16, 'token': 0}
_ARRAY = re.compile(r'\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]')
_INSTRUCTION = re.compile(
    r'^\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) (?P<kind>[a-z][\w-]*)\(', re.MULTILINE)
_CALLS = re.compile(r'(?:calls|to_apply|body|true_computation|false_computation)=%([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_LIMIT = re.compile(r'condition=%([\w.-]+)')


def collectives(text: str) -> tuple[dict[str, tuple[int, int]], bool]:
  """What the devices of a compiled program send each other.

  Args:
    text: the optimised HLO.

  Returns:
    {kind: (how often, bytes in all)}: the bytes of the arrays that one device has once they are whole: gathered, or
    before they are reduced or scattered; and whether that is all, or a loop's length could not be read (such a loop
    counts once).
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
        times = _trips(computations.get(_LIMIT.search(line)[1], ()))
        known &= times is not None
      inside = _CALLS.findall(line) + [
          name.strip(' %') for group in _BRANCHES.findall(line) for name in group.split(',')]
      for other in inside:
        for key, count in visit(other).items():
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
  if instruction['kind'] in ('all-gather-start', 'collective-permute-start'):
    # (operands, results) and, for a permutation, two counters: as many results as operands.
    sizes = [size for size, (kind, shape) in zip(sizes, arrays) if kind != 'u32' or shape]
    sizes = sizes[len(sizes) // 2 :]
  total = sum(sizes)
  if instruction['kind'].startswith('reduce-scatter'):
    groups = re.search(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})', line)
    total *= int(groups[1]) if groups[1] else len(groups[2].split(','))
  return total


def _trips(condition: list[str]) -> int | None:
  """How often a loop runs that counts from 0, as JAX's do: the number that its condition compares with."""
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
  complaint: str
  seconds: float


_USED = re.compile(r'(?:Used|HLO temporaries \()\s*([\d.]+)([KMGT]?)')


def compile_(lowered) -> Need:
  """Compiles a lowered program and looks at what came out."""
  import jax

  start = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if 'RESOURCE_EXHAUSTED' not in message:
      raise
    used = _USED.search(message)
    needed = used and round(float(used[1]) * 1024 ** ' KMGT'.index(used[2] or ' '))
    line = message.removeprefix('RESOURCE_EXHAUSTED: ').splitlines()[0]
    return Need(None, None, None, needed, None, False, {}, True, line, time.perf_counter() - start)
  memory = compiled.memory_analysis()
  sent, complete = collectives(compiled.as_text())
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return Need(
      arguments=memory.argument_size_in_bytes,
      results=results,
      temporaries=memory.temp_size_in_bytes,
      needed=memory.argument_size_in_bytes + results + memory.temp_size_in_bytes,
      peak=memory.peak_memory_in_bytes,
      fits=True,
      sent=sent,
      complete=complete,
      complaint='',
      seconds=time.perf_counter() - start,
  )


# ---- The table -------------------------------------------------------------------------------------------------------


_HEADS = (
    'topology', 'mesh', 'program', 'size', 'arguments', 'results', 'temporaries', 'needed', 'of memory', 'peak',
    'TFLOP', '',
)


def row(topology: str, mesh: str, job: Job, need: Need) -> tuple[str, ...]:
  """A row of the table."""
  chip, _ = find_chip(topology)
  gib = lambda size: '-' if size is None else f'{size / GIB:.3f}'
  share = '-' if need.needed is None else f'{need.needed / chip.memory:.1%}'
  return (
      topology, mesh, job.label, job.size, gib(need.arguments), gib(need.results), gib(need.temporaries),
      gib(need.needed), share, gib(need.peak), f'{job.work / 1e12:.4g}', 'fits' if need.fits else 'does not fit',
  )


def traffic(need: Need) -> str:
  """What is sent, in a line."""
  if not need.fits:
    return need.complaint
  parts = [f'{kind} {count} x, {size / 2**20:.1f} MiB' for kind, (count, size) in need.sent.items()]
  rest = '' if need.complete else '; more in loops of unknown length'
  return ('; '.join(parts) or 'nothing') + rest


OPTIONS = {'topology': None, 'batch': '', 'sampling': False, 'sides': '128', 'json': ''}
"""Flags beside --config, with their defaults."""


def main(config, topology: str, batch: str, sampling: bool, sides: str, json: str) -> int:
  """Compiles everything that is asked for and prints the table; returns the exit code."""
  for name in topology.split(','):
    find_chip(name)
  os.environ.update(ENVIRONMENT)
  import jax

  from ssr_jax import xla
  from ssr_jax.report import tables
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
    if sampling:
      mesh, jobs = '1 chip', sampling_jobs(config, chips[0], sizes)
    else:
      made = sharding.make_mesh(config.mesh, chips)
      mesh = ' x '.join(f'{axis} {size}' for axis, size in made.shape.items() if size > 1) or '1 chip'
      jobs = train_jobs(config, made, batches)
    for job in list(jobs):
      with xla.compiling_for('tpu'):
        need = compile_(job.lower())
      rows.append(row(name, mesh, job, need))
      about = {'topology': name, 'mesh': mesh, 'program': job.label, 'size': job.size, 'operations': job.work}
      records.append(about | dataclasses.asdict(need))
      print(f'{name}, {job.label}, {job.size}: {rows[-1][-1]}, compiled in {need.seconds:.0f} s', flush=True)
      print(f'  {traffic(need)}', flush=True)
      code = code if need.fits else DOES_NOT_FIT
  print(f'jax {jax.__version__}, libtpu {_libtpu_version()}')
  print(tables.plain(_HEADS, rows))
  if json:
    pathlib.Path(json).write_text(dumps(records, indent=2) + '\n')
  return code


def _libtpu_version() -> str:
  import importlib.metadata

  return importlib.metadata.version('libtpu')


if __name__ == '__main__':
  common.run(main, __doc__, options=OPTIONS)
