"""The columns of an evaluation: what `eval.models` and `eval.outputs` name, checked before anything is loaded.

  bicubic                        Pillow's enlargement
  VARIANT                        an image that the model of `eval.model` makes; of SSR restored or result
  MODEL                          the answer of another model, by name or directory
  MODEL:VARIANT                  another image of it
  ...+SWITCH[+SWITCH]            made otherwise

A switch is OPTION=VALUE, an option of the model's system that counts instead of that of `eval.sampling`, such as
steps=4, sampler=ddim, strength=0.5, iterations=2 or tile=64; or OUTPUT=HOW, for an output that the system accepts
instead of its estimate, of SSR depth and kernels:

  kernels=true                   the true ones of the dataset or recipe
  kernels=none                   one value that says nothing of the image (`System.neutral`)
  kernels=mean                   the mean over the image of the estimate
  kernels=x0.5                   the estimate deviated by that factor: of a kernel its variance, of a depth its value

The names of variants, options and outputs are the systems'; nothing here knows one of them.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any

from ssr_jax import systems
from ssr_jax.systems.base import System
from ssr_jax.types import SSRError

BICUBIC = 'bicubic'
"""What every system is compared with; the other names are those of `System.variants`."""

OF_EVERY_SYSTEM = {'tile': int}
"""{option of `Restorer.sample` that every system has: its kind}; the seed is not one, it belongs to the evaluation."""

_WORDS = ('true', 'none', 'mean')


@dataclasses.dataclass(frozen=True)
class Given:
  """What is given to a model instead of its own estimate of an output.

  Attributes:
    source: 'true', 'none', 'mean' or 'estimate'.
    factor: by which an estimate deviates.
  """

  source: str
  factor: float = 1.0

  @property
  def estimates(self) -> bool:
    """Whether it is made of the model's own estimate."""
    return self.source in ('mean', 'estimate')


@dataclasses.dataclass(frozen=True)
class Column:
  """An image that a model makes.

  Attributes:
    name: as it was asked for.
    model: name or directory; '' for bicubic enlargement.
    output: of the model's system, the one that is scored.
    options: of `sample`, beside those of `eval.sampling`.
    given: {output: what is given instead of its estimate}.
  """

  name: str
  model: str
  output: str = ''
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  given: Mapping[str, Given] = dataclasses.field(default_factory=dict)


def parse(names: Sequence[str], model: str, system_of: Callable[[str], System]) -> list[Column]:
  """The columns of `eval.models`, in their order.

  Args:
    names: in the language of this module's docstring.
    model: of `eval.model`.
    system_of: the system of a model by name or directory; SSRError for one that is unknown.

  Raises:
    SSRError: no names, one that stands twice, or one that means nothing; the message lists the known words.
  """
  if not names:
    raise SSRError(f'eval.models is empty; known: {BICUBIC}, {", ".join(system_of(model).variants)}')
  if twice := [name for name in names if list(names).count(name) > 1]:
    raise SSRError(f'eval.models: {twice[0]!r} stands twice; name each column once')
  return [_column(name, model, system_of) for name in names]


def parse_outputs(text: str, taken: Sequence[str]) -> dict[str, str]:
  """The columns of `eval.outputs`, {name: folder}, from 'NAME:DIR[;NAME2:DIR2]'.

  Raises:
    SSRError: a part of another form, or a name that stands twice or is among `taken`, those of `eval.models`.
  """
  found: dict[str, str] = {}
  for part in filter(None, (part.strip() for part in text.split(';'))):
    name, _, folder = (word.strip() for word in part.partition(':'))
    if not name or not folder:
      raise SSRError(f"eval.outputs: {part!r} must read 'NAME:DIR'; several are joined by ';'")
    if name in found or name in taken:
      raise SSRError(f'eval.outputs: {name!r} stands twice; give each column a name of its own')
    found[name] = folder
  return found


def parse_pairs(text: str, names: Sequence[str]) -> list[tuple[str, str]]:
  """The columns that `eval.compare` puts side by side, from 'A,B[;C,D]'.

  Raises:
    SSRError: a part of another form, or a name that is none of `names`.
  """
  found = []
  for part in filter(None, (part.strip() for part in text.split(';'))):
    pair = [word.strip() for word in part.split(',')]
    if len(pair) != 2 or pair[0] == pair[1]:
      raise SSRError(f"eval.compare: {part!r} must read 'A,B', two columns; several pairs are joined by ';'")
    for name in pair:
      if name not in names:
        raise SSRError(f'eval.compare: no column {name!r}; there are {", ".join(names)}')
    found.append((pair[0], pair[1]))
  return found


def _column(name: str, model: str, system_of: Callable[[str], System]) -> Column:
  head, *switches = (word.strip() for word in name.split('+'))
  if head == BICUBIC:
    if switches:
      raise SSRError(f'eval.models: {name!r}: bicubic enlargement has no switches')
    return Column(name, '')
  own = system_of(model).variants if model else {}
  other, _, variant = head.rpartition(':')
  if head in own:
    variant = head
  elif other:
    model = other
  else:
    try:
      variant = list(_system(head, system_of).variants)[-1]
    except SSRError:
      known = ', '.join((BICUBIC, *own))
      raise SSRError(
        f'eval.models: unknown {head!r}; known: {known}; other models are NAME, DIR or DIR:VARIANT'
      ) from None
    model = head
  system = _system(model, system_of)
  if variant not in system.variants:
    known = ', '.join(system.variants)
    raise SSRError(f'eval.models: {name!r}: unknown variant {variant!r} of a model of {system.name}; known: {known}')
  entry = system.variants[variant]
  options: dict[str, Any] = {}
  given: dict[str, Given] = {}
  for switch in switches:
    key, _, value = (word.strip() for word in switch.partition('='))
    if key in options or key in given or key in entry.options:
      raise SSRError(f'eval.models: {name!r}: {key} is set already; leave out {switch!r}')
    if key in system.accepts:
      given[key] = _given(name, switch, value)
    else:
      options[key] = _option(name, switch, key, value, system)
  return Column(name, model, entry.output, {**options, **entry.options}, given)


def _system(model: str, system_of: Callable[[str], System]) -> System:
  try:
    return system_of(model)
  except SSRError as error:
    raise SSRError(f'eval.models: {error}') from error


def _given(name: str, switch: str, value: str) -> Given:
  if value in _WORDS:
    return Given(value)
  try:
    factor = float(value.removeprefix('x')) if value.startswith('x') else math.nan
  except ValueError:
    factor = math.nan
  if not 0 < factor < math.inf:
    raise SSRError(
      f'eval.models: {name!r}: {switch!r} must read =true, =none, =mean, or =x and a factor above 0, such as x0.5'
    )
  return Given('estimate', factor)


def _option(name: str, switch: str, key: str, value: str, system: System) -> Any:
  kinds = {**systems.kinds_of(system.Options), **OF_EVERY_SYSTEM}
  if key not in kinds:
    accepted = ''.join(f'{output}=true, none, mean or xFACTOR; ' for output in system.accepts)
    raise SSRError(f'eval.models: {name!r}: unknown switch {switch!r}; known: {accepted}{", ".join(kinds)}')
  kind = kinds[key]
  try:
    return {'True': True, 'False': False}[value] if kind is bool else kind(value)
  except (KeyError, ValueError):
    raise SSRError(f'eval.models: {name!r}: {switch!r} needs a value of the kind {kind.__name__}') from None
