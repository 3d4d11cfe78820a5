"""The catalogue of well-known sets, those that super-resolution papers train and report on: 'set:NAME' in a spec.

Nothing is downloaded, because the licences must be read first. Unpack an archive below one root directory (--root, or
the environment variable SSR_DATA, or ./data); 'ssr data list' shows which sets are found there. Counts are whole images
or pairs, as given by the set's own page or paper; for the crops, by the StableSR test sets.
"""

import dataclasses
import os
import pathlib

from ssr_jax.types import SSRError


@dataclasses.dataclass(frozen=True)
class Definition:
  """One split of one set.

  Attributes:
    name: as in 'set:NAME'.
    count: expected number of records.
    contents: what the records are, after the count: '100 HR photos'.
    places: specs with paths relative to the root; the first one that exists is used. Parts are joined by ';'.
    url: where to get it.
    licence: a short form of what its page says; '' where the page says nothing that we know of.
    numbers: the first and last number in the file names, for files that are numbered without gaps.
  """

  name: str
  count: int
  contents: str
  places: tuple[str, ...]
  url: str
  licence: str = ''
  numbers: tuple[int, int] | None = None


_DIV2K = ('https://data.vision.ee.ethz.ch/cvl/DIV2K/', 'academic research only')
_BSDS = (
  'http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz',
  'non-commercial research and education',
)
_REALSR = 'https://github.com/csjcai/RealSR'
_DREALSR = 'https://github.com/xiezw5/Component-Divide-and-Conquer-for-Real-World-Image-Super-Resolution'
_CROPS = 'https://huggingface.co/datasets/Iceclear/StableSR-TestSets'
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
      *_DIV2K,
      numbers=(1, 800),
    ),
    Definition(
      'div2k-val',
      100,
      'HR photos',
      ('folder:DIV2K/DIV2K_valid_HR', 'folder:DIV2K_valid_HR'),
      *_DIV2K,
      numbers=(801, 900),
    ),
    Definition(
      'div2k-val-crops',
      100,
      'centre crops 512x512 of the HR photos of div2k-val; docs/blinddiff.md cuts them',
      ('folder:DIV2K100',),
      *_DIV2K,
      numbers=(801, 900),
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
    Definition('bsds500-train', 200, 'photos', _bsds('train'), *_BSDS),
    Definition('bsds500-val', 100, 'photos', _bsds('val'), *_BSDS),
    Definition('bsds500-test', 200, 'photos', _bsds('test'), *_BSDS),
    Definition('bsd100', 100, 'HR images', ('folder:BSD100/HR', 'folder:BSD100', 'folder:bsd100'), *_BSDS),
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
      _REALSR,
    ),
    Definition(
      'realsr-crops',
      100,
      'centre crops 512x512 of the x4 test pairs, with LR 128x128',
      ('paired:RealSRVal_crop128/test_HR,RealSRVal_crop128/test_LR', 'paired:realsr/hr,realsr/lr'),
      _CROPS,
    ),
    Definition(
      'drealsr-x4-test', 93, 'pairs at x4', ('paired:DRealSR/Test_x4/test_HR,DRealSR/Test_x4/test_LR',), _DREALSR
    ),
    Definition(
      'drealsr-crops',
      93,
      'centre crops 512x512 of the x4 test pairs, with LR 128x128',
      ('paired:DrealSRVal_crop128/test_HR,DrealSRVal_crop128/test_LR', 'paired:drealsr/hr,drealsr/lr'),
      _CROPS,
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
      _CROPS,
    ),
  )
}


def get(name: str) -> Definition:
  """The definition of a set; for an unknown name, an SSRError that lists the known ones."""
  if name not in DEFINITIONS:
    raise SSRError(f"no set '{name}'; known: {', '.join(DEFINITIONS)}")
  return DEFINITIONS[name]


def root_of(root: str | os.PathLike | None) -> pathlib.Path:
  """The directory below which sets are looked for: the given one, else $SSR_DATA, else ./data."""
  return pathlib.Path(root or os.environ.get('SSR_DATA') or 'data').expanduser()


def spec(name: str, root: str | os.PathLike | None = None) -> str:
  """The spec of a set, with full paths.

  Args:
    name: of the set, without 'set:'.
    root: see `root_of`.

  Raises:
    SSRError: the set is not below the root; the message says where it is expected and where to get it.
  """
  definition = get(name)
  found = find(definition, root)
  if found is None:
    raise SSRError(
      f"set '{name}' ({definition.count} {definition.contents}) is not below {root_of(root)}; expected at "
      f'{" or ".join(definition.places)}; get it from {definition.url}, or name another root with '
      'SSR_DATA'
    )
  return found


def find(definition: Definition, root: str | os.PathLike | None = None) -> str | None:
  """The first of a set's places whose folders all exist below the root, with full paths; None where there is none."""
  for place in definition.places:
    parts = [part.partition(':') for part in place.split(';')]
    full = [(kind, [root_of(root) / folder for folder in folders.split(',')]) for kind, _, folders in parts]
    if all(folder.is_dir() for _, folders in full for folder in folders):
      return ';'.join(f'{kind}:{",".join(map(str, folders))}' for kind, folders in full)
  return None
