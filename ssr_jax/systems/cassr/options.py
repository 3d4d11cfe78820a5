"""Options of CasSR's sampling. Imports nothing heavy, because every start of the command line imports it."""

import dataclasses
from typing import Any


def _option(help_: str, **more: Any) -> Any:
  return dataclasses.field(default=None, metadata={'help': help_, **more})


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of `sample`; None takes the model's value.

  Attributes:
    steps: diffusion steps; 0 stops at the reference image.
    guidance: w of classifier-free guidance; 1 samples without the negative prompt.
    sampler: 'ddpm', 'ddim' or 'dpmpp_2m'.
    reference: how the reference image is made: 'svkr', 'restorer', 'controlnet', or 'lr', which is bicubic enlargement.
    prompt: 'clean', 'null' or 'degraded'; what guidance leads towards.
    attention: whether the way up attends to the features of LR and reference; without, these only add to its skips.
    colour_fix: 'none', 'adain' or 'wavelet', towards the enlarged LR image.
    iterations: T, rounds of SVKR.
  """

  steps: int | None = _option("diffusion steps; 0 stops at the reference image (default: the model's)", metavar='N')
  guidance: float | None = _option(
    "weight of guidance away from the prompt 'degraded', 1 for none (default: the model's)", metavar='W'
  )
  sampler: str | None = _option("ddpm, ddim or dpmpp_2m (default: the model's)", metavar='NAME')
  reference: str | None = _option(
    "svkr, restorer, controlnet or lr: what makes the reference image (default: the model's)", metavar='HOW'
  )
  prompt: str | None = _option("clean, null or degraded (default: the model's)", metavar='NAME')
  attention: bool | None = _option("attend to the features of LR and reference (default: the model's)")
  colour_fix: str | None = _option("none, adain or wavelet (default: the model's)", metavar='HOW')
  iterations: int | None = _option("rounds of SVKR for the reference (default: the model's)", metavar='T')
