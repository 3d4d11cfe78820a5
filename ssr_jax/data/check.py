"""Checks before training: which files of a known set are missing, which records of a source should not be used."""

from collections.abc import Iterable
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import re
import threading

import numpy as np

from ssr_jax.data import catalog, sources
from ssr_jax.data.pack import Progress
from ssr_jax.types import SSRError


@dataclasses.dataclass(frozen=True)
class Status:
  """What is there of a known set.

  Attributes:
    definition: the set.
    place: its spec, or None where its folder is missing.
    found: number of records found.
    problem: one line, '' where everything is as expected.
  """

  definition: catalog.Definition
  place: str | None
  found: int
  problem: str


def status(name: str, root: str | os.PathLike | None = None) -> Status:
  """Looks for a known set by its folders, file names and count, without decoding; `check` decodes.

  Args:
    name: of the set, without 'set:'.
    root: see `catalog.root_of`.

  Raises:
    SSRError: no set has this name.
  """
  definition = catalog.get(name)
  place = catalog.find(definition, root)
  if place is None:
    expected = ' or '.join(definition.places)
    return Status(definition, None, 0, f'nothing at {expected} below {catalog.root_of(root)}')
  try:
    source = sources.from_spec(place)
  except SSRError as error:
    return Status(definition, place, 0, str(error))
  found = len(source)
  problem = ''
  if definition.numbers:
    first, last = definition.numbers
    stems = (pathlib.Path(source.name(i)).stem for i in range(found))
    present = {int(number[0]) for number in (re.search(r'\d+', stem) for stem in stems) if number}
    missing = [n for n in range(first, last + 1) if n not in present]
    if missing:
      problem = f'{len(missing)} of {definition.count} missing: numbers {_ranges(missing)}'
  if not problem and found != definition.count:
    problem = f'{found} found, {definition.count} expected'
  return Status(definition, place, found, problem)


def _ranges(numbers: Iterable[int]) -> str:
  """[1, 2, 3, 7] as '1-3, 7'."""
  runs: list[list[int]] = []
  for n in numbers:
    if runs and runs[-1][1] == n - 1:
      runs[-1][1] = n
    else:
      runs.append([n, n])
  return ', '.join(str(a) if a == b else f'{a}-{b}' for a, b in runs)


@dataclasses.dataclass(frozen=True)
class Checked:
  """Result of `check`.

  Attributes:
    records: number of records.
    problems: one line each, in the order of the source.
    sizes: [n, 2], height and width of the readable records.
  """

  records: int
  problems: tuple[str, ...]
  sizes: np.ndarray


def check(
  source: sources.Source, min_side: int = 0, workers: int | None = None, progress: Progress | None = None
) -> Checked:
  """Decodes every record; reports unreadable and small ones, and those with the same HR pixels as an earlier one.

  Args:
    source: what to check.
    min_side: smallest height and width of HR that is not reported, in pixels.
    workers: number of threads; None uses one for each core.
    progress: called after each record.
  """
  lock, done = threading.Lock(), 0

  def decode(i: int) -> tuple[tuple[int, int], bytes] | str:
    """Size and hash of HR, or why the record cannot be used."""
    nonlocal done
    try:
      hr = source[i]['hr']
      height, width = hr.shape[:2]
      return (height, width), hashlib.sha256(f'{hr.shape}'.encode() + hr.tobytes()).digest()
    except sources.BadRecord as error:
      return str(error)
    finally:
      with lock:
        done += 1
        if progress:
          progress(done, len(source))

  with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix='ssr-check') as pool:
    try:
      found = list(pool.map(decode, range(len(source))))
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  problems: list[str] = []
  sizes: list[tuple[int, int]] = []
  first_with: dict[bytes, int] = {}
  for i, result in enumerate(found):
    if isinstance(result, str):
      problems.append(result)
      continue
    (height, width), digest = result
    sizes.append((height, width))
    if min(height, width) < min_side:
      problems.append(f'{source.name(i)}: {width}x{height}, a side is shorter than {min_side}')
    if digest in first_with:
      problems.append(f'{source.name(i)}: the same pixels as {source.name(first_with[digest])}')
    first_with.setdefault(digest, i)
  return Checked(len(source), tuple(problems), np.array(sizes, np.int64).reshape(-1, 2))
