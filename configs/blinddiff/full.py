"""The paper's size: 26.51 M parameters, noise of the image itself, 500 steps.

Paper: BlindDiff (degradation modelling in diffusion models for blind super-resolution), arXiv 2403.10211, x4.

  python train.py --config=configs/blinddiff/full.py:blinddiff --workdir=RUN --config.data.train=folder:DF2K
  python train.py --config=configs/blinddiff/full.py:blinddiff --workdir=RUN2 --config.data.train=folder:DF2K \
      --config.recipe.field=anisotropic --config.init_from=RUN/model        # setting 2 starts from setting 1

Patches of 256 pixels, 8 at a time, Adam at 2e-4 for 500 000 steps are the paper's; it halves the rate every 100 000
steps, where this decays by a cosine. Not trained yet, so there is no run time or result: a forward pass of a patch of
256 pixels is 112 GMAC.
"""

from ml_collections import ConfigDict

from configs import common
from configs.blinddiff import base as blinddiff
from ssr_jax.systems.blinddiff.sizes import SIZES


def get_config(stage: str = '') -> ConfigDict:
  """The config of the stage (or of evaluation, without one)."""
  config = blinddiff.base(stage)
  config.name = 'blinddiff'
  config.model = ConfigDict(SIZES['full'])
  overrides = {
    'data.patch': 256,
    'train.steps': 500_000,
    'train.batch_size': 8,
    'train.learning_rate': 2e-4,
    'train.warmup': 1000,
    'train.checkpoint_every': 5000,
    'train.validate_every': 5000,
    'train.figures_every': 5000,
  }
  return common.apply(config, overrides)
