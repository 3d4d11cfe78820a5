"""LPIPS: a classifier of torchvision and the heads, from two files or from one that holds both."""

from collections.abc import Sequence
import hashlib
import os
import pathlib
import re

import numpy as np

from ssr_jax.metrics import lpips
from ssr_jax.types import SSRError
from ssr_jax.weights import published
from ssr_jax.weights.importers import torch_files
from ssr_jax.weights.importers.renaming import Table

BACKBONES = {f'lpips-{backbone}': backbone for backbone in lpips.LABELS}
"""{name of the checkpoint: backbone}."""


def lpips_table() -> Table:
  """LPIPS on VGG-16 or AlexNet; the names are torchvision's and those of the file of heads.

  The aliases are those of a whole network of the packages lpips and pyiqa, which hold the heads twice.
  """
  return Table(
    [('conv_{i}', 'features.{i}', 'conv'), ('head_{i}', 'lin{i}.model.1', 'pointwise')],
    aliases=((r'^net\.slice\d\.', 'features.'),),
    unused=(r'classifier\..*', r'lins\..*', r'scaling_layer\..*'),
  )


def install(name: str, sources: Sequence[str | os.PathLike]) -> pathlib.Path:
  """Reads the weights of LPIPS and writes them to where `published.of_metric` finds them.

  Args:
    name: of the checkpoint, a key of `BACKBONES`.
    sources: the classifier's file and the heads' file in any order, a file that holds both, or a folder that holds the
      published files by their names.

  Returns:
    the file that was written.

  Raises:
    SSRError: a file that cannot be read, or that is not of this network; the message names it.
  """
  entry, backbone = published.PUBLISHED[name], BACKBONES[name]
  if len(sources) > 2:
    raise SSRError(f'{sources[2]}: one file too many; give {" and ".join(file.name for file in entry.files)}')
  paths = [pathlib.Path(source) for source in sources]
  if len(paths) == 1 and paths[0].is_dir():
    paths = [paths[0] / file.name for file in entry.files]
  tensors: dict[str, np.ndarray] = {}
  origin: dict[str, pathlib.Path] = {}
  table, both = lpips_table(), ' and '.join(file.name for file in entry.files)
  for path in paths:
    found = torch_files.read(path)
    for tensor in found:
      known = table.canonical(tensor)
      # Nothing reads the classifier's last layers, which are most of its file.
      if any(re.fullmatch(pattern, known) for pattern in table.unused):
        continue
      if known in tensors:
        raise SSRError(f'{path}: has {tensor}, as {origin[known]} has; give {both}')
      tensors[known], origin[known] = found[tensor], path
  where = ' and '.join(map(str, paths))
  for what, prefix in (('classifier (features.0 ...)', 'features.'), ('heads (lin0.model.1 ...)', 'lin')):
    if not any(tensor.startswith(prefix) for tensor in tensors):
      raise SSRError(f'{where}: without the {what}; give both files, {both}')
  ours = table.to_ours(tensors, lpips.shapes(backbone), where, f'those of {name} are {both}')
  target = published.downloads(name) / entry.installed
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise SSRError(f'{target.parent}: cannot be made ({error.strerror}); set SSR_WEIGHTS to another folder') from error
  lpips.save_weights(target, backbone, ours, _are_published(paths, entry))
  return target


def _are_published(paths: Sequence[pathlib.Path], entry: published.Checkpoint) -> bool:
  """Whether the files are those of the checkpoint, whose names end with the first digits of their sha256."""
  expected = sorted(pathlib.PurePath(file.name).stem.rpartition('-')[2] for file in entry.files)
  found = []
  for path in paths:
    with path.open('rb') as file:
      found.append(hashlib.file_digest(file, 'sha256').hexdigest()[: len(expected[0])])
  return sorted(found) == expected
