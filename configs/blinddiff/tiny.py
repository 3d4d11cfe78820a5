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
  overrides = {'schedule.prediction': 'v', 'domain.residual': True, 'domain.gain': 2.0, 'sampling.steps': 2}
  return common.apply(config, {**common.FOR_TESTS, **overrides})
