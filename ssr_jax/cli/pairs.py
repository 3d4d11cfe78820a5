"""Which image belongs to which original, by their file names."""

from collections import defaultdict
from collections.abc import Sequence
import dataclasses
import pathlib

from ssr_jax.data.sources.files import base_name
from ssr_jax.types import SSRError


@dataclasses.dataclass(frozen=True)
class Pairs:
  """The files of two folders.

  Attributes:
    matched: (original, image).
    originals: those without an image.
    images: those without an original.
  """

  matched: list[tuple[pathlib.Path, pathlib.Path]]
  originals: list[pathlib.Path]
  images: list[pathlib.Path]


def match(originals: Sequence[pathlib.Path], images: Sequence[pathlib.Path]) -> Pairs:
  """Pairs originals with images of the same stem; what is left, with those of the same `base_name`.

  `data.sources.files.match` pairs training data, of which every file must have a partner; here some may have none.

  Raises:
    SSRError: several files of one folder could be the partner of one file; the message names two of them.
  """
  matched: dict[pathlib.Path, pathlib.Path] = {}
  for key in (lambda stem: stem, base_name):
    taken = set(matched.values())
    ones = _grouped([path for path in originals if path not in matched], key)
    twos = _grouped([path for path in images if path not in taken], key)
    for name in ones.keys() & twos.keys():
      for several, one in ((ones[name], twos[name]), (twos[name], ones[name])):
        if len(several) > 1:
          raise SSRError(f'{several[0]} and {several[1]} both fit {one[0]} by name; rename or remove one of them')
      matched[ones[name][0]] = twos[name][0]
  taken = set(matched.values())
  return Pairs(
    [(path, matched[path]) for path in originals if path in matched],
    [path for path in originals if path not in matched],
    [path for path in images if path not in taken],
  )


def _grouped(paths: Sequence[pathlib.Path], key) -> dict[str, list[pathlib.Path]]:
  groups = defaultdict(list)
  for path in paths:
    groups[key(path.stem)].append(path)
  return groups
