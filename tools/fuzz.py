"""Attacks the program with damaged files and counts what comes of it.

  python tools/fuzz.py checkpoints --count 120 --seed 0

Each attack is a module of tools/attacks. Prints the outcomes as JSON; the exit code is 1 if one happened that must not.
docs/hostile.md records runs.
"""

import argparse
from collections.abc import Sequence
import importlib
import json
import pathlib
import pkgutil
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # so that it runs from anywhere

from tools import attacks

KINDS = tuple(module.name for module in pkgutil.iter_modules(attacks.__path__))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one attack; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('kind', choices=KINDS)
  parser.add_argument('--count', type=int, default=120, help='how often')
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args(argv)
  attack = importlib.import_module(f'tools.attacks.{arguments.kind}')
  counts = attack.run(arguments.count, np.random.default_rng(arguments.seed))
  print(json.dumps({'attack': arguments.kind, 'count': arguments.count, 'seed': arguments.seed} | counts))
  return int(any(counts.get(outcome) for outcome in attack.BAD))


if __name__ == '__main__':
  sys.exit(main())
