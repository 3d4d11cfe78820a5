"""A size for tests: it compiles in seconds, the images are meaningless.

python train.py --config=configs/blinddiff/tiny.py:blinddiff --workdir=DIR --config.data.train=folder:DIR
"""

from ml_collections import ConfigDict

from configs import common
from configs.blinddiff import base as blinddiff
from ssr_jax.systems.blinddiff.sizes import SIZES


def get_config(stage: str = '') -> ConfigDict:
  """The config of the stage (or of evaluation, without one)."""
  config = blinddiff.base(stage)
  config.name = 'tiny'
  config.model = ConfigDict(SIZES['tiny'])
  overrides = {
    'schedule.prediction': 'v',
    'domain.residual': True,
    'domain.gain': 2.0,
    'data.patch': 64,
    'data.holdout': 2,
    'sampling.steps': 2,
    'train.steps': 2,
    'train.batch_size': 2,
    'train.warmup': 1,
    'train.log_every': 1,
    'train.checkpoint_every': 1,
    'train.validation_batches': 1,
  }
  return common.apply(config, overrides)
