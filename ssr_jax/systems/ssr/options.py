"""Options of SSR's sampling. Imports nothing heavy, because every start of the command line imports it."""

import dataclasses
from typing import Any


def _option(help_: str, **more: Any) -> Any:
  return dataclasses.field(default=None, metadata={'help': help_, **more})


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of `sample`; None takes the model's value.

  A model with a distilled student samples with it if steps, sampler and start are all None, else with the UNet.

  Attributes:
    steps: diffusion steps; 0 stops at the restored image.
    sampler: 'ddpm', 'ddim' or 'dpmpp_2m'.
    start: fraction of the schedule to start at: 1 is pure noise, less is the restored image's latent with that step's
      noise.
    colour_fix: 'none', 'adain' or 'wavelet', towards the restored image.
    blend: share of diffusion's change to the restored image that is kept, 0 to 1. 'strength' is its earlier name.
    sharpen: how much edges are steepened in the end, 0 to 4; see `image.edges.steepen`. 0 leaves it out. None with a
      blend below the model's own is that much less than the model's value.
    mode: 'faithful', 'natural' or 'detailed', which choose steps, blend and sharpen where these are None: the restored
      image as it is, the model's own values, or half of the way from the model's blend to 1 and three times as
      much sharpening.
    guidance: weight of the step that pulls each predicted latent towards the LR image through decoder and kernels, 0
      to 1; see `core.guidance`. 0 leaves it out.
    iterations: T, rounds of SVKR. 0 leaves the initial depth and kernels, and the bicubic image as the restored one; 1
      has the same depth and kernels, and the image restored with them.
  """

  steps: int | None = _option(
    "diffusion steps of the UNet (default: the model's, by its student if it has one)",
    metavar='N',
    flags={'restored-only': (0, 'stop before diffusion (the same as --steps 0)')},
  )
  sampler: str | None = _option("ddpm, ddim or dpmpp_2m (default: the model's)", metavar='NAME')
  start: float | None = _option(
    "1: start from pure noise; less: from the restored image with less noise (default: the model's)", metavar='T'
  )
  colour_fix: str | None = _option("none, adain or wavelet (default: the model's)", metavar='HOW')
  blend: float | None = _option(
    "how much of diffusion's detail to keep, 0 (none) to 1 (default: the model's)", metavar='B', alias='strength'
  )
  sharpen: float | None = _option(
    "how much edges are steepened in the end, without halos, 0 (not) to 4 (default: the model's)", metavar='A'
  )
  mode: str | None = _option(
    'faithful (the restored image), natural (as the model is meant) or detailed (more of what diffusion adds)',
    metavar='NAME',
  )
  guidance: float | None = _option(
    "how far each step is pulled towards the photo through the kernels, 0 to 1 (default: the model's)",
    metavar='LAMBDA',
  )
  iterations: int | None = _option("rounds of SVKR, 1 being none (default: the model's)", metavar='T')
