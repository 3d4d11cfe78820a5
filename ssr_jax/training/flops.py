"""Analytic operation counts, and the peaks of devices."""

import collections
from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp

from ssr_jax import xla
from ssr_jax.training import stages
from ssr_jax.training import state as state_lib

PEAKS = {
  # Dense bfloat16 operations per second, as published. Keys are substrings of jax's `device_kind`; the longest match
  # is used.
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'H100': 990e12,
  'H200': 990e12,
}

_LABEL = 'counted as '  # prefix of the names of labelled calls in a jaxpr


def peak(device: jax.Device) -> float | None:  # pyright: ignore[reportInvalidTypeForm]  # a variable in jax
  """A device's operations per second in bf16; None if it is not in `PEAKS`."""
  for name in sorted(PEAKS, key=len, reverse=True):
    if name.lower() in device.device_kind.lower():
      return PEAKS[name]
  return None


def count(function: Callable[..., Any], *arguments: Any) -> int:
  """Operations of the matrix products and convolutions of a call, from its jaxpr: two per multiply-add.

  Other operations (norms, activations, random draws) are left out, as is usual for utilisation. A loop counts once per
  iteration, a condition by its most expensive branch. Rematerialised operations count too: count a program without
  rematerialisation.

  Args:
    function: traced, not run.
    *arguments: arrays or their shapes.

  Raises:
    ValueError: a loop of unknown length (`while`) with matrix products.
  """
  return sum(count_by(function, *arguments).values())


def count_by(function: Callable[..., Any], *arguments: Any) -> dict[str, int]:
  """`count` for each label of `labelled`: {label: operations}; '' holds the rest."""
  return dict(_count(jax.make_jaxpr(function)(*arguments).jaxpr, ''))


def labelled(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
  """A function whose operations `count_by` counts under a label, in loops too. For counting, not for running."""

  def call(*args, **kwargs):
    inside = lambda: function(
      *args, **kwargs
    )  # a closure, since some arguments are not arrays and jit would reject them
    inside.__name__ = _LABEL + label
    return jax.jit(inside)()

  return call


def of_step(config, params: Any, stats: Any, frozen: Any, batch: Any) -> int:
  """Operations of a train step's loss and gradients, independent of the device and of `train.remat`.

  Frozen parameters have no gradients. The scores of attention over very many tokens count twice, since XLA's form
  (`nn.attention`) recomputes them in chunks.

  Args:
    config: of the run.
    params: as `state.program` takes them, arrays or shapes.
    stats: likewise.
    frozen: likewise.
    batch: likewise, the whole batch.
  """
  once = config.copy_and_resolve_references()
  once.train.remat = ''
  stage = stages.build(once)
  loss = state_lib.loss_of(stage)
  mask = state_lib.trainable(params, (*stage.fixed, *config.train.frozen))

  def gradient(params, *arguments):
    return jax.grad(lambda p: loss(state_lib.stopped(p, mask), *arguments)[0])(params)

  with xla.compiling_for('cpu'):  # hand-written GPU and TPU kernels cannot be counted
    return count(gradient, params, stats, frozen, batch, jax.random.key(0), jnp.zeros((), jnp.int32))


def _count(jaxpr, label: str) -> collections.Counter[str]:
  total: collections.Counter[str] = collections.Counter()
  for equation in jaxpr.eqns:
    name, parameters = equation.primitive.name, equation.params
    if name == 'dot_general':
      (contracted, _), _ = parameters['dimension_numbers']
      left = equation.invars[0].aval.shape
      total[label] += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    elif name == 'conv_general_dilated':
      total[label] += _convolution(equation)
    elif name == 'scan':
      for key, value in _count(parameters['jaxpr'].jaxpr, label).items():
        total[key] += parameters['length'] * value
    elif name == 'while':
      if _count(parameters['body_jaxpr'].jaxpr, label).total():
        raise ValueError('a while loop of unknown length does matrix products; they cannot be counted')
    elif name == 'cond':
      total += max((_count(branch.jaxpr, label) for branch in parameters['branches']), key=lambda c: c.total())
    else:
      called = str(parameters.get('name', ''))
      inside = called.removeprefix(_LABEL) if called.startswith(_LABEL) else label
      for value in parameters.values():
        inner = getattr(value, 'jaxpr', value)
        if hasattr(inner, 'eqns'):
          total += _count(inner, inside)
  return total


def _convolution(equation) -> int:
  """Two operations per pair of an output and a tap on an input sample; padding and dilation holes do not count."""
  parameters = equation.params
  numbers = parameters['dimension_numbers']
  image, kernel = (v.aval.shape for v in equation.invars)
  out = equation.outvars[0].aval.shape
  pairs = 1  # of output positions and taps, over all axes
  for axis, (low, _) in enumerate(parameters['padding']):
    n, k = image[numbers.lhs_spec[2 + axis]], kernel[numbers.rhs_spec[2 + axis]]
    spread, dilation = parameters['lhs_dilation'][axis], parameters['rhs_dilation'][axis]
    stride = parameters['window_strides'][axis]
    pairs *= sum(
      1
      for o in range(out[numbers.out_spec[2 + axis]])
      for tap in range(k)
      if 0 <= (at := o * stride + tap * dilation - low) <= (n - 1) * spread and at % spread == 0
    )
  # With groups, the kernel's input axis counts the channels of one group.
  return 2 * pairs * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
