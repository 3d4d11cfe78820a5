"""Image quality metrics by name: one file per metric, one registry.

Every function takes one image, NumPy or JAX, float in [0, 1] or uint8, and computes in float64 on the host. The numbers
published in this field are taken from 8-bit images; `score` leaves rounding to the caller.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import math
from typing import Any

from ssr_jax.metrics import kernel_psnr, lr_psnr, niqe, psnr, ssim
from ssr_jax.types import SSRError


@dataclasses.dataclass(frozen=True)
class Metric:
  """One metric of the registry.

  Attributes:
    function: called with the inputs of `needs` by position and those of `options` by keyword; returns a float.
    higher_is_better: direction.
    needs: names of inputs without which there is no number, among 'image', 'reference', 'lr_clean', 'kernels',
      'true_kernels' and 'pristine' (see `niqe.load_pristine`).
    options: names of inputs that have defaults.
    label: column heading, with the unit.
    digits: decimals worth printing.
  """

  function: Callable[..., float]
  higher_is_better: bool
  needs: tuple[str, ...]
  options: tuple[str, ...] = ()
  label: str = ''
  digits: int = 2


METRICS: Mapping[str, Metric] = {
  'psnr': Metric(psnr.psnr, True, ('image', 'reference'), ('crop',), 'PSNR-Y (dB)', 2),
  'ssim': Metric(ssim.ssim, True, ('image', 'reference'), ('crop',), 'SSIM-Y', 4),
  'lr_psnr': Metric(lr_psnr.lr_psnr, True, ('reference', 'kernels', 'lr_clean'), (), 'LR-PSNR (dB)', 2),
  'kernel_psnr': Metric(kernel_psnr.kernel_psnr, True, ('kernels', 'true_kernels'), (), 'kernel PSNR (dB)', 2),
  'niqe': Metric(niqe.niqe, False, ('image', 'pristine'), (), 'NIQE', 3),
}


def get(names: Iterable[str]) -> dict[str, Metric]:
  """The named metrics in the order asked for. SSRError on an unknown name, listing the known ones."""
  names = list(names)
  for name in names:
    if name not in METRICS:
      raise SSRError(f'unknown metric {name!r}; known: {", ".join(METRICS)}')
  return {name: METRICS[name] for name in names}


def score(names: Iterable[str], **inputs: Any) -> dict[str, float]:
  """Computes metrics by name from whatever inputs there are.

  Args:
    names: which.
    **inputs: see `Metric.needs` and `Metric.options`; None counts as absent.

  Returns:
    {name: value}; NaN where an input that the metric needs is absent.
  """
  inputs = {key: value for key, value in inputs.items() if value is not None}
  values = {}
  for name, metric in get(names).items():
    if all(key in inputs for key in metric.needs):
      options = {key: inputs[key] for key in metric.options if key in inputs}
      values[name] = float(metric.function(*(inputs[key] for key in metric.needs), **options))
    else:
      values[name] = math.nan
  return values
