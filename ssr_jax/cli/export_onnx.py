"""`ssr export-onnx`: writes a model as one program for other software."""

import argparse
import os
import pathlib
import re
from typing import Any

from ssr_jax.cli import console
from ssr_jax.cli import options as system_options
from ssr_jax.types import SSRError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
  """Adds `export-onnx` to the parsers of `ssr`; `common` has the options of all commands."""
  export = commands.add_parser(
    'export-onnx',
    parents=[common],
    help='write a model as one program for other software',
    description='Writes a model with its weights and options as one program for LR images of one size: lr [1, h, w, 3] '
    'float32 in [0, 1] -> the outputs of the model. ONNX, or StableHLO as jax.export stores it, by the suffix of OUT. '
    'The program is run before it is written: its outputs must be those of this package to 1e-4.',
  )
  export.add_argument(
    'model', metavar='MODEL', help="'compact', a model directory, or org/model on the Hugging Face hub"
  )
  export.add_argument('output', metavar='OUT', help='a file name ending in .onnx or .stablehlo')
  export.add_argument(
    '--size', type=_size, required=True, metavar='N|WxH', help='of the LR image; a size that the model does not pad'
  )
  export.add_argument(
    '--seed', type=int, default=0, metavar='N', help='seed of the noise, which the program contains (default: 0)'
  )
  system_options.add(export)
  export.add_argument('--overwrite', action='store_true', help='replace OUT if it exists')
  export.set_defaults(command=_export)


def _size(text: str) -> tuple[int, int]:
  """(height, width) that '640x480', width first, or '128' names."""
  found = re.fullmatch(r'(\d{1,5})(?:x(\d{1,5}))?', text.lower())
  size = (int(found[2] or found[1]), int(found[1])) if found else (0, 0)
  if min(size) < 1:
    raise argparse.ArgumentTypeError(f'{text!r}: give one number, or WIDTHxHEIGHT, in pixels')
  return size


def _export(arguments: argparse.Namespace) -> int:
  target = pathlib.Path(arguments.output)
  if target.suffix not in ('.onnx', '.stablehlo'):
    raise SSRError(f'{target}: unknown format {target.suffix!r}; name it .onnx or .stablehlo')
  if os.path.lexists(target) and not arguments.overwrite:
    raise SSRError(f'{target} exists; use --overwrite')
  options = system_options.given(arguments)
  console.check_writable([target.parent])
  if target.suffix == '.onnx':  # before the work of some minutes
    import jax2onnx  # pyright: ignore[reportMissingImports]
    import onnxruntime  # pyright: ignore[reportMissingImports]

    del jax2onnx, onnxruntime

  from ssr_jax import runtime, xla
  from ssr_jax.image import io
  from ssr_jax.runtime import exporting

  xla.enable_compilation_cache()
  model = runtime.load(arguments.model)
  made = exporting.program(model, arguments.size, seed=arguments.seed, **options)
  if target.suffix == '.onnx':
    data = exporting.onnx(made)
    run, runner = exporting.onnx_runner(data), 'onnxruntime'
  else:
    data = exporting.stablehlo(made)
    run, runner = exporting.stablehlo_runner(data), 'StableHLO'
  found = exporting.compare(made, run)
  wrong = {n: d for n, d in found['difference'].items() if not d <= exporting.TOLERANCE}
  if wrong:
    name, difference = max(wrong.items(), key=lambda item: item[1])
    return console.say(
      f'{target}: not written: {name} differs by {difference:.2g} from this package, {exporting.TOLERANCE:g} is allowed'
    )
  io.write_bytes(target, data, replace=arguments.overwrite)
  h, w = made.size
  console.tell(f'{target}: {len(data) / 1e6:.1f} MB, lr [1, {h}, {w}, 3] -> {", ".join(made.outputs)}')
  console.tell('largest difference: ' + ', '.join(f'{n} {d:.1e}' for n, d in found['difference'].items()))
  console.tell(f'seconds on this machine: {runner} {found["seconds"]:.2f}, XLA {found["xla_seconds"]:.2f}')
  return 0
