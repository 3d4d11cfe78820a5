"""`ssr weights import`: a public checkpoint becomes parts of a model directory.

A checkpoint is a folder as diffusers or transformers write it, or a file of MANet's. Its config.json is translated into
the attributes of our module, every field that our module could not honour being an error, and its tensors by the tables
of `convert`.
"""

from collections.abc import Callable, Mapping
import functools
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.nn.blocks import BN_EPS
from ssr_jax.types import SSRError
from ssr_jax.weights import convert, public, registry, torch_files
from ssr_jax.weights.tokenizer import Tokenizer

Config = dict[str, Any]


def import_checkpoint(
  source: str | os.PathLike,
  directory: pathlib.Path,
  *,
  prompt: str = '',
  report: Callable[[str], None] = lambda line: None,
) -> list[str]:
  """Writes what a public checkpoint holds into a model directory; other parts that are there stay.

  Args:
    source: a folder of diffusers or transformers, a file, a name of `public.PUBLIC`, or a hub id.
    directory: the model directory.
    prompt: the fixed text condition of a Stable Diffusion; its embedding is computed here and stored with the UNet.
    report: called with a line before each step that takes long.

  Returns:
    the parts written.

  Raises:
    SSRError: nothing there, a network that we do not have, weights that are not exactly those of the network, or, by
      name, files that are not the published ones.
  """
  path = public.locate(source)
  report(f'{path}: checking')
  public.check(source, path)
  schedule = _schedule(path / 'scheduler' / 'scheduler_config.json') if (path / 'unet').is_dir() else None
  found = list(_networks(path, prompt, report))  # all of it before anything is written: a bad file leaves no half
  for part, config, variables, notes in found:
    report(f'{part}: writing')
    registry.save_part(directory, part, config, variables, {'imported_from': str(source), **notes})
  if schedule:
    registry.update(directory, schedule=schedule)
  return [part for part, *_ in found]


def _networks(path: pathlib.Path, prompt: str, report):
  """(part, config, variables, notes) of each network that a checkpoint holds."""
  if path.is_file():
    yield from _manet_file(path)
  elif (path / 'unet').is_dir():
    report('vae: reading')
    yield 'vae', *_vae(path / 'vae')
    report('unet: reading, and its prompt')
    yield 'unet', *_amf_unet(path, prompt)
  else:
    config = _read_json(path / 'config.json')
    kind = config.get('_class_name') or config.get('model_type')
    if kind not in _SINGLE:
      raise SSRError(
        f"{path / 'config.json'}: a {kind!r} is nothing we import; known: a Stable Diffusion's folder (with unet/ in "
        f"it), {', '.join(_SINGLE)}, or a file of MANet's"
      )
    part, load = _SINGLE[kind]
    report(f'{part}: reading')
    yield part, *load(path)


# ---- Stable Diffusion ------------------------------------------------------------------------------------------------


def unet_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """UNet2DConditionModel's config.json -> attributes of UNet.

  Raises:
    SSRError: a field with a value that our UNet does not have.
  """
  _require(
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
  kinds = {'CrossAttnDownBlock2D': True, 'DownBlock2D': False, 'CrossAttnUpBlock2D': True, 'UpBlock2D': False}
  down, up = (_get(config, where, name) for name in ('down_block_types', 'up_block_types'))
  for kind in (*down, *up):
    if kind not in kinds:
      raise SSRError(f'{where}: a block {kind!r} is not one that our UNet has; known: {", ".join(kinds)}')
  attention = [kinds[kind] for kind in down]
  if attention != [kinds[kind] for kind in reversed(up)]:
    raise SSRError(f'{where}: the way up {up} is not the way down {down} in reverse')
  channels = _get(config, where, 'in_channels')
  if config.get('out_channels', channels) != channels:
    raise SSRError(f'{where}: in_channels {channels} and out_channels {config["out_channels"]} differ')
  # diffusers calls the number of heads attention_head_dim.
  heads = config.get('num_attention_heads') or _get(config, where, 'attention_head_dim')
  return dict(
    channels=list(_get(config, where, 'block_out_channels')),
    latent_channels=channels,
    blocks=_get(config, where, 'layers_per_block'),
    attention=attention,
    heads=heads,
    cross_attention_dim=_get(config, where, 'cross_attention_dim'),
    groups=_get(config, where, 'norm_num_groups'),
  )


def vae_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """AutoencoderKL's config.json -> attributes of VAE; SSRError where a value is not one that ours has."""
  _require(
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
  blocks = _get(config, where, 'layers_per_block')
  return dict(
    channels=list(_get(config, where, 'block_out_channels')),
    latent_channels=_get(config, where, 'latent_channels'),
    encoder_blocks=blocks,
    decoder_blocks=blocks + 1,
    groups=config.get('norm_num_groups', 32),
    scaling_factor=config.get('scaling_factor', 0.18215),
  )


def text_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """CLIPTextModel's config.json -> attributes of CLIPText; SSRError where a value is not one that ours has."""
  _require(config, where, dict(layer_norm_eps=1e-5))
  return dict(
    width=_get(config, where, 'hidden_size'),
    layers=_get(config, where, 'num_hidden_layers'),
    heads=_get(config, where, 'num_attention_heads'),
    hidden=_get(config, where, 'intermediate_size'),
    activation=config.get('hidden_act', 'quick_gelu'),
    vocabulary=config.get('vocab_size', 49408),
    positions=config.get('max_position_embeddings', 77),
  )


def prompt_embedding(path: pathlib.Path, prompt: str) -> np.ndarray:
  """The text condition of a prompt, float32 [n, e], from text_encoder/ and tokenizer/ of a Stable Diffusion folder."""
  from ssr_jax.nn.clip import CLIPText

  folder = path / 'text_encoder'
  config = text_config(_read_json(folder / 'config.json'), str(folder / 'config.json'))
  tokens = Tokenizer.read(path / 'tokenizer')(prompt)[None, : config['positions']]
  module = CLIPText(**config)
  expected = _abstract(module, jnp.zeros(tokens.shape, jnp.int32))
  variables = registry.unflatten(convert.clip_text().to_ours(torch_files.read(folder), expected, str(folder)))
  with jax.default_matmul_precision('highest'):
    return np.asarray(jax.jit(module.apply)(variables, jnp.asarray(tokens))[0])


def _vae(folder: pathlib.Path):
  config = vae_config(_read_json(folder / 'config.json'), str(folder / 'config.json'))
  tensors = convert.vae().to_ours(torch_files.read(folder), registry.abstract_variables('vae', config), str(folder))
  return config, registry.unflatten(tensors), {}


def _amf_unet(path: pathlib.Path, prompt: str):
  """The AMF-UNet whose base is the checkpoint: its output is the base UNet's until AMF is trained."""
  folder = path / 'unet'
  theirs = _read_json(folder / 'config.json')
  config = unet_config(theirs, str(folder / 'config.json'))
  config |= widths(len(config['channels']))
  context = prompt_embedding(path, prompt)
  if context.shape[1] != config['cross_attention_dim']:
    raise SSRError(
      f'{path}: the text encoder gives {context.shape[1]} channels, the UNet takes {config["cross_attention_dim"]}'
    )
  config['prompt_tokens'] = len(context)
  expected = registry.abstract_variables('unet', config)
  base = {
    f'params/{name.removeprefix("params/unet/")}': shape
    for name, shape in expected.items()
    if name.startswith('params/unet/') and '/amf/' not in name
  }
  table = convert.unet(theirs.get('use_linear_projection', False))
  found = table.to_ours(torch_files.read(folder), base, str(folder))
  tensors = untrained(expected, seed=0)
  tensors |= {f'params/unet/{name.removeprefix("params/")}': array for name, array in found.items()}
  tensors['constants/prompt'] = context
  return config, registry.unflatten(tensors), {'prompt': prompt, 'untrained': 'AMF and the three encoders'}


# Widths of the encoders, per UNet level; the paper is silent.
_WIDTHS = {
  'kernel_channels': (64, 64, 128, 128),
  'depth_channels': (64, 64, 128, 128),
  'lr_channels': (256, 256, 512, 512),
}


def widths(levels: int) -> Config:
  """Widths of an imported AMF-UNet's encoders, as attributes of AMFUNet; the last one again where levels are more."""
  return {field: list((*found, *found[-1:] * levels)[:levels]) for field, found in _WIDTHS.items()}


def untrained(expected: Mapping[str, jax.ShapeDtypeStruct], seed: int) -> dict[str, np.ndarray]:
  """Start values of an AMF-UNet's own parameters, by name: those of its initialisers, without compiling them.

  Batch norms start as the identity, which they are with a variance of 1 - epsilon.
  """
  rng = np.random.default_rng(seed)
  found = {}
  for name, shape in expected.items():
    if name.startswith('params/unet/') and '/amf/' not in name:
      continue
    module, leaf = name.split('/')[-2:]
    if leaf == 'kernel' and not (module.startswith(('alpha_', 'beta_')) and module.endswith('_out')):
      # lecun_normal: a normal of variance 1 / fan-in, cut at two deviations
      draw = rng.standard_normal(shape.shape, np.float32)
      for _ in range(20):
        far = np.abs(draw) > 2
        draw[far] = rng.standard_normal(int(far.sum()), np.float32)
      found[name] = np.clip(draw, -2, 2) * np.float32((np.prod(shape.shape[:-1]) * 0.7737) ** -0.5)
    else:
      value = {'scale': 1.0, 'var': 1.0 - BN_EPS}.get(leaf, 0.0)
      found[name] = np.full(shape.shape, value, np.float32)
  return found


def _schedule(path: pathlib.Path) -> Config:
  config = _read_json(path)
  _require(config, str(path), dict(beta_schedule='scaled_linear', trained_betas=None))
  kinds = {'epsilon': 'eps', 'v_prediction': 'v'}
  kind = config.get('prediction_type', 'epsilon')
  if kind not in kinds:
    raise SSRError(f'{path}: prediction_type {kind!r} is not one we sample with; known: {", ".join(kinds)}')
  return dict(
    steps=config.get('num_train_timesteps', 1000),
    beta_start=_get(config, str(path), 'beta_start'),
    beta_end=_get(config, str(path), 'beta_end'),
    prediction=kinds[kind],
  )


# ---- depth -----------------------------------------------------------------------------------------------------------


# What every DPT of ours has.
_DPT = dict(
  add_projection=False,
  is_hybrid=False,
  neck_ignore_stages=[],
  readout_type='project',
  reassemble_factors=[4, 2, 1, 0.5],
  head_in_index=-1,
  use_batch_norm_in_fusion_residual=False,
)


def dpt_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """DPTForDepthEstimation's config.json, on a ViT or BEiT -> attributes of DPT; SSRError where ours cannot follow."""
  _require(config, where, _DPT)
  if config.get('use_bias_in_fusion_residual') not in (None, True):
    raise SSRError(f'{where}: use_bias_in_fusion_residual is False; our network has biases there')
  if config.get('backbone_config'):
    return _dpt_beit_config(config, where)
  _require(config, where, dict(hidden_act='gelu', qkv_bias=True))
  size, patch = _get(config, where, 'image_size'), _get(config, where, 'patch_size')
  return dict(
    family='dpt',
    resolution=[size, size],
    patch=patch,
    width=_get(config, where, 'hidden_size'),
    layers=_get(config, where, 'num_hidden_layers'),
    heads=_get(config, where, 'num_attention_heads'),
    hidden=_get(config, where, 'intermediate_size'),
    taps=list(_get(config, where, 'backbone_out_indices')),
    positions=size // patch,
    eps=config.get('layer_norm_eps', 1e-12),
    neck=list(_get(config, where, 'neck_hidden_sizes')),
    fusion=_get(config, where, 'fusion_hidden_size'),
  )


def _dpt_beit_config(config: Mapping[str, Any], where: str) -> Config:
  backbone = config['backbone_config']
  inside = f'{where} (backbone_config)'
  _require(
    backbone,
    inside,
    dict(
      add_fpn=False,
      hidden_act='gelu',
      model_type='beit',
      num_channels=3,
      reshape_hidden_states=False,
      use_absolute_position_embeddings=False,
      use_relative_position_bias=True,
      use_shared_relative_position_bias=False,
    ),
  )
  for field in ('use_relative_position_bias', 'reshape_hidden_states'):
    _get(backbone, inside, field)  # their defaults are others
  size, patch = backbone.get('image_size', 224), backbone.get('patch_size', 16)
  layers = backbone.get('num_hidden_layers', 12)
  if backbone.get('layer_scale_init_value', 0.1) <= 0:
    raise SSRError(f'{inside}: layer_scale_init_value is 0; our network has layer scales')
  return dict(
    family='dpt',
    resolution=[size, size],
    patch=patch,
    width=_get(backbone, inside, 'hidden_size'),
    layers=layers,
    heads=backbone.get('num_attention_heads', 12),
    hidden=backbone.get('intermediate_size', 3072),
    taps=[index - 1 for index in _out_indices(backbone, layers, inside)],
    positions=size // patch,
    position_method='relative',
    layer_scale=True,
    eps=backbone.get('layer_norm_eps', 1e-12),
    neck=list(_get(config, where, 'neck_hidden_sizes')),
    fusion=config.get('fusion_hidden_size', 256),
  )


def _dpt_table(config: Config) -> convert.Table:
  return convert.dpt_beit() if config.get('position_method') == 'relative' else convert.dpt()


def depth_anything_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """DepthAnythingForDepthEstimation's config.json -> attributes of DPT; SSRError where ours cannot follow."""
  from ssr_jax.nn.depth import dpt

  _require(
    config,
    where,
    dict(depth_estimation_type='relative', head_in_index=-1, max_depth=1, reassemble_factors=[4, 2, 1, 0.5]),
  )
  backbone = _get(config, where, 'backbone_config')
  _require(
    backbone,
    f'{where} (backbone_config)',
    dict(
      apply_layernorm=True,
      hidden_act='gelu',
      model_type='dinov2',
      qkv_bias=True,
      reshape_hidden_states=False,
      use_swiglu_ffn=False,
    ),
  )
  patch, width = config.get('patch_size', 14), _get(backbone, where, 'hidden_size')
  layers = backbone.get('num_hidden_layers', 12)
  positions = backbone.get('image_size', 518) // patch
  common = {
    k: v
    for k, v in dpt.SIZES['depth-anything-v2-small'].items()
    if k in ('position_method', 'layer_scale', 'readout', 'tap_norm', 'mean', 'deviation')
  }
  return dict(
    family='dpt',
    **{k: list(v) if isinstance(v, tuple) else v for k, v in common.items()},
    resolution=[positions * patch] * 2,
    patch=patch,
    width=width,
    layers=layers,
    heads=_get(backbone, where, 'num_attention_heads'),
    hidden=int(width * backbone.get('mlp_ratio', 4)),
    taps=[index - 1 for index in _out_indices(backbone, layers, where)],
    positions=positions,
    eps=backbone.get('layer_norm_eps', 1e-6),
    neck=list(_get(config, where, 'neck_hidden_sizes')),
    fusion=_get(config, where, 'fusion_hidden_size'),
    head=config.get('head_hidden_size', 32),
  )


def _out_indices(backbone: Mapping[str, Any], layers: int, where: str) -> list[int]:
  """Stages of the backbone whose output is used: 1 is the first layer's."""
  if backbone.get('out_indices'):
    return [index % (layers + 1) for index in backbone['out_indices']]
  features = _get(backbone, where, 'out_features')
  return [int(name.removeprefix('stage')) for name in features]


def _depth(translate: Callable[..., Config], table: Callable[[Config], convert.Table], folder: pathlib.Path):
  config = translate(_read_json(folder / 'config.json'), str(folder / 'config.json'))
  tensors = table(config).to_ours(torch_files.read(folder), registry.abstract_variables('depth', config), str(folder))
  return config, registry.unflatten(tensors), {}


_SINGLE = {
  'AutoencoderKL': ('vae', _vae),
  'dpt': ('depth', functools.partial(_depth, dpt_config, _dpt_table)),
  'depth_anything': ('depth', functools.partial(_depth, depth_anything_config, lambda _: convert.depth_anything())),
}


# ---- MANet -----------------------------------------------------------------------------------------------------------

_ESTIMATOR = 'kernel_estimation.'


def _manet_file(path: pathlib.Path):
  """DKENet without depth, NBSR, or both, by what the file holds: MANet's stages 1, 2 and 3."""
  tensors = torch_files.read(path)
  estimator = {name.removeprefix(_ESTIMATOR) for name in tensors if name.startswith((_ESTIMATOR, 'm_'))}
  names = [name for name in tensors if not name.startswith((_ESTIMATOR, 'm_'))]
  if not estimator and 'RRDB_trunk.0.SFT.mul_conv1.weight' not in tensors:
    raise SSRError(
      f"{path}: holds neither MANet (m_head ...) nor RRDB-SFT (RRDB_trunk.0.SFT ...); known files are MANet's"
    )
  if estimator:
    part = _select(tensors, lambda name: name.startswith((_ESTIMATOR, 'm_')), _ESTIMATOR)
    head = part.get('m_head.weight')
    config = dict(features=0 if head is None else head.shape[0], depth_features=0)
    yield (
      'dkenet',
      config,
      registry.unflatten(convert.manet().to_ours(part, registry.abstract_variables('dkenet', config), str(path))),
      {},
    )
  if names:
    part = _select(tensors, lambda name: name in names and name != 'pca_matrix', '')
    blocks = 1 + max(int(name.split('.')[1]) for name in names if name.startswith('RRDB_trunk.'))
    shapes = {
      name: part[name].shape for name in ('RRDB_trunk.0.RDB1.conv1.weight', 'upsampler.0.weight') if name in part
    }
    if len(shapes) < 2 or 'pca_matrix' not in tensors:
      raise SSRError(f'{path}: RRDB-SFT without its RDB1.conv1, upsampler or pca_matrix; fetch the file again')
    growth, features = shapes['RRDB_trunk.0.RDB1.conv1.weight'][:2]
    pca = np.asarray(tensors['pca_matrix'], np.float32).squeeze()  # theirs is [1, k*k, t, 1, 1]
    config = dict(
      blocks=blocks,
      features=features,
      growth=growth,
      components=pca.shape[1],
      taps=pca.shape[0],
      scale=round((shapes['upsampler.0.weight'][0] / 3) ** 0.5),
    )
    expected = registry.abstract_variables('nbsr', config)
    expected = {name: shape for name, shape in expected.items() if name.startswith('params/')}
    found = convert.rrdb_sft().to_ours(part, expected, str(path))
    yield 'nbsr', config, registry.unflatten({**found, 'constants/pca': pca}), {}


def _select(tensors: Mapping[str, np.ndarray], wanted: Callable[[str], bool], prefix: str) -> dict[str, np.ndarray]:
  return {name.removeprefix(prefix): tensors[name] for name in tensors if wanted(name)}


# ---- small things ----------------------------------------------------------------------------------------------------


def _abstract(module, *args) -> dict[str, jax.ShapeDtypeStruct]:
  return registry.flatten_shapes(jax.eval_shape(module.init, jax.random.key(0), *args))


def _require(config: Mapping[str, Any], where: str, values: Mapping[str, Any]) -> None:
  """Fields, where present, must have the value that our network is built on."""
  for field, value in values.items():
    if config.get(field, value) != value:
      raise SSRError(f'{where}: {field} is {config[field]!r}; our network has {value!r} only')


def _get(config: Mapping[str, Any], where: str, field: str) -> Any:
  if field not in config:
    raise SSRError(f"{where}: field '{field}' is missing; fetch the file again")
  return config[field]


def _read_json(path: pathlib.Path) -> Config:
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror}); fetch it and put it there') from error
  except ValueError as error:
    raise SSRError(f'{path}: not valid JSON ({error}); fetch it again') from error
  if not isinstance(content, dict):
    raise SSRError(f'{path}: not an object; fetch it again')
  return content
