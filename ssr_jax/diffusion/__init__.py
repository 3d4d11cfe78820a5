"""Latent diffusion: the schedule, the loss of Eq. 5 and the samplers."""

from ssr_jax.diffusion.samplers import SAMPLERS, STUDENT_SAMPLER, ddim, ddpm, dpmpp_2m, sample
from ssr_jax.diffusion.schedule import Schedule

__all__ = ['SAMPLERS', 'STUDENT_SAMPLER', 'Schedule', 'ddim', 'ddpm', 'dpmpp_2m', 'sample']
