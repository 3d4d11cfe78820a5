"""`ssr completion` prints what makes a shell complete the commands and options of `ssr`."""

import argparse
import sys
from typing import Any

from ssr_jax.cli import console

SHELLS = ('bash', 'zsh', 'tcsh')


def add(commands: Any, common: argparse.ArgumentParser) -> None:
  """Adds `completion` to the parsers of `ssr`; `common` has the options of all commands."""
  parser = commands.add_parser(
    'completion',
    parents=[common],
    help='print the completion of a shell',
    description='Prints a script that completes commands and options. For bash, in ~/.bashrc: '
    'eval "$(ssr completion bash)"; for zsh: ssr completion zsh > a file _ssr in a folder of $fpath.',
  )
  parser.add_argument('shell', choices=SHELLS, metavar='SHELL', help=', '.join(SHELLS))
  parser.set_defaults(command=_completion)


def _completion(arguments: argparse.Namespace) -> int:
  try:
    import shtab  # pyright: ignore[reportMissingImports]  # of an extra
  except ImportError:
    return console.say("completion needs the package shtab: pip install 'ssr-jax[completion]'", 2)
  from ssr_jax import cli

  sys.stdout.write(shtab.complete(cli.parser(), shell=arguments.shell))
  return 0
