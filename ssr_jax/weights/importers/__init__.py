"""Imports public checkpoints into model directories.

`import_checkpoint` reads a checkpoint, translates its config.json and its tensor names into ours, and writes the parts.
A field or tensor that our network does not have is an error. There is one file per family of checkpoints, which holds
its name tables and config translations; `ssr` says which part of a model each network becomes.
"""

from ssr_jax.weights.importers import ncnn, torch_files
from ssr_jax.weights.importers.depth import (
  depth_anything_config,
  depth_anything_table,
  dpt_beit_table,
  dpt_config,
  dpt_table,
)
from ssr_jax.weights.importers.esrgan import rrdbnet_table
from ssr_jax.weights.importers.lpips import lpips_table
from ssr_jax.weights.importers.manet import manet_table, rrdb_sft_table
from ssr_jax.weights.importers.mcformer import mcformer_table
from ssr_jax.weights.importers.renaming import Table
from ssr_jax.weights.importers.ssr import import_checkpoint, untrained, widths
from ssr_jax.weights.importers.stable_diffusion import (
  controlnet_config,
  controlnet_table,
  prompt_embedding,
  text_config,
  text_table,
  unet_config,
  unet_table,
  vae_config,
  vae_table,
  write_controlnet,
)

SUFFIXES = (*torch_files.SUFFIXES, ncnn.SUFFIX)
"""File name suffixes of checkpoints that are single files, and of ncnn's pair."""

__all__ = [
  'SUFFIXES',
  'Table',
  'controlnet_config',
  'controlnet_table',
  'depth_anything_config',
  'depth_anything_table',
  'dpt_beit_table',
  'dpt_config',
  'dpt_table',
  'import_checkpoint',
  'lpips_table',
  'manet_table',
  'mcformer_table',
  'prompt_embedding',
  'rrdb_sft_table',
  'rrdbnet_table',
  'text_config',
  'text_table',
  'unet_config',
  'unet_table',
  'untrained',
  'vae_config',
  'vae_table',
  'widths',
  'write_controlnet',
]
