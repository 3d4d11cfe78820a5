"""Specs, the names of sources in configs and on the command line.

A spec is one or more parts joined by ';'. A part is KIND:PLACE:

  folder:DIR                     every image below DIR, of the formats in `image.opening.FORMATS`  -> hr
  paired:HR_DIR,LR_DIR           pairs with the same name                                         -> hr, lr
  taught:HR_DIR,LR_DIR,OUT_DIR   the same, with what a teacher made of the LR images              -> hr, lr, taught
  rgbd:DIR                       photos with depth maps; see `RGBD` for layouts                   -> hr, depth
  rgbd:PHOTO_DIR,DEPTH_DIR
  rgbd-inverse:...               the same, where the maps hold inverse depth (disparity)
  array_record:GLOB              ArrayRecord shards, as `ssr data pack` writes them               -> what was packed
  tfds:NAME[/CONFIG][:SPLIT]     a set prepared as ArrayRecord, read without TensorFlow           -> hr (and lr)
  set:NAME                       a set of the catalogue, ssr_jax.data.catalog

Without weights, an epoch is every record of every part once. With a weight before each part, as in
'0.7*folder:A;0.3*folder:B', records are drawn from the parts in that proportion, and each part has its own epochs.
"""

from collections.abc import Sequence
import pathlib
import re

from ssr_jax.data import catalog
from ssr_jax.data.sources import tfds
from ssr_jax.data.sources.array_record import ArrayRecord
from ssr_jax.data.sources.base import KEYS, Joined, Source
from ssr_jax.data.sources.folder import Folder
from ssr_jax.data.sources.paired import Paired
from ssr_jax.data.sources.rgbd import RGBD
from ssr_jax.types import SSRError

KINDS = ('folder', 'paired', 'taught', 'rgbd', 'rgbd-inverse', 'array_record', 'tfds', 'set')

_FOLDERS = {'folder': (1, 1, 'DIR'), 'paired': (2, 2, 'HR_DIR,LR_DIR'), 'taught': (3, 3, 'HR_DIR,LR_DIR,OUT_DIR')}


def from_spec(spec: str, keys: Sequence[str] | None = None, optional: Sequence[str] = ()) -> Source:
  """Opens the source that a spec names; the syntax is in this module's docstring.

  Args:
    spec: such as 'folder:A;folder:B'.
    keys: what the caller needs of each record, of `base.KEYS`; nothing else is decoded. None selects whatever all parts
      have.
    optional: keys that are selected too if all parts have them.

  Raises:
    SSRError: the spec is malformed, a place does not exist or holds nothing, or a part lacks one of the keys.
  """
  parts, weights, names = [], [], []
  for text in filter(None, (text.strip() for text in spec.split(';'))):
    weighted = re.fullmatch(r'(\d+(?:\.\d*)?|\.\d+)\s*\*\s*(.*)', text)
    weights.append(float(weighted[1]) if weighted else None)
    names.append(weighted[2] if weighted else text)
    parts.append(_open_part(names[-1]))
  if not parts:
    raise SSRError("data source is empty; give one such as 'folder:DIR'")
  if (None in weights and any(weights)) or 0 in weights:
    raise SSRError(f"source {spec!r}: give every part a weight above 0, as in '0.7*folder:A;0.3*folder:B', or none")
  shared = [key for key in KEYS if all(key in part.keys for part in parts)]
  for key in keys or ():
    for part, name in zip(parts, names, strict=True):
      if key not in part.keys:
        raise SSRError(f"source {name!r} holds {', '.join(part.keys)}, but '{key}' is needed here")
  selected = tuple(key for key in shared if keys is None or key in keys or key in optional)
  for part in parts:
    part.select(selected)
  if len(parts) == 1:
    return parts[0]
  return Joined(parts, None if weights[0] is None else weights)


def _open_part(text: str) -> Source:
  kind, _, place = text.partition(':')
  if kind not in KINDS or not place:
    raise SSRError(f"source {text!r}: must read 'folder:DIR' or similar; kinds are {', '.join(KINDS)}")
  if kind == 'array_record':
    return ArrayRecord.open(place)
  if kind == 'tfds':
    return tfds.open_split(place)
  if kind == 'set':
    return from_spec(catalog.spec(place))
  folders = [pathlib.Path(p).expanduser() for p in ([place] if kind == 'folder' else place.split(','))]
  least, most, wanted = _FOLDERS.get(kind, (1, 2, 'DIR or PHOTO_DIR,DEPTH_DIR'))
  if not least <= len(folders) <= most:
    raise SSRError(f"source {text!r}: must read '{kind}:{wanted}'")
  for folder in folders:
    if not folder.is_dir():
      raise SSRError(f'source {text!r}: {folder} is not a folder; give one that holds images')
  if kind == 'folder':
    return Folder.open(folders[0])
  if kind in ('paired', 'taught'):
    return Paired.open(*folders)
  return RGBD.open(folders[0], folders[1] if folders[1:] else None, 'inverse' if kind == 'rgbd-inverse' else 'depth')
