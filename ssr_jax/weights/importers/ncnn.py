"""Reads networks of ncnn, the pair of a .param (text: the graph) and a .bin (the numbers), without ncnn.

A .param begins with 7767517 and the numbers of layers and blobs; each further line is a layer: type, name, numbers of
inputs and outputs, their names, then KEY=VALUE, where a key of -23300 - k holds an array 'n,v,v...' for k. The .bin has
the weights of the layers in the order of the .param. Those of a convolution begin with four bytes that say how they are
stored; its bias follows as float32.

What a graph computes is compared as an expression: `Graph` gives equal expressions equal numbers, so that names, copies
(Split) and the order of lines do not matter. A layer that is not known here is an error.
"""

from collections.abc import Sequence
import dataclasses
import math
import pathlib
from typing import IO, Any

import numpy as np

from ssr_jax.types import SSRError, one_line

SUFFIX = '.param'
"""File name suffix of the graph; the numbers lie beside it in a .bin of the same name."""

_MAGIC = '7767517'
_MAX_TEXT = 2**22  # bytes of a .param; Real-ESRGAN's x4plus has 116 kilobytes
_MAX_LAYERS = 20_000
_MAX_CHANNELS = 8192
_HALF, _FLOAT = 0x01306B47, 0
_OTHER = {0x000D4B38: 'int8', 0x0002C056: 'scaled float32'}

# Fields of a convolution that must have these values: kernel 3x3, stride 1, dilation 1, padding 1, no padding value.
_CONVOLUTION = {1: 3, 11: 3, 2: 1, 12: 1, 3: 1, 13: 1, 4: 1, 14: 1, 15: 1, 16: 1, 18: 0.0, 19: 0, 8: 0}

Value = int | float | list[float]


@dataclasses.dataclass(frozen=True)
class Layer:
  """A line of a .param.

  Attributes:
    kind: such as 'Convolution'.
    name: the layer's.
    inputs: names of blobs.
    outputs: names of blobs.
    fields: {key: value}, arrays under their own key.
    line: of the file, for messages.
  """

  kind: str
  name: str
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  fields: dict[int, Value]
  line: int

  def get(self, key: int, default: Value) -> Value:
    """A field, or what ncnn takes without it."""
    return self.fields.get(key, default)


class Graph:
  """Expressions by number: two that compute the same from the same get the same one."""

  def __init__(self):
    self._known: dict[Any, int] = {}

  def _add(self, *expression: Any) -> int:
    return self._known.setdefault(expression, len(self._known))

  def input(self) -> int:
    """The image."""
    return self._add('input')

  def conv(self, x: int, index: int) -> int:
    """A convolution; `index` counts them in the order of their weights."""
    return self._add('conv', x, index)

  def leaky(self, x: int, slope: float) -> int:
    """LeakyReLU."""
    return self._add('leaky', x, round(slope, 5))

  def concat(self, parts: Sequence[int]) -> int:
    """Channels of all parts, one after the other."""
    return self._add('concat', *parts) if len(parts) > 1 else parts[0]

  def scaled(self, x: int, factor: float) -> int:
    """A multiple."""
    return self._add('scaled', x, round(factor, 5)) if round(factor, 5) != 1 else x

  def add(self, parts: Sequence[int]) -> int:
    """A sum."""
    return self._add('add', *sorted(parts))

  def twice(self, x: int) -> int:
    """Nearest enlargement by 2."""
    return self._add('twice', x)


@dataclasses.dataclass(frozen=True)
class Network:
  """A network as it is stored.

  Attributes:
    graph: of its expressions.
    output: number of the expression that it computes.
    convolutions: (weight [o, i, 3, 3], bias [o]) of each convolution, float32, in the order of the file.
  """

  graph: Graph
  output: int
  convolutions: list[tuple[np.ndarray, np.ndarray]]


def holds(path: pathlib.Path) -> bool:
  """Whether a path names a network of ncnn, by either of its two files."""
  return path.suffix == SUFFIX or (path.suffix == '.bin' and path.with_suffix(SUFFIX).is_file())


def read(path: pathlib.Path) -> Network:
  """Reads a network of 3x3 convolutions, LeakyReLU, sums, concatenations and nearest enlargements.

  Args:
    path: of the .param or the .bin.

  Raises:
    SSRError: one of the two files is missing, damaged, too large or too short, or holds another kind of layer; the
      message names the file and the line or layer.
  """
  text = path.with_suffix(SUFFIX)
  layers = _layers(text)
  graph, output, shapes = _expression(text, layers)
  return Network(graph, output, _weights(path.with_suffix('.bin'), shapes))


# ---- the graph -------------------------------------------------------------------------------------------------------


def _layers(path: pathlib.Path) -> list[Layer]:
  lines = _text(path)
  counts = lines[1].split() if len(lines) > 1 else []
  if not lines or lines[0].strip() != _MAGIC or len(counts) != 2 or not all(_whole(c) for c in counts):
    raise SSRError(f'{path}: no network of ncnn: it must begin with {_MAGIC} and two numbers; fetch it again')
  count = int(counts[0])
  rest = [(number, line) for number, line in enumerate(lines[2:], 3) if line.strip()]
  if count != len(rest) or count > _MAX_LAYERS:
    raise SSRError(f'{path}: says {count} layers and has {len(rest)} (at most {_MAX_LAYERS}); fetch it again')
  return [_layer(path, number, line) for number, line in rest]


def _text(path: pathlib.Path) -> list[str]:
  try:
    if not path.is_file():
      raise SSRError(f'{path}: no such file; put the .param and the .bin of the network beside each other')
    with path.open('rb') as file:
      data = file.read(_MAX_TEXT + 1)
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror})') from error
  if len(data) > _MAX_TEXT:
    raise SSRError(f'{path}: larger than {_MAX_TEXT >> 20} MiB; this is no .param of a network of ncnn')
  try:
    return data.decode('ascii').splitlines()
  except UnicodeDecodeError as error:
    raise SSRError(f'{path}: not the text of a network of ncnn ({error.reason}); fetch it again') from error


def _layer(path: pathlib.Path, number: int, line: str) -> Layer:
  words = line.split()
  try:
    kind, name, *counts = words[:4]
    inputs, outputs = map(_count, counts)
    blobs, fields = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
    if len(blobs) != inputs + outputs:
      raise ValueError('blobs are missing')
    values: dict[int, Value] = {}
    for field in fields:
      key, value = _field(field)
      if key in values:
        raise ValueError(f'field {key} twice')
      values[key] = value
  except ValueError as error:
    raise SSRError(f'{path}: line {number}: {one_line(str(error))}; fetch it again') from error
  return Layer(kind, name, tuple(blobs[:inputs]), tuple(blobs[inputs:]), values, number)


def _whole(text: str) -> bool:
  return text.isascii() and text.isdecimal() and len(text) < 10


def _count(text: str) -> int:
  if not _whole(text):
    raise ValueError(f'{text[:20]!r} is no number of blobs')
  return int(text)


def _field(text: str) -> tuple[int, Value]:
  key, _, value = text.partition('=')
  number = int(key)
  if number > -23300:
    return number, _number(value)
  length, *values = value.split(',')
  if _count(length) != len(values):
    raise ValueError(f'array {key} has {len(values)} values and says {length[:20]}')
  return -23300 - number, [float(_number(v)) for v in values]


def _number(text: str) -> int | float:
  value = float(text) if any(c in text for c in '.eEn') else int(text[:20])
  if not math.isfinite(value):
    raise ValueError(f'{text!r} is not finite')
  return value


def _expression(path: pathlib.Path, layers: Sequence[Layer]) -> tuple[Graph, int, list[tuple[int, int]]]:
  """(graph, the output's expression, (outputs, inputs) of each convolution), all layers checked."""
  graph = Graph()
  blobs: dict[str, tuple[int, int]] = {}  # {name: (expression, channels)}
  shapes: list[tuple[int, int]] = []
  read: set[str] = set()
  for layer in layers:
    where = f'{path}: line {layer.line}, {one_line(layer.kind[:40])}'
    missing = [name for name in layer.inputs if name not in blobs]
    if missing or any(name in blobs for name in layer.outputs):
      raise SSRError(f'{where}: reads a blob that no earlier layer makes, or makes one twice; fetch it again')
    read.update(layer.inputs)
    found, channels = _apply(graph, layer, [blobs[name] for name in layer.inputs], shapes, where)
    if channels > _MAX_CHANNELS:
      raise SSRError(f'{where}: {channels} channels; at most {_MAX_CHANNELS} are read')
    blobs.update({name: (found, channels) for name in layer.outputs})
  ends = [blobs[name][0] for name in blobs if name not in read]
  if len(ends) != 1:
    raise SSRError(f'{path}: {len(ends)} outputs; a network with one is read')
  return graph, ends[0], shapes


def _apply(
  graph: Graph, layer: Layer, inputs: list[tuple[int, int]], shapes: list[tuple[int, int]], where: str
) -> tuple[int, int]:
  """(expression, channels) that a layer makes of its inputs; a convolution adds its shape to `shapes`."""
  expressions, widths = [x for x, _ in inputs], [c for _, c in inputs]
  same = len(set(widths)) == 1
  field = layer.get
  match layer.kind, len(inputs):
    case 'Input', 0:
      return graph.input(), 3
    case 'Split', 1:
      return inputs[0]
    case 'Convolution', 1:
      return _convolution(graph, layer, inputs[0], shapes, where)
    case 'ReLU', 1:
      return graph.leaky(expressions[0], _real(field(0, 0.0))), widths[0]
    case 'Concat', n if n and field(0, 0) == 0:
      return graph.concat(expressions), sum(widths)
    case 'Eltwise', n if n and same and field(0, 0) == 1:
      factors = field(1, [1.0] * n) or [1.0] * n
      if isinstance(factors, list) and len(factors) == n:
        return graph.add([graph.scaled(x, f) for x, f in zip(expressions, factors, strict=True)]), widths[0]
    case 'BinaryOp', 2 if same and field(0, 0) == 0:
      return graph.add(expressions), widths[0]
    case 'BinaryOp', 1 if field(0, 0) == 2 and field(1, 0) == 1:
      return graph.scaled(expressions[0], _real(field(2, 0.0))), widths[0]
    case 'Interp', 1 if (field(0, 0), field(1, 1.0), field(2, 1.0)) == (1, 2, 2) and not (field(3, 0) or field(4, 0)):
      return graph.twice(expressions[0]), widths[0]
  raise SSRError(
    f'{where}: not a layer that RRDBNet has, as it stands there; networks of ncnn are read of the ESRGAN family '
    '(RRDBNet) only'
  )


def _convolution(
  graph: Graph, layer: Layer, source: tuple[int, int], shapes: list[tuple[int, int]], where: str
) -> tuple[int, int]:
  x, inputs = source
  # What is left out of a pair is as its first: kernel height as width.
  get = lambda key: layer.get(key, layer.get(key - 10, 0 if key != 12 and key != 13 else 1))
  wrong = [key for key, value in _CONVOLUTION.items() if key in layer.fields and layer.fields[key] != value]
  outputs, size = layer.get(0, 0), layer.get(6, 0)
  if wrong or layer.get(1, 0) != 3 or get(14) != 1 or layer.get(5, 0) != 1:
    raise SSRError(f'{where}: only 3x3 convolutions with padding 1 and a bias are read; field {[*wrong, 1, 4, 5][0]}')
  if type(outputs) is not int or not 0 < outputs <= _MAX_CHANNELS or size != 9 * inputs * outputs:
    raise SSRError(f'{where}: {size} weights for {inputs} to {outputs} channels; {9 * inputs} for each are needed')
  found = graph.conv(x, len(shapes))
  shapes.append((outputs, inputs))
  match layer.get(9, 0), layer.get(10, []):
    case 0, _:
      return found, outputs
    case 1, _:
      return graph.leaky(found, 0.0), outputs
    case 2, [slope]:
      return graph.leaky(found, slope), outputs
  raise SSRError(f'{where}: activation {layer.get(9, 0)} is none that RRDBNet has')


def _real(value: Value) -> float:
  return math.nan if isinstance(value, list) else float(value)


# ---- the numbers -----------------------------------------------------------------------------------------------------


def _weights(path: pathlib.Path, shapes: Sequence[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
  """(weight, bias) of each convolution; the file must hold them and nothing else."""
  try:
    if not path.is_file():
      raise SSRError(f'{path}: no such file; put the .param and the .bin of the network beside each other')
    size = path.stat().st_size
    least = sum(2 * 9 * inputs * outputs + 4 * outputs + 4 for outputs, inputs in shapes)
    if size < least:
      raise SSRError(f'{path}: {size:,} bytes; its .param needs at least {least:,}; fetch it again')
    with path.open('rb') as file:
      found = [_convolution_of(path, file, i, *shape) for i, shape in enumerate(shapes)]
      if file.read(1):
        raise SSRError(f'{path}: has more numbers than its .param; is it of another network?')
      return found
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror})') from error


def _convolution_of(
  path: pathlib.Path, file: IO[bytes], index: int, outputs: int, inputs: int
) -> tuple[np.ndarray, np.ndarray]:
  def take(count: int, dtype: str) -> np.ndarray:
    data = file.read(count * np.dtype(dtype).itemsize)
    if len(data) < count * np.dtype(dtype).itemsize:
      raise SSRError(f'{path}: ends within convolution {index}; fetch it again')
    return np.frombuffer(data, dtype)

  flag, count = int(take(1, '<u4')[0]), 9 * inputs * outputs
  if flag not in (_HALF, _FLOAT):
    kind = _OTHER.get(flag, f'stored as {flag:#010x}')
    raise SSRError(f'{path}: convolution {index} is {kind}; float16 (flag {_HALF:#010x}) and float32 are read')
  weight = take(count, '<f2' if flag == _HALF else '<f4').astype(np.float32)
  if flag == _HALF and count % 2:
    take(1, '<u2')  # whole words of four bytes
  return weight.reshape(outputs, inputs, 3, 3), take(outputs, '<f4').astype(np.float32)
