"""The command `ssr`: upscales, inspects, scores, degrades images, trains, describes models, manages data and weights.

Exit codes: 0 success; 1 some inputs failed, each reported on stderr in one line, the others are done; 2 usage error;
130 interrupted by Ctrl-C. Each command is a module here; commands import the networks only when they need them.
"""

import argparse
from collections.abc import Sequence
import importlib
import sys
from typing import NoReturn

import ssr_jax
from ssr_jax.types import SSRError, one_line

_EXAMPLES = """examples:
  ssr upscale photo.jpg -o photo_x4.png          one photo
  ssr upscale photos/ more/a.png -o out/         folders and files into a folder
  ssr upscale photo.jpg -o out/ --figures        depth, kernels and restored image in one picture as well
  ssr upscale photo.jpg -o out/ --restored-only  without diffusion: faster, closer to the pixels, less detail
  ssr inspect photo.jpg --at 120,80              its blur, depth and noise, everywhere and at a pixel
  ssr app                                        a web page that does it
  ssr info ssr                                   a system: its parts, options, stages and sizes
  ssr info compact                               a model: its parts, training, operations
  ssr metrics hr/ out/ --metrics psnr,ssim --csv scores.csv
  ssr metrics out/ --metrics niqe                without originals
  ssr degrade photos/ -o set/ --recipe smooth/noise_jpeg --seed 0   LR images for a benchmark
  ssr data check folder:photos/ --min-side 128   find images that are unfit for training
  ssr data pack folder:photos/ shards/           ArrayRecord shards, which load faster from a shared disk
  ssr train --config=configs/compact.py:kernel --workdir=runs/kernel --config.data.train=folder:photos/
  ssr evaluate --config=configs/compact.py --config.eval.dataset=folder:photos/ --workdir=scores/
  ssr export runs/nbsr my_model/                 the weights of a training run
  ssr export-onnx compact compact.onnx --size 128   a model as one ONNX program
  ssr weights verify
  ssr weights import stable-diffusion-2-1-base/ --as big
"""

_CONFIGURED = {
  'train': 'train one stage of a system, as a config file says',
  'evaluate': 'score a model against bicubic on a set of photos, as a config file says',
}
"""Commands that a config describes: {module: its help}."""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  try:
    from ssr_jax.cli import terminal

    return terminal.run('ssr', lambda: _main(argv))
  except KeyboardInterrupt:  # during the import
    print('ssr: stopped', file=sys.stderr)
    return 130


def run() -> NoReturn:
  """The program `ssr`: `main`, then the end of the process."""
  code = main()
  from ssr_jax.cli import terminal

  terminal.leave(code)


def _main(argv: Sequence[str] | None) -> int:
  from ssr_jax.cli import console, terminal

  argv = sys.argv[1:] if argv is None else list(argv)
  if argv and argv[0] in _CONFIGURED:
    return _configured(argv)
  try:
    arguments = parser().parse_args(argv)
  except SystemExit as stop:  # argparse has printed the error or the help
    return int(stop.code or 0)
  try:
    if arguments.debug:
      return arguments.command(arguments)
    with terminal.without_warnings():
      return arguments.command(arguments)
  except SSRError as error:
    return console.say(str(error), 2)
  except Exception as error:
    terminal.check_stopped()
    if arguments.debug:
      raise
    if line := console.lacking(error):
      return console.say(line, 2)
    what = console.first_line(error)
    return console.say(f'internal error: {what}; run again with --debug and report what it prints', 1)


def _configured(argv: Sequence[str]) -> int:
  """A command whose arguments are those of a config file, which argparse does not know."""
  from ssr_jax.cli import console, scripts

  program = importlib.import_module(f'ssr_jax.cli.{argv[0]}')
  try:
    return scripts.parsed(program.main, program.__doc__ or '', [f'ssr {argv[0]}', *argv[1:]], {'workdir': None})
  except ImportError as error:
    line = console.lacking(error)
    if line is None:
      raise
    return console.say(line, 2)


class _Parser(argparse.ArgumentParser):
  """Argparse's, whose errors repeat an argument only after its control characters are escaped."""

  def error(self, message: str) -> NoReturn:
    super().error(one_line(message))


def parser() -> argparse.ArgumentParser:
  """The parser of all commands."""
  # Imported here, within reach of main's handling of Ctrl-C.
  from ssr_jax.cli import app, completion, data, degrade, export_onnx, info, inspect, metrics, upscale, weights

  common = argparse.ArgumentParser(add_help=False)
  common.add_argument('--debug', action='store_true', help='show the whole Python traceback of an error')
  top = _Parser(
    prog='ssr',
    description='Super-resolution (x4) of photos with spatially variant blur.',
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  top.add_argument('--version', action='version', version=f'ssr-jax {ssr_jax.__version__}')
  commands = top.add_subparsers(title='commands', required=True, metavar='COMMAND')
  for command in (upscale, inspect, app, info, metrics, degrade, data, weights, export_onnx, completion):
    command.add(commands, common)
  for name, text in _CONFIGURED.items():  # for the list of commands; `_configured` runs them
    commands.add_parser(name, help=text)
  return top
