"""Where images come from: `folder:DIR`, several joined by ';'. Random access, decoded on demand."""

import collections
import pathlib
import threading
from typing import Sequence

import numpy as np
from PIL import Image, ImageOps

from ssr_jax.types import SSRError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')


class Folder:
  """The images below folders, sorted by path, as RGB arrays.

  Decoded images are kept in memory up to a limit (least recently used go first): small training sets are decoded once.
  """

  def __init__(self, files: Sequence[pathlib.Path], cache_bytes: int = 2 << 30):
    """files: what to read; cache_bytes: how much decoded image to keep."""
    self.files = list(files)
    self._limit = cache_bytes
    self._held = 0
    self._cache: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> np.ndarray:
    """Image `index`, uint8 [H, W, 3], EXIF orientation applied; SSRError naming a file that cannot be read."""
    with self._lock:
      if index in self._cache:
        self._cache.move_to_end(index)
        return self._cache[index]
    try:
      with Image.open(self.files[index]) as file:
        image = np.asarray(ImageOps.exif_transpose(file).convert('RGB'))
    except OSError as error:
      raise SSRError(f'{self.files[index]}: cannot be read as an image ({error}); remove or replace it') from error
    with self._lock:
      if index not in self._cache:
        self._cache[index] = image
        self._held += image.nbytes
        while self._held > self._limit:
          self._held -= self._cache.popitem(last=False)[1].nbytes
    return image


def parse(spec: str) -> list[pathlib.Path]:
  """Files of a source such as 'folder:DIR' or 'folder:DIR1;folder:DIR2'; SSRError where there is nothing to read."""
  files = []
  for part in filter(None, spec.split(';')):
    kind, _, place = part.partition(':')
    if kind != 'folder' or not place:
      raise SSRError(f"source {part!r}: must read 'folder:DIR'")
    folder = pathlib.Path(place).expanduser()
    if not folder.is_dir():
      raise SSRError(f'source {part!r}: {folder} is not a folder; give one that holds images')
    found = sorted(p for p in folder.rglob('*') if p.suffix.lower() in SUFFIXES)
    if not found:
      raise SSRError(f"source {part!r}: no image below {folder}; looked for {', '.join(SUFFIXES)}")
    files += found
  if not files:
    raise SSRError("data source is empty; give one such as 'folder:DIR'")
  return files


def split(files: Sequence[pathlib.Path], every: int) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """A fixed split into training and validation: every n-th file in order is held out; every = 0 holds out none."""
  held = [f for i, f in enumerate(files) if every and i % every == every - 1]
  return [f for i, f in enumerate(files) if not (every and i % every == every - 1)], held
