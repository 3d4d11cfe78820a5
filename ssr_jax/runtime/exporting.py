"""A model as one program for images of one size, for other software: ONNX or StableHLO.

The program takes LR [1, h, w, 3] float32 in [0, 1] and gives every output of the system, [1, ...] float32; the weights
are inside. It is what `Restorer.sample` runs for an image of a single tile. Noise, where there is any, is the seed's.
"""

from collections.abc import Callable, Sequence
import dataclasses
import logging
import time
from typing import Any

import jax
from jax import export as jax_export
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np

from ssr_jax import xla
from ssr_jax.diffusion.noise import NoiseField
from ssr_jax.runtime.bands import Layout
from ssr_jax.runtime.restorer import TILE, Restorer
from ssr_jax.systems.base import Window
from ssr_jax.types import SSRError

OPSET = 23
"""ONNX operator set of the export."""
TOLERANCE = 1e-4
"""Largest difference between an exported program's outputs and XLA's; all outputs lie in [0, 1]."""
PLATFORMS = ('cpu', 'cuda', 'tpu')
"""What the StableHLO export is lowered for."""

_FOLDED = 2**16
"""Largest constant, in bytes, that folding may make from smaller ones."""


@dataclasses.dataclass(frozen=True)
class Program:
  """A model's function for images of one size.

  Attributes:
    run: LR [1, h, w, 3] float32 in [0, 1] -> tuple of the outputs.
    size: (h, w) of the LR image.
    outputs: their names.
    notes: {field: text} that tells what was exported.
  """

  run: Callable[[Any], tuple[Any, ...]]
  size: tuple[int, int]
  outputs: tuple[str, ...]
  notes: dict[str, str]

  @property
  def example(self) -> np.ndarray:
    """An LR image [1, h, w, 3]: waves of many lengths with noise of deviation 0.02, from seed 0."""
    rng, (h, w) = np.random.default_rng(0), self.size
    y, x = np.mgrid[:h, :w].astype(np.float32)
    waves = [np.sin(2 * np.pi * (y * rng.uniform(-0.3, 0.3) + x * rng.uniform(-0.3, 0.3))) for _ in range(12)]
    image = 0.5 + 0.08 * np.stack([sum(waves[c::3]) for c in range(3)], -1) + rng.normal(0, 0.02, (h, w, 3))
    return np.clip(image, 0, 1).astype(np.float32)[None]


def program(model: Restorer, size: tuple[int, int], *, seed: int = 0, **options: Any) -> Program:
  """The function of a model for LR images of `size`.

  Args:
    model: the model.
    size: (h, w) of the LR image; one that runs in a single tile without padding.
    seed: of the noise, which becomes a constant.
    **options: as of `Restorer.sample`.

  Raises:
    SSRError: an option that does not fit, or a size that would be padded or cut into tiles.
  """
  plan = model.check(**options)
  system = model.system
  padding, multiple = system.padding(model.modules, plan), system.alignment(model.modules, plan)
  layout = Layout.of(*size, max(TILE, *size), multiple, padding)
  if layout.shape != tuple(size) or layout.tiles != 1:
    h, w = layout.shape
    raise SSRError(f'size {size[0]}x{size[1]}: the model would pad it; the next size that it takes is {h}x{w}')
  variables = {part: model.variables[part] for part in plan.parts}
  names = tuple(output.name for output in system.outputs)
  noise = _KnownNoise(NoiseField(np.array(seed % 2**32, np.uint32), np.zeros(2, np.int32)))

  def run(lr):
    window = Window(jnp.array(size, jnp.int32), jnp.zeros(2, jnp.int32))
    found = system.restore(model.modules, variables, lr, window, None, noise, plan, last=True)
    found = system.finish({name: value[0] for name, value in found.items()}, plan)
    images = {output.name for output in system.outputs if output.kind == 'image'}
    return tuple((jnp.clip(found[n], 0, 1) if n in images else jnp.asarray(found[n]))[None] for n in names)

  notes = {
    'model': str(model.config['name']),
    'system': system.name,
    'scale': str(model.config['scale']),
    'seed': str(seed),
    'options': ', '.join(f'{f.name}={getattr(plan, f.name, None)}' for f in dataclasses.fields(system.Options)),
    **{f'sha256.{part}': model.config['parts'][part]['sha256'] for part in plan.parts},
  }
  return Program(run, size, names, notes)


def stablehlo(made: Program) -> bytes:
  """The program as `jax.export` stores StableHLO, for `PLATFORMS`; `jax.export.deserialize(data).call(lr)` runs it."""
  shape = jax.ShapeDtypeStruct((1, *made.size, 3), jnp.float32)
  return bytes(jax_export.export(jax.jit(made.run), platforms=PLATFORMS)(shape).serialize())


def onnx(made: Program) -> bytes:
  """The program as an ONNX model.

  Raises:
    SSRError: an operator that jax2onnx cannot convert; the message names it.
    ImportError: the extra 'onnx' is not installed.
  """
  import jax2onnx  # pyright: ignore[reportMissingImports]
  import onnx as onnx_library  # pyright: ignore[reportMissingImports]

  shape = jax.ShapeDtypeStruct((1, *made.size, 3), jnp.float32)
  # Traced before jax2onnx sees it: it replaces functions of jax.numpy during its own tracing, and not all of their
  # uses survive that.
  traced = jax.make_jaxpr(made.run)(shape)
  logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # its warnings are of shapes that are forgotten below

  def flat(lr):
    return tuple(_evaluate(traced.jaxpr, traced.consts, [lr]))

  try:
    model = jax2onnx.to_onnx(flat, [shape], model_name=made.notes['model'], opset=OPSET)
  except NotImplementedError as error:  # what it raises for an operator that it does not know
    line = (str(error).splitlines() or [type(error).__name__])[0]
    raise SSRError(f'ONNX: jax2onnx cannot convert the program ({line}); write a .stablehlo file instead') from error
  _forget_shapes(model.graph)
  _rename(model.graph, ['lr', *made.outputs])
  onnx_library.helper.set_model_props(model, made.notes)
  return model.SerializeToString()


def stablehlo_runner(data: bytes) -> Callable[[np.ndarray], Sequence[Any]]:
  """Runs what `stablehlo` made: LR -> outputs."""
  return jax.jit(jax_export.deserialize(bytearray(data)).call)


def compare(made: Program, run: Callable[[np.ndarray], Sequence[Any]], repeats: int = 3) -> dict[str, Any]:
  """Compares an exported program with XLA's on this machine, on `Program.example`.

  Args:
    made: the program.
    run: the exported one, LR -> outputs in their order.
    repeats: timed calls of each, in turn; the fastest counts.

  Returns:
    {'difference': {output: largest absolute difference}, 'seconds': the exported program's, 'xla_seconds': XLA's}.
  """
  example = made.example
  own = xla.jit(made.run)
  expected = [np.asarray(x) for x in own(example)]
  found = [np.asarray(x) for x in run(example)]
  difference = {
    name: float(np.abs(a - b).max()) if a.shape == b.shape and np.isfinite(a).all() else float('inf')
    for name, a, b in zip(made.outputs, found, expected, strict=True)
  }
  seconds = {'seconds': float('inf'), 'xla_seconds': float('inf')}
  for _ in range(repeats):
    for name, call in (('seconds', run), ('xla_seconds', own)):
      start = time.perf_counter()
      jax.block_until_ready(call(example))
      seconds[name] = min(seconds[name], time.perf_counter() - start)
  return {'difference': difference, **seconds}


def onnx_runner(data: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
  """Runs an ONNX model on the CPU by onnxruntime: LR -> outputs.

  Raises:
    SSRError: onnxruntime cannot load it.
    ImportError: the extra 'onnx' is not installed.
  """
  import onnxruntime  # pyright: ignore[reportMissingImports]

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # errors; the warnings are about initializers that its optimizer removes
  try:
    session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
  except Exception as error:  # its exceptions have no common base
    raise SSRError(f'onnxruntime cannot load the program ({str(error).splitlines()[0]})') from error
  return lambda lr: session.run(None, {'lr': lr})


class _KnownNoise:
  """A `NoiseField` whose noise is drawn while a program is traced, so that it becomes a constant.

  The key for later draws is a raw one: exported programs know no key types.
  """

  def __init__(self, field: NoiseField):
    self._field = field

  def window(self, shape: tuple[int, int, int], lr_rows: int) -> tuple[jax.Array, jax.Array]:
    with jax.ensure_compile_time_eval():
      values, key = self._field.window(shape, lr_rows)
      return values, jax.random.key_data(key)


# ---- simpler programs ------------------------------------------------------------------------------------------------


def _evaluate(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
  """Evaluates a jaxpr in a form that converters take: calls inlined, constants folded, no empty arrays joined.

  jax2onnx writes an empty array's shape with a 0, which ONNX's Reshape reads as 'as in the input'.
  """
  known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
  known.update(zip(jaxpr.invars, arguments, strict=True))

  def read(variable):
    return np.asarray(variable.val) if isinstance(variable, jax_core.Literal) else known[variable]

  for equation in jaxpr.eqns:
    inputs = [read(v) for v in equation.invars]
    results = _one(equation, inputs)
    known.update(zip(equation.outvars, results, strict=True))
  return [read(v) for v in jaxpr.outvars]


def _one(equation: Any, inputs: list[Any]) -> Sequence[Any]:
  name, parameters = equation.primitive.name, equation.params
  inner = parameters.get('jaxpr') if name in ('jit', 'pjit', 'closed_call', 'remat2', 'checkpoint') else None
  inner = parameters.get('call_jaxpr') if name in ('custom_jvp_call', 'custom_vjp_call') else inner
  if inner is not None:
    return _evaluate(getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ()), inputs)
  if name == 'scan':
    return _scan(parameters, inputs)
  if name == 'concatenate':
    inputs = [x for x in inputs if x.size] or inputs[:1]
    if len(inputs) == 1:
      return inputs
  size = sum(v.aval.size * v.aval.dtype.itemsize for v in equation.outvars)
  constant = all(isinstance(x, np.ndarray) for x in inputs)
  if constant and size <= max(_FOLDED, *(x.nbytes for x in inputs), 0):
    with jax.ensure_compile_time_eval():
      found = equation.primitive.bind(*inputs, **parameters)
      found = found if equation.primitive.multiple_results else [found]
      # Keys stay JAX arrays: NumPy has no such type.
      return [x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x) for x in found]
  found = equation.primitive.bind(*inputs, **parameters)
  return found if equation.primitive.multiple_results else [found]


def _scan(parameters: Any, inputs: list[Any]) -> Sequence[Any]:
  """A scan whose body is simplified too; one of a single step becomes that step."""
  body, constants = parameters['jaxpr'], parameters.get('num_consts')
  if constants is None:  # jax 0.12 has groups instead of numbers
    constants, carried, _ = map(len, parameters['ft_in'].unpack())
  else:
    carried = parameters['num_carry']
  fixed, carry, xs = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]

  def step(carry, xs):
    found = _evaluate(body.jaxpr, body.consts, [*fixed, *carry, *xs])
    return found[:carried], found[carried:]

  if parameters['length'] == 1:
    carry, ys = step(carry, [x[0] for x in xs])
    return [*carry, *(jnp.asarray(y)[None] for y in ys)]
  carry, ys = jax.lax.scan(step, list(carry), list(xs), parameters['length'], parameters['reverse'])
  return [*carry, *ys]


def _forget_shapes(graph: Any) -> None:
  """Removes the shapes of values inside a graph, which jax2onnx notes wrongly in loops; onnxruntime infers them."""
  del graph.value_info[:]
  for node in graph.node:
    for attribute in node.attribute:
      for inner in (*([attribute.g] if attribute.HasField('g') else []), *attribute.graphs):
        _forget_shapes(inner)


def _rename(graph: Any, names: Sequence[str]) -> None:
  """Names a graph's inputs and outputs."""
  new = {value.name: name for value, name in zip([*graph.input, *graph.output], names, strict=True)}
  for value in [*graph.input, *graph.output]:
    value.name = new[value.name]
  _rename_uses(graph, new)


def _rename_uses(graph: Any, new: dict[str, str]) -> None:
  for node in graph.node:
    for used in (node.input, node.output):
      for i, name in enumerate(used):
        used[i] = new.get(name, name)
    for attribute in node.attribute:
      if attribute.HasField('g'):
        _rename_uses(attribute.g, new)
