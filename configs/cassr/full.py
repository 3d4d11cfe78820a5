"""The paper's size, on Stable Diffusion 1.5: 408.9 M trained parameters beside 943 M frozen ones of prior and vae.

Paper: CasSR (activating image power for real-world image super-resolution), arXiv 2403.11451, x4.

  ssr weights import sd15 --as cassr --system cassr           # vae and prior; without a network it names the folder
  ssr weights import compact --as cassr --system cassr        # or MANet and DPT, for SVKR's reference image
  python train.py --config=configs/cassr/full.py:cassr --workdir=runs/cassr --config.data.train=folder:PHOTOS
  ssr export runs/cassr "$(ssr weights path cassr)"

The paper trains on DIV2K, DIV8K, Flickr2K, OST and 10 000 faces of FFHQ, crops of 512 pixels under Real-ESRGAN's
degradations, 4 a device on 8 A100 for 100 000 steps at a constant 5e-4, in two days. That rate is ten times SeeSR's:
lower it first if the error rises. The paper does not say how often the prompt is left out. Not trained yet, so there
is no run time or result.
"""

from ml_collections import ConfigDict

from configs import common
from configs.cassr import base as cassr
from ssr_jax.types import SSRError


def get_config(stage: str = '') -> ConfigDict:
  """The config of the stage (or of evaluation, without one)."""
  if stage == 'prior':
    raise SSRError("the paper's prior is Stable Diffusion 1.5: `ssr weights import sd15 --as cassr --system cassr`")
  config = cassr.base(stage, 'full')
  overrides = {
    'recipe.field': 'realesrgan',
    'data.patch': 512,
    'train.steps': 100_000,
    'train.batch_size': 32,
    'train.learning_rate': 5e-4,
    'train.warmup': 1000,
    'train.final_rate': 1.0,  # constant
    'train.dtype': 'bfloat16',
    'train.checkpoint_every': 5000,
    'train.validate_every': 5000,
    'train.figures_every': 5000,
  }
  return common.apply(config, overrides)
