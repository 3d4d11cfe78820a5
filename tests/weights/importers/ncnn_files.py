"""Writes RRDBNets as ncnn stores them, for tests: names, Split layers and fused activations as its converter makes."""

import struct

import numpy as np

HALF = 0x01306B47


class Writer:
  """Collects layers and numbers.

  Attributes:
    lines: of the .param, without its head.
    data: pieces of the .bin.
  """

  def __init__(self, state, half=True, fused=True):
    self.state, self.half, self.fused = state, half, fused
    self.lines, self.data, self.count = [], [], 0

  def layer(self, kind, inputs, fields='', outputs=1):
    """Adds a line; returns the names of its blobs."""
    self.count += 1
    made = [f'blob_{self.count}_{i}' for i in range(outputs)]
    self.lines.append(f'{kind:24} {kind}_{self.count} {len(inputs)} {outputs} {" ".join([*inputs, *made])} {fields}')
    return made

  def split(self, blob, count):
    """Copies of a blob, one for each layer that reads it."""
    return self.layer('Split', [blob], '', count)

  def conv(self, blob, name, leaky=False):
    """A convolution of the state dict, with LeakyReLU 0.2 fused or as a layer of its own."""
    weight, bias = self.state[f'{name}.weight'], self.state[f'{name}.bias']
    fields = f'0={len(bias)} 1=3 4=1 5=1 6={weight.size}'
    fused = ' 9=2 -23310=1,2.000000e-01' if leaky and self.fused else ''
    data = weight.astype('<f2' if self.half else '<f4').tobytes()
    flag = struct.pack('<I', HALF if self.half else 0)
    self.data += [flag, data, b'\0' * (-len(data) % 4), bias.astype('<f4').tobytes()]
    (out,) = self.layer('Convolution', [blob], fields + fused)
    return out if fused or not leaky else self.layer('ReLU', [out], '0=2.000000e-01')[0]

  def residual(self, change, blob):
    """blob + 0.2 change."""
    if self.fused:
      return self.layer('Eltwise', [change, blob], '0=1 -23301=2,2.000000e-01,1.000000e+00')[0]
    (small,) = self.layer('BinaryOp', [change], '0=2 1=1 2=2.000000e-01')
    return self.layer('BinaryOp', [blob, small], '0=0')[0]


def rrdbnet(path, state, blocks, *, half=True, fused=True):
  """Writes path.param and path.bin of a network by BasicSR's names; returns the path of the .param."""
  out = Writer(state, half, fused)
  (image,) = out.layer('Input', [])
  skip, x = out.split(out.conv(image, 'conv_first'), 2)
  for i in range(blocks):
    whole, x = out.split(x, 2)
    for n in (1, 2, 3):
      *copies, last = out.split(x, 6)
      seen = [[copy] for copy in copies]  # of each later convolution, what it reads
      for m in (1, 2, 3, 4):
        read = seen[m - 1]
        joined = read[0] if len(read) == 1 else out.layer('Concat', read)[0]
        made = out.conv(joined, f'body.{i}.rdb{n}.conv{m}', leaky=True)
        for later, copy in zip(seen[m:], out.split(made, 5 - m), strict=True):
          later.append(copy)
      x = out.residual(out.conv(out.layer('Concat', seen[4])[0], f'body.{i}.rdb{n}.conv5'), last)
    x = out.residual(x, whole)
  (x,) = out.layer('BinaryOp', [skip, out.conv(x, 'conv_body')])
  for n in (1, 2):
    (x,) = out.layer('Interp', [x], '0=1 1=2.000000e+00 2=2.000000e+00')
    x = out.conv(x, f'conv_up{n}', leaky=True)
  out.conv(out.conv(x, 'conv_hr', leaky=True), 'conv_last')
  return write(path, out.lines, b''.join(out.data))


def write(path, lines, data):
  """Writes the pair."""
  blobs = sum(int(line.split()[3]) for line in lines)
  path.with_suffix('.bin').write_bytes(data)
  path.with_suffix('.param').write_text('\n'.join(['7767517', f'{len(lines)} {blobs}', *lines]) + '\n')
  return path.with_suffix('.param')


def half(state):
  """The state dict with weights rounded to half precision, as a file of those has them."""
  return {k: v.astype(np.float16).astype(np.float32) if k.endswith('weight') else v for k, v in state.items()}
