"""RRDBNet, the generator of the ESRGAN family: files of PyTorch by three generations of names, and ncnn's pair.

The rules have the names of BasicSR (Real-ESRGAN); the aliases are ESRGAN's of 2018, numbered modules of nested
sequences, and those of its repository since 2020.
"""

from collections.abc import Iterable, Mapping
import re

import numpy as np

from ssr_jax.types import SSRError
from ssr_jax.weights.importers import ncnn
from ssr_jax.weights.importers.fields import Config
from ssr_jax.weights.importers.renaming import Table

_OLD_TRUNK = re.compile(r'model\.1\.sub\.(\d+)\.(?:weight|bias)')
_BLOCK = re.compile(r'body\.(\d+)\.rdb')


def rrdbnet_table() -> Table:
  """RRDBNet of the released files and ours."""
  return Table(
    [
      ('conv_in', 'conv_first', 'conv'),
      ('block_{i+1}/rdb_{n}/conv_{m}', 'body.{i}.rdb{n}.conv{m}', 'conv'),
      ('conv_trunk', 'conv_body', 'conv'),
      ('conv_up_{n}', 'conv_up{n}', 'conv'),
      ('conv_hr', 'conv_hr', 'conv'),
      ('conv_out', 'conv_last', 'conv'),
    ],
    aliases=(
      (r'^model\.0\.', 'conv_first.'),
      (r'^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.', r'body.\1.rdb\2.conv\3.'),
      (r'^model\.1\.sub\.\d+\.(weight|bias)$', r'conv_body.\1'),
      (r'^model\.3\.', 'conv_up1.'),
      (r'^model\.6\.', 'conv_up2.'),
      (r'^model\.8\.', 'conv_hr.'),
      (r'^model\.10\.', 'conv_last.'),
      (r'^RRDB_trunk\.(\d+)\.RDB(\d)\.', r'body.\1.rdb\2.'),
      (r'^trunk_conv\.', 'conv_body.'),
      (r'^upconv(\d)\.', r'conv_up\1.'),
      (r'^HRconv\.', 'conv_hr.'),
    ),
  )


def holds(names: Iterable[str]) -> bool:
  """Whether a file is one of RRDBNet; RRDB-SFT has blocks of the same names, and SFT besides."""
  table, names = rrdbnet_table(), list(names)
  blocks = any(_BLOCK.match(table.canonical(name)) for name in names)
  return blocks and not any('.SFT.' in name for name in names)


def config(tensors: Mapping[str, np.ndarray], where: str) -> Config:
  """The attributes of our module, read from the shapes of a state dict.

  Args:
    tensors: the state dict.
    where: start of an error message, such as the file's path.

  Raises:
    SSRError: a tensor that fixes a size is missing or impossible, or the network is not of x4 or Real-ESRGAN's x2.
  """
  table = rrdbnet_table()
  known = {table.canonical(name): name for name in tensors}
  shapes = {}
  for name in ('conv_first.weight', 'body.0.rdb1.conv1.weight'):
    shapes[name] = np.shape(tensors[known[name]]) if name in known else ()
    if len(shapes[name]) != 4:
      raise SSRError(f'{where}: RRDBNet without a {name} of four axes; fetch the file again')
  (features, channels, *_), (growth, *_) = shapes.values()
  # Pixels of 1, 2 or 4 to a side as channels of one, see `RRDBNet.unshuffle`.
  unshuffle = {3: 1, 12: 2, 48: 4}.get(channels, 0)
  if not unshuffle or 'conv_up2.weight' not in known:
    raise SSRError(
      f'{where}: RRDBNet with {channels} input channels'
      f'{"" if "conv_up2.weight" in known else " and other than two enlargements"}; those of x4, and of x2 and x1 '
      'with 12 and 48 channels (Real-ESRGAN), can be imported'
    )
  blocks = 1 + max(int(found[1]) for found in map(_BLOCK.match, known) if found)
  for name in tensors:
    old = _OLD_TRUNK.fullmatch(name)
    if old and int(old[1]) != blocks:
      raise SSRError(f'{where}: {name} follows {blocks} blocks; fetch the file again')
  return dict(blocks=blocks, features=features, growth=growth, unshuffle=unshuffle)


def state_of(network: ncnn.Network, where: str) -> dict[str, np.ndarray]:
  """The state dict of a network of ncnn, by BasicSR's names.

  Args:
    network: of `ncnn.read`.
    where: start of an error message, such as the file's path.

  Raises:
    SSRError: it computes something else than an RRDBNet.
  """
  count = len(network.convolutions) - 6
  if count < 15 or count % 15 or network.output != _expression(network.graph, count // 15):
    raise SSRError(f'{where}: the graph is not that of an RRDBNet of x4; those of the ESRGAN family are read only')
  names = ['conv_first']
  names += [f'body.{i}.rdb{n}.conv{m}' for i in range(count // 15) for n in (1, 2, 3) for m in (1, 2, 3, 4, 5)]
  names += ['conv_body', 'conv_up1', 'conv_up2', 'conv_hr', 'conv_last']
  state = {}
  for name, (weight, bias) in zip(names, network.convolutions, strict=True):
    state |= {f'{name}.weight': weight, f'{name}.bias': bias}
  return state


def _expression(graph: ncnn.Graph, blocks: int) -> int:
  """What an RRDBNet computes, its convolutions numbered in the order of `state_of`."""
  numbers = iter(range(15 * blocks + 6))
  conv = lambda x: graph.conv(x, next(numbers))
  residual = lambda x, y: graph.add([x, graph.scaled(y, 0.2)])
  first = x = conv(graph.input())
  for _ in range(blocks):
    block = x
    for _ in range(3):
      seen = [x]
      for _ in range(4):
        seen.append(graph.leaky(conv(graph.concat(seen)), 0.2))
      x = residual(x, conv(graph.concat(seen)))
    x = residual(block, x)
  x = graph.add([first, conv(x)])
  for _ in range(2):
    x = graph.leaky(conv(graph.twice(x)), 0.2)
  return conv(graph.leaky(conv(x), 0.2))
