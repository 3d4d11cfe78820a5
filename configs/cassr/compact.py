"""The compact size: 4.06 M parameters beside SSR's autoencoder and SVKR; trains on two CPU cores.

Paper: CasSR (activating image power for real-world image super-resolution), arXiv 2403.11451, x4.

There is no Stable Diffusion of this size, so its prior is trained first, on the latents of SSR's compact autoencoder:

  ssr weights import compact --as cassr --system cassr        # depth, dkenet, nbsr and vae
  python train.py --config=configs/cassr/compact.py:prior --workdir=runs/prior --config.data.train=folder:PHOTOS
  ssr export runs/prior "$(ssr weights path cassr)"
  python train.py --config=configs/cassr/compact.py:cassr --workdir=runs/cassr --config.data.train=folder:PHOTOS
  ssr export runs/cassr "$(ssr weights path cassr)"
  ssr upscale photo.png --model cassr -o larger.png

The stage `activation` trains a plain ControlNet in the same way; its samples are references with
--reference controlnet. Runs of 3000 steps that show what each part gives (`error` and `base` of summary.json):

  --config.model.cassr.controls=lr, --config.model.cassr.multiple_attention=False     the LR image alone
  --config.model.cassr.multiple_attention=False                                       both images, no attention

It differs from the paper's size: prompts are learned, the degradation is SSR's mixture, since SVKR knows no chain, and
attention stays in windows as large as training patches. Not trained yet, so there is no run time or result.
"""

from ml_collections import ConfigDict

from configs import common
from configs.cassr import base as cassr


def get_config(stage: str = '') -> ConfigDict:
  """The config of the stage (or of evaluation, without one)."""
  config = cassr.base(stage, 'compact')
  overrides = {
    'schedule.prediction': 'v',  # as SSR's compact UNet
    'sampling.steps': 20,
    'sampling.tile': 128,  # latent pixels of a quarter of the size, 512 pixels
    'sampling.overlap': 64,
    'train.batch_size': 8,
    'train.learning_rate': 5e-4,
    'train.warmup': 200,
    'svkr.iterations': 1,
  }
  match stage:
    case 'prior':
      # Photos are shrunk, so that latents have the detail that results should have, and no JPEG artefacts.
      overrides |= {'train.steps': 9000, 'data.shrink': (0.4, 0.7)}
    case 'activation' | 'cassr':
      # Frozen parts take half of a step, and the error varies more with the draw than with the image.
      overrides |= {'train.steps': 8000, 'data.shrink': (0.4, 0.7), 'loss.draws': 2}
  return common.apply(config, overrides)
