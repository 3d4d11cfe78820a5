"""What a caller may choose of SSR's sampling. Imports nothing heavy: the command line reads it at its start."""

import dataclasses
from typing import Any


def _option(help_: str, **more: Any) -> Any:
  return dataclasses.field(default=None, metadata={'help': help_, **more})


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of `sample`; None takes the model's own.

  Attributes:
    steps: diffusion steps of the UNet; 0 stops at the restored image. The model's own way is its distilled student,
      which has its own number and start, where it has one.
    sampler: 'ddpm', 'ddim' or 'dpmpp_2m', of the UNet.
    start: where the UNet's sampling starts, as a fraction of the schedule: 1 is pure noise, less is the restored
      image's latent with that much noise.
    colour_fix: 'none', 'adain' or 'wavelet', against the restored image.
    strength: share of diffusion's change to the restored image that is kept, 0 to 1.
  """

  steps: int | None = _option(
    "diffusion steps, by the UNet (default: the model's own way, by its student where it has one)",
    metavar='N',
    flags={'restored-only': (0, 'stop before diffusion (the same as --steps 0)')},
  )
  sampler: str | None = _option("ddpm, ddim or dpmpp_2m (default: the model's)", metavar='NAME')
  start: float | None = _option(
    "1: from pure noise; less: from the restored image with that much noise (default: the model's)", metavar='T'
  )
  colour_fix: str | None = _option("none, adain or wavelet (default: the model's)", metavar='HOW')
  strength: float | None = _option(
    "how much of diffusion's detail to keep, 0 (none) to 1 (default: the model's)", metavar='S'
  )
