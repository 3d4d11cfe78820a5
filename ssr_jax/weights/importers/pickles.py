"""Checks a pickle before it is loaded: which operations it has, how deep it nests and how far it numbers its memo.

`pickle.Unpickler` allocates what a memo number asks for, and hashing or walking a structure that nests a million times
ends the process. `pickletools` lists the operations without running them.
"""

from collections.abc import Iterator
import pickletools
from typing import IO, Any

_MAX_DEPTH = 32  # a state dict within a checkpoint nests about six times: dict, tensor, its size
_MAX_OPERATIONS = 2_000_000  # the largest published checkpoint has about 50,000

_PUSH = {
  *('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'NONE', 'NEWTRUE', 'NEWFALSE', 'INT', 'LONG', 'FLOAT'),
  *(
    'BINUNICODE',
    'SHORT_BINUNICODE',
    'UNICODE',
    'BINSTRING',
    'SHORT_BINSTRING',
    'STRING',
    'BINBYTES',
    'SHORT_BINBYTES',
  ),
  *('EMPTY_TUPLE', 'EMPTY_LIST', 'EMPTY_DICT', 'GLOBAL'),
}
_TAKES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3, 'REDUCE': 2, 'BUILD': 2, 'APPEND': 2, 'SETITEM': 3, 'STACK_GLOBAL': 2}
_TAKES_TO_MARK = {'TUPLE': 0, 'LIST': 0, 'DICT': 0, 'SETITEMS': 1, 'APPENDS': 1}  # and how many below the mark
_STORE = {'BINPUT', 'LONG_BINPUT', 'PUT', 'MEMOIZE'}
_FETCH = {'BINGET', 'LONG_BINGET', 'GET'}


class _Node:
  """An object on the pickle's stack: how deep what it holds nests. Objects that are filled later keep their node."""

  __slots__ = ('depth',)

  def __init__(self, depth: int = 0):
    self.depth = depth


def check(file: IO[bytes]) -> None:
  """Reads one pickle and leaves the file where it began.

  Raises:
    ValueError: an operation that tensors do not need, too many operations, too deep a nesting, a memo number beyond the
      number of operations, a container within itself, or a damaged pickle.
  """
  start = file.tell()
  stack: list[_Node | None] = []  # None is a mark
  memo: dict[int, _Node] = {}
  for count, (name, argument) in enumerate(_operations(file)):
    if count >= _MAX_OPERATIONS:
      raise ValueError(f'more than {_MAX_OPERATIONS:,} operations')
    if name in _STORE:
      number = len(memo) if argument is None else int(argument)
      if not 0 <= number <= count:
        raise ValueError(f'memo number {number}')
      memo[number] = _top(stack)
    elif name in _FETCH:
      stack.append(memo[int(argument)])
    elif name == 'MARK':
      stack.append(None)
    elif name in _PUSH:
      stack.append(_Node())
    elif name == 'BINPERSID':
      stack[-1] = _Node(_top(stack).depth)
    elif name == 'POP':
      stack.pop()
    elif name in _TAKES or name in _TAKES_TO_MARK:
      _combine(stack, name)
    elif name not in ('PROTO', 'FRAME', 'STOP'):
      raise ValueError(f'the operation {name}, which no state dict needs')
  file.seek(start)


def _operations(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
  for operation, argument, _ in pickletools.genops(file):
    yield operation.name, argument


def _top(stack: list[_Node | None]) -> _Node:
  if not stack or stack[-1] is None:
    raise ValueError('nothing on the stack')
  return stack[-1]


def _combine(stack: list[_Node | None], name: str) -> None:
  """Runs an operation that takes objects from the stack: puts them into a new object or into the lowest of them."""
  if name in _TAKES:
    taken = [stack.pop() for _ in range(_TAKES[name])][::-1]
  else:
    taken = []
    while (node := stack.pop()) is not None:
      taken.append(node)
    taken += [stack.pop() for _ in range(_TAKES_TO_MARK[name])]
    taken.reverse()
  nodes = [node for node in taken if node is not None]
  if len(nodes) < len(taken):
    raise ValueError('a mark among the objects')
  filled = name in ('SETITEM', 'SETITEMS', 'APPEND', 'APPENDS', 'BUILD')
  into, held = (nodes[0], nodes[1:]) if filled else (_Node(), nodes)
  if any(node is into for node in held):
    raise ValueError('a container within itself')
  into.depth = max([into.depth, *(node.depth + 1 for node in held)])
  if into.depth > _MAX_DEPTH:
    raise ValueError(f'nested more than {_MAX_DEPTH} times')
  stack.append(into)
