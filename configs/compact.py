"""The compact model: all parts of SSR at a size that trains on two CPU cores and runs on a laptop.

Paper: SSR (spatially variant kernel refinement with diffusion for blind super-resolution), all parts, x4.

Train the stages in order; a stage reads the parts of earlier ones from `--config.parts_from` (default: the bundled
model):

  python train.py --config=configs/compact.py:STAGE --workdir=runs/STAGE \
      --config.data.train='folder:DIR[;folder:DIR2]'

with STAGE one of depth, kernel, nbsr, svkr, vae, diffusion, distill. WORKDIR/model gets the weights. Data, training
time and results of the bundled weights: ssr_jax/weights/bundled/MODEL_CARD.md.
"""

from configs import common


def get_config(stage: str = ''):
  """The config of one stage (or of evaluation, without one)."""
  config = common.base(stage)
  config.name = 'compact'
  model = config.model
  model.depth = dict(resolution=(128, 128))
  model.dkenet = dict(features=40, depth_features=16)
  model.nbsr = dict(blocks=4, features=48, growth=16, global_skip=True)
  # Eight latent channels: with four, reconstructions of held-out photos were near bicubic's PSNR.
  model.vae = dict(
    channels=(48, 96),
    latent_channels=8,
    encoder_blocks=1,
    decoder_blocks=2,
    groups=8,
    mid_attention=False,
    patch=2,
    shortcut=True,
  )
  model.unet = dict(
    channels=(32, 64, 128),
    latent_channels=8,
    blocks=1,
    attention=(False, False, False),
    head_dim=32,
    cross_attention_dim=None,
    groups=8,
    amf_hidden=32,
    kernel_channels=(16, 24, 32),
    depth_channels=(16, 24, 32),
    lr_channels=(24, 48, 96),
    lr_blocks=1,
    map_features=32,
    lr_features=32,
  )

  if stage == 'distill':
    model.student, model.student_vae = model.unet, model.vae

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
        # Sampling starts from the restored image with some noise, so most training steps use those noise levels.
        'loss.focus': (0.75, 0.6),
      }
    case 'distill':
      overrides = {
        'train.steps': 2000,
        'train.batch_size': 8,
        'train.learning_rate': 2e-4,
        'train.ema': 0.995,
        'svkr.iterations': 1,
        'data.shrink': (0.4, 0.7),  # else it learns grain and JPEG artefacts
        'distill.noise': 0.0,  # one step leaves noise as a mosaic of latent pixels in smooth areas
        'distill.decoder': True,
        'distill.wavelet_levels': 5,
        'distill.chroma_levels': 1,
        'distill.strength': 0.65,
        'loss.teacher': 0.0,  # the teacher's samples have grain that the student should not learn
        'loss.grid': 2.0,
        'loss.realism': 1.5,
        'loss.adversarial_start': 0.05,
      }
    case _:
      overrides = {}
  common.apply(config, overrides)
  return config
