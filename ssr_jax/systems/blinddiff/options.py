"""Options of BlindDiff's sampling. Imports nothing heavy, because every start of the command line imports it."""

import dataclasses
from typing import Any


def _option(help_: str, **more: Any) -> Any:
  return dataclasses.field(default=None, metadata={'help': help_, **more})


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of `sample`; None takes the model's value.

  Attributes:
    steps: calls of the network.
    guidance: lambda, the weight of the kernel-aware gradient term; 0 samples without it.
    operator: 'estimated', 'bicubic' or 'true': with which blur the term compares the image with the LR image.
    sigma: standard deviation, in HR pixels, of the isotropic Gaussian that operator 'true' means.
    stop_kernel: leave out the term's gradient through the kernel estimate.
  """

  steps: int | None = _option("diffusion steps (default: the model's)", metavar='N')
  guidance: float | None = _option(
    "weight of the gradient that pulls the image towards the LR image, 0 for none (default: the model's)",
    metavar='LAMBDA',
  )
  operator: str | None = _option(
    "estimated, bicubic or true: the blur that the gradient assumes (default: the model's)", metavar='NAME'
  )
  sigma: float | None = _option('deviation of the blur in HR pixels, for --operator true', metavar='S')
  stop_kernel: bool | None = _option('leave out the gradient through the kernel estimate')
