"""`ssr app`: a web page that super-resolves photos."""

import argparse
import importlib
from typing import Any

from ssr_jax.types import SSRError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
  """Adds `app` to the parsers of `ssr`; `common` has the options of all commands."""
  app = commands.add_parser(
    'app',
    parents=[common],
    help='a web page that super-resolves photos',
    description='Serves a page: drop a photo, compare before and after, see depth and blur kernels and what was '
    'invented, download the result. Photos stay on the machine that serves it.',
  )
  app.add_argument('--model', default='compact', help="'compact', a model directory, or org/model on the hub")
  app.add_argument(
    '--host',
    default='127.0.0.1',
    help='address to listen on; 0.0.0.0 lets others in, without a password (default: 127.0.0.1, this machine)',
  )
  app.add_argument('--port', type=int, default=7860, metavar='N', help='to listen on (default: 7860)')
  app.add_argument(
    '--max-pixels', type=int, default=1_000_000, metavar='N', help='of a photo, at most (default: 1000000)'
  )
  app.add_argument(
    '--max-upload', type=int, default=50, metavar='MB', help='megabytes of a file, at most (default: 50)'
  )
  app.set_defaults(command=_app)


def _app(arguments: argparse.Namespace) -> int:
  for name, low, high in (('port', 1, 65535), ('max_pixels', 1, 2**31), ('max_upload', 1, 4096)):
    value = getattr(arguments, name)
    if not low <= value <= high:
      raise SSRError(f'--{name.replace("_", "-")} {value}: must be from {low} to {high}')
  page = importlib.import_module('ssr_jax.app.page')  # above the command line, and its package may be missing
  from ssr_jax import runtime, xla

  xla.enable_compilation_cache()
  page.serve(
    runtime.load(arguments.model),
    host=arguments.host,
    port=arguments.port,
    max_pixels=arguments.max_pixels,
    max_upload=arguments.max_upload * 10**6,
  )
  return 0
