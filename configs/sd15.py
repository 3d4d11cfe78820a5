"""The paper's size on Stable Diffusion 1.5: configs/sd21.py with eight heads at every level and CLIP ViT-L's context.

ssr weights import sd15 --as sd15
ssr weights import dpt-large --as sd15
python train.py --config=configs/sd15.py:STAGE --workdir=runs/STAGE --config.data.train='folder:DIR'
python tools/compile_for.py --config=configs/sd15.py:diffusion --topology=v5e-16 --config.mesh.fsdp=16
"""

from configs.ssr import base as ssr


def get_config(stage: str = ''):
  """The config of one stage (or of evaluation, without one)."""
  return ssr.full_size(stage, 'sd15')
