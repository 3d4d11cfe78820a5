"""All stages at a size for tests: they compile in seconds, the images are meaningless.

python train.py --config=configs/tiny.py:STAGE --workdir=DIR --config.data.train=folder:DIR \
      --config.parts_from=MODEL_DIR
"""

from configs import common


def get_config(stage: str = ''):
  """The config of one stage (or of evaluation, without one)."""
  config = common.base(stage)
  model = config.model
  model.depth = dict(resolution=(32, 32), widths=(8, 8, 8, 8, 8), group=4, heads=2)
  model.dkenet = dict(features=4, depth_features=4)
  model.nbsr = dict(blocks=1, features=8, growth=4, global_skip=True)
  model.vae = dict(
    channels=(8, 8),
    latent_channels=4,
    encoder_blocks=1,
    decoder_blocks=1,
    groups=4,
    mid_attention=False,
    patch=2,
    shortcut=True,
  )
  model.unet = dict(
    channels=(8, 8),
    blocks=1,
    attention=(False, False),
    head_dim=4,
    cross_attention_dim=None,
    groups=4,
    amf_hidden=4,
    kernel_channels=(4, 4),
    depth_channels=(4, 4),
    lr_channels=(8, 8),
    lr_blocks=1,
    map_features=4,
    lr_features=4,
  )
  if stage == 'distill':
    model.student, model.student_vae = model.unet, model.vae
  common.apply(
    config,
    {
      'data.patch': 64,
      'data.holdout': 2,
      'svkr.iterations': 1,
      'distill.decoder': True,
      'train.steps': 2,
      'train.batch_size': 2,
      'train.warmup': 1,
      'train.log_every': 1,
      'train.checkpoint_every': 1,
      'train.validation_batches': 1,
    },
  )
  return config
