"""The paper's size on Stable Diffusion 2.1-base: f = 8 latents of 4 channels, x4.

Paper: SSR (spatially variant kernel refinement with diffusion for blind super-resolution). UNet, autoencoder and depth
net (MiDaS DPT-Large) come from public checkpoints; AMF and its encoders (hidden 128), DKENet (nf 128) and NBSR (10
blocks, nf 64, gc 32) are trained.

  ssr weights import sd21-base --as sd21           # vae and unet; without a network it names the folder to fill
  ssr weights import dpt-large --as sd21           # depth
  python train.py --config=configs/sd21.py:STAGE --workdir=runs/STAGE --config.data.train='folder:DIR'

with STAGE kernel, nbsr, svkr, then diffusion, and distill for a student of four steps. A stage takes its frozen parts
from the model 'sd21', or from `--config.parts_from=MODEL`. Add the parts that it trained to that model with

  ssr export runs/STAGE MODEL_DIR                  # the directory of 'sd21', or of another model

On a TPU pod, on each host (docs/tpu.md says which sizes fit):

  python train.py --config=configs/sd21.py:diffusion --workdir=BUCKET/runs/diffusion \
      --config.data.train='array_record:BUCKET/data/shards/*' --config.data.workers=8 --config.distributed.auto=True \
      --config.mesh.fsdp=16 --config.train.remat=blocks
  python tools/compile_for.py --config=configs/sd21.py:diffusion --topology=v5e-16 --config.mesh.fsdp=16

Not trained yet, so there is no run time or result. Parameters, operations and memory of each part: docs/sizes.md.
"""

from configs.ssr import base as ssr


def get_config(stage: str = ''):
  """The config of one stage (or of evaluation, without one)."""
  config = ssr.full_size(stage, 'sd21')
  config.schedule.prediction = 'eps'  # 2.1-base; the 2.1 of 768 pixels predicts v
  return config
