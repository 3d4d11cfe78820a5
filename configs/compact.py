"""The compact model: all parts of SSR at a size that trains on two CPU cores and runs on a laptop.

Paper: SSR (spatially variant kernel refinement with diffusion for blind super-resolution), all parts, x4.

Train the stages in order; a stage reads the parts of earlier ones from `--config.parts_from` (default: the bundled
model):

  python train.py --config=configs/compact.py:STAGE --workdir=runs/STAGE \
      --config.data.train='folder:DIR[;folder:DIR2]'

STAGE is one of depth, kernel, nbsr, svkr, vae, diffusion, distill. The weights are written to WORKDIR/model. Data,
training time and results of the bundled weights: ssr_jax/weights/bundled/MODEL_CARD.md.
"""

from ml_collections import ConfigDict

from configs import common
from configs.ssr import base as ssr
from ssr_jax.systems.ssr.sizes import SIZES


def get_config(stage: str = ''):
  """The config of one stage (or of evaluation, without one)."""
  config = ssr.base(stage)
  config.name = 'compact'
  model = config.model = ConfigDict(SIZES['compact'])
  if stage == 'distill':
    model.student, model.student_vae = model.unet, ConfigDict({**model.vae, 'guided': False})
    model.student_nbsr = ConfigDict({**model.nbsr, 'latent_channels': model.vae.latent_channels})

  config.schedule.prediction = 'v'  # gives a more accurate x0 than eps at high noise

  match stage:
    case 'depth':
      overrides = {
        'data.patch': 128,
        'train.steps': 3000,
        'train.batch_size': 8,
        'train.learning_rate': 1e-3,
        'train.weight_decay': 1e-4,
      }
    case 'kernel':
      overrides = {'train.steps': 4000, 'train.learning_rate': 5e-4}
    case 'nbsr':
      overrides = {'train.steps': 4000, 'train.batch_size': 8, 'train.learning_rate': 5e-4}
    case 'svkr':
      overrides = {'train.steps': 1000, 'train.batch_size': 8, 'train.learning_rate': 1e-4}
    case 'vae':
      overrides = {'train.steps': 4000, 'train.batch_size': 8, 'train.learning_rate': 1e-3}
    case 'diffusion':
      overrides = {
        'train.steps': 5000,
        'train.learning_rate': 5e-4,
        # The frozen parts take more than half of a step, and the loss varies more with the draw than with the image.
        'train.batch_size': 8,
        'loss.draws': 2,
        # Train on the first estimates of D and K: refined ones differ little and cost three times as much.
        'svkr.iterations': 0,
        # Sampling starts from the restored image plus noise, so most training steps use those noise levels.
        'loss.focus': (0.75, 0.6),
      }
    case 'distill':
      overrides = {
        'train.steps': 2000,
        'train.batch_size': 8,
        'train.learning_rate': 2e-4,
        'train.ema': 0.995,
        'svkr.iterations': 1,
        'data.shrink': (0.4, 0.7),  # without it the student learns grain and JPEG artefacts
        'distill.noise': 0.0,  # in one step, noise would show as blocks of latent pixels in smooth areas
        'distill.decoder': True,
        'distill.wavelet_levels': 5,
        'distill.chroma_levels': 1,
        'distill.strength': 0.4,
        'distill.smooth': 1.6,  # else the latent's grid of 4 pixels shows as dots along edges
        'distill.sharpen': 0.5,
        'loss.teacher': 0.0,  # the teacher's samples contain grain that the student should not learn
        'loss.grid': 2.0,
        'loss.realism': 1.5,
        'loss.adversarial_start': 0.05,
      }
    case _:
      overrides = {}
  common.apply(config, overrides)
  return config
