"""Which image belongs to which original, by their file names."""

from collections import defaultdict
from collections.abc import Sequence
import dataclasses
import pathlib
import re

from ssr_jax.types import SSRError

_SUFFIX = re.compile(r'(?<=.)(?:(?:[_. -]|(?<=\d))x\d+|[_. -](?:hr|sr|gt|out|lr\d*|srf[_-]?\d+))$', re.IGNORECASE)


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


def base_name(stem: str) -> str:
  """A file's stem in lower case, without what tools append: 0801x4, 0801_SR, 0801-x4_out, img_SRF_4_HR.

  Left out are, from the end and as often as they occur, x4 and any other number after a digit, _, -, a dot or a space,
  and after one of the latter hr, sr, gt, out, lr, lr4, srf_4.
  """
  before = None
  while before != stem:
    before, stem = stem, _SUFFIX.sub('', stem)
  return stem.lower()


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
