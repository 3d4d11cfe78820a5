"""Cuts sharp crops from photos, the HR images of a training set that is degraded, or taught, once and for all.

    python tools/cut.py 'folder:A;folder:B' -o set/hr --count 1500 --size 256 --shrink 0.4 0.8 --places 3 --holdout 20

writes set/hr/00000.png and so on. Crops are drawn as training draws them (`ssr_jax.data.records`); every n-th is cut
from the photos that `config.data.holdout` = n holds out and the others are not, so that the same `data.holdout` splits
the set by photos. Crop i depends on the photos, the options and --seed; files that exist are kept, so that an
interrupted run can be started again. LR images and a teacher's images follow with

    ssr degrade set/hr -o set/low --recipe real
    ssr upscale set/low/lr -o set/taught --model TEACHER

and the set is `taught:set/hr,set/low/lr,set/taught`.
"""

import argparse
from collections.abc import Sequence
import io as iolib
import pathlib
import sys

from PIL import Image

import ssr_jax
from ssr_jax.data import loader, records, sources
from ssr_jax.image import io


def main(argv: Sequence[str] | None = None) -> int:
  """Cuts the crops and prints how many are new."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('photos', metavar='SPEC', help="such as 'folder:A;folder:B', see ssr_jax.data.sources.spec")
  parser.add_argument('-o', '--output', required=True, metavar='DIR')
  parser.add_argument('--count', type=int, required=True, metavar='N')
  parser.add_argument('--size', type=int, default=256, help='side of a crop in pixels (default: 256)')
  parser.add_argument('--shrink', type=float, nargs=2, default=(1.0, 1.0), metavar=('LOW', 'HIGH'))
  parser.add_argument(
    '--places', type=int, default=1, metavar='N', help='candidates, of which the most detailed is cut'
  )
  parser.add_argument('--holdout', type=int, default=20, metavar='N', help='as config.data.holdout (default: 20)')
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args(argv)
  try:
    print(f'{run(arguments)} crops are new in {arguments.output}')
  except ssr_jax.SSRError as error:
    print(f'cut: {error}', file=sys.stderr)
    return 1
  return 0


def run(arguments: argparse.Namespace) -> int:
  """Cuts the crops; returns how many were missing.

  Raises:
    SSRError: photos that cannot be read or are too small, a holdout that leaves none, or a file that cannot be written.
  """
  if arguments.holdout < 0 or arguments.holdout == 1:
    raise ssr_jax.SSRError(f'--holdout {arguments.holdout}: must be 0 for none, or 2 or more')
  photos, held = sources.split(sources.from_spec(arguments.photos, ('hr',)), arguments.holdout)
  if arguments.holdout and not len(held):
    raise ssr_jax.SSRError(f'--holdout {arguments.holdout}: there are only {len(photos)} photos; lower it, or give 0')
  record = records.photo_record(arguments.size, tuple(arguments.shrink), arguments.places)
  parts = [loader.dataset(part, record, 1, arguments.seed) if len(part) else None for part in (photos, held)]
  output = pathlib.Path(arguments.output)
  output.mkdir(parents=True, exist_ok=True)
  new = 0
  for i in range(arguments.count):
    path = output / f'{i:05d}.png'
    if path.exists():
      continue
    batches = parts[bool(arguments.holdout) and i % arguments.holdout == arguments.holdout - 1]
    assert batches is not None
    buffer = iolib.BytesIO()
    Image.fromarray(batches[i]['hr'][0]).save(buffer, 'PNG')
    io.write_bytes(path, buffer.getvalue())
    new += 1
  return new


if __name__ == '__main__':
  sys.exit(main())
