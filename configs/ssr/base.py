"""What SSR's configs share: the fields of its stages, and the paper's size."""

from ml_collections import ConfigDict

from configs import common
from ssr_jax.systems.ssr.sizes import SIZES


def base(stage: str) -> ConfigDict:
  """`common.base` and SSR's own fields, with the defaults that do not depend on the model's size."""
  config = common.base(stage, 'ssr')
  # The depth net for 'kernel', all but the UNet for 'diffusion'.
  config.parts_from = 'compact'

  config.loss = losses()

  config.svkr = ConfigDict()
  config.svkr.iterations = 3
  config.svkr.gamma = 0.9
  config.svkr.rule = 'algorithm1'

  config.schedule = ConfigDict()
  config.schedule.steps = 1000
  config.schedule.beta_start = 0.00085
  config.schedule.beta_end = 0.012
  config.schedule.prediction = 'eps'

  config.distill = ConfigDict()
  config.distill.steps = 1  # of the student
  config.distill.start = 0.1  # fraction of the schedule that it begins at, from the restored image
  config.distill.noise = 1.0  # how much of the noise of that step it begins with; a student of one step needs none
  # Of the colour fix of its image: brightness above some 2**levels pixels is the restored one's.
  config.distill.wavelet_levels = 2
  config.distill.chroma_levels = 2  # likewise, of its colours
  config.distill.strength = 1.0  # how much of its changes to the restored image sampling keeps; training sees all
  config.distill.smooth = 0.0  # deviation in pixels of a blur of these changes in sampling; a latent's grid shows less
  config.distill.sharpen = 0.0  # how much sampling steepens edges in the end
  config.distill.teacher_steps = 20
  config.distill.decoder = False  # whether it gets a decoder of its own, which is trained along
  # Whether that decoder, which must be guided, begins by giving the restored image instead of the autoencoder's.
  config.distill.from_restored = False
  # Whether it gets a copy of NBSR that sees its latent, instead of a decoder; it begins by giving the restored image.
  config.distill.nbsr = False

  config.eval.metrics = ('psnr', 'ssim', 'lr_psnr', 'kernel_psnr', 'niqe')
  config.eval.models = ('bicubic', 'restored', 'result')
  config.eval.model = 'compact'
  return config


def losses() -> ConfigDict:
  """Weights of the terms of each stage's loss; a stage reads its own."""
  loss = ConfigDict()
  loss.kernel = 1e4  # MANet: L1 on 1e4 K
  loss.kernel_squared = 0.0  # kernel: mean squared error of the taps; near 1e6 it weighs as much as the L1
  # nbsr: share of a batch that is restored with kernels that the frozen depth net and DKENet estimate.
  loss.estimated = 0.0
  loss.detail = 0.5  # vae, distill: differences between neighbours at three scales
  # vae, distill: LPIPS, a distance in a classifier's features; needs `ssr weights import lpips-vgg`, or of the backbone
  # 'alex' lpips-alex.
  loss.lpips = 0.0
  loss.lpips_backbone = 'vgg'
  loss.kl = 1e-6
  loss.latent_noise = 0.0  # vae: largest standard deviation of noise on latents, of the latents' own
  loss.adversarial = 0.005  # the bundled decoder's last 1500 steps; at 0.02, from scratch, a run stalled
  loss.adversarial_start = 0.7  # fraction of the steps
  loss.draws = 1  # diffusion: (time step, noise) drawn for each image, whose latents and conditions are computed once
  loss.focus = (0.0, 1.0)  # diffusion: this share of the time steps lies below this fraction of the schedule
  loss.grid = 0.0  # distill: what the error has in common in neighbouring latent pixels' squares
  loss.texture = 0.0  # distill: distance of textures, wherever they lie within squares of 32 pixels
  loss.teacher = 1.0  # distill: squared distance to the teacher's latent; 0 does without its sampling
  # distill: detail finer than some 2**levels pixels comes from the teacher's images, if the data have them.
  loss.taught_levels = 3
  loss.realism = 1.0  # distill: the pull of a critic that is never wrong, in multiples of the reconstruction's
  loss.constraints = (0.01, 0.01, 0.01)  # lambda_1..3 of Eq. 5: kernel, depth, image
  return loss


def full_size(stage: str, name: str) -> ConfigDict:
  """The paper's size, on a Stable Diffusion. Its training fields are those of MANet and RRDB-SFT where there are such.

  Args:
    stage: as in `base`.
    name: of the size, and of the imported model that the parts come from, `ssr weights import ... --as NAME`.
  """
  config = base(stage)
  config.name = config.parts_from = name
  config.model = ConfigDict(SIZES[name])
  if stage == 'distill':
    config.model.student = config.model.unet  # the same section: a change of one is a change of both
    latents = {'latent_channels': config.model.vae.latent_channels}
    config.model.student_nbsr = ConfigDict({**config.model.nbsr, **latents})
  match stage:
    case 'kernel' | 'nbsr':
      # MANet's and RRDB-SFT's: HR patches of 192 pixels, 16 at a time, Adam at 2e-4 for 300 000 steps.
      overrides = {'data.patch': 192, 'train.steps': 300_000}
    case 'svkr':
      overrides = {'data.patch': 192, 'train.steps': 50_000, 'train.batch_size': 8, 'train.learning_rate': 1e-5}
    case 'vae':
      overrides = {'data.patch': 256, 'train.steps': 100_000, 'train.learning_rate': 1e-5, 'init_from': name}
    case 'diffusion':
      overrides = {
        'init_from': name,
        'data.patch': 512,
        'train.steps': 100_000,
        'train.batch_size': 32,
        'train.learning_rate': 5e-5,
        'train.dtype': 'bfloat16',
        'svkr.iterations': 0,  # as in configs/compact.py
      }
    case 'distill':
      overrides = {
        'data.patch': 512,
        'train.steps': 20_000,
        'train.learning_rate': 1e-5,
        'train.dtype': 'bfloat16',
        'svkr.iterations': 1,
        'distill.steps': 4,
        'distill.start': 0.5,
      }
    case 'depth':
      overrides = {'data.patch': 384, 'train.learning_rate': 1e-5, 'init_from': name}
    case _:
      overrides = {}
  if stage:
    overrides |= {'train.checkpoint_every': 5000, 'train.validate_every': 5000}
  return common.apply(config, overrides)
