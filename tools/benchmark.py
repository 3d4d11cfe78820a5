"""Measures time and memory of sampling, of the operators below it and of train steps, each in a fresh process.

    python tools/benchmark.py [--cases sample,restore,...] [--model compact] [--side 128] [--steps 50]
        [--repeat 3] [--check]
    python tools/benchmark.py --cases train [--configs tiny,compact] [--stages nbsr,...] [--set FIELD=VALUE ...]

Columns: the first call (with compilation, without reading weights), the median of the later calls, images or patches a
second, the process's peak memory, how many programs were compiled ('traces'), and for devices with their own memory the
peak of that. 'same bucket' is a second image of another size but the same padded size, which must compile nothing.
--check exits with 1 if the same bucket compiles, if the sample from 128x128 to 512x512 takes more than 8 s or 3 GB, if
fewer than 100 patches a second are degraded with one kernel each, noise and JPEG, or if a kernel per pixel costs more
than 3 times one kernel per image.

'train' is the step of train.py for each config and stage on all devices, at the config's batch size and on random
pictures, without reading data. 'a second' counts records; 'of peak' is the rate of the model's matrix products as a
share of the chips' peak, for chips whose peak is known. It takes minutes to compile and runs only if it is named.
"""

import argparse
from collections.abc import Callable
import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCALE = 4
MAX_SECONDS, MAX_MEGABYTES = 8.0, 3000.0
MIN_PATCHES, MAX_RATIO = 100.0, 3.0
BATCH = 16  # patches degraded at once
DEGRADED = (
  'invariant/no_noise',
  'invariant/no_jpeg',
  'invariant/noise_jpeg',
  'smooth/noise_jpeg',
  'mode5/noise_jpeg',
  'motion/noise_jpeg',
  'depth/noise_jpeg',
  'depth_motion/noise_jpeg',
  'mixed/mixed',
  'mixed/isp',
  'realesrgan',
  'realesrgan-light',
  'real',
)
_VARIANT, _INVARIANT = 'blur_downsample, a kernel per pixel', '21x21 convolution, stride 4'


def sample(options: argparse.Namespace, restore: bool = False) -> list[dict[str, Any]]:
  """SSR.sample on one image, or its restored image only, then on a smaller one of the same bucket."""
  from ssr_jax import runtime
  from ssr_jax.training import timing

  ssr = runtime.load(options.model, dtype=options.dtype, devices=1)
  steps = 0 if restore else options.steps
  case = ' restored only' if restore else ' sample' if steps is None else f' sample, {steps} steps'
  what = ssr.config['name'] + case
  if options.dtype != 'float32':
    what += f', {options.dtype}'
  lr = _photo(options.side)
  same_bucket = [side for side in range(1, options.side) if runtime.bucket(side) == runtime.bucket(options.side)]
  other = lr[: max(min(same_bucket), options.side // 2), : max(same_bucket)]
  # A result holds host arrays, so the call is over when it returns.
  rows = [
    {
      'what': what,
      'size': _sizes(lr),
      **timing.measure(lambda: ssr.sample(lr, steps=steps).image, options.repeat),
      'traces': ssr.traces.total(),
    }
  ]
  before = ssr.traces.total()
  second = timing.measure(lambda: ssr.sample(other, steps=steps).image, options.repeat)
  rows.append({'what': f'{what}, same bucket', 'size': _sizes(other), **second, 'traces': ssr.traces.total() - before})
  return rows


def operator(options: argparse.Namespace, invariant: bool = False) -> list[dict[str, Any]]:
  """The spatially variant blur with subsampling, or one 21x21 kernel for the whole image as a strided convolution."""
  import jax
  import jax.numpy as jnp

  from ssr_jax import xla
  from ssr_jax.image import blur, kernels
  from ssr_jax.training import timing

  traces = 0
  hr = jnp.asarray(_photo(SCALE * options.side), jnp.float32)[None] / 255
  lambda1, lambda2, theta = (jnp.full((1, options.side, options.side), value) for value in (8.0, 2.0, 0.5))
  taps = kernels.gaussian_kernels(lambda1, lambda2, theta, scale=SCALE)
  k = round(taps.shape[-1] ** 0.5)

  def variant(hr, taps):
    nonlocal traces
    traces += 1
    return blur.blur_downsample(hr, taps, SCALE)

  def convolution(hr, taps):
    nonlocal traces
    traces += 1
    padded = jnp.pad(hr, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)), mode='edge')
    planes = padded.transpose(3, 1, 2, 0)  # channels as a batch: a grouped convolution is slower
    kernel = taps[0, 0, 0].reshape(k, k, 1, 1)
    out = jax.lax.conv_general_dilated(
      planes, kernel, (SCALE, SCALE), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return out.transpose(3, 1, 2, 0)

  run = xla.jit(convolution if invariant else variant)
  what = _INVARIANT if invariant else _VARIANT
  size = f'{SCALE * options.side}x{SCALE * options.side} -> {options.side}x{options.side}'
  return [{'what': what, 'size': size, **timing.measure(lambda: run(hr, taps), options.repeat), 'traces': traces}]


def jpeg(options: argparse.Namespace) -> list[dict[str, Any]]:
  """The array JPEG."""
  import jax.numpy as jnp

  from ssr_jax import xla
  from ssr_jax.image import jpeg as jpeg_lib
  from ssr_jax.training import timing

  image = jnp.asarray(_photo(options.side), jnp.float32)[None] / 255
  run = xla.jit(jpeg_lib.jpeg)
  timed = timing.measure(lambda: run(image, jnp.array([60.0])), options.repeat)
  return [{'what': 'jpeg', 'size': f'{options.side}x{options.side}', **timed, 'traces': 1}]


def degrade(options: argparse.Namespace) -> list[dict[str, Any]]:
  """Batches of patches through the recipes; 'with kernels' also returns all 441 taps of each kernel."""
  import jax
  import jax.numpy as jnp

  from ssr_jax import degrade as degrade_lib
  from ssr_jax import xla
  from ssr_jax.training import timing

  side = 2 * options.side
  hr = jnp.tile(jnp.asarray(_photo(side), jnp.float32)[None] / 255, (BATCH, 1, 1, 1))
  depth = jnp.tile(jnp.linspace(0, 1, side // SCALE)[:, None], (BATCH, 1, side // SCALE))
  keys = jax.random.split(jax.random.key(0), BATCH)
  rows = []
  for name, with_kernels in [*((name, False) for name in DEGRADED), ('smooth/noise_jpeg', True)]:
    traces = 0

    def one(keys, hr, depth, recipe=degrade_lib.Recipe.parse(name), with_kernels=with_kernels):
      nonlocal traces
      traces += 1
      made = degrade_lib.degrade(keys, hr, recipe, depth).replace(target=None, lr_clean=None, depth=None)
      return made if with_kernels else made.replace(kernels=None)

    run = xla.jit(one)
    timed = timing.measure(lambda: run(keys, hr, depth), options.repeat)
    what = f'degrade {name}{", with kernels" if with_kernels else ""}'
    size = f'{BATCH} of {side}x{side}'
    rows.append({'what': what, 'size': size, **timed, 'rate': BATCH / timed['later'], 'traces': traces})
  return rows


def train(options: argparse.Namespace) -> list[dict[str, Any]]:
  """The train step of one config's stage."""
  import importlib

  from configs import common
  from ssr_jax import xla
  from ssr_jax.training import flops, shapes, timing
  from ssr_jax.types import SSRError

  xla.keep_freed_memory()
  name, stage_name = options.run.split(':')
  config = importlib.import_module(f'configs.{name}').get_config(stage_name)
  if name == 'tiny':
    config.parts_from = ''  # no model is as small
  for item in options.set:
    path, _, text = item.partition('=')
    try:
      common.apply(config.lock(), {path: _value(text)})
    except (AttributeError, KeyError, TypeError) as error:
      raise SSRError(f'--set {item}: {" ".join(str(error).split())[:200]}') from error
  shapes.without_weights(config)
  step, mesh, work = timing.train_step(config)
  timed = timing.measure(step, options.repeat)
  peak = flops.peak(mesh.devices.flat[0])
  row = {
    'what': f'train {name}:{stage_name}',
    'size': f'{config.train.batch_size} of {config.data.patch}x{config.data.patch}',
    'rate': config.train.batch_size / timed['later'],
    'traces': 1,
  }
  if peak:
    row['share'] = work / timed['later'] / (peak * mesh.size)
  return [row | timed]


def _value(text: str) -> Any:
  """The value of a config's field: a Python literal, or the text itself."""
  import ast

  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


CASES: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
  'sample': sample,
  'restore': functools.partial(sample, restore=True),
  'operator': operator,
  'convolution': functools.partial(operator, invariant=True),
  'jpeg': jpeg,
  'degrade': degrade,
  'train': train,
}


def main(argv: list[str] | None = None) -> int:
  """Runs every case in its own process and prints the table; returns the exit code."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
  usual = [name for name in CASES if name != 'train']
  parser.add_argument(
    '--cases', default=','.join(usual), help=f'which, out of {", ".join(CASES)} (default: all but train)'
  )
  parser.add_argument('--model', default='compact', help='name or model directory')
  parser.add_argument('--dtype', default='float32', help='of sample and restore: float32 or bfloat16')
  parser.add_argument('--steps', type=int, help="of sample: the UNet's (default: as the model has it)")
  parser.add_argument('--side', type=int, default=128, help='side of the LR image')
  parser.add_argument('--repeat', type=int, default=3, help='calls after the first')
  parser.add_argument('--check', action='store_true', help='exit with 1 where a limit is passed')
  parser.add_argument('--configs', default='tiny,compact', help='of train: files of configs/')
  parser.add_argument('--stages', default='', help='of train (default: all)')
  parser.add_argument(
    '--set', action='append', default=[], metavar='FIELD=VALUE', help='of train: a field of the config'
  )
  parser.add_argument('--child', choices=CASES, help=argparse.SUPPRESS)
  parser.add_argument('--run', help=argparse.SUPPRESS)
  options = parser.parse_args(argv)
  if options.child:
    return _child(options)
  sys.path.insert(0, str(ROOT))

  from ssr_jax import systems

  names = options.cases.split(',')
  configs = sorted(path.stem for path in (ROOT / 'configs').glob('[!_]*.py') if path.stem != 'common')
  runs = []
  for config in options.configs.split(','):
    if config not in configs:
      parser.error(f'unknown config {config!r}; known: {", ".join(configs)}')
    known = systems.get(importlib.import_module(f'configs.{config}').get_config().system).stages
    for stage in options.stages.split(',') if options.stages else known:
      if stage not in known:
        parser.error(f'unknown stage {stage!r} of {config}; known: {", ".join(known)}')
      runs.append(f'{config}:{stage}')
  unknown = [name for name in names if name not in CASES]
  if unknown:
    parser.error(f'unknown case {unknown[0]!r}; known: {", ".join(CASES)}')
  if not 16 <= options.side <= 512 or options.side % 16:
    parser.error(f'--side {options.side}: must be a multiple of 16 up to 512')
  for name, value in (('repeat', options.repeat), ('steps', options.steps)):
    if value is not None and value < 1:
      parser.error(f'--{name} {value}: must be at least 1')

  from ssr_jax.evaluation.report import tables

  rows, code = [], 0
  cases = [(name, run) for name in names for run in (runs if name == 'train' else [None])]
  for case, run in cases:
    found = _run(case, options, run)
    if isinstance(found, str):
      print(f'error: {case}: {found}', file=sys.stderr)
      code = 1
    else:
      rows += found
  heads = ['what', 'size', 'first call s', 'later s', 'a second', 'peak MB', 'traces']
  cells = [
    [
      row['what'],
      row['size'],
      f'{row["first"]:.2f}',
      f'{row["later"]:.3f}',
      f'{row.get("rate", 1 / row["later"]):.4g}',
      f'{row["peak"]:.0f}',
      row['traces'],
    ]
    for row in rows
  ]
  if any('device' in row for row in rows):
    heads.append('device MB')
    cells = [[*line, f'{row["device"]:.0f}' if 'device' in row else ''] for line, row in zip(cells, rows, strict=True)]
  if any('share' in row for row in rows):
    heads.append('of peak')
    cells = [[*line, f'{row["share"]:.1%}' if 'share' in row else ''] for line, row in zip(cells, rows, strict=True)]
  print(tables.plain(heads, cells))
  for line in complaints(rows) if options.check else []:
    print(f'error: {line}', file=sys.stderr)
    code = 1
  return code


def complaints(rows: list[dict[str, Any]]) -> list[str]:
  """One line for each figure that is over its limit."""
  lines = []
  for row in rows:
    if row['what'].endswith('same bucket') and row['traces']:
      lines.append(f'{row["what"]}, {row["size"]}: compiled {row["traces"]} programs again')
    if row['what'].endswith(' sample') and row['size'].startswith('128x128 '):
      if row['later'] > MAX_SECONDS:
        lines.append(f'{row["what"]}: {row["later"]:.1f} s, more than {MAX_SECONDS:.0f} s')
      if row['peak'] > MAX_MEGABYTES:
        lines.append(f'{row["what"]}: {row["peak"]:.0f} MB, more than {MAX_MEGABYTES:.0f} MB')
    if row['what'] == 'degrade invariant/noise_jpeg' and row['rate'] < MIN_PATCHES:
      lines.append(f'{row["what"]}, {row["size"]}: {row["rate"]:.0f} a second, fewer than {MIN_PATCHES:.0f}')
  seconds = {row['what']: row['later'] for row in rows}
  if {_VARIANT, _INVARIANT} <= seconds.keys() and seconds[_VARIANT] > MAX_RATIO * seconds[_INVARIANT]:
    ratio = seconds[_VARIANT] / seconds[_INVARIANT]
    lines.append(f'{_VARIANT}: {ratio:.1f} times the {_INVARIANT}, more than {MAX_RATIO:.0f}')
  return lines


def _run(name: str, options: argparse.Namespace, run: str | None = None) -> list[dict[str, Any]] | str:
  """Runs one case in a fresh process: its rows, or the last line of its error."""
  command = [
    sys.executable,
    __file__,
    f'--child={name}',
    f'--model={options.model}',
    f'--dtype={options.dtype}',
    f'--side={options.side}',
    f'--repeat={options.repeat}',
    *(f'--set={item}' for item in options.set),
  ]
  if options.steps is not None:
    command.append(f'--steps={options.steps}')
  if run:
    command.append(f'--run={run}')
  paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
  done = subprocess.run(
    command, capture_output=True, text=True, check=False, env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
  )
  if done.returncode:
    return (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
  return json.loads(done.stdout.splitlines()[-1])


def _child(options: argparse.Namespace) -> int:
  from ssr_jax.training import timing
  from ssr_jax.types import SSRError

  try:
    rows = CASES[options.child](options)
  except SSRError as error:
    print(error, file=sys.stderr)
    return 1
  peaks = {'peak': timing.peak_memory() / 1e6}
  device = timing.peak_device_memory()
  if device is not None:
    peaks['device'] = device / 1e6
  print(json.dumps([{**row, **peaks} for row in rows]))
  return 0


def _photo(side: int):
  """[side, side, 3] uint8: a smooth texture; time does not depend on the content."""
  import numpy as np

  y, x = np.mgrid[:side, :side] / side
  waves = [np.sin(2 * np.pi * (a * x + b * y + a * b * x * y)) for a, b in ((3, 1), (2, 5), (7, 4))]
  return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def _sizes(lr) -> str:
  h, w, _ = lr.shape
  return f'{w}x{h} -> {SCALE * w}x{SCALE * h}'


if __name__ == '__main__':
  sys.exit(main())
