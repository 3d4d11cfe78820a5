"""One picture of a case: LR, what each column made of it, HR; and what columns were given instead of estimates."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ssr_jax import metrics
from ssr_jax.evaluation.cases import Case
from ssr_jax.evaluation.models import Output
from ssr_jax.evaluation.protocol import SCALE
from ssr_jax.evaluation.report import figures


def picture(case: Case, outputs: Mapping[str, Output], shown: Sequence[str] = ()) -> Image.Image:
  """LR (enlarged without interpolation) | each column's image | HR, labelled with PSNR.

  Args:
    case: whose LR image it was.
    outputs: {column: what it made}.
    shown: outputs that some columns were given. For each there is a row of heat maps below, with the truth first where
      it is known: of kernels their variance, of a depth its value, on one scale of colours for all columns.
  """
  panels, labels = [_enlarged(case.lr)], [f'LR, {case.recipe}']
  for column, output in outputs.items():
    panels.append(output.image)
    labels.append(column if case.hr is None else f'{column} {metrics.psnr.psnr(output.image, case.hr):.2f} dB')
  if case.hr is not None:
    panels.append(case.hr)
    labels.append('HR')
  rows = [figures.side_by_side(panels, labels)]
  for name in shown:
    found = {column: output.found[name] for column, output in outputs.items() if output.found.get(name) is not None}
    truth = {'kernels': case.kernels, 'depth': case.depth}.get(name)
    rows.append(_maps(name, {column: x for column, x in found.items() if x is not None}, truth))
  return figures.stack(rows) if len(rows) > 1 else rows[0]


def _maps(name: str, found: Mapping[str, np.ndarray], truth: np.ndarray | None) -> Image.Image:
  every = {**({} if truth is None else {f'true {name}': truth}), **found}
  values = {label: _map(array) for label, array in every.items()}
  low, high = min(x.min() for x in values.values()), max(x.max() for x in values.values())
  panels = [figures.colour_map((x - low) / max(high - low, 1e-6)) for x in values.values()]
  labels = [f'{label}, mean {x.mean():.2f} of {low:.2f}-{high:.2f}' for label, x in values.items()]
  return figures.side_by_side(panels, labels)


def _map(array: np.ndarray) -> np.ndarray:
  """[H, W], what is shown of kernels [h, w, k*k] or of a map [H, W, 1]."""
  if array.shape[-1] == 1:
    return array[..., 0]
  return _enlarged(figures.kernel_variance(array))


def _enlarged(image: np.ndarray) -> np.ndarray:
  return image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
