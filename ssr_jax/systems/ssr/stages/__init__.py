"""The training stages of SSR, in training order."""

from ssr_jax.systems.ssr.stages.depth import DepthStage
from ssr_jax.systems.ssr.stages.diffusion import DiffusionStage
from ssr_jax.systems.ssr.stages.distill import DistillStage
from ssr_jax.systems.ssr.stages.kernel import KernelStage
from ssr_jax.systems.ssr.stages.nbsr import NBSRStage
from ssr_jax.systems.ssr.stages.svkr import SVKRStage
from ssr_jax.systems.ssr.stages.vae import VAEStage

STAGES = {
  'depth': DepthStage,
  'kernel': KernelStage,
  'nbsr': NBSRStage,
  'svkr': SVKRStage,
  'vae': VAEStage,
  'diffusion': DiffusionStage,
  'distill': DistillStage,
}
