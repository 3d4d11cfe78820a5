"""Files of the sources that read folders: which ones count as images, and which two belong to one record."""

from collections.abc import Callable, Sequence
import pathlib
import re

from ssr_jax.image import opening
from ssr_jax.types import SSRError

DEPTH_SUFFIXES = ('.png', '.pfm', '.npy')
_ROLE_SUFFIX = re.compile(r'(_hr|_lr\d*|_?x\d+)$', re.IGNORECASE)
_ENDING = re.compile(r'(_hr|_lr\d*|_?x\d+|_sr|_out|_result)$', re.IGNORECASE)  # of images that a tool has made, too


def image_suffixes() -> tuple[str, ...]:
  """Suffixes of the image formats that are read, with their dots, sorted."""
  return tuple(sorted(suffix for suffixes in opening.FORMATS.values() for suffix in suffixes))


def list_files(folder: pathlib.Path, suffixes: Sequence[str]) -> list[pathlib.Path]:
  """Files below a folder with one of these suffixes, sorted by path; hidden files (macOS' ._x.jpg) are left out."""
  known = frozenset(suffixes)
  found = (path for path in folder.rglob('*') if path.suffix.lower() in known)
  hidden = lambda path: any(part[0] == '.' for part in path.relative_to(folder).parts)
  return sorted(path for path in found if not hidden(path) and path.is_file())


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """All images below a folder, sorted by path; SSRError where there is none."""
  found = list_files(folder, image_suffixes())
  if not found:
    raise SSRError(f'{folder}: no image below this folder; known suffixes: {", ".join(image_suffixes())}')
  return found


def match(
  first: pathlib.Path,
  first_files: Sequence[pathlib.Path],
  second: pathlib.Path,
  second_files: Sequence[pathlib.Path],
  strip: Callable[[str], str] = lambda stem: stem,
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Pairs the files below two folders that have the same relative folder and stem.

  Where stems differ, they are compared without a trailing _HR, _LR, _LR4, x4 or _x4.

  Args:
    first: folder of the pairs' first files.
    first_files: the files below it.
    second: folder of the pairs' second files.
    second_files: the files below it.
    strip: applied to each stem before the comparison.

  Raises:
    SSRError: a file has no partner, or two files of a folder have the same stem.
  """
  for key in (strip, lambda stem: _ROLE_SUFFIX.sub('', strip(stem))):
    ones, twos = _by_name(first, first_files, key), _by_name(second, second_files, key)
    if ones is not None and twos is not None and ones.keys() == twos.keys():
      return [(ones[name], twos[name]) for name in sorted(ones)]
  ones, twos = ({key(path.stem): path for path in paths} for paths in (first_files, second_files))
  for mine, theirs, other in ((ones, twos, second), (twos, ones, first)):
    unmatched = sorted(mine.keys() - theirs.keys())
    if unmatched:
      raise SSRError(
        f'{mine[unmatched[0]]}: has no partner of the same name below {other} '
        f'({len(unmatched)} of {len(mine)} have none); rename or remove it'
      )
  raise SSRError(f'{first} and {second}: several files have the same name apart from their suffixes; rename them')


def partners(
  originals: Sequence[pathlib.Path | str], folder: pathlib.Path, strip: Callable[[str], str] = lambda stem: stem
) -> list[pathlib.Path | None]:
  """For each original the image that some tool made of it, below a folder.

  It has the same stem, or the same but for endings that tell roles or tools apart: _HR, _LR4, x4, _SR, _out, _result.
  Where images of several subfolders have that stem, the one in the subfolder of the same name as the original's.

  Args:
    originals: file paths, or names; several may have the same image.
    folder: of the images.
    strip: applied to each stem before the comparison.

  Returns:
    a path for each original; None where the folder holds no image of it.

  Raises:
    SSRError: the folder holds no image, or several images that one original could mean.
  """
  images = list_images(folder)
  plain = lambda stem: _ENDING.sub('', _ENDING.sub('', strip(stem)))  # such as 0801x4_out
  exact, loose = _groups(images, strip), _groups(images, plain)
  found: list[pathlib.Path | None] = []
  for original in map(pathlib.Path, originals):
    candidates = exact.get(strip(original.stem)) or loose.get(plain(original.stem)) or []
    if len(candidates) > 1:
      candidates = [path for path in candidates if path.parent.name == original.parent.name] or candidates
    if len(candidates) > 1:
      first, second = candidates[:2]
      raise SSRError(f'{first} and {second}: both could be of {original.name}; remove or rename one')
    found.append(candidates[0] if candidates else None)
  return found


def _groups(paths: Sequence[pathlib.Path], key: Callable[[str], str]) -> dict[str, list[pathlib.Path]]:
  groups: dict[str, list[pathlib.Path]] = {}
  for path in paths:
    groups.setdefault(key(path.stem), []).append(path)
  return groups


def _by_name(
  folder: pathlib.Path, paths: Sequence[pathlib.Path], key: Callable[[str], str]
) -> dict[str, pathlib.Path] | None:
  """Files by relative folder and key of the stem; None where two share one."""
  named = {f'{path.relative_to(folder).parent}/{key(path.stem)}': path for path in paths}
  return named if len(named) == len(paths) else None
