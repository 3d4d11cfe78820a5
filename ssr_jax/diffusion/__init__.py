"""Latent diffusion: the schedule, the noise and the samplers."""

from ssr_jax.diffusion.samplers import SAMPLERS, STUDENT_SAMPLER, ddim, ddpm, dpmpp_2m, sample
from ssr_jax.diffusion.schedule import Schedule

__all__ = ['SAMPLERS', 'STUDENT_SAMPLER', 'Schedule', 'ddim', 'ddpm', 'dpmpp_2m', 'sample']
