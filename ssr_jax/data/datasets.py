"""Ready definitions of the sets that super-resolution papers train and report on: where they are expected, how many.

Nothing is downloaded: their licences ask for a look at their pages first. Unpack an archive below one root directory
(--root, or the environment variable SSR_DATA, or ./data) and 'ssr data list' shows what is found there; 'set:NAME' is
then a source like any other. Counts are of whole images or pairs, as the set's own page or paper, or for the crops the
StableSR test sets, give them.
"""

from collections.abc import Iterable
import dataclasses
import os
import pathlib
import re

from ssr_jax.data import sources
from ssr_jax.types import SSRError


@dataclasses.dataclass(frozen=True)
class Definition:
  """One split of one set.

  Attributes:
    name: as in 'set:NAME'.
    count: expected records.
    what: what is counted.
    places: specs with paths below the root; the first that is there is used. Several parts are joined by ';'.
    home: where it comes from.
    licence: what its page says, shortly; '' where it says nothing that we know of.
    numbers: the first and last number in the file names, where they are numbered without gaps.
  """

  name: str
  count: int
  what: str
  places: tuple[str, ...]
  home: str
  licence: str = ''
  numbers: tuple[int, int] | None = None


_DIV2K = dict(home='https://data.vision.ee.ethz.ch/cvl/DIV2K/', licence='academic research only')
_BSDS = dict(
  home='http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz',
  licence='non-commercial research and education',
)
_REALSR = dict(home='https://github.com/csjcai/RealSR')
_DREALSR = dict(home='https://github.com/xiezw5/Component-Divide-and-Conquer-for-Real-World-Image-Super-Resolution')
_CROPS = dict(home='https://huggingface.co/datasets/Iceclear/StableSR-TestSets')
_SELFEX = 'https://github.com/jbhuang0604/SelfExSR'


def _bsds(split: str) -> tuple[str, ...]:
  return f'folder:BSR/BSDS500/data/images/{split}', f'folder:BSDS500/data/images/{split}', f'folder:BSDS500/{split}'


DEFINITIONS = {
  d.name: d
  for d in (
    Definition(
      'div2k-train',
      800,
      'HR photos',
      ('folder:DIV2K/DIV2K_train_HR', 'folder:DIV2K_train_HR'),
      numbers=(1, 800),
      **_DIV2K,
    ),
    Definition(
      'div2k-val',
      100,
      'HR photos',
      ('folder:DIV2K/DIV2K_valid_HR', 'folder:DIV2K_valid_HR'),
      numbers=(801, 900),
      **_DIV2K,
    ),
    Definition(
      'flickr2k',
      2650,
      'HR photos',
      ('folder:Flickr2K/Flickr2K_HR', 'folder:Flickr2K_HR'),
      'https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar',
      'photos of Flickr users, each with its own',
      numbers=(1, 2650),
    ),
    Definition('bsds500-train', 200, 'photos', _bsds('train'), **_BSDS),
    Definition('bsds500-val', 100, 'photos', _bsds('val'), **_BSDS),
    Definition('bsds500-test', 200, 'photos', _bsds('test'), **_BSDS),
    Definition('bsd100', 100, 'HR images', ('folder:BSD100/HR', 'folder:BSD100', 'folder:bsd100'), **_BSDS),
    Definition(
      'urban100',
      100,
      'HR images',
      ('folder:Urban100/HR', 'folder:Urban100', 'folder:urban100'),
      _SELFEX,
      numbers=(1, 100),
    ),
    Definition('set5', 5, 'HR images', ('folder:Set5/HR', 'folder:Set5', 'folder:set5'), _SELFEX),
    Definition('set14', 14, 'HR images', ('folder:Set14/HR', 'folder:Set14', 'folder:set14'), _SELFEX),
    Definition(
      't91',
      91,
      'HR images',
      ('folder:T91', 'folder:t91'),
      'http://www.ifp.illinois.edu/~jyang29/codes/ScSR.rar',
      numbers=(1, 91),
    ),
    Definition(
      'realsr-x4-test',
      100,
      'pairs of version 3 at x4, 50 by Canon and 50 by Nikon',
      (
        'paired:RealSR(V3)/Canon/Test/4,RealSR(V3)/Canon/Test/4;paired:RealSR(V3)/Nikon/Test/4,RealSR(V3)/Nikon/Test/4',
      ),
      **_REALSR,
    ),
    Definition(
      'realsr-crops',
      100,
      'centre crops 512x512 of the x4 test pairs, with LR 128x128',
      ('paired:RealSRVal_crop128/test_HR,RealSRVal_crop128/test_LR', 'paired:realsr/hr,realsr/lr'),
      **_CROPS,
    ),
    Definition(
      'drealsr-x4-test', 93, 'pairs at x4', ('paired:DRealSR/Test_x4/test_HR,DRealSR/Test_x4/test_LR',), **_DREALSR
    ),
    Definition(
      'drealsr-crops',
      93,
      'centre crops 512x512 of the x4 test pairs, with LR 128x128',
      ('paired:DrealSRVal_crop128/test_HR,DrealSRVal_crop128/test_LR', 'paired:drealsr/hr,drealsr/lr'),
      **_CROPS,
    ),
    Definition(
      'dped-iphone-val',
      113,
      'iPhone photos of NTIRE 2020 track 2 (validation); LR only, no HR exists',
      ('folder:DPEDiphone-va', 'folder:dped-iphone'),
      'https://competitions.codalab.org/competitions/22220',
    ),
    Definition(
      'dped-iphone-crops',
      113,
      'centre crops 128x128 of those photos; LR only',
      ('folder:DPEDiphoneValSet_crop128/test_LR', 'folder:DPEDiphoneValSet_crop128'),
      **_CROPS,
    ),
  )
}


def get(name: str) -> Definition:
  """A definition; SSRError that lists what is known."""
  if name not in DEFINITIONS:
    raise SSRError(f"no set '{name}'; known: {', '.join(DEFINITIONS)}")
  return DEFINITIONS[name]


def root_of(root: str | os.PathLike | None) -> pathlib.Path:
  """The directory below which sets lie: the given one, else SSR_DATA, else ./data."""
  return pathlib.Path(root or os.environ.get('SSR_DATA') or 'data').expanduser()


def spec(name: str, root: str | os.PathLike | None = None) -> str:
  """The source spec of a set's place; SSRError saying where it is expected and comes from, if it is not there."""
  definition = get(name)
  place = _found(definition, root_of(root))
  if place is None:
    raise SSRError(
      f"set '{name}' ({definition.count} {definition.what}) is not below {root_of(root)}; expected at "
      f'{" or ".join(definition.places)}; get it from {definition.home}, or name another root with '
      'SSR_DATA'
    )
  return place


def _found(definition: Definition, root: pathlib.Path) -> str | None:
  for place in definition.places:
    parts = [part.partition(':') for part in place.split(';')]
    full = [(kind, [root / folder for folder in folders.split(',')]) for kind, _, folders in parts]
    if all(folder.is_dir() for _, folders in full for folder in folders):
      return ';'.join(f'{kind}:{",".join(map(str, folders))}' for kind, folders in full)
  return None


@dataclasses.dataclass(frozen=True)
class Status:
  """What of a set is there.

  Attributes:
    definition: the set.
    place: its spec, or None where its directory is missing.
    found: records found.
    problem: one line, '' if all is as expected.
  """

  definition: Definition
  place: str | None
  found: int
  problem: str


def status(name: str, root: str | os.PathLike | None = None) -> Status:
  """Looks for a set by names and counts; the images themselves are `ssr_jax.data.pack.check`'s."""
  definition = get(name)
  place = _found(definition, root_of(root))
  if place is None:
    return Status(definition, None, 0, f'nothing at {" or ".join(definition.places)} below {root_of(root)}')
  try:
    source = sources.from_spec(place)
  except SSRError as error:
    return Status(definition, place, 0, str(error))
  found = len(source)
  problem = ''
  if definition.numbers:
    first, last = definition.numbers
    stems = (pathlib.Path(source.name(i)).stem for i in range(found))
    there = {int(match[0]) for match in (re.search(r'\d+', stem) for stem in stems) if match}
    missing = [n for n in range(first, last + 1) if n not in there]
    if missing:
      problem = f'{len(missing)} of {definition.count} missing: numbers {_ranges(missing)}'
  if not problem and found != definition.count:
    problem = f'{found} found, {definition.count} expected'
  return Status(definition, place, found, problem)


def _ranges(numbers: Iterable[int]) -> str:
  """[1, 2, 3, 7] as '1-3, 7'."""
  runs: list[list[int]] = []
  for n in numbers:
    if runs and runs[-1][1] == n - 1:
      runs[-1][1] = n
    else:
      runs.append([n, n])
  return ', '.join(str(a) if a == b else f'{a}-{b}' for a, b in runs)
