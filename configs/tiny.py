"""All stages at a size for tests: they compile in seconds, the images are meaningless.

python train.py --config=configs/tiny.py:STAGE --workdir=DIR --config.data.train=folder:DIR \
      --config.parts_from=MODEL_DIR
"""

from ml_collections import ConfigDict

from configs import common
from configs.ssr import base as ssr
from ssr_jax.systems.ssr.sizes import SIZES


def get_config(stage: str = ''):
  """The config of one stage (or of evaluation, without one)."""
  config = ssr.base(stage)
  model = config.model = ConfigDict(SIZES['tiny'])
  if stage == 'distill':
    model.student, model.student_vae = model.unet, ConfigDict({**model.vae, 'guided': False})
    model.student_nbsr = ConfigDict({**model.nbsr, 'latent_channels': model.vae.latent_channels})
  common.apply(
    config,
    {
      **common.FOR_TESTS,
      'svkr.iterations': 1,
      'distill.decoder': True,
    },
  )
  return config
