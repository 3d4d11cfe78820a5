"""Stable Diffusion and ControlNet in the layout of diffusers: name tables, configs, schedule, prompt embedding."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from ssr_jax.nn.clip import CLIPText
from ssr_jax.nn.controlnet import ControlNet
from ssr_jax.types import SSRError
from ssr_jax.weights import files, format
from ssr_jax.weights.importers import torch_files
from ssr_jax.weights.importers.fields import Config, get, read_json, require
from ssr_jax.weights.importers.renaming import Rule, Table, below
from ssr_jax.weights.importers.tokenizer import Tokenizer

# ---- names -----------------------------------------------------------------------------------------------------------

_RESNET = [
  ('norm1', 'norm1', 'norm'),
  ('conv1', 'conv1', 'conv'),
  ('time', 'time_emb_proj', 'linear'),
  ('norm2', 'norm2', 'norm'),
  ('conv2', 'conv2', 'conv'),
  ('shortcut', 'conv_shortcut', 'pointwise'),
]


def _transformer(projection: str) -> list[Rule]:
  attention = [
    ('to_q', 'to_q', 'linear'),
    ('to_k', 'to_k', 'linear'),
    ('to_v', 'to_v', 'linear'),
    ('to_out', 'to_out.0', 'linear'),
  ]
  return [
    ('norm', 'norm', 'norm'),
    ('proj_in', 'proj_in', projection),
    *below('block_{k}_self', 'transformer_blocks.{k}.attn1', attention),
    *below('block_{k}_cross', 'transformer_blocks.{k}.attn2', attention),
    ('block_{k}_norm1', 'transformer_blocks.{k}.norm1', 'norm'),
    ('block_{k}_norm2', 'transformer_blocks.{k}.norm2', 'norm'),
    ('block_{k}_norm3', 'transformer_blocks.{k}.norm3', 'norm'),
    ('block_{k}_geglu', 'transformer_blocks.{k}.ff.net.0.proj', 'linear'),
    ('block_{k}_out', 'transformer_blocks.{k}.ff.net.2', 'linear'),
    ('proj_out', 'proj_out', projection),
  ]


def _trunk(transformer: list[Rule]) -> list[Rule]:
  """The way down and the middle, of a UNet and of a ControlNet."""
  return [
    ('conv_in', 'conv_in', 'conv'),
    ('time/dense_1', 'time_embedding.linear_1', 'linear'),
    ('time/dense_2', 'time_embedding.linear_2', 'linear'),
    *below('down_{i}_res_{j}', 'down_blocks.{i}.resnets.{j}', _RESNET),
    *below('down_{i}_attn_{j}', 'down_blocks.{i}.attentions.{j}', transformer),
    ('down_{i}_conv', 'down_blocks.{i}.downsamplers.0.conv', 'conv'),
    *below('mid_res_{j}', 'mid_block.resnets.{j}', _RESNET),
    *below('mid_attn', 'mid_block.attentions.0', transformer),
  ]


def unet_table(linear_projection: bool = True) -> Table:
  """UNet2DConditionModel and `nn.unet.UNet`.

  Args:
    linear_projection: whether the projections around attention are linear layers (SD 2.x) or 1x1 convolutions (SD 1.x).
  """
  transformer = _transformer('linear' if linear_projection else 'pointwise')
  return Table(
    [
      *_trunk(transformer),
      *below('up_{i}_res_{j}', 'up_blocks.{i}.resnets.{j}', _RESNET),
      *below('up_{i}_attn_{j}', 'up_blocks.{i}.attentions.{j}', transformer),
      ('up_{i}_conv', 'up_blocks.{i}.upsamplers.0.conv', 'conv'),
      ('norm_out', 'conv_norm_out', 'norm'),
      ('conv_out', 'conv_out', 'conv'),
    ]
  )


def controlnet_table(linear_projection: bool = True) -> Table:
  """ControlNetModel and `nn.controlnet.ControlNet` with a hint of pixels; the argument as of `unet_table`."""
  return Table(
    [
      *_trunk(_transformer('linear' if linear_projection else 'pointwise')),
      ('see/conv_in', 'controlnet_cond_embedding.conv_in', 'conv'),
      ('see/block_{i}', 'controlnet_cond_embedding.blocks.{i}', 'conv'),
      ('see/conv_out', 'controlnet_cond_embedding.conv_out', 'conv'),
      ('zero_{j}', 'controlnet_down_blocks.{j}', 'pointwise'),
      ('zero_mid', 'controlnet_mid_block', 'pointwise'),
    ]
  )


def vae_table() -> Table:
  """AutoencoderKL and `nn.vae.VAE`, also with the older names of its attention layers."""
  half = [
    ('conv_in', 'conv_in', 'conv'),
    *below('mid/res_{j}', 'mid_block.resnets.{j}', _RESNET),
    ('mid/attn/norm', 'mid_block.attentions.0.group_norm', 'norm'),
    *((f'mid/attn/{name}', f'mid_block.attentions.0.{name}', 'linear') for name in ('to_q', 'to_k', 'to_v')),
    ('mid/attn/to_out', 'mid_block.attentions.0.to_out.0', 'linear'),
    ('norm_out', 'conv_norm_out', 'norm'),
    ('conv_out', 'conv_out', 'conv'),
  ]
  old = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
  return Table(
    [
      *below('encoder', 'encoder', half),
      *below('encoder/down_{i}_res_{j}', 'encoder.down_blocks.{i}.resnets.{j}', _RESNET),
      ('encoder/down_{i}_conv', 'encoder.down_blocks.{i}.downsamplers.0.conv', 'conv'),
      ('quant_conv', 'quant_conv', 'pointwise'),
      ('post_quant_conv', 'post_quant_conv', 'pointwise'),
      *below('decoder', 'decoder', half),
      *below('decoder/up_{i}_res_{j}', 'decoder.up_blocks.{i}.resnets.{j}', _RESNET),
      ('decoder/up_{i}_conv', 'decoder.up_blocks.{i}.upsamplers.0.conv', 'conv'),
    ],
    aliases=[(rf'(mid_block\.attentions\.0)\.{a}\.', rf'\1.{b}.') for a, b in old.items()],
  )


def text_table() -> Table:
  """CLIPTextModel and `nn.clip.CLIPText`, for SD 1.5 (ViT-L/14) and SD 2.1 (OpenCLIP ViT-H)."""
  layer = [
    ('norm1', 'layer_norm1', 'norm'),
    *(
      (name, f'self_attn.{theirs}', 'linear')
      for name, theirs in (('to_q', 'q_proj'), ('to_k', 'k_proj'), ('to_v', 'v_proj'), ('to_out', 'out_proj'))
    ),
    ('norm2', 'layer_norm2', 'norm'),
    ('fc1', 'mlp.fc1', 'linear'),
    ('fc2', 'mlp.fc2', 'linear'),
  ]
  return Table(
    [
      ('token_embedding', 'text_model.embeddings.token_embedding', 'table'),
      ('position_embedding', 'text_model.embeddings.position_embedding', 'table'),
      *below('layer_{i}', 'text_model.encoder.layers.{i}', layer),
      ('norm_out', 'text_model.final_layer_norm', 'norm'),
    ],
    aliases=[(r'^(embeddings|encoder|final_layer_norm)\.', r'text_model.\1.')],
    unused=[r'text_model\.embeddings\.position_ids'],
  )


# ---- configs ---------------------------------------------------------------------------------------------------------


def unet_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """Attributes of `nn.unet.UNet` from the config.json of a UNet2DConditionModel.

  Args:
    config: the content of the file.
    where: start of an error message, such as the file's path.

  Raises:
    SSRError: a field is missing or has a value that our UNet does not support.
  """
  require(
    config,
    where,
    dict(
      act_fn='silu',
      addition_embed_type=None,
      center_input_sample=False,
      class_embed_type=None,
      conv_in_kernel=3,
      conv_out_kernel=3,
      downsample_padding=1,
      dual_cross_attention=False,
      encoder_hid_dim=None,
      flip_sin_to_cos=True,
      freq_shift=0,
      mid_block_scale_factor=1,
      mid_block_type='UNetMidBlock2DCrossAttn',
      norm_eps=1e-5,
      num_class_embeds=None,
      only_cross_attention=False,
      resnet_time_scale_shift='default',
      time_embedding_type='positional',
      transformer_layers_per_block=1,
    ),
  )
  kinds = {**_DOWN, 'CrossAttnUpBlock2D': True, 'UpBlock2D': False}
  down, up = (get(config, where, name) for name in ('down_block_types', 'up_block_types'))
  for kind in (*down, *up):
    if kind not in kinds:
      raise SSRError(f'{where}: our UNet has no block {kind!r}; known: {", ".join(kinds)}')
  attention = [kinds[kind] for kind in down]
  if attention != [kinds[kind] for kind in reversed(up)]:
    raise SSRError(f'{where}: up_block_types {up} do not mirror down_block_types {down}')
  channels = get(config, where, 'in_channels')
  if config.get('out_channels', channels) != channels:
    raise SSRError(f'{where}: in_channels {channels} and out_channels {config["out_channels"]} differ')
  # In diffusers the field attention_head_dim holds the number of heads.
  heads = config.get('num_attention_heads') or get(config, where, 'attention_head_dim')
  return dict(
    channels=list(get(config, where, 'block_out_channels')),
    latent_channels=channels,
    blocks=get(config, where, 'layers_per_block'),
    attention=attention,
    heads=heads,
    cross_attention_dim=get(config, where, 'cross_attention_dim'),
    groups=get(config, where, 'norm_num_groups'),
  )


_DOWN = {'CrossAttnDownBlock2D': True, 'DownBlock2D': False}


def controlnet_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """Attributes of `nn.controlnet.ControlNet` from the config.json of a ControlNetModel; otherwise as `unet_config`."""
  require(
    config,
    where,
    dict(
      act_fn='silu',
      addition_embed_type=None,
      class_embed_type=None,
      conditioning_channels=3,
      controlnet_conditioning_channel_order='rgb',
      downsample_padding=1,
      encoder_hid_dim=None,
      flip_sin_to_cos=True,
      freq_shift=0,
      global_pool_conditions=False,
      mid_block_scale_factor=1,
      mid_block_type='UNetMidBlock2DCrossAttn',
      norm_eps=1e-5,
      num_class_embeds=None,
      only_cross_attention=False,
      resnet_time_scale_shift='default',
      transformer_layers_per_block=1,
    ),
  )
  down = get(config, where, 'down_block_types')
  for kind in down:
    if kind not in _DOWN:
      raise SSRError(f'{where}: our ControlNet has no block {kind!r}; known: {", ".join(_DOWN)}')
  return dict(
    channels=list(get(config, where, 'block_out_channels')),
    latent_channels=get(config, where, 'in_channels'),
    blocks=get(config, where, 'layers_per_block'),
    attention=[_DOWN[kind] for kind in down],
    heads=config.get('num_attention_heads') or get(config, where, 'attention_head_dim'),
    cross_attention_dim=get(config, where, 'cross_attention_dim'),
    groups=get(config, where, 'norm_num_groups'),
    hint_channels=list(config.get('conditioning_embedding_out_channels', (16, 32, 96, 256))),
  )


def write_controlnet(
  folder: pathlib.Path, config: Config, variables: Mapping[str, Any], linear_projection: bool = False
) -> None:
  """Writes a ControlNet as a folder that diffusers' ControlNetModel.from_pretrained reads.

  Args:
    folder: created if absent.
    config: attributes of `nn.controlnet.ControlNet`; those that are left out are its defaults.
    variables: its Flax variables.
    linear_projection: as of `controlnet_table`.

  Raises:
    SSRError: a ControlNet that diffusers does not have, variables that are not its, or a folder that cannot be written.
  """
  fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
  module = ControlNet(**fields)
  where = f'{folder}: not written'
  if module.hint != 'pixels' or any(module.window or ()) or not module.mid_attention:
    raise SSRError(f"{where}: diffusers' ControlNet has a hint of pixels, no windows and attention in the middle")
  tensors = controlnet_table(linear_projection).to_theirs(format.flatten(variables), where)
  heads = [module.heads_of(level) for level in range(len(module.channels))]
  theirs = dict(
    _class_name='ControlNetModel',
    act_fn='silu',
    attention_head_dim=heads[0] if len(set(heads)) == 1 else heads,
    block_out_channels=list(module.channels),
    conditioning_channels=3,
    conditioning_embedding_out_channels=list(module.hint_channels),
    controlnet_conditioning_channel_order='rgb',
    cross_attention_dim=module.cross_attention_dim,
    down_block_types=['CrossAttnDownBlock2D' if flag else 'DownBlock2D' for flag in module.attention],
    downsample_padding=1,
    flip_sin_to_cos=True,
    freq_shift=0,
    global_pool_conditions=False,
    in_channels=module.latent_channels,
    layers_per_block=module.blocks,
    mid_block_scale_factor=1,
    norm_eps=1e-5,
    norm_num_groups=module.groups,
    only_cross_attention=False,
    resnet_time_scale_shift='default',
    use_linear_projection=linear_projection,
  )
  # Two files: the weights first, so that a folder with a config.json is whole.
  with files.locked(folder, create=True):
    files.write(folder / 'diffusion_pytorch_model.safetensors', safetensors.numpy.save(tensors, {'format': 'pt'}))
    files.write(folder / 'config.json', (json.dumps(theirs, indent=2) + '\n').encode())


def vae_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """Attributes of `nn.vae.VAE` from the config.json of an AutoencoderKL; otherwise as `unet_config`."""
  require(
    config,
    where,
    dict(
      act_fn='silu',
      in_channels=3,
      out_channels=3,
      latents_mean=None,
      latents_std=None,
      mid_block_add_attention=True,
      shift_factor=None,
      use_post_quant_conv=True,
      use_quant_conv=True,
    ),
  )
  blocks = get(config, where, 'layers_per_block')
  return dict(
    channels=list(get(config, where, 'block_out_channels')),
    latent_channels=get(config, where, 'latent_channels'),
    encoder_blocks=blocks,
    decoder_blocks=blocks + 1,
    groups=config.get('norm_num_groups', 32),
    scaling_factor=config.get('scaling_factor', 0.18215),
  )


def text_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """Attributes of `nn.clip.CLIPText` from the config.json of a CLIPTextModel; otherwise as `unet_config`."""
  require(config, where, dict(layer_norm_eps=1e-5))
  return dict(
    width=get(config, where, 'hidden_size'),
    layers=get(config, where, 'num_hidden_layers'),
    heads=get(config, where, 'num_attention_heads'),
    hidden=get(config, where, 'intermediate_size'),
    activation=config.get('hidden_act', 'quick_gelu'),
    vocabulary=config.get('vocab_size', 49408),
    positions=config.get('max_position_embeddings', 77),
  )


def read_schedule(path: pathlib.Path) -> Config:
  """Fields of `diffusion.Schedule` from a scheduler_config.json.

  Raises:
    SSRError: the file cannot be read, a field is missing, or the schedule is one that we do not have.
  """
  config = read_json(path)
  require(config, str(path), dict(beta_schedule='scaled_linear', trained_betas=None))
  kinds = {'epsilon': 'eps', 'v_prediction': 'v'}
  kind = config.get('prediction_type', 'epsilon')
  if kind not in kinds:
    raise SSRError(f'{path}: prediction_type {kind!r} is not supported; known: {", ".join(kinds)}')
  return dict(
    steps=config.get('num_train_timesteps', 1000),
    beta_start=get(config, str(path), 'beta_start'),
    beta_end=get(config, str(path), 'beta_end'),
    prediction=kinds[kind],
  )


# ---- prompt ----------------------------------------------------------------------------------------------------------


def prompt_embedding(path: pathlib.Path, prompt: str) -> np.ndarray:
  """The text encoder's output for a prompt, float32 [n, e].

  Args:
    path: a folder of diffusers; its text_encoder/ and tokenizer/ are read.
    prompt: the text.

  Raises:
    SSRError: files that are missing, damaged, or of a text encoder that we do not have.
  """
  folder = path / 'text_encoder'
  config = text_config(read_json(folder / 'config.json'), str(folder / 'config.json'))
  tokens = Tokenizer.read(path / 'tokenizer')(prompt)[None, : config['positions']]
  module = CLIPText(**config)
  expected = format.flatten_shapes(jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(tokens.shape, jnp.int32)))
  variables = format.unflatten(text_table().to_ours(torch_files.read(folder), expected, str(folder)))
  with jax.default_matmul_precision('highest'):
    return np.asarray(jax.jit(module.apply)(variables, jnp.asarray(tokens))[0])
