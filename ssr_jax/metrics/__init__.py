"""Image quality metrics: one file each, one registry.

Each file has the formula as a pure function and a `Metric` that calls it. Arrays may be NumPy's or JAX's, float in
[0, 1] or uint8; all metrics but LR-PSNR's blur are computed in float64 on the host (`pixels`). The numbers published in
this field are taken from 8-bit images, so the caller should round to 8 bit first.

`depth_errors` is not in the registry: it gives four numbers at once, and compares depth maps, not images.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
import os
from typing import Any

from ssr_jax.metrics import gmsd, grid, haarpsi, iqa, kernel_psnr, log_spectrum, lpips, lr_psnr, niqe, psnr, seam, ssim
from ssr_jax.metrics.base import Inputs, Metric, Missing, SetMetric
from ssr_jax.types import SSRError

__all__ = ['METRICS', 'Inputs', 'Metric', 'Missing', 'SetMetric', 'features', 'get', 'load', 'score', 'score_all']

METRICS: Mapping[str, type[Metric]] = {
  metric.name: metric
  for metric in (
    psnr.PSNR,
    ssim.SSIM,
    gmsd.GMSD,
    haarpsi.HaarPSI,
    log_spectrum.LogSpectrum,
    grid.Grid,
    seam.Seam,
    lr_psnr.LRPSNR,
    kernel_psnr.KernelPSNR,
    niqe.NIQE,
    lpips.LPIPS,
    lpips.LPIPSVGG,
    *iqa.ALL,
  )
}

SYNONYMS = {'lpips-alex': 'lpips'}
"""{another name of a metric: its name}."""


def get(names: Iterable[str]) -> dict[str, type[Metric]]:
  """The classes of the named metrics by name, in the order of the names; `SYNONYMS` are accepted.

  Raises:
    SSRError: an unknown name; the message lists the known ones.
  """
  names = list(dict.fromkeys(SYNONYMS.get(name, name) for name in names))
  for name in names:
    if name not in METRICS:
      raise SSRError(f'unknown metric {name!r}; known: {", ".join(METRICS)}')
  return {name: METRICS[name] for name in names}


def load(
  names: Iterable[str],
  weights: Mapping[str, str | os.PathLike | None] | None = None,
  missing: dict[str, Missing] | None = None,
) -> dict[str, Metric]:
  """The named metrics ready to use, in the order of the names.

  Args:
    names: which.
    weights: {name: file} for the metrics that have weights; other entries are ignored.
    missing: takes, by name, the errors of metrics without weights, which are left out then.

  Raises:
    SSRError: an unknown name, or weights that cannot be read, or, without `missing`, that there are none.
  """
  weights, found = weights or {}, {}
  for name, metric in get(names).items():
    try:
      found[name] = metric.load(weights.get(name))
    except Missing as error:
      if missing is None:
        raise
      missing[name] = error
  return found


def score(metrics: Iterable[str] | Mapping[str, Metric], **inputs: Any) -> dict[str, float]:
  """Computes several metrics of one image.

  Args:
    metrics: what `load` returned, or names of metrics that need no weights.
    **inputs: see `Inputs`.

  Returns:
    {name: value}, in the order of `metrics`; NaN where the metric lacks an input.

  Raises:
    SSRError: an unknown name, or the name of a metric that needs weights.
    ValueError: shapes that do not fit together, or an image that is too small.

  >>> import numpy as np
  >>> photo = np.tile(np.linspace(0.2, 0.8, 64)[:, None], (64, 1, 3)).reshape(64, 64, 3)
  >>> score(['psnr'], image=photo + 0.01, reference=photo)['psnr'] > 40
  True
  >>> score(['psnr', 'ssim'], image=photo)  # without what it is compared with
  {'psnr': nan, 'ssim': nan}
  """
  return score_all(metrics if isinstance(metrics, Mapping) else load(metrics), [inputs])[0]


def score_all(loaded: Mapping[str, Metric], images: Sequence[Inputs]) -> list[dict[str, float]]:
  """Computes several metrics of several images, in batches where a metric can; see `score`."""
  rows = [dict.fromkeys(loaded, math.nan) for _ in images]
  for name, metric in loaded.items():
    known = [index for index, inputs in enumerate(images) if not metric.lacks(inputs)]
    for index, value in zip(known, metric.batch([images[index] for index in known]), strict=True):
      rows[index][name] = value
  return rows


def features(loaded: Mapping[str, Metric], inputs: Inputs) -> dict[str, dict[str, Any]]:
  """{name: features of one image} of the metrics of sets that have all inputs."""
  sets = {name: metric for name, metric in loaded.items() if isinstance(metric, SetMetric)}
  return {name: metric.features(inputs) for name, metric in sets.items() if not metric.lacks(inputs)}
