"""`rgbd:` and `rgbd-inverse:`, photos with depth maps."""

from collections.abc import Sequence
import pathlib

from ssr_jax.data.sources import files
from ssr_jax.data.sources.base import Source
from ssr_jax.types import SSRError

_PHOTO_FOLDERS = ('rgb', 'image', 'images', 'photo', 'photos', 'hr')


class RGBD(Source):
  """Photos with depth maps: 8- or 16-bit gray PNG, PFM or .npy; a record holds 'hr' and 'depth'.

  Files of two folders match by relative folder and stem. A single folder has either the map of NAME as
  NAME_depth.SUFFIX beside its photo, or two folders: 'depth', and one of 'rgb', 'image', 'images', 'photo', 'photos',
  'hr'.
  """

  keys = ('hr', 'depth')

  def __init__(self, pairs: Sequence[tuple[pathlib.Path, pathlib.Path]], kind: str):
    """Takes pairs of files.

    Args:
      pairs: (photo, depth map).
      kind: of the maps' values, 'depth' or 'inverse'; see `decode_depth`.
    """
    self.pairs = list(pairs)
    self.kind = kind

  @classmethod
  def open(cls, photos: pathlib.Path, depths: pathlib.Path | None, kind: str) -> 'RGBD':
    """Pairs below one folder (depths is None) or two; SSRError where a photo or a map has no partner."""
    if depths is None and (photos / 'depth').is_dir():
      found = [photos / name for name in _PHOTO_FOLDERS if (photos / name).is_dir()]
      if len(found) != 1:
        raise SSRError(f'{photos}: needs one folder of photos beside depth/, named {" or ".join(_PHOTO_FOLDERS)}')
      photos, depths = found[0], photos / 'depth'
    if depths is None or depths == photos:
      depths = photos
      maps = [path for path in files.list_files(depths, files.DEPTH_SUFFIXES) if path.stem.endswith('_depth')]
      images = [path for path in files.list_files(photos, files.image_suffixes()) if not path.stem.endswith('_depth')]
      strip = lambda stem: stem.removesuffix('_depth')
    else:
      images, maps = files.list_images(photos), files.list_files(depths, files.DEPTH_SUFFIXES)
      strip = lambda stem: stem
    if not maps or not images:
      raise SSRError(
        f'{depths}: no depth map ({", ".join(files.DEPTH_SUFFIXES)}) with a photo; in one folder the map of a photo '
        'NAME is called NAME_depth'
      )
    return cls(files.match(photos, images, depths, maps, strip), kind)

  def __len__(self) -> int:
    return len(self.pairs)

  def name(self, index: int, key: str = 'hr') -> str:
    """See `Source.name`."""
    return str(self.pairs[index][key == 'depth'])

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    """See `Source.files`."""
    return self.pairs[index]

  def encoded(self, index: int) -> dict[str, bytes]:
    """See `Source.encoded`."""
    photo, depth = self.pairs[index]
    return {'hr': photo.read_bytes(), 'depth': depth.read_bytes(), 'depth_kind': self.kind.encode()}
