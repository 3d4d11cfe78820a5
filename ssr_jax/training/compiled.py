"""Reads from a compiled program how much memory it needs and what its devices send each other."""

import collections
from collections.abc import Mapping
import dataclasses
import math
import re
import time
from typing import Any

import jax

GIB = 2**30

_COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
_BITS = {'pred': 8, 'bf16': 16, 'token': 0}
_ARRAY = re.compile(r'\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]')
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<type>\(.*?\)|\S+) (?P<kind>[a-z][\w-]*)\(', re.MULTILINE
)
_CALLS = re.compile(r'(?:calls|to_apply|body|true_computation|false_computation)=%([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_LIMIT = re.compile(r'condition=%([\w.-]+)')


def collectives(text: str) -> tuple[dict[str, tuple[int, int]], bool]:
  """What the devices of a compiled program send each other.

  Args:
    text: the optimised HLO.

  Returns:
    {kind: (how often, bytes in all)}: the bytes of the arrays that one device has once they are whole: gathered, or
    before they are reduced or scattered; and whether that is all, or the length of a loop in which something is sent
    could not be read (such a loop counts once).
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
        limit = _LIMIT.search(line)
        times = _trips(line, computations.get(limit[1], []) if limit else [])
      inside = _CALLS.findall(line) + [
        name.strip(' %') for group in _BRANCHES.findall(line) for name in group.split(',')
      ]
      for other in inside:
        sent = visit(other)
        known &= times is not None or not sent
        for key, count in sent.items():
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
  """Bytes of the whole arrays of a collective on one device."""
  arrays = [(kind, [int(n) for n in sizes.split(',') if n]) for kind, sizes in _ARRAY.findall(instruction['type'])]
  sizes = []
  for kind, shape in arrays:
    bits = _BITS[kind] if kind in _BITS else int(re.findall(r'\d+', kind)[0])
    sizes.append(bits * math.prod(shape) // 8)
  kind = instruction['kind']
  if kind in ('all-gather-start', 'collective-permute-start', 'reduce-scatter-start'):
    # (operands, results) and, for a permutation, two counters: as many results as operands.
    sizes = [size for size, (kind_, shape) in zip(sizes, arrays, strict=True) if kind_ != 'u32' or shape]
    half = len(sizes) // 2
    sizes = sizes[:half] if kind == 'reduce-scatter-start' else sizes[half:]
  return sum(sizes) * (_group(line) if kind == 'reduce-scatter' else 1)


def _group(line: str) -> int:
  """How many devices take part in a collective: of groups as [groups,devices]<=..., {{0,1},...}, or axes of a mesh."""
  axes = re.search(r'replica_groups=\S*mesh\[(?P<sizes>[^\]]*)\][^{]*\{(?P<used>[^}]*)\}', line)
  if axes:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes['sizes']))
    # An axis, or a part of one: 'axis' or 'axis':(before)size.
    return math.prod(int(part or sizes[name]) for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", axes['used']))
  groups = re.search(r'replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})', line)
  if groups is None:
    raise ValueError(f'no groups of devices in {line.strip()[:200]!r}')
  return int(groups[1]) if groups[1] else len(groups[2].split(','))


def _trips(loop: str, condition: list[str]) -> int | None:
  """How often a loop runs: as XLA says, else the number that the condition of a loop from 0 compares with."""
  said = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop)
  if said:
    return int(said[1])
  limits = [int(n) for n in re.findall(r' = s32\[\]\S* constant\((\d+)\)', '\n'.join(condition))]
  counted = any(' compare(' in line and 'direction=LT' in line for line in condition)
  return limits[0] if counted and len(limits) == 1 else None


@dataclasses.dataclass(frozen=True)
class Need:
  """What a program needs on each device, in bytes; None where the compiler gave up before it knew.

  Attributes:
    arguments, results, temporaries: memory; only results that do not reuse the arguments' memory count.
    needed: their sum; if the compiler refused the program, the need that it reported.
    peak: as the compiler reports it, which can be less than what it allocates.
    fits: whether there is room for it.
    sent: from `collectives`.
    complete: whether `sent` is all.
    calls: {library's kernel: how often the program names it}, such as cuDNN's convolutions and attention.
    complaint: why it does not fit.
    seconds: how long compiling took.
  """

  arguments: int | None
  results: int | None
  temporaries: int | None
  needed: int | None
  peak: int | None
  fits: bool
  sent: Mapping[str, tuple[int, int]]
  complete: bool
  calls: Mapping[str, int]
  complaint: str
  seconds: float


_USED = re.compile(r'(?:Used|HLO temporaries \()\s*([\d.]+)([KMGT]?)')


def compile_lowered(lowered, room: float = math.inf, options: Mapping[str, Any] | None = None) -> Need:
  """Compiles a lowered program and reads what it needs.

  Args:
    lowered: the program.
    room: available memory in bytes. The compiler for TPUs refuses what does not fit by itself, that for GPUs does not.
    options: of the compiler.
  """
  start = time.perf_counter()
  try:
    compiled = lowered.compile(compiler_options=dict(options or {}))
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if 'RESOURCE_EXHAUSTED' not in message:
      raise
    used = _USED.search(message)
    needed = round(float(used[1]) * 1024 ** ' KMGT'.index(used[2] or ' ')) if used else None
    line = message.removeprefix('RESOURCE_EXHAUSTED: ').splitlines()[0]
    return Need(None, None, None, needed, None, False, {}, True, {}, line, time.perf_counter() - start)
  memory = compiled.memory_analysis()
  text = compiled.as_text()
  sent, complete = collectives(text)
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  needed = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
  complaint = f'{needed / GIB:.2f} GiB, and there are {room / GIB:.2f}'
  return Need(
    arguments=memory.argument_size_in_bytes,
    results=results,
    temporaries=memory.temp_size_in_bytes,
    needed=needed,
    peak=memory.peak_memory_in_bytes,
    fits=needed <= room,
    sent=sent,
    complete=complete,
    calls=dict(collections.Counter(re.findall(r'custom_call_target="([^"]+)"', text)).most_common()),
    complaint='' if needed <= room else complaint,
    seconds=time.perf_counter() - start,
  )
