"""What BlindDiff's configs share: the fields of its stage, with the defaults that do not depend on the model's size."""

from ml_collections import ConfigDict

from configs import common

GAUSSIAN8 = tuple(f'isotropic-{tenths / 10:.1f}/no_noise' for tenths in range(18, 34, 2))
"""The eight recipes of setting 1's test."""


def base(stage: str) -> ConfigDict:
  """`common.base` and BlindDiff's own fields."""
  config = common.base(stage, 'blinddiff')

  # Setting 1. Setting 2 is --config.recipe.field=anisotropic, and starts from weights of setting 1 (init_from).
  config.recipe.field = 'isotropic'
  config.recipe.mode = 'no_noise'

  config.schedule = ConfigDict()
  config.schedule.steps = 1000
  config.schedule.beta_start = 1e-4
  config.schedule.beta_end = 0.02
  config.schedule.prediction = 'eps'  # or 'v'
  config.schedule.shape = 'linear'

  config.domain = ConfigDict()
  config.domain.residual = False  # the network denoises the image, or what it adds to the enlarged LR image
  config.domain.gain = 1.0  # factor of the latter
  config.domain.up = 'antialiased'  # or 'torch', which released weights need
  config.domain.down = 'bicubic'  # or 'stride', with the recipes that end in -stride

  config.loss = ConfigDict()
  config.loss.kernel = 1.0  # of the kernel's L1 in Eq. 13; 0 for the ablations without it
  config.loss.levels = 500  # time steps that training draws from

  config.sampling = ConfigDict()  # what the exported model samples with
  config.sampling.steps = 500
  config.sampling.guidance = 1.0  # lambda
  config.sampling.operator = 'estimated'
  config.sampling.stop_kernel = False
  config.sampling.shrink = 0.0

  config.eval.recipes = GAUSSIAN8
  config.eval.metrics = ('psnr', 'ssim', 'lr_psnr', 'kernel_psnr', 'niqe')
  config.eval.crop = 4
  config.eval.models = ('bicubic', 'first', 'result')
  return config
