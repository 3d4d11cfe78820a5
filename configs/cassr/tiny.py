"""All stages at a size for tests: they compile in seconds, the images are meaningless.

python train.py --config=configs/cassr/tiny.py:STAGE --workdir=DIR --config.data.train=folder:DIR \
      --config.parts_from=MODEL_DIR
"""

from ml_collections import ConfigDict

from configs import common
from configs.cassr import base as cassr


def get_config(stage: str = '') -> ConfigDict:
  """The config of the stage (or of evaluation, without one)."""
  config = cassr.base(stage, 'tiny')
  config.name = 'tiny'
  overrides = {'schedule.prediction': 'v', 'svkr.iterations': 1, 'sampling.steps': 2}
  return common.apply(config, {**common.FOR_TESTS, **overrides})
