"""Compiles programs for TPUs and GPUs that this machine does not have, and tells whether they fit into memory.

  python tools/compile_for.py --config=configs/sd21.py:diffusion --topology=v5e-16 [--batch=32,64,128] \
      [--config.path.to.field=value ...]
  python tools/compile_for.py --config=configs/sd21.py --topology=h200-1 --sampling [--sides=128,192]

The program is the step of train.py that a run with these fields would run: the same stage, the same shardings, the
state donated. Nothing is allocated; a CPU with libtpu (`pip install '.[tpu]'`) or with JAX's plugin for CUDA (`pip
install '.[cuda]'`) is enough. A topology is a kind of device and a number: the number in the name of a TPU slice, or
how many GPUs one host has. Separate several topologies or global batches by commas; --batch defaults to
train.batch_size.

With --sampling it compiles the programs of `Restorer.sample` on one chip for one LR tile of each side: 'restore'
without and 'sample' with diffusion. The options are the model's, or those of config.eval.sampling.

If the model that config.parts_from names is not on this machine, the frozen parts have the shapes of the config, and
the output says so.

--json=FILE also writes all figures, in bytes. Columns, in GiB on each chip: arguments (state, frozen parts, batch),
results that do not reuse the arguments' memory, temporaries, the sum of the three ('needed') and its share of the
chip's memory, and the peak that the compiler reports, which can be less than what it allocates; TFLOP of the model over
all chips, counted before compilation, without what is computed twice to save memory. Before the table there is a line
for each program: what the chips send each other, how often (a loop's body counts once a round) and how many bytes of
whole arrays one chip then has; and how often the program calls kernels of CUDA's libraries.
The exit code is 3 if a program does not fit.

Without a GPU the compiler cannot measure which algorithm is fastest: matrix products go to cuBLAS here, and the memory
that cuDNN and cuBLAS allocate while they run is not in the figures. A program fits if it needs no more than the share
of the memory that JAX allocates at the start: 75 %, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
"""

from collections.abc import Iterator
import dataclasses
import functools
from json import dumps
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))

from configs import common  # noqa: E402

if TYPE_CHECKING:
  from ssr_jax.training.compiled import Need

DOES_NOT_FIT = 3

# To be set before jax is imported. With libtpu installed, both look for the TPUs of this machine: in the cloud's
# metadata, for minutes if there is none, and for the lock of a program that uses them. The type has to be one that
# libtpu knows.
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}

# The share of a GPU's memory that JAX allocates: https://docs.jax.dev/en/latest/gpu_memory_allocation.html
GPU_SHARE = 0.75

# With a GPU the compiler measures how to tile each matrix product, and whether cuBLAS is faster. Without one it takes a
# default tiling, which fails for some products; cuBLAS has no such limits.
GPU_OPTIONS = {'xla_gpu_enable_triton_gemm': False}


# ---- Programs --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Job:
  """A program to be compiled.

  Attributes:
    label: its name in the table.
    size: the batch or the image.
    lower: () -> the lowered program; to be called within `xla.compiling_for`.
    work: operations of the model.
  """

  label: str
  size: str
  lower: Any
  work: int


def train_jobs(config, mesh, batches: list[int]) -> Iterator[Job]:
  """The train step of a config on a mesh, for each of the given global batches."""
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
    step: Any = program.step
    lower = lambda arguments=arguments, step=step: step.trace(*arguments).lower()
    yield Job(f'{config.stage} step', f'batch {batch_size}', lower, work * batch_size // smallest)


def sampling_jobs(config, device, sides: list[int]) -> Iterator[Job]:
  """The programs of `Restorer.sample` on one device, for an LR tile of each side: without and with diffusion."""
  import jax
  import jax.numpy as jnp

  from ssr_jax import nn, runtime, systems
  from ssr_jax.diffusion.noise import NoiseField
  from ssr_jax.systems.base import Window
  from ssr_jax.training import flops
  from ssr_jax.types import SSRError
  from ssr_jax.weights import format, store

  if config.parts_from:
    model = format.read_config(store.resolve(config.parts_from))
    fields = {part: entry['config'] for part, entry in model['parts'].items()}
  else:
    model = format.new_config(config.name, config.system) | {'schedule': config.schedule.to_dict()}
    fields = config.model.to_dict()
  own = jax.sharding.SingleDeviceSharding(device)
  compute = nn.dtype_of(config.eval.dtype, 'config.eval.dtype')

  def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=own)

  variables = {}
  for part, entry in fields.items():
    found = format.abstract_variables(part, entry, compute, system=model['system'])
    variables[part] = format.unflatten({name: shape(*x.shape, dtype=x.dtype) for name, x in found.items()})
  modules = {part: format.build(part, entry, system=model['system'], dtype=compute) for part, entry in fields.items()}
  restorer = runtime.Restorer(systems.get(model['system']), model, variables, modules, config.eval.dtype)
  asked = {name: getattr(config.eval.sampling, name) for name in ('steps', 'sampler', 'start')}
  plans = {'restore': restorer.check(steps=0)}
  if set(restorer.required(**asked)) <= modules.keys():
    plan = restorer.check(**asked)
    if plan.steps:
      plans[f'sample, {plan.sampler} x{plan.steps}'] = plan
  pair, kept = shape(2, dtype=jnp.int32), tuple(output.name for output in restorer.system.outputs)
  window, noise = Window(pair, pair), NoiseField(shape(dtype=jnp.uint32), pair)
  for side in sides:
    if side != runtime.bucket(side):
      raise SSRError(f'--sides={side}: not a size that tiles have; use {runtime.bucket(side)}')
    for label, plan in plans.items():
      arguments = {p: variables[p] for p in plan.parts}, shape(1, side, side, 3), window, None, noise
      keywords = {'plan': plan, 'kept': kept}
      call = restorer._restore
      inside = functools.partial(call.__wrapped__, **keywords)  # without the options of this machine's compiler
      work = flops.count(inside, *arguments)
      lower = lambda arguments=arguments, keywords=keywords: call.trace(*arguments, **keywords).lower()
      yield Job(label, f'{side}x{side}', lower, work)


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


def row(topology: str, mesh: str, job: Job, need: 'Need') -> tuple[str, ...]:
  """A row of the table."""
  from ssr_jax.training import compiled, topologies

  chip, _ = topologies.find_chip(topology)
  gib = lambda size: '-' if size is None else f'{size / compiled.GIB:.3f}'
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


def traffic(need: 'Need') -> str:
  """One line: what is sent, and which kernels of CUDA's libraries are called."""
  if not need.fits:
    return need.complaint
  parts = [f'{kind} {count} x, {size / 2**20:.1f} MiB' for kind, (count, size) in need.sent.items()]
  rest = '' if need.complete else '; more in loops of unknown length'
  calls = ''.join(f'; {name} {count} x' for name, count in need.calls.items() if name.startswith('__'))
  return 'sent: ' + ('; '.join(parts) or 'nothing') + rest + calls


OPTIONS = {'topology': None, 'batch': '', 'sampling': False, 'sides': '128', 'json': ''}
"""Flags beside --config, with their defaults."""


def main(config, topology: str, batch: str, sampling: bool, sides: str, json: str) -> int:
  """Compiles every program and prints the table; returns the exit code."""
  os.environ.update(ENVIRONMENT)
  import jax

  jax.config.update('jax_platforms', 'cpu')  # has an effect even if jax was imported before the environment was set

  from ssr_jax import xla
  from ssr_jax.evaluation.report import tables
  from ssr_jax.training import compiled, shapes, sharding, topologies
  from ssr_jax.types import SSRError

  def numbers(name, text):
    items = text.split(',')
    if not all(item.isdigit() and int(item) for item in items):
      raise SSRError(f'--{name}={text}: must be whole numbers, separated by commas')
    return [int(item) for item in items]

  batches = numbers('batch', batch or str(config.train.batch_size))
  sizes = numbers('sides', sides)
  slices = {name: topologies.devices(name) for name in topology.split(',')}
  if not sampling and not config.stage:
    raise SSRError('--config names no stage; name one after the colon, or give --sampling')
  said = shapes.without_weights(config)
  if said:
    print(said, flush=True)

  rows, records, code = [], [], 0
  for name, chips in slices.items():
    chip, _ = topologies.find_chip(name)
    if sampling:
      mesh, jobs = '1 chip', sampling_jobs(config, chips[0], sizes)
    else:
      made = sharding.make_mesh(config.mesh, chips)
      mesh = ' x '.join(f'{axis} {size}' for axis, size in made.shape.items() if size > 1) or '1 chip'
      jobs = train_jobs(config, made, batches)
    for job in list(jobs):
      if chip.gpu:
        with xla.compiling_for('gpu', chip.gpu.capability):
          need = compiled.compile_lowered(job.lower(), GPU_SHARE * chip.memory, GPU_OPTIONS)
      else:
        with xla.compiling_for('tpu'):
          need = compiled.compile_lowered(job.lower())
      rows.append(row(name, mesh, job, need))
      about = {'topology': name, 'mesh': mesh, 'program': job.label, 'size': job.size, 'operations': job.work}
      records.append(about | dataclasses.asdict(need))
      print(f'{name}, {job.label}, {job.size}: {rows[-1][-1]}, compiled in {need.seconds:.0f} s', flush=True)
      print(f'  {traffic(need)}', flush=True)
      code = code if need.fits else DOES_NOT_FIT
  compilers = [topologies.compiler(topologies.find_chip(name)[0]) for name in slices]
  print(', '.join(dict.fromkeys([f'jax {jax.__version__}', *map(str, compilers)])))
  print(tables.plain(_HEADS, rows))
  if json:
    pathlib.Path(json).write_text(dumps(records, indent=2) + '\n')
  return code


if __name__ == '__main__':
  common.run(main, __doc__ or '', options=OPTIONS)
