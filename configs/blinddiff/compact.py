"""The compact size: 4.7 M parameters, which train on two CPU cores.

Paper: BlindDiff (degradation modelling in diffusion models for blind super-resolution), arXiv 2403.10211, x4.

  python train.py --config=configs/blinddiff/compact.py:blinddiff --workdir=RUN --config.data.train=folder:PHOTOS
  ssr upscale photo.png --model RUN/model -o larger.png
  python evaluate.py --config=configs/blinddiff/compact.py --workdir=SCORES --config.eval.model=RUN/model \
      --config.eval.dataset=set:set5

It differs from the paper's size: the network works at half the resolution (`stem`), and denoises twice the difference
between the image and its bicubic enlargement, of which it predicts v. Fifty steps are enough for that, and noise has no
need to be small enough for the image's own detail. A step of 8 patches of 128 pixels is 82 GFLOP.
"""

from ml_collections import ConfigDict

from configs import common
from configs.blinddiff import base as blinddiff
from ssr_jax.systems.blinddiff.sizes import SIZES


def get_config(stage: str = '') -> ConfigDict:
  """The config of the stage (or of evaluation, without one)."""
  config = blinddiff.base(stage)
  config.name = 'blinddiff-compact'
  config.model = ConfigDict(SIZES['compact'])
  overrides = {
    'schedule.prediction': 'v',
    'domain.residual': True,
    'domain.gain': 2.0,
    'loss.levels': 1000,
    'sampling.steps': 50,
    'data.patch': 128,
    'data.shrink': (0.5, 1.0),  # detail of photos that are sharp at their full size only
    'data.places': 4,
    'train.steps': 10_000,
    'train.batch_size': 8,
    'train.learning_rate': 5e-4,
    'train.warmup': 200,
  }
  return common.apply(config, overrides)
