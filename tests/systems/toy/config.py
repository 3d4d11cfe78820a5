"""The toy, trained in seconds.

python train.py --config=tests/systems/toy/config.py:residual --workdir=DIR --config.data.train=folder:DIR
"""

from ml_collections import ConfigDict

from configs import common
from tests.systems.toy.sizes import SIZES


def get_config(stage: str = '') -> ConfigDict:
  """The config of the stage (or of evaluation, without one)."""
  config = common.base(stage, 'toy')
  config.name = 'toy'
  config.model = ConfigDict(SIZES['small'])
  overrides = {
    'data.patch': 64,
    'recipe.field': 'invariant',
    'recipe.mode': 'no_noise',
    'recipe.eigenvalues': (4.0, 6.0),
    'train.steps': 30,
    'train.batch_size': 4,
    'train.warmup': 5,
    'train.learning_rate': 1e-2,
    'train.validation_batches': 1,
    'eval.recipes': ('invariant/no_noise',),
    'eval.metrics': ('psnr', 'ssim'),
  }
  return common.apply(config, overrides)
