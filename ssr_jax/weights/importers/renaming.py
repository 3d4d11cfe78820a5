"""Renames and transposes tensors between public checkpoints and our variables, by one table per network.

'Ours' are the Flax variables of this library, 'theirs' the state dict of a public checkpoint. A rule pairs a module of
ours with a module of theirs and gives its kind, which fixes the tensors of that module and their layout on both sides.
In a rule, `{i}` stands for a number that both sides share and `{i+1}` for a number that is larger by one on that side.
A table works in both directions. A name that no rule covers is an error, on either side.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from ssr_jax.types import SSRError
from ssr_jax.weights import format

Rule = tuple[str, str, str]

_LISTED = 8  # names in an error message


@dataclasses.dataclass(frozen=True)
class _Layout:
  """Name and layout of one tensor of a module on both sides."""

  ours: str
  theirs: str
  to_ours: Callable[[np.ndarray], np.ndarray] = lambda a: a
  to_theirs: Callable[[np.ndarray], np.ndarray] = lambda a: a


def _matrix(a: np.ndarray) -> np.ndarray:
  """[o, i] or the 1x1 convolution [o, i, 1, 1] -> [i, o]; which one a checkpoint has depends on its age."""
  return a.reshape(a.shape[:2]).T


def _transposed(side: int) -> tuple[_Layout, ...]:
  """ConvTranspose2d whose stride is its size: [i, o, s, s] <-> Dense [i, o*s*s] before depth_to_space."""
  return (
    _Layout('conv/kernel', 'weight', lambda a: a.reshape(len(a), -1), lambda a: a.reshape(len(a), -1, side, side)),
    _Layout('bias', 'bias'),
  )


_BIAS = _Layout('bias', 'bias')
_KINDS: dict[str, tuple[_Layout, ...]] = {
  'tensor': (_Layout('', ''),),
  'norm': (_Layout('scale', 'weight'), _BIAS),
  'table': (_Layout('embedding', 'weight'),),
  'linear': (_Layout('kernel', 'weight', _matrix, lambda a: a.T), _BIAS),
  'pointwise': (_Layout('kernel', 'weight', _matrix, lambda a: a.T[:, :, None, None]), _BIAS),
  'conv': (_Layout('kernel', 'weight', lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)), _BIAS),
  # Conv2d(2, stride 2) <-> Dense over the four pixels of a cell, ordered (y, x, channel).
  'cell': (
    _Layout(
      'conv/kernel',
      'weight',
      lambda a: a.transpose(2, 3, 1, 0).reshape(-1, len(a)),
      lambda a: a.reshape(2, 2, -1, a.shape[-1]).transpose(3, 2, 0, 1),
    ),
    _Layout('conv/bias', 'bias'),
  ),
  'transposed2': _transposed(2),
  'transposed4': _transposed(4),
}

# A pattern for one side's names, the function that makes the other side's name from its groups, and the layout.
_Compiled = tuple[re.Pattern[str], Callable[[Mapping[str, str]], str], _Layout]


@dataclasses.dataclass(frozen=True)
class Table:
  """The names of one network on both sides.

  Attributes:
    rules: (our module, their module, kind); kinds are 'linear' (Dense and Linear), 'pointwise' (Dense and a 1x1
      convolution), 'conv', 'norm', 'table' (Embed), 'cell' (a 2x2 convolution of stride 2), 'transposed2' and
      'transposed4' (transposed convolutions whose stride is their size) and 'tensor' (a parameter outside a module).
    aliases: (pattern, replacement) for names that other versions of a checkpoint use; applied before the rules.
    unused: patterns of their tensors that the network never reads; `to_ours` skips them, `to_theirs` omits them.
  """

  rules: Sequence[Rule]
  aliases: Sequence[tuple[str, str]] = ()
  unused: Sequence[str] = ()

  def canonical(self, name: str) -> str:
    """One of their names in the spelling that the rules use."""
    for pattern, replacement in self.aliases:
      name = re.sub(pattern, replacement, name)
    return name

  def to_ours(
    self,
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, Any],
    where: str,
    hint: str = 'is its config.json the right one?',
  ) -> dict[str, np.ndarray]:
    """Converts a state dict.

    Args:
      tensors: theirs, by name.
      expected: our variables by flat name ('params/conv_in/kernel'); the values need a `shape`.
      where: start of an error message, such as the file.
      hint: its end, what the user should look at.

    Returns:
      float32 arrays with exactly the names of `expected`.

    Raises:
      SSRError: unknown names, missing names or wrong shapes; the message lists them.
    """
    rules = self._rules_to_ours()
    found: dict[str, np.ndarray] = {}
    unknown, wrong = [], []
    for name in tensors:
      known = self.canonical(name)
      if any(re.fullmatch(pattern, known) for pattern in self.unused):
        continue
      match = _lookup(rules, known)
      ours = f'params/{match[0]}' if match else ''
      if match is None or ours in found or ours not in expected:
        unknown.append(name)
        continue
      array = np.asarray(tensors[name])
      shape = tuple(expected[ours].shape)
      try:
        found[ours] = np.asarray(match[1].to_ours(array), np.float32)
      except ValueError:  # the number of axes is wrong
        found[ours] = array
      if found[ours].shape != shape:
        wrong.append(f'{name} {array.shape}, which gives {found[ours].shape} for {shape}')
    problems = [
      f'{what} {format.some_of(names, _LISTED)}'
      for what, names in (
        ('no place for', unknown),
        ('missing', self._their_names(expected.keys() - found.keys())),
        ('shape of', wrong),
      )
      if names
    ]
    if problems:
      raise SSRError(f'{where}: not the weights of this network: {"; ".join(problems)}; {hint}')
    return found

  def to_theirs(self, tensors: Mapping[str, np.ndarray], where: str = 'export') -> dict[str, np.ndarray]:
    """Converts flat variables of ours ('params/...') to their names and layouts.

    Raises:
      SSRError: variables that no rule covers; the message starts with `where` and lists them.
    """
    rules = self._rules_to_theirs()
    found, unknown = {}, []
    for name, array in tensors.items():
      match = _lookup(rules, name.removeprefix('params/'))
      if match is None:
        unknown.append(name)
      else:
        theirs, layout = match
        found[theirs] = np.ascontiguousarray(layout.to_theirs(np.asarray(array)))
    if unknown:
      raise SSRError(f'{where}: no name for {format.some_of(unknown, _LISTED)}; is this another network?')
    return found

  def _rules_to_ours(self) -> list[_Compiled]:
    return [
      (_pattern(theirs, '.', layout.theirs), _template(ours, '/', layout.ours, 1), layout)
      for ours, theirs, kind in self.rules
      for layout in _KINDS[kind]
    ]

  def _rules_to_theirs(self) -> list[_Compiled]:
    return [
      (_pattern(ours, '/', layout.ours), _template(theirs, '.', layout.theirs, -1), layout)
      for ours, theirs, kind in self.rules
      for layout in _KINDS[kind]
    ]

  def _their_names(self, names: Iterable[str]) -> list[str]:
    """Their names for variables of ours, since a user looks for those in the file."""
    rules = self._rules_to_theirs()
    matches = [(name, _lookup(rules, name.removeprefix('params/'))) for name in names]
    return [match[0] if match else name for name, match in matches]


def below(ours: str, theirs: str, rules: Sequence[Rule]) -> list[Rule]:
  """The rules of a submodule, prefixed with its path on both sides."""
  return [(f'{ours}/{a}', f'{theirs}.{b}', kind) for a, b, kind in rules]


_NUMBER = re.compile(r'\{(\w)(\+1)?\}')


def _pattern(module: str, separator: str, leaf: str) -> re.Pattern[str]:
  """A regular expression for one side of a rule; '{i}' becomes the group 'i' and '{i+1}' the group 'i1'."""
  path = f'{module}{separator}{leaf}' if leaf else module
  parts, end = [], 0
  for number in _NUMBER.finditer(path):
    parts += [re.escape(path[end : number.start()]), rf'(?P<{number[1]}{"1" if number[2] else ""}>\d+)']
    end = number.end()
  return re.compile(''.join(parts) + re.escape(path[end:]))


def _template(module: str, separator: str, leaf: str, step: int) -> Callable[[Mapping[str, str]], str]:
  """The other side of a rule as a function of `_pattern`'s groups.

  Args:
    module: the module's path on this side.
    separator: between module and tensor.
    leaf: name of the tensor; '' if the module is the tensor.
    step: added to a number if only one of the two sides counts it with '+1': 1 towards ours, -1 towards theirs.
  """
  path = f'{module}{separator}{leaf}' if leaf else module

  def fill(numbers: Mapping[str, str]) -> str:
    def one(number: re.Match[str]) -> str:
      here, other = (f'{number[1]}1', number[1]) if number[2] else (number[1], f'{number[1]}1')
      return numbers[here] if here in numbers else str(int(numbers[other]) + step)

    return _NUMBER.sub(one, path)

  return fill


def _lookup(rules: Sequence[_Compiled], name: str) -> tuple[str, _Layout] | None:
  """The other side's name and the layout by the first rule that matches."""
  for pattern, template, layout in rules:
    match = pattern.fullmatch(name)
    if match:
      return template(match.groupdict()), layout
  return None
