"""Flips one random bit in a copy of a run's newest checkpoint and goes on from it: never with other numbers.

Outcomes: 'noticed', the copy is set aside and the checkpoint before it is read; 'same', the bit meant nothing and what
is read is what was saved; 'wrong', other numbers are restored without a word; 'refused', nothing is read although a
whole one is there; 'crash', another error than an SSRError.
"""

import contextlib
import io
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np

from ssr_jax.training import checkpoint, manifest
from ssr_jax.types import SSRError

BAD = ('wrong', 'refused', 'crash')


def run(count: int, rng: np.random.Generator) -> dict[str, int]:
  """Makes checkpoints of 60,000 random weights and flips `count` bits, one at a time; {outcome: how often}."""
  with tempfile.TemporaryDirectory() as folder:
    whole = pathlib.Path(folder) / 'whole'
    store = checkpoint.Checkpoints(whole, 2, 'psnr', True)
    draw = lambda: {'net': {'w': rng.normal(size=(100, 200)).astype(np.float32)}}
    for step in (1, 2):
      state = {'step': np.array(step, np.int32), 'params': draw(), 'ema': draw(), 'optimizer': draw()}
      store.save(step, state, {'net': {}}, {'next_batch': step}, {'export': {'parts': {'net': {}}}})
    store.close()
    return flip_bits(whole, pathlib.Path(folder), count, rng)


def flip_bits(whole: pathlib.Path, folder: pathlib.Path, count: int, rng: np.random.Generator) -> dict[str, int]:
  """Flips `count` bits, each in a fresh copy below `folder` of the newest checkpoint in `whole`; {outcome: number}.

  Every second bit is of the largest file, which holds the numbers; the others are of any file, all alike.
  """
  steps = sorted(int(p.name) for p in whole.iterdir() if p.name.isdigit())
  saved = {step: _contents(whole / str(step)) for step in steps}
  counts = dict.fromkeys(('noticed', 'same', *BAD), 0)
  for i in range(count):
    copy = folder / 'copy'
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    files = sorted(p for p in (copy / str(steps[-1])).rglob('*') if p.is_file() and p.stat().st_size)
    largest = max(files, key=lambda p: p.stat().st_size)
    _flip(largest if i % 2 else files[rng.integers(len(files))], rng)
    counts[_go_on(copy, saved, steps[-1])] += 1
  return counts


def _flip(path: pathlib.Path, rng: np.random.Generator) -> None:
  data = bytearray(path.read_bytes())
  data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
  path.write_bytes(data)


def _go_on(copy: pathlib.Path, saved: dict[int, Any], newest: int) -> str:
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      store = checkpoint.Checkpoints(copy, 2, 'psnr', True)
      step = store.latest()
      shapes = manifest.load(copy / str(step), manifest.metadata(copy / str(step)))
      state, constants, data, _ = store.restore(step, shapes['state'], shapes.get('constants', {}))
      store.close()
  except SSRError:
    return 'refused'
  except Exception:
    return 'crash'
  found = manifest.names({'state': state, 'constants': constants}), data
  if not _equal(found, saved[step]):
    return 'wrong'
  if step != newest:
    return 'noticed' if 'not a whole checkpoint' in said.getvalue() else 'wrong'
  return 'same'


def _contents(directory: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  return manifest.names(manifest.load(directory, manifest.metadata(directory))), manifest.read(directory).data


def _equal(a: Any, b: Any) -> bool:
  same = all(np.asarray(a[0][name]).tobytes() == b[0][name].tobytes() for name in b[0])
  return a[0].keys() == b[0].keys() and same and a[1] == b[1]
