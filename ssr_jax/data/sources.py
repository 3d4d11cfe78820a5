"""Where records come from: one syntax for configs and the command line, random access, decoded on demand.

A spec is one or more parts joined by ';'. A part is KIND:PLACE:

  folder:DIR                     every image below DIR, any format that Pillow decodes            -> hr
  paired:HR_DIR,LR_DIR           pairs with the same name                                         -> hr, lr
  rgbd:DIR                       photos with depth maps; see `RGBD` for layouts                   -> hr, depth
  rgbd:PHOTO_DIR,DEPTH_DIR
  rgbd-inverse:...               the same, where the maps hold inverse depth (disparity)
  array_record:GLOB              ArrayRecord shards, as `ssr data pack` writes them               -> what was packed
  tfds:NAME[/CONFIG][:SPLIT]     a set prepared as ArrayRecord, read without TensorFlow           -> hr (and lr)
  set:NAME                       a ready definition of ssr_jax.data.datasets

Without weights an epoch is every record of every part once. With a weight before each part, as in
'0.7*folder:A;0.3*folder:B', each part is drawn from in that proportion and runs through epochs of its own.
"""

import abc
import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import glob
import io
import os
import pathlib
import re
import threading
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ssr_jax.types import SSRError

Record = dict[str, np.ndarray]
"""'hr' uint8 [H, W, 3]; where the source has them also 'lr' uint8 [h, w, 3] and 'depth' float32 [H, W] in [0, 1]."""

KINDS = ('folder', 'paired', 'rgbd', 'rgbd-inverse', 'array_record', 'tfds', 'set')
DEPTH_SUFFIXES = ('.png', '.pfm', '.npy')
# Registered by Pillow, but no pictures that it decodes itself: stubs, metadata, and programs for Ghostscript to run.
_NOT_PICTURES = ('BUFR', 'GRIB', 'HDF5', 'MPEG', 'WMF', 'EPS', 'IPTC')
# What a decoder of damaged bytes may raise, over Pillow's formats.
_DAMAGE = (
  OSError,
  ValueError,
  SyntaxError,
  EOFError,
  IndexError,
  KeyError,
  TypeError,
  OverflowError,
  ArithmeticError,
  Image.DecompressionBombError,
)
_UNKNOWN_LIMIT = 0.5  # of a depth map's pixels
_ROLE = re.compile(r'(_hr|_lr\d*|_?x\d+)$', re.IGNORECASE)


class BadRecord(SSRError):
  """One record that cannot be used: its message starts with the record's name. The pipeline skips a few of them."""


class Source(abc.ABC):
  """Records by index.

  Attributes:
    keys: what a record holds, of 'hr', 'lr', 'depth'.
  """

  keys: tuple[str, ...] = ('hr',)

  @abc.abstractmethod
  def __len__(self) -> int:
    """How many records there are."""

  @abc.abstractmethod
  def name(self, index: int, key: str = 'hr') -> str:
    """Where record `index` has its `key` from: a file, or a shard and the record's name in it."""

  @abc.abstractmethod
  def encoded(self, index: int) -> dict[str, bytes]:
    """Record `index` as it is stored: the files' bytes by key, and 'depth_kind' (b'depth', b'inverse') with a depth."""

  def __getitem__(self, index: int) -> Record:
    """Record `index`, decoded; `BadRecord` where that fails."""
    return self.decode(index, self.read(index))

  def read(self, index: int) -> dict[str, bytes]:
    """`encoded`, with `BadRecord` for a file that cannot be opened."""
    try:
      return self.encoded(index)
    except OSError as error:
      raise BadRecord(f'{self.name(index)}: cannot be read ({error.strerror})') from error

  def decode(self, index: int, stored: Mapping[str, bytes]) -> Record:
    """What `encoded` gave for record `index`, decoded."""
    record = {}
    for key in self.keys:
      if key == 'depth':
        record[key] = decode_depth(stored[key], stored['depth_kind'].decode(), self.name(index, key))
      else:
        record[key] = decode_image(stored[key], self.name(index, key))
    if 'lr' in record:
      h, w, _ = record['lr'].shape
      scale = pair_scale(record['hr'].shape[:2], (h, w), self.name(index, 'lr'))
      record['hr'] = record['hr'][: scale * h, : scale * w]
    if 'depth' in record:
      record['depth'] = _fit(record['depth'], record['hr'].shape[:2], self.name(index, 'depth'))
    return record

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    """The files that record `index` is read from, 'hr' first; none where it comes from a shard."""
    del index
    return ()

  def __iter__(self) -> Iterator[Record]:
    return (self[i] for i in range(len(self)))

  def groups(self) -> list[tuple[float, np.ndarray]] | None:
    """(weight, indices) of each part where parts are weighted, else None."""
    return None


# ---- decoding --------------------------------------------------------------------------------------------------------


def decode_image(data: bytes, name: str) -> np.ndarray:
  """An image file's bytes as RGB, uint8 [H, W, 3], EXIF orientation applied, alpha dropped, 16-bit gray rounded.

  Raises:
    BadRecord: not an image, damaged, animated, or floating-point.
  """
  try:
    with Image.open(io.BytesIO(data)) as image:
      if getattr(image, 'is_animated', False) and image.format != 'MPO':  # an MPO is a photo with its preview
        raise BadRecord(f'{name}: has {image.n_frames} frames; save one as a still image')
      image = ImageOps.exif_transpose(image)
      if image.mode == 'F':
        raise BadRecord(f'{name}: floating-point image; save it with 8 or 16 bits')
      if image.mode.startswith('I'):  # Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.float32)
        if values.min() < 0 or values.max() > 65535:
          raise BadRecord(f'{name}: 32-bit image; save it with 8 or 16 bits')
        return np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, -1)
      return np.asarray(image.convert('RGB'))
  except BadRecord:
    raise
  except UnidentifiedImageError as error:  # its message holds an address, different in each process
    raise BadRecord(f'{name}: cannot be read as an image (of no known format)') from error
  except _DAMAGE as error:
    raise BadRecord(f'{name}: cannot be read as an image ({_first_line(error)})') from error


def decode_depth(data: bytes, kind: str, name: str) -> np.ndarray:
  """A depth map's bytes as relative inverse depth, float32 [H, W], 1 nearest and 0 farthest of the picture.

  Stored values of kind 'depth' are distances along the view in any unit, where 0, negative and NaN mean unknown and
  infinity is infinitely far; of kind 'inverse' they are inverse depth or disparity in any unit, where 0 is infinitely
  far, and negative, NaN and infinity mean unknown. Unknown pixels take the value of the nearest known one. The range
  is that of the middle 99.8 % of the pixels, for sensors leave a few wild ones.

  Args:
    data: a gray PNG (8 or 16 bits), a PFM, or an .npy array of two dimensions.
    kind: 'depth' or 'inverse'.
    name: for messages.

  Raises:
    BadRecord: no such map, more than half of it unknown, or the same everywhere.
  """
  values = _depth_values(data, name).astype(np.float32)
  if kind == 'depth':
    known = values > 0  # false for NaN
    inverse = np.where(known, 1 / np.where(known, values, 1), 0)
  else:
    known = np.isfinite(values) & (values >= 0)
    inverse = np.where(known, values, 0)
  if known.mean() < 1 - _UNKNOWN_LIMIT:
    raise BadRecord(f'{name}: {1 - known.mean():.0%} of the depth is unknown, more than {_UNKNOWN_LIMIT:.0%}')
  low, high = np.percentile(inverse[known], (0.1, 99.9))
  if not high > low:
    raise BadRecord(f'{name}: the depth is the same everywhere')
  if not known.all():
    from scipy import ndimage

    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    inverse = inverse[tuple(nearest)]
  return np.clip((inverse - low) / (high - low), 0, 1).astype(np.float32)


def _depth_values(data: bytes, name: str) -> np.ndarray:
  """The stored numbers, [H, W]."""
  try:
    if data.startswith(b'\x93NUMPY'):
      values = np.squeeze(np.load(io.BytesIO(data), allow_pickle=False))
    elif data.startswith(b'P'):
      values = _pfm(data)
    else:
      with Image.open(io.BytesIO(data)) as image:
        if image.mode != 'L' and not image.mode.startswith('I'):
          raise BadRecord(f'{name}: a {image.mode} image; a depth map is gray, with 8 or 16 bits')
        values = np.asarray(image)
  except BadRecord:
    raise
  except UnidentifiedImageError as error:
    raise BadRecord(f'{name}: cannot be read as a depth map (of no known format)') from error
  except _DAMAGE as error:
    raise BadRecord(f'{name}: cannot be read as a depth map ({_first_line(error)})') from error
  if values.ndim != 2 or values.dtype.kind not in 'uif' or not values.size:
    raise BadRecord(f'{name}: an array of {values.dtype} {list(values.shape)}; a depth map is [H, W], numbers')
  return values


def _pfm(data: bytes) -> np.ndarray:
  """A gray portable float map, [H, W]; its rows are stored from the bottom up."""
  head = re.match(rb'Pf\s+(\d+)\s+(\d+)\s+(-?[\d.eE+-]+)\s', data)
  if not head:
    raise ValueError('no header of a gray PFM')
  width, height, scale = int(head[1]), int(head[2]), float(head[3])
  values = np.frombuffer(data, '<f4' if scale < 0 else '>f4', width * height, head.end())
  return values.reshape(height, width)[::-1]


def _fit(depth: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
  """Depth [h, w] at its photo's size; it may be smaller or larger, but of the same shape."""
  if depth.shape == size:
    return depth
  h, w = depth.shape
  if abs(h / w * size[1] / size[0] - 1) > 0.02:
    raise BadRecord(f'{name}: {w}x{h}, another shape than its photo of {size[1]}x{size[0]}')
  return np.asarray(Image.fromarray(depth).resize(size[::-1], Image.Resampling.BILINEAR)).clip(0, 1)


def pair_scale(hr: Sequence[int], lr: Sequence[int], name: str) -> int:
  """The whole-number scale between an HR and an LR size (height, width), up to a rest of HR that makes no LR pixel.

  Raises:
    BadRecord: there is none.
  """
  scale = hr[0] // max(lr[0], 1)
  if scale < 1 or any(not 0 <= high - low * scale < scale for high, low in zip(hr, lr, strict=True)):
    raise BadRecord(f'{name}: {lr[1]}x{lr[0]}, of which its HR image of {hr[1]}x{hr[0]} is no whole multiple')
  return scale


# ---- files -----------------------------------------------------------------------------------------------------------


def suffixes() -> tuple[str, ...]:
  """Suffixes of the formats that Pillow decodes here."""
  pictures = Image.registered_extensions().items()  # fills Image.OPEN too
  pictures = [suffix for suffix, form in pictures if form in Image.OPEN and form not in _NOT_PICTURES]
  return tuple(sorted(s for s in pictures if s != '.pfm'))  # that is a depth map


def list_files(folder: pathlib.Path, endings: Sequence[str]) -> list[pathlib.Path]:
  """Files below a folder with one of these suffixes, sorted by path; hidden ones (a Mac's ._x.jpg) are left out."""
  endings = frozenset(endings)
  found = (p for p in folder.rglob('*') if p.suffix.lower() in endings)
  return sorted(p for p in found if not any(part[0] == '.' for part in p.relative_to(folder).parts) and p.is_file())


class Folder(Source):
  """Image files."""

  def __init__(self, files: Sequence[pathlib.Path]):
    self.paths = list(files)

  @classmethod
  def open(cls, folder: pathlib.Path) -> 'Folder':
    """All images below a folder."""
    files = list_files(folder, suffixes())
    if not files:
      raise SSRError(f'{folder}: no image below this folder; known suffixes: {", ".join(suffixes())}')
    return cls(files)

  def __len__(self) -> int:
    return len(self.paths)

  def name(self, index: int, key: str = 'hr') -> str:
    return str(self.paths[index])

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    return (self.paths[index],)

  def encoded(self, index: int) -> dict[str, bytes]:
    return {'hr': self.paths[index].read_bytes()}


class Paired(Source):
  """HR files with their LR files, all at one scale.

  Names are compared below their folders without suffixes; where they differ, without a trailing _HR, _LR, _LR4, x4
  or _x4 either, which covers DIV2K (0001.png, 0001x4.png) and RealSR (Canon_001_HR.png, Canon_001_LR4.png).
  """

  keys = ('hr', 'lr')

  def __init__(self, pairs: Sequence[tuple[pathlib.Path, pathlib.Path]]):
    self.pairs = list(pairs)

  @classmethod
  def open(cls, hr: pathlib.Path, lr: pathlib.Path) -> 'Paired':
    """Pairs below two folders, or in one folder that holds *_HR and *_LRn.

    Raises:
      SSRError: an image without a partner, or pairs of several scales. A pair of no scale at all is told
        when it is read.
    """
    highs, lows = (Folder.open(folder).paths for folder in (hr, lr))
    if hr == lr:
      highs = [p for p in highs if p.stem.lower().endswith('_hr')]
      lows = [p for p in lows if re.search(r'_lr\d*$', p.stem, re.IGNORECASE)]
      if not highs or not lows:
        raise SSRError(f'{hr}: one folder for both needs files named *_HR and *_LR; give two folders')
    pairs = _match(hr, highs, lr, lows)
    scales = {}
    for high, low in pairs:
      sizes = _size(high), _size(low)
      with contextlib.suppress(BadRecord):
        if all(sizes):  # a damaged one is told when it is read, too
          scales.setdefault(pair_scale(*sizes, str(low)), low)
    if len(scales) > 1:
      (a, first), (b, second) = list(scales.items())[:2]
      raise SSRError(
        f'{lr}: {first.name} is at 1/{a} of its HR image and {second.name} at 1/{b}; use one scale a source'
      )
    return cls(pairs)

  def __len__(self) -> int:
    return len(self.pairs)

  def name(self, index: int, key: str = 'hr') -> str:
    return str(self.pairs[index][key == 'lr'])

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    return self.pairs[index]

  def encoded(self, index: int) -> dict[str, bytes]:
    high, low = self.pairs[index]
    return {'hr': high.read_bytes(), 'lr': low.read_bytes()}


class RGBD(Source):
  """Photos with depth maps, 8- or 16-bit gray PNG, PFM or .npy; what their numbers mean is `decode_depth`'s `kind`.

  Two folders match by name. In one folder a map stands beside its photo as NAME_depth.SUFFIX, or there are two folders
  within, 'depth' and one of 'rgb', 'image', 'images', 'photo', 'photos', 'hr'.
  """

  keys = ('hr', 'depth')

  def __init__(self, pairs: Sequence[tuple[pathlib.Path, pathlib.Path]], kind: str):
    self.pairs = list(pairs)
    self.kind = kind

  @classmethod
  def open(cls, photos: pathlib.Path, depths: pathlib.Path | None, kind: str) -> 'RGBD':
    """Pairs below one or two folders; SSRError for a photo or map without its partner."""
    if depths is None and (photos / 'depth').is_dir():
      found = [photos / n for n in ('rgb', 'image', 'images', 'photo', 'photos', 'hr') if (photos / n).is_dir()]
      if len(found) != 1:
        raise SSRError(f'{photos}: beside depth/ there must be one folder of photos: rgb, images or photos')
      photos, depths = found[0], photos / 'depth'
    if depths is None or depths == photos:
      depths = photos
      maps = [p for p in list_files(depths, DEPTH_SUFFIXES) if p.stem.endswith('_depth')]
      images = [p for p in list_files(photos, suffixes()) if not p.stem.endswith('_depth')]
      strip = lambda stem: stem.removesuffix('_depth')
    else:
      images, maps, strip = Folder.open(photos).paths, list_files(depths, DEPTH_SUFFIXES), lambda stem: stem
    if not maps or not images:
      raise SSRError(
        f'{depths}: no depth map ({", ".join(DEPTH_SUFFIXES)}) with its photo; in one folder a map is named NAME_depth'
      )
    return cls(_match(photos, images, depths, maps, strip), kind)

  def __len__(self) -> int:
    return len(self.pairs)

  def name(self, index: int, key: str = 'hr') -> str:
    return str(self.pairs[index][key == 'depth'])

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    return self.pairs[index]

  def encoded(self, index: int) -> dict[str, bytes]:
    photo, depth = self.pairs[index]
    return {'hr': photo.read_bytes(), 'depth': depth.read_bytes(), 'depth_kind': self.kind.encode()}


def _match(first, firsts, second, seconds, strip=lambda stem: stem) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Pairs of files with the same place and stem below two folders; SSRError naming one that has no partner."""
  for key in (strip, lambda stem: _ROLE.sub('', strip(stem))):
    ones, twos = _by_name(first, firsts, key), _by_name(second, seconds, key)
    if ones is not None and twos is not None and ones.keys() == twos.keys():
      return [(ones[name], twos[name]) for name in sorted(ones)]
  ones, twos = ({key(p.stem): p for p in paths} for paths in (firsts, seconds))
  for mine, theirs, other in ((ones, twos, second), (twos, ones, first)):
    lonely = sorted(mine.keys() - theirs.keys())
    if lonely:
      raise SSRError(
        f'{mine[lonely[0]]}: has no partner of the same name below {other} '
        f'({len(lonely)} of {len(mine)} have none); name both alike or remove it'
      )
  raise SSRError(f'{first} and {second}: several files have the same name up to suffixes; rename them')


def _by_name(folder, files, key) -> dict[str, pathlib.Path] | None:
  """Files by place and key; None where two share one."""
  named = {f'{p.relative_to(folder).parent}/{key(p.stem)}': p for p in files}
  return named if len(named) == len(files) else None


def _size(path: pathlib.Path) -> tuple[int, int] | None:
  """(height, width) as shown, from the header; None where it cannot be read."""
  try:
    with Image.open(path) as image:
      turned = image.getexif().get(0x0112, 1) >= 5
      return (image.width, image.height) if turned else (image.height, image.width)
  except _DAMAGE:
    return None


# ---- shards ----------------------------------------------------------------------------------------------------------


class ArrayRecord(Source):
  """Records in ArrayRecord shards: tf.train.Examples of encoded files by key, or bare image files."""

  def __init__(self, store: Any, keys: Sequence[str], where: str, aliases: Mapping[str, str]):
    """store: bytes by index; keys: of the records; where: for names; aliases: what a key is called in the examples."""
    self._store, self.keys, self._where, self._aliases = store, tuple(keys), where, dict(aliases)

  @classmethod
  def open(cls, pattern: str) -> 'ArrayRecord':
    """Shards of a glob pattern, or all *.array_record* files in a folder; SSRError where there is none."""
    place = os.path.expanduser(pattern)
    if os.path.isdir(place):
      place = os.path.join(glob.escape(place), '*.array_record*')
    files = sorted(p for p in glob.glob(place, recursive=True) if os.path.isfile(p))
    if not files:
      raise SSRError(f"array_record:{pattern}: no such file; write some with 'ssr data pack SRC DEST'")
    return cls(_shards(files), *_layout(_shards(files), pattern))

  def __len__(self) -> int:
    return len(self._store)

  def name(self, index: int, key: str = 'hr') -> str:
    try:
      inner = parse_example(self._store[index]).get('name', b'').decode()
    except Exception:  # a name must come out even where the record is what is wrong
      inner = ''
    return f'{self._where}[{index}]' + (f' {inner}' if inner else '')

  def encoded(self, index: int) -> dict[str, bytes]:
    try:
      data = self._store[index]
      stored = parse_example(data) if _is_example(data) else {'hr': data}
    except Exception as error:  # the reader raises many kinds for a damaged shard
      raise BadRecord(f'{self._where}[{index}]: cannot be read ({_first_line(error)}); pack it again') from error
    stored = {
      key: stored[self._aliases.get(key, key)]
      for key in (*self.keys, 'depth_kind', 'name')
      if self._aliases.get(key, key) in stored
    }
    lacking = [key for key in self.keys if key not in stored]
    if lacking:
      raise BadRecord(f"{self._where}[{index}]: holds no '{lacking[0]}'")
    return stored


def array_record():
  """The package's modules (reader and writer, data source); SSRError where there is no such package."""
  try:
    from array_record.python import array_record_data_source, array_record_module
  except ImportError as error:
    raise SSRError('ArrayRecord files need the package array_record, which is not there for this system') from error
  return array_record_module, array_record_data_source


def _shards(files: Sequence[str]):
  _, array_record_data_source = array_record()
  try:
    return array_record_data_source.ArrayRecordDataSource(list(files))
  except Exception as error:  # the reader raises many kinds
    raise SSRError(
      f'{files[0]} and {len(files) - 1} more: no whole ArrayRecord files ({_first_line(error)}); pack them again'
    ) from error


def _layout(store, where: str) -> tuple[tuple[str, ...], str, dict[str, str]]:
  """(keys, where, aliases) by the first record."""
  if not len(store):
    raise SSRError(f'{where}: holds no records')
  first = parse_example(store[0]) if _is_example(store[0]) else {'hr': b''}
  if 'depth' in first and 'depth_kind' not in first:
    raise SSRError(f"{where}: its records hold 'depth' without 'depth_kind' (depth or inverse); pack them again")
  aliases = {} if 'hr' in first else {'hr': 'image'}
  keys = tuple(key for key in ('hr', 'lr', 'depth') if aliases.get(key, key) in first)
  if 'hr' not in keys:
    raise SSRError(f"{where}: records hold {', '.join(sorted(first))}; an image must be called 'hr' or 'image'")
  return keys, where, aliases


def _is_example(data: bytes) -> bool:
  return data[:1] == b'\n'  # field 1 of the message; no image format that is likely here starts so


def parse_example(data: bytes) -> dict[str, bytes]:
  """The bytes features of a serialised tf.train.Example."""
  from tensorflow_datasets.proto import tf_example_pb2

  features = tf_example_pb2.Example.FromString(data).features.feature
  return {name: value.bytes_list.value[0] for name, value in features.items() if len(value.bytes_list.value) == 1}


def make_example(stored: Mapping[str, bytes]) -> bytes:
  """The inverse of `parse_example`; the same bytes for the same mapping."""
  from tensorflow_datasets.proto import tf_example_pb2

  example = tf_example_pb2.Example()
  for name in sorted(stored):
    example.features.feature[name].bytes_list.value.append(stored[name])
  return example.SerializeToString(deterministic=True)


def _tfds(place: str) -> ArrayRecord:
  """A split of a prepared set, through tfds' data source; examples stay undecoded, `Source` does that."""
  name, _, split = place.partition(':')
  root = pathlib.Path(os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')).expanduser()
  versions = [p.parent for p in (root / name).glob('*/dataset_info.json')]
  versions = [p for p in versions if re.fullmatch(r'\d+\.\d+\.\d+', p.name)]
  if not versions:
    raise SSRError(
      f"tfds:{place}: '{name}' is not prepared below {root} (set TFDS_DATA_DIR for another place). Prepare it, with "
      f"TensorFlow installed: 'tfds build {name} --file_format=array_record --data_dir={root}'; or from images that "
      f"you have, without TensorFlow: 'ssr data pack folder:DIR {root} --tfds {name.replace('/', '_')}'"
    )

  import tensorflow_datasets as tfds

  directory = max(versions, key=lambda p: [int(n) for n in p.name.split('.')])
  builder = tfds.builder_from_directory(directory)
  split = split or ('train' if 'train' in builder.info.splits else next(iter(builder.info.splits), ''))
  base = split.partition('[')[0]
  if base not in builder.info.splits:
    raise SSRError(f"tfds:{place}: no split '{base}'; there are {', '.join(builder.info.splits)}")
  try:
    store = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
  except NotImplementedError as error:
    raise SSRError(
      f'tfds:{place}: {directory} is in the format {builder.info.file_format.value}, which only TensorFlow reads; '
      f"run 'python -m tensorflow_datasets.scripts.cli.main convert_format --root_data_dir={root} "
      f"--out_file_format=array_record'"
    ) from error
  except (ValueError, AssertionError) as error:
    raise SSRError(f'tfds:{place}: {_first_line(error)}') from error
  return ArrayRecord(store, *_layout(store, f'tfds:{place}'))


# ---- putting together ------------------------------------------------------------------------------------------------


class Joined(Source):
  """Several sources, one after the other; with weights, `groups` tells how to draw from them."""

  def __init__(self, parts: Sequence[Source], weights: Sequence[float] | None = None):
    self.parts, self.weights = list(parts), weights
    self._ends = np.cumsum([len(part) for part in self.parts])

  @property
  def keys(self) -> tuple[str, ...]:
    return self.parts[0].keys

  @keys.setter
  def keys(self, keys: tuple[str, ...]) -> None:
    for part in self.parts:
      part.keys = keys

  def _locate(self, index: int) -> tuple[Source, int]:
    part = int(np.searchsorted(self._ends, index, side='right'))
    return self.parts[part], int(index - (self._ends[part - 1] if part else 0))

  def __len__(self) -> int:
    return int(self._ends[-1])

  def name(self, index: int, key: str = 'hr') -> str:
    part, inner = self._locate(index)
    return part.name(inner, key)

  def encoded(self, index: int) -> dict[str, bytes]:
    part, inner = self._locate(index)
    return part.encoded(inner)

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    part, inner = self._locate(index)
    return part.files(inner)

  def __getitem__(self, index: int) -> Record:
    part, inner = self._locate(index)
    return part[inner]

  def groups(self) -> list[tuple[float, np.ndarray]] | None:
    if self.weights is None:
      return None
    starts = [0, *self._ends[:-1]]
    return [(weight, np.arange(a, b)) for weight, a, b in zip(self.weights, starts, self._ends, strict=True)]


class Subset(Source):
  """Some records of a source."""

  def __init__(self, source: Source, indices: Sequence[int]):
    self.source, self.indices, self.keys = source, np.asarray(indices, np.int64), source.keys

  def __len__(self) -> int:
    return len(self.indices)

  def name(self, index: int, key: str = 'hr') -> str:
    return self.source.name(int(self.indices[index]), key)

  def encoded(self, index: int) -> dict[str, bytes]:
    return self.source.encoded(int(self.indices[index]))

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    return self.source.files(int(self.indices[index]))

  def __getitem__(self, index: int) -> Record:
    return self.source[int(self.indices[index])]

  def groups(self) -> list[tuple[float, np.ndarray]] | None:
    whole = self.source.groups()
    return whole and [(weight, np.flatnonzero(np.isin(self.indices, members))) for weight, members in whole]


class Cached(Source):
  """Keeps decoded records in memory up to a limit, the least recently used going first: small sets are decoded once."""

  def __init__(self, source: Source, limit: int):
    """limit: bytes."""
    self.source, self.limit, self.keys = source, limit, source.keys
    self._clear()

  def _clear(self) -> None:
    self._held = 0
    self._records: collections.OrderedDict[int, Record] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.source)

  def name(self, index: int, key: str = 'hr') -> str:
    return self.source.name(index, key)

  def encoded(self, index: int) -> dict[str, bytes]:
    return self.source.encoded(index)

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    return self.source.files(index)

  def groups(self) -> list[tuple[float, np.ndarray]] | None:
    return self.source.groups()

  def __getitem__(self, index: int) -> Record:
    with self._lock:
      if index in self._records:
        self._records.move_to_end(index)
        return self._records[index]
    record = self.source[index]
    size = sum(a.nbytes for a in record.values())
    with self._lock:
      if index not in self._records and size <= self.limit:
        self._records[index] = record
        self._held += size
        while self._held > self.limit:
          self._held -= sum(a.nbytes for a in self._records.popitem(last=False)[1].values())
    return record

  def __getstate__(self) -> dict[str, Any]:
    return {'source': self.source, 'limit': self.limit, 'keys': self.keys}  # a worker fills a cache of its own

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._clear()


def from_spec(spec: str, keys: Sequence[str] | None = None, optional: Sequence[str] = ()) -> Source:
  """The source that a spec names; the syntax is this module's docstring.

  Args:
    spec: such as 'folder:A;folder:B'.
    keys: what the caller needs of each record; nothing else is decoded. None takes what all parts hold.
    optional: what it takes besides, where all parts hold it.

  Raises:
    SSRError: a spec that is wrong, a place that does not exist or holds nothing, or a part that lacks what is needed.
  """
  parts, weights, names = [], [], []
  for text in filter(None, (text.strip() for text in spec.split(';'))):
    weighted = re.fullmatch(r'(\d+(?:\.\d*)?|\.\d+)\s*\*\s*(.*)', text)
    weights.append(float(weighted[1]) if weighted else None)
    names.append(weighted[2] if weighted else text)
    parts.append(_part(names[-1]))
  if not parts:
    raise SSRError("data source is empty; give one such as 'folder:DIR'")
  if (None in weights and any(weights)) or 0 in weights:
    raise SSRError(f"source {spec!r}: give every part a weight above 0, as in '0.7*folder:A;0.3*folder:B', or none")
  shared = [key for key in ('hr', 'lr', 'depth') if all(key in part.keys for part in parts)]
  for key in keys or ():
    for part, name in zip(parts, names, strict=True):
      if key not in part.keys:
        raise SSRError(f"source {name!r} holds {', '.join(part.keys)}, but '{key}' is needed here")
  taken = tuple(key for key in shared if keys is None or key in keys or key in optional)
  for part in parts:
    part.keys = taken
  if len(parts) == 1:
    return parts[0]
  return Joined(parts, None if weights[0] is None else weights)


def _part(text: str) -> Source:
  kind, _, place = text.partition(':')
  if kind not in KINDS or not place:
    raise SSRError(f"source {text!r}: must read 'folder:DIR' or the like; kinds are {', '.join(KINDS)}")
  if kind == 'array_record':
    return ArrayRecord.open(place)
  if kind == 'tfds':
    return _tfds(place)
  if kind == 'set':
    from ssr_jax.data import datasets

    return from_spec(datasets.spec(place))
  folders = [pathlib.Path(p).expanduser() for p in ([place] if kind == 'folder' else place.split(','))]
  if len(folders) > 2 or (kind == 'paired' and len(folders) != 2):
    wanted = 'HR_DIR,LR_DIR' if kind == 'paired' else 'DIR or PHOTO_DIR,DEPTH_DIR'
    raise SSRError(f"source {text!r}: must read '{kind}:{wanted}'")
  for folder in folders:
    if not folder.is_dir():
      raise SSRError(f'source {text!r}: {folder} is not a folder; give one that holds images')
  if kind == 'folder':
    return Folder.open(folders[0])
  if kind == 'paired':
    return Paired.open(*folders)
  return RGBD.open(folders[0], folders[1] if folders[1:] else None, 'inverse' if kind == 'rgbd-inverse' else 'depth')


def parse(spec: str) -> list[pathlib.Path]:
  """The files of 'folder:' sources, for programs that read and name files themselves."""
  files = []
  for text in filter(None, spec.split(';')):
    part = _part(text)
    if not isinstance(part, Folder):
      raise SSRError(f"source {text!r}: only 'folder:DIR' can be read here")
    files += part.paths
  if not files:
    raise SSRError("data source is empty; give one such as 'folder:DIR'")
  return files


def split(source: Source, every: int) -> tuple[Source, Source]:
  """A fixed split into training and validation: every n-th record in order is held out; every = 0 holds out none."""
  held = np.arange(len(source)) % every == every - 1 if every else np.zeros(len(source), bool)
  return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))


def _first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
