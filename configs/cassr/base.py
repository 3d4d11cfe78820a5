"""What CasSR's configs share: the fields of its stages, with the defaults that do not depend on the model's size."""

from ml_collections import ConfigDict

from configs import common
from ssr_jax.systems.cassr.sizes import SIZES


def base(stage: str, size: str) -> ConfigDict:
  """`common.base`, the networks of a size and CasSR's own fields."""
  config = common.base(stage, 'cassr')
  config.name = config.parts_from = 'cassr'  # `ssr weights import ... --as cassr --system cassr`
  config.model = ConfigDict(SIZES[size])

  config.svkr = ConfigDict()  # of the reference image
  config.svkr.iterations = 3
  config.svkr.gamma = 0.9
  config.svkr.rule = 'algorithm1'

  config.schedule = ConfigDict()
  config.schedule.steps = 1000
  config.schedule.beta_start = 0.00085
  config.schedule.beta_end = 0.012
  config.schedule.prediction = 'eps'

  config.loss = ConfigDict()
  config.loss.null = 0.1  # share of the records without a prompt
  config.loss.degraded = 0.2  # prior: share that are enlarged LR images, with the prompt 'degraded'
  config.loss.draws = 1  # (time step, noise) drawn for each image, whose latents are computed once

  config.sampling = ConfigDict()  # what the exported model samples with; training makes its reference, too
  config.sampling.steps = 50
  config.sampling.guidance = 5.5
  config.sampling.sampler = 'ddim'
  config.sampling.reference = 'svkr'
  config.sampling.prompt = 'clean'
  config.sampling.attention = True
  config.sampling.colour_fix = 'adain'
  config.sampling.tile = 64
  config.sampling.overlap = 32

  config.eval.model = 'cassr'
  config.eval.models = ('bicubic', 'restored', 'result')
  return config
