"""Metrics of a whole set in an evaluation: features of each image, kept beside the rows, and the values in the end."""

from collections.abc import Mapping, Sequence
import hashlib
import io as iolib
import pathlib
from typing import Any
import zipfile

import numpy as np

from ssr_jax import metrics
from ssr_jax.evaluation.ledger import Key
from ssr_jax.image import io
from ssr_jax.types import SSRError

FOLDER = 'features'

Column = tuple[str, Any]
"""A model and the seed that it sampled with."""
Features = Mapping[str, Mapping[str, np.ndarray]]
"""{metric: {which image: its features}}, as of `metrics.features`."""


class Sets:
  """Features of the cases that are done; with a workdir also on disk, so that a run that was stopped goes on."""

  def __init__(self, workdir: pathlib.Path | None, scorers: Mapping[str, metrics.Metric]):
    """Of a run.

    Args:
      workdir: an existing folder; None keeps the features in memory.
      scorers: the loaded metrics.
    """
    self.metrics = {name: metric for name, metric in scorers.items() if isinstance(metric, metrics.SetMetric)}
    self._folder = None if workdir is None else workdir / FOLDER
    self._found: dict[Key, dict[Column, Features]] = {}

  def add(self, key: Key, columns: Mapping[Column, Features]) -> None:
    """Keeps the features of a case; they are on disk when this returns.

    Raises:
      SSRError: they cannot be written.
    """
    if not self.metrics:
      return
    if self._folder is None:
      self._found[key] = dict(columns)
      return
    arrays = {}
    for (model, seed), found in columns.items():
      for name, parts in found.items():
        arrays |= {_entry(model, seed, name, which): value for which, value in parts.items()}
    buffer = iolib.BytesIO()
    np.savez(buffer, **arrays)
    try:
      self._folder.mkdir(exist_ok=True)
    except OSError as error:
      raise SSRError(f'{self._folder}: cannot be made ({error.strerror}); choose another --workdir') from error
    io.write_bytes(self._path(key), buffer.getvalue())

  def values(self, rows: Mapping[Key, Sequence[Mapping[str, Any]]]) -> dict[tuple[str, str], dict[str, float]]:
    """{(recipe, model): {metric: value}}, the mean over seeds.

    Args:
      rows: of the cases that are done.

    Raises:
      SSRError: the features of one of them are gone or damaged.
    """
    if not self.metrics:
      return {}
    groups: dict[tuple[str, str], dict[Any, list[Features]]] = {}
    for key, several in rows.items():
      for row in several:
        seeds = groups.setdefault((row['recipe'], row['model']), {})
        seeds.setdefault(row['seed'], []).append(self._of(key, row['model'], row['seed']))
    return {
      column: {
        name: float(np.mean([metric.distance([one[name] for one in group]) for group in seeds.values()]))
        for name, metric in self.metrics.items()
      }
      for column, seeds in groups.items()
    }

  def _of(self, key: Key, model: str, seed: Any) -> Features:
    if self._folder is None:
      return self._found[key][model, seed]
    path = self._path(key)
    try:
      with np.load(path) as file:
        return {
          name: {which: file[_entry(model, seed, name, which)] for which in metric.needs}
          for name, metric in self.metrics.items()
        }
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
      raise SSRError(
        f'{path}: no features of the images that are done; remove {path.parents[1] / "rows.jsonl"} to start anew'
      ) from error

  def _path(self, key: Key) -> pathlib.Path:
    assert self._folder is not None
    index, recipe = key
    return self._folder / f'{index:05d}_{recipe.replace("/", "-")}.npz'


def _entry(model: str, seed: Any, metric: str, which: str) -> str:
  """The name of an array; a column can have any text, a file name in an archive cannot."""
  return f'{hashlib.sha256(model.encode()).hexdigest()[:16]}_{seed}_{metric}_{which}'
