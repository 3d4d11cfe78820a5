"""`ssr inspect`: what a model finds in a photo: blur, depth and noise."""

import argparse
import io as iolib
import json
import os
import pathlib
import re
from typing import Any

import numpy as np

from ssr_jax.cli import console
from ssr_jax.image import io, opening
from ssr_jax.types import SSRError, one_line

_EXAMPLES = """examples:
  ssr inspect photo.jpg                                blur, depth and noise in a few lines
  ssr inspect photo.jpg --at 120,80 --at 300,200       at these pixels
  ssr inspect photo.jpg -o inspected.png               photo, depth and kernels in one picture
  ssr inspect photo.jpg --at 120,80 --json - | jq .points[0].kernel
"""


def add(commands: Any, common: argparse.ArgumentParser) -> None:
  """Adds `inspect` to the parsers of `ssr`; `common` has the options of all commands."""
  inspect = commands.add_parser(
    'inspect',
    parents=[common],
    help='blur, depth and noise of a photo',
    description='Estimates how a photo is blurred, at every pixel, how far away things are, and its noise. Blur is a '
    "standard deviation in the photo's own pixels; depth is relative, from 0 (far) to 1 (near).",
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  inspect.add_argument('image', metavar='IN', help='an image file')
  inspect.add_argument(
    '--at',
    type=_point,
    action='append',
    default=[],
    metavar='X,Y',
    help='a pixel of the upright photo, 0,0 at the top left; may be given several times (default: nine pixels)',
  )
  inspect.add_argument('-o', '--output', metavar='PNG', help='write photo, depth and kernels as one picture')
  inspect.add_argument('--json', metavar='FILE', help='write all figures, and the kernels of the points; - is stdout')
  inspect.add_argument('--model', default='compact', help="'compact', or the path of a model directory")
  inspect.add_argument('--tile', type=int, metavar='N', help='largest side without tiling; smaller needs less memory')
  inspect.add_argument('--max-pixels', type=int, metavar='N', help=f'as of upscale (default: {opening.MAX_PIXELS})')
  inspect.add_argument('--overwrite', action='store_true', help='replace files that exist')
  inspect.add_argument('-q', '--quiet', action='store_true', help='no progress bar')
  inspect.set_defaults(command=_inspect)


def _point(text: str) -> tuple[int, int]:
  found = re.fullmatch(r'(\d+),(\d+)', text)
  if not found:
    raise argparse.ArgumentTypeError(f'{text!r}: give X,Y, two whole numbers')
  return int(found[1]), int(found[2])


def _inspect(arguments: argparse.Namespace) -> int:
  source = pathlib.Path(arguments.image)
  if arguments.max_pixels is not None and arguments.max_pixels < 1:
    raise SSRError(f'--max-pixels {arguments.max_pixels}: must be at least 1')
  _check_targets(arguments, source)
  try:
    photo = io.read(source, arguments.max_pixels)
  except SSRError as error:  # one bad input, not wrong usage
    return console.say(console.line_of(error, source), 1)
  h, w, _ = photo.rgb.shape
  at = arguments.at or [(x, y) for y in _spread(h) for x in _spread(w)]
  for x, y in at:
    if x >= w or y >= h:
      raise SSRError(f'--at {x},{y}: outside {source}, whose pixels go from 0,0 to {w - 1},{h - 1}')

  from ssr_jax import runtime, xla
  from ssr_jax.runtime import inputs, inspection
  from ssr_jax.weights import store

  xla.enable_compilation_cache()
  store.resolve(arguments.model)
  try:
    model = runtime.load(arguments.model)
  except SSRError as error:  # a damaged model is not a usage error
    return console.say(str(error), 1)
  inputs.kernels(model.system, model.config, 'ssr inspect')
  options = {'tile': arguments.tile} if arguments.tile else {}
  try:
    with console.progress_bar(None, arguments, 'tile') as progress:
      found = inspection.inspect(model, photo.rgb, at=at, progress=progress, **options)
  except MemoryError as error:
    return console.say(console.line_of(error, source), 1)
  report = _report(arguments.image, model, found, at)
  picture = None
  if arguments.output:
    from ssr_jax.evaluation.report import figures

    buffer = iolib.BytesIO()
    figures.inspected(photo.rgb, found).save(buffer, 'PNG')
    picture = buffer.getvalue()
  text = json.dumps(report, indent=2) + '\n'
  if arguments.json == '-':
    print(text, end='', flush=True)
  else:
    for line in _lines(report):
      console.tell(line)
  for target, data in ((arguments.json, text.encode()), (arguments.output, picture)):
    if target not in (None, '-') and data is not None:
      io.write_bytes(target, data, replace=arguments.overwrite)
  return 0


def _check_targets(arguments: argparse.Namespace, source: pathlib.Path) -> None:
  """SSRError where a file to be written is the photo, another one of them, or there; before the work."""
  targets = {'-o': arguments.output, '--json': None if arguments.json == '-' else arguments.json}
  targets = {flag: pathlib.Path(target) for flag, target in targets.items() if target is not None}
  if arguments.output and pathlib.Path(arguments.output).suffix.lower() != '.png':
    raise SSRError(f'-o {arguments.output}: the picture is a PNG file; end its name in .png')
  taken = {console.identity(source): f'the input {source}'}
  for flag, target in targets.items():
    if (whose := taken.setdefault(console.identity(target), f'the file of {flag}')) != f'the file of {flag}':
      raise SSRError(f'{flag} {target}: would replace {whose}; choose another name')
    if os.path.isdir(target):
      raise SSRError(f'{flag} {target}: is a folder; name a file')
    if os.path.lexists(target) and not arguments.overwrite:
      raise SSRError(f'{flag} {target}: exists; use --overwrite or choose another name')
  console.check_writable(sorted({target.parent for target in targets.values()}))


def _spread(size: int) -> list[int]:
  """Three places along a side: the middles of its thirds."""
  return sorted({size * (2 * i + 1) // 6 for i in range(3)})


def _report(name: str, model: Any, found: Any, at: list[tuple[int, int]]) -> dict[str, Any]:
  """What --json holds."""
  from ssr_jax.runtime import inspection

  h, w, _ = found.blur.shape
  points = []
  for x, y in at:
    long, short, angle = (float(value) for value in found.blur[y, x])
    points.append(
      {
        'x': x,
        'y': y,
        'blur': round(found.spread(x, y), 4),
        'long': round(long, 4),
        'short': round(short, 4),
        'angle': round(angle, 1),
        'depth': None if found.depth is None else round(float(found.depth[y, x]), 4),
        'kernel': [[round(float(tap), 6) for tap in row] for row in found.kernels[x, y]],
      }
    )
  return {
    'image': one_line(name),
    'width': w,
    'height': h,
    'model': model.config['name'],
    'system': model.system.name,
    'scale': found.scale,
    'units': {
      'noise': 'standard deviation in gray levels of 255',
      'blur': "standard deviation in the photo's pixels",
      'angle': 'degrees of the longest axis, from right towards down',
      'depth': 'relative inverse depth, 0 far to 1 near',
      'kernel': f'weights, {found.scale} x {found.scale} taps to a pixel of the photo',
    },
    'noise': {'mean': _levels(np.mean(found.noise)), 'channels': [_levels(level) for level in found.noise]},
    'blur': _range(inspection.spread(found.blur)),
    'depth': None if found.depth is None else _range(found.depth),
    'points': points,
  }


def _levels(deviation: Any) -> float:
  return round(255 * float(deviation), 2)


def _range(values: np.ndarray) -> dict[str, float]:
  names = {'least': 0, 'tenth': 10, 'median': 50, 'ninetieth': 90, 'most': 100}
  return {name: round(float(np.percentile(values, share)), 4) for name, share in names.items()}


def _lines(report: dict[str, Any]) -> list[str]:
  """What is printed without --json -."""
  noise, blur, depth = report['noise'], report['blur'], report['depth']
  red, green, blue = noise['channels']
  lines = [
    f'{report["image"]}: {report["width"]}x{report["height"]}, noise {noise["mean"]:.1f} of 255 '
    f'(red {red:.1f}, green {green:.1f}, blue {blue:.1f})',
    f'blur {blur["least"]:.2f} to {blur["most"]:.2f} pixels, median {blur["median"]:.2f}'
    + ('' if depth is None else f'; depth {depth["least"]:.2f} to {depth["most"]:.2f}'),
  ]
  for point in report['points']:
    place = f'at {point["x"]},{point["y"]}: blur {point["blur"]:.2f} pixels'
    shape = f'{point["long"]:.2f} x {point["short"]:.2f}, long axis at {point["angle"]:.0f} degrees'
    lines.append(f'{place} ({shape})' + ('' if point['depth'] is None else f', depth {point["depth"]:.2f}'))
  return lines
