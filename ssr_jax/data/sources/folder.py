"""`folder:`, the images below a folder."""

from collections.abc import Sequence
import pathlib

from ssr_jax.data.sources import files
from ssr_jax.data.sources.base import Source


class Folder(Source):
  """Image files; a record holds 'hr'."""

  def __init__(self, paths: Sequence[pathlib.Path]):
    self.paths = list(paths)

  @classmethod
  def open(cls, folder: pathlib.Path) -> 'Folder':
    """All images below a folder, sorted by path; SSRError where there is none."""
    return cls(files.list_images(folder))

  def __len__(self) -> int:
    return len(self.paths)

  def name(self, index: int, key: str = 'hr') -> str:
    """See `Source.name`."""
    return str(self.paths[index])

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    """See `Source.files`."""
    return (self.paths[index],)

  def encoded(self, index: int) -> dict[str, bytes]:
    """See `Source.encoded`."""
    return {'hr': self.paths[index].read_bytes()}
