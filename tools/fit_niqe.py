"""Fits a pristine model of NIQE to photos without distortions, and writes it as an .npz file.

  python tools/fit_niqe.py PHOTOS... -o model.npz --name 'my photos'
  ssr metrics SR_DIR --metrics niqe --niqe-model model.npz

The model of the package, ssr_jax/metrics/niqe_free_photos.npz, is made by the command in docs/results.md. Values of
different models cannot be compared, so the model's name stands in every table.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))


def main() -> int:
  """Fits the model; the exit codes are those of `ssr`."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('photos', nargs='+', type=pathlib.Path, metavar='PHOTOS', help='photos, and folders of photos')
  parser.add_argument('-o', '--output', required=True, type=pathlib.Path, metavar='FILE', help='the .npz file to write')
  parser.add_argument('--name', required=True, help='what tables call the model')
  parser.add_argument(
    '--shrink', type=int, default=1, metavar='N', help='make photos N times smaller first (default: 1)'
  )
  parser.add_argument(
    '--sharpness',
    type=float,
    default=0.75,
    metavar='S',
    help="use blocks with more than this share of the sharpness of the photo's sharpest block (default: 0.75)",
  )
  parser.add_argument(
    '--contrast',
    type=float,
    default=0,
    metavar='C',
    help='leave out blocks with a mean local deviation of at most C gray levels (default: 0)',
  )
  arguments = parser.parse_args()

  from ssr_jax.cli import console
  from ssr_jax.types import SSRError

  try:
    if arguments.shrink < 1 or not 0 <= arguments.sharpness < 1:
      raise SSRError('--shrink must be at least 1, --sharpness at least 0 and below 1')
    return _fit(arguments)
  except SSRError as error:
    return console.say(str(error), 2)


def _fit(arguments: argparse.Namespace) -> int:
  import numpy as np
  from PIL import Image
  import tqdm

  from ssr_jax.cli import console
  from ssr_jax.image import io
  from ssr_jax.metrics import niqe
  from ssr_jax.types import SSRError

  paths = []
  for given in arguments.photos:
    paths += console.images(given, recursive=True) if given.is_dir() else [given]
  failures = []

  def photos():
    for path in tqdm.tqdm(paths, 'fit', unit='photo', disable=None):
      try:
        image = Image.fromarray(io.read(path).rgb)
      except (SSRError, TypeError) as error:  # TypeError: 16 bits, which Pillow does not hold in three channels
        failures.append(console.line_of(error, path))
        continue
      size = (image.width // arguments.shrink, image.height // arguments.shrink)
      yield np.asarray(image.resize(size, Image.Resampling.BICUBIC))

  try:
    niqe.save_pristine(arguments.output, niqe.fit(photos(), arguments.name, arguments.sharpness, arguments.contrast))
  except SSRError:
    raise
  except ValueError as error:
    raise SSRError(f'{error}; give more or larger photos') from error
  for line in failures:
    console.say(line)
  print(f'{arguments.output}: fitted to {len(paths) - len(failures)} photos')
  return 1 if failures else 0


if __name__ == '__main__':
  sys.exit(main())
