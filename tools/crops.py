"""Draws the same crops of many images in columns: bicubic | restored | result | peers | truth. To choose by eye.

    python tools/crops.py LR_DIR --truth HR_DIR [--peer NAME:DIR ...] [--model MODEL ...] --output sheets/

Writes sheets/crops-1.png, crops-2.png, ...; each row is one image and each column shows the same window of it, enlarged
by `--zoom` without interpolation. The window is the part of the truth (of the bicubic image, without --truth) with the
most gradient energy among those that overlap by half; it does not depend on any result. Images of the folders belong
together if their names are the same without the extension; a peer that lacks an image leaves its cell empty. With
--shared only images that every peer has are drawn. Several models stand side by side, to compare weights before and
after training.
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import sys

import numpy as np
from PIL import Image

import ssr_jax
from ssr_jax import xla
from ssr_jax.cli import console
from ssr_jax.evaluation.report import figures
from ssr_jax.image import io

ROWS = 6  # of a sheet


def main(argv: Sequence[str] | None = None) -> int:
  """Draws the sheets and prints their names."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('lr', metavar='LR_DIR', help='folder of LR images')
  parser.add_argument('--truth', metavar='HR_DIR', help='folder of the originals')
  parser.add_argument(
    '--peer', action='append', default=[], metavar='NAME:DIR', help="a column of another tool's images; may be repeated"
  )
  parser.add_argument('--model', action='append', metavar='MODEL', help='name or directory; may be repeated')
  parser.add_argument('--output', required=True, metavar='DIR', help='folder for the sheets')
  parser.add_argument('--size', type=int, default=160, help="side of a window in the result's pixels (default: 160)")
  parser.add_argument('--zoom', type=int, default=2, help='enlargement of a window (default: 2)')
  parser.add_argument('--limit', type=int, default=0, help='number of images; 0 for all (default)')
  parser.add_argument('--shared', action='store_true', help='only images that every peer has')
  arguments = parser.parse_args(argv)
  try:
    for path in run(arguments):
      print(path)
  except ssr_jax.SSRError as error:
    print(f'crops: {error}', file=sys.stderr)
    return 1
  return 0


def run(arguments: argparse.Namespace) -> list[pathlib.Path]:
  """Draws all rows and writes the sheets.

  Raises:
    SSRError: a folder, an image or a model that cannot be read, sizes that do not fit, or nothing to draw.
  """
  xla.enable_compilation_cache()
  peers = {}
  for peer in arguments.peer:
    name, colon, folder = peer.partition(':')
    if not (name and colon and folder):
      raise ssr_jax.SSRError(f'--peer {peer}: give NAME:DIR')
    peers[name] = _files(folder)
  truths = _files(arguments.truth) if arguments.truth else {}
  inputs = {
    stem: path
    for stem, path in _files(arguments.lr).items()
    if not arguments.shared or all(stem in files for files in peers.values())
  }
  inputs = dict(list(inputs.items())[: arguments.limit or None])
  if not inputs:
    raise ssr_jax.SSRError(f'{arguments.lr}: no image to draw')
  models = {name: ssr_jax.load(name) for name in arguments.model or ['compact']}

  rows = []
  for stem, path in inputs.items():
    columns = _columns(io.read(path).rgb, models)
    h, w, _ = next(iter(columns.values())).shape
    for name, files in {**peers, 'truth': truths}.items():
      if files:
        columns[name] = io.read(files[stem]).rgb if stem in files else np.full((h, w, 3), 255, np.uint8)
        if columns[name].shape[:2] != (h, w):
          got = columns[name].shape
          raise ssr_jax.SSRError(f'{files[stem]}: {got[1]}x{got[0]} pixels; {path} enlarged has {w}x{h}')
    top, left = window(columns['truth'] if stem in truths else columns['bicubic'], arguments.size)
    rows.append(row(stem, columns, (top, left), arguments.size, arguments.zoom))

  output = pathlib.Path(arguments.output)
  output.mkdir(parents=True, exist_ok=True)
  written = []
  for number, first in enumerate(range(0, len(rows), ROWS), 1):
    written.append(output / f'crops-{number}.png')
    io.write(written[-1], io.Picture(np.asarray(figures.stack(rows[first : first + ROWS]))))
  return written


def window(image: np.ndarray, size: int) -> tuple[int, int]:
  """(top, left) of the window with the most gradient energy, among those whose corners are multiples of size / 2.

  Args:
    image: [H, W, 3] uint8.
    size: of the window; it is cut where the image is smaller.
  """
  gray = image.astype(np.float64).mean(-1)
  energy = np.zeros_like(gray)
  energy[:, 1:] += np.abs(np.diff(gray, axis=1))
  energy[1:] += np.abs(np.diff(gray, axis=0))
  total = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
  H, W = gray.shape
  best, place = -1.0, (0, 0)
  for y in range(0, max(H - size, 0) + 1, max(size // 2, 1)):
    for x in range(0, max(W - size, 0) + 1, max(size // 2, 1)):
      bottom, right = min(y + size, H), min(x + size, W)
      inside = total[bottom, right] - total[y, right] - total[bottom, x] + total[y, x]
      if inside > best:
        best, place = inside, (y, x)
  return place


def row(name: str, columns: Mapping[str, np.ndarray], place: tuple[int, int], size: int, zoom: int) -> Image.Image:
  """One image's windows side by side, labelled; the first label has the image's name.

  Args:
    name: of the image.
    columns: {label: [H, W, 3]}, of the same size.
    place: (top, left) of the window.
    size: of the window.
    zoom: whole number of pixels for each pixel.
  """
  top, left = place
  panels = [
    image[top : top + size, left : left + size].repeat(zoom, axis=0).repeat(zoom, axis=1) for image in columns.values()
  ]
  labels = [f'{label} | {name}' if i == 0 else label for i, label in enumerate(columns)]
  return figures.side_by_side(panels, labels)


def _columns(lr: np.ndarray, models: Mapping[str, ssr_jax.Restorer]) -> dict[str, np.ndarray]:
  """{label: image} of bicubic and of each model: what its system has beside the result, and the result."""
  columns: dict[str, np.ndarray] = {}
  for name, model in models.items():
    found = model.sample(lr)
    if not columns:
      H, W, _ = found.image.shape
      columns['bicubic'] = np.asarray(Image.fromarray(lr).resize((W, H), Image.Resampling.BICUBIC))
    suffix = f' {pathlib.Path(name).name}' if len(models) > 1 else ''
    for output in model.system.outputs:
      image = found.image if output is model.system.outputs[-1] else found.outputs.get(output.name)
      if output.kind == 'image' and image is not None:
        columns[output.label + suffix] = figures.to_uint8(image)
  return columns


def _files(folder: str) -> dict[str, pathlib.Path]:
  """{name without extension: path} of a folder's images."""
  if not pathlib.Path(folder).is_dir():
    raise ssr_jax.SSRError(f'{folder}: not a folder')
  return {path.stem: path for path in console.images(pathlib.Path(folder), False)}


if __name__ == '__main__':
  sys.exit(main())
