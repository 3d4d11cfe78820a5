"""`paired:` and `taught:`, HR images with their LR images, and with what a teacher made of these."""

from collections.abc import Sequence
import contextlib
import pathlib
import re

from ssr_jax.data.sources import decode, files
from ssr_jax.data.sources.base import Source
from ssr_jax.image import io
from ssr_jax.types import SSRError


class Paired(Source):
  """HR files with their LR files, all at the same scale; a record holds 'hr', 'lr' and, with a teacher, 'taught'.

  Files match by relative folder and stem; where stems differ, a trailing _HR, _LR, _LR4, x4 or _x4 is ignored. That
  covers DIV2K (0001.png, 0001x4.png) and RealSR (Canon_001_HR.png, Canon_001_LR4.png).
  """

  keys = ('hr', 'lr')

  def __init__(self, pairs: Sequence[tuple[pathlib.Path, ...]]):
    """Takes the files of each record in the order of `keys`; if there is a third, it is the teacher's."""
    self.pairs = list(pairs)
    if self.pairs and len(self.pairs[0]) > 2:
      self.keys = ('hr', 'lr', 'taught')
    self._order = {key: i for i, key in enumerate(self.keys)}

  @classmethod
  def open(cls, hr: pathlib.Path, lr: pathlib.Path, taught: pathlib.Path | None = None) -> 'Paired':
    """Pairs below two folders, or in one folder that holds *_HR and *_LRn; with a third folder, a teacher's images.

    The teacher's image of `a.png` is `a.png` or `a_x4.png` there, as `ssr upscale` names it.

    A damaged file, or a pair whose sizes do not match, is a `BadRecord` when it is read, not an error here.

    Raises:
      SSRError: an image has no partner, or pairs have different scales.
    """
    hr_files, lr_files = files.list_images(hr), files.list_images(lr)
    if hr == lr:
      hr_files = [path for path in hr_files if path.stem.lower().endswith('_hr')]
      lr_files = [path for path in lr_files if re.search(r'_lr\d*$', path.stem, re.IGNORECASE)]
      if not hr_files or not lr_files:
        raise SSRError(f'{hr}: pairs in one folder must be named *_HR and *_LR; rename them, or give two folders')
    pairs = files.match(hr, hr_files, lr, lr_files)
    example_of_scale: dict[int, pathlib.Path] = {}
    for hr_file, lr_file in pairs:
      hr_size, lr_size = io.size(hr_file, upright=True), io.size(lr_file, upright=True)
      if hr_size and lr_size:
        with contextlib.suppress(decode.BadRecord):
          example_of_scale.setdefault(decode.pair_scale(hr_size, lr_size, str(lr_file)), lr_file)
    if len(example_of_scale) > 1:
      (a, first), (b, second) = list(example_of_scale.items())[:2]
      raise SSRError(
        f'{lr}: {first.name} is at 1/{a} of its HR image and {second.name} at 1/{b}; use one scale per source'
      )
    if taught is None:
      return cls(pairs)
    answers = files.partners([lr_file for _, lr_file in pairs], taught)
    for (_, lr_file), answer in zip(pairs, answers, strict=True):
      if answer is None:
        raise SSRError(f'{lr_file}: has no partner of the same name below {taught}; let the teacher make it')
    return cls([(*pair, answer) for pair, answer in zip(pairs, answers, strict=True) if answer])

  def __len__(self) -> int:
    return len(self.pairs)

  def name(self, index: int, key: str = 'hr') -> str:
    """See `Source.name`."""
    return str(self.pairs[index][self._order[key]])

  def files(self, index: int) -> tuple[pathlib.Path, ...]:
    """See `Source.files`."""
    return self.pairs[index]

  def encoded(self, index: int) -> dict[str, bytes]:
    """See `Source.encoded`."""
    return {key: self.pairs[index][i].read_bytes() for key, i in self._order.items()}
