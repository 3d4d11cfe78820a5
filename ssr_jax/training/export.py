"""Export of a checkpoint to a model directory that `ssr_jax.load` reads."""

from collections.abc import Mapping
import math
import pathlib
from typing import Any

import numpy as np

from ssr_jax.training import checkpoint, manifest
from ssr_jax.types import SSRError
from ssr_jax.weights import format


def export(run: str | pathlib.Path, directory: str | pathlib.Path, step: int | None = None) -> list[pathlib.Path]:
  """Writes the averaged weights of a run's checkpoint into a model directory; its other parts do not change.

  Args:
    run: the workdir of a training run.
    directory: the model directory, created if missing.
    step: of the checkpoint; default the newest.

  Returns:
    the files written, one per trained part.

  Raises:
    SSRError: there is no such checkpoint, it holds a number that is not finite, or the directory cannot be written.
  """
  variables, about, _ = checkpoint.read_weights(pathlib.Path(run), step)
  return write(variables, about['export'], directory)


def write(variables: Mapping[str, Any], about: Mapping[str, Any], directory: str | pathlib.Path) -> list[pathlib.Path]:
  """Writes {part: Flax variables}.

  `about` has the model's 'name', 'parts' {part: config}, 'training', and those 'sections' of model.json that the parts
  are useless without: the schedule of a UNet.

  Raises:
    SSRError: a weight or a validation figure is not finite; nothing is written.
  """
  for part in about['parts']:
    for name, value in manifest.names(variables[part]).items():
      if not manifest.finite_array(np.asarray(value)):
        raise SSRError(f'{directory}: not exported: {part}/{name} is not finite; export an earlier step')
  bad = [name for name, value in about['training'].get('validation', {}).items() if not math.isfinite(value)]
  if bad:
    raise SSRError(f'{directory}: not exported: the validation figure {bad[0]} is not finite; export an earlier step')
  training, system = about['training'], about.get('system')  # runs before 0.2 did not record it
  files = [
    format.save_part(directory, part, config, variables[part], training, name=about['name'], system=system)
    for part, config in about['parts'].items()
  ]
  if about['sections']:
    format.update(directory, **about['sections'])
  return files
