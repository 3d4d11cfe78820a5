"""Depth networks in the layout of transformers: DPT on ViT and on BEiT (MiDaS), and Depth Anything V2 on DINOv2.

All of them become `nn.depth.dpt.DPT`.
"""

from collections.abc import Mapping
import re
from typing import Any

from ssr_jax.nn.depth import dpt
from ssr_jax.types import SSRError
from ssr_jax.weights.importers.fields import Config, get, require
from ssr_jax.weights.importers.renaming import Rule, Table, below

# ---- names -----------------------------------------------------------------------------------------------------------


def _neck(readout: bool) -> list[Rule]:
  units = [(f'residual_{a}/conv_{b}', f'residual_layer{a}.convolution{b}', 'conv') for a in (1, 2) for b in (1, 2)]
  rules = [
    ('reassemble_{i}', 'neck.reassemble_stage.layers.{i}.projection', 'pointwise'),
    ('resize_0', 'neck.reassemble_stage.layers.0.resize', 'transposed4'),
    ('resize_1', 'neck.reassemble_stage.layers.1.resize', 'transposed2'),
    ('resize_3', 'neck.reassemble_stage.layers.3.resize', 'conv'),
    ('neck_{i}', 'neck.convs.{i}', 'conv'),
    *below('fusion_{i}', 'neck.fusion_stage.layers.{i}', [*units, ('projection', 'projection', 'pointwise')]),
  ]
  if readout:
    rules.append(('readout_{i}', 'neck.reassemble_stage.readout_projects.{i}.0', 'linear'))
  return rules


# The first fusion layer has a single input, so its first residual unit is never used; every file contains it.
_UNUSED_FUSION = r'neck\.fusion_stage\.layers\.0\.residual_layer1\..*'

_QUERY_KEY_VALUE = [(f'to_{name[0]}', f'attention.attention.{name}', 'linear') for name in ('query', 'key', 'value')]
_DPT_HEAD = [
  ('head_1', 'head.head.0', 'conv'),
  ('head_2', 'head.head.2', 'conv'),
  ('head_3', 'head.head.4', 'pointwise'),
]


def dpt_table() -> Table:
  """DPTForDepthEstimation on a plain ViT: MiDaS's DPT-Large."""
  layer = [
    ('norm1', 'layernorm_before', 'norm'),
    *_QUERY_KEY_VALUE,
    ('to_out', 'attention.output.dense', 'linear'),
    ('norm2', 'layernorm_after', 'norm'),
    ('fc1', 'intermediate.dense', 'linear'),
    ('fc2', 'output.dense', 'linear'),
  ]
  return Table(
    [
      ('cls_token', 'dpt.embeddings.cls_token', 'tensor'),
      ('position_embeddings', 'dpt.embeddings.position_embeddings', 'tensor'),
      ('patches', 'dpt.embeddings.patch_embeddings.projection', 'conv'),
      *below('layer_{i}', 'dpt.encoder.layer.{i}', layer),
      *_neck(readout=True),
      *_DPT_HEAD,
    ],
    unused=[_UNUSED_FUSION, r'dpt\.layernorm\..*', r'dpt\.pooler\..*'],
  )


def dpt_beit_table() -> Table:
  """DPTForDepthEstimation on BEiT: MiDaS v3.1.

  The rules use the names in the published files; the names of newer versions of transformers are aliases.
  """
  layer = [
    ('norm1', 'layernorm_before', 'norm'),
    *_QUERY_KEY_VALUE,
    ('position_bias', 'attention.attention.relative_position_bias.relative_position_bias_table', 'tensor'),
    ('to_out', 'attention.output.dense', 'linear'),
    ('scale1', 'lambda_1', 'tensor'),
    ('norm2', 'layernorm_after', 'norm'),
    ('fc1', 'intermediate.dense', 'linear'),
    ('fc2', 'output.dense', 'linear'),
    ('scale2', 'lambda_2', 'tensor'),
  ]
  newer = {
    'attention.q_proj': 'attention.attention.query',
    'attention.k_proj': 'attention.attention.key',
    'attention.v_proj': 'attention.attention.value',
    'attention.o_proj': 'attention.output.dense',
    'mlp.fc1': 'intermediate.dense',
    'mlp.fc2': 'output.dense',
    'relative_position_bias': 'attention.attention.relative_position_bias',
  }
  return Table(
    [
      ('cls_token', 'backbone.embeddings.cls_token', 'tensor'),
      ('patches', 'backbone.embeddings.patch_embeddings.projection', 'conv'),
      *below('layer_{i}', 'backbone.encoder.layer.{i}', layer),
      *_neck(readout=True),
      *_DPT_HEAD,
    ],
    aliases=[
      (r'^backbone\.beit\.', 'backbone.'),
      (r'^backbone\.layers\.', 'backbone.encoder.layer.'),
      *((rf'^(backbone\.encoder\.layer\.\d+)\.{re.escape(a)}\.', rf'\1.{b}.') for a, b in newer.items()),
    ],
    # relative_position_index follows from the window size.
    unused=[r'.*\.relative_position_index', _UNUSED_FUSION, r'backbone\.layernorm\..*'],
  )


def depth_anything_table() -> Table:
  """DepthAnythingForDepthEstimation on DINOv2."""
  layer = [
    ('norm1', 'norm1', 'norm'),
    *_QUERY_KEY_VALUE,
    ('to_out', 'attention.output.dense', 'linear'),
    ('scale1', 'layer_scale1.lambda1', 'tensor'),
    ('norm2', 'norm2', 'norm'),
    ('fc1', 'mlp.fc1', 'linear'),
    ('fc2', 'mlp.fc2', 'linear'),
    ('scale2', 'layer_scale2.lambda1', 'tensor'),
  ]
  newer = {
    'q_proj': 'attention.query',
    'k_proj': 'attention.key',
    'v_proj': 'attention.value',
    'o_proj': 'output.dense',
  }
  return Table(
    [
      ('cls_token', 'backbone.embeddings.cls_token', 'tensor'),
      ('position_embeddings', 'backbone.embeddings.position_embeddings', 'tensor'),
      ('patches', 'backbone.embeddings.patch_embeddings.projection', 'conv'),
      *below('layer_{i}', 'backbone.encoder.layer.{i}', layer),
      ('norm_out', 'backbone.layernorm', 'norm'),
      *_neck(readout=False),
      ('head_1', 'head.conv1', 'conv'),
      ('head_2', 'head.conv2', 'conv'),
      ('head_3', 'head.conv3', 'pointwise'),
    ],
    aliases=[(rf'\.attention\.{a}\.', f'.attention.{b}.') for a, b in newer.items()],
    unused=[_UNUSED_FUSION, r'backbone\.embeddings\.mask_token'],
  )


def table_of(config: Config) -> Table:
  """`dpt_table` or `dpt_beit_table`, whichever fits a result of `dpt_config`."""
  return dpt_beit_table() if config.get('position_method') == 'relative' else dpt_table()


# ---- configs ---------------------------------------------------------------------------------------------------------

# Fields of a DPT's config.json for which our network supports one value only.
_DPT_FIELDS = dict(
  add_projection=False,
  is_hybrid=False,
  neck_ignore_stages=[],
  readout_type='project',
  reassemble_factors=[4, 2, 1, 0.5],
  head_in_index=-1,
  use_batch_norm_in_fusion_residual=False,
)


def dpt_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """Attributes of `DPT` from the config.json of a DPTForDepthEstimation on ViT or BEiT.

  Args:
    config: the content of the file.
    where: start of an error message, such as the file's path.

  Raises:
    SSRError: a field is missing or has a value that our network does not support.
  """
  require(config, where, _DPT_FIELDS)
  if config.get('use_bias_in_fusion_residual') not in (None, True):
    raise SSRError(f'{where}: use_bias_in_fusion_residual is False; our network has biases there')
  if config.get('backbone_config'):
    return _dpt_beit_config(config, where)
  require(config, where, dict(hidden_act='gelu', qkv_bias=True))
  size, patch = get(config, where, 'image_size'), get(config, where, 'patch_size')
  return dict(
    family='dpt',
    resolution=[size, size],
    patch=patch,
    width=get(config, where, 'hidden_size'),
    layers=get(config, where, 'num_hidden_layers'),
    heads=get(config, where, 'num_attention_heads'),
    hidden=get(config, where, 'intermediate_size'),
    taps=list(get(config, where, 'backbone_out_indices')),
    positions=size // patch,
    eps=config.get('layer_norm_eps', 1e-12),
    neck=list(get(config, where, 'neck_hidden_sizes')),
    fusion=get(config, where, 'fusion_hidden_size'),
  )


def _dpt_beit_config(config: Mapping[str, Any], where: str) -> Config:
  backbone = config['backbone_config']
  inside = f'{where} (backbone_config)'
  require(
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
    get(backbone, inside, field)  # BEiT's default for an absent field is not the value that `require` accepts
  size, patch = backbone.get('image_size', 224), backbone.get('patch_size', 16)
  layers = backbone.get('num_hidden_layers', 12)
  if backbone.get('layer_scale_init_value', 0.1) <= 0:
    raise SSRError(f'{inside}: layer_scale_init_value is 0; our network has layer scales')
  return dict(
    family='dpt',
    resolution=[size, size],
    patch=patch,
    width=get(backbone, inside, 'hidden_size'),
    layers=layers,
    heads=backbone.get('num_attention_heads', 12),
    hidden=backbone.get('intermediate_size', 3072),
    taps=[index - 1 for index in _out_indices(backbone, layers, inside)],
    positions=size // patch,
    position_method='relative',
    layer_scale=True,
    eps=backbone.get('layer_norm_eps', 1e-12),
    neck=list(get(config, where, 'neck_hidden_sizes')),
    fusion=config.get('fusion_hidden_size', 256),
  )


def depth_anything_config(config: Mapping[str, Any], where: str = 'config.json') -> Config:
  """Attributes of `DPT` from the config.json of a DepthAnythingForDepthEstimation; as `dpt_config`."""
  require(
    config,
    where,
    dict(depth_estimation_type='relative', head_in_index=-1, max_depth=1, reassemble_factors=[4, 2, 1, 0.5]),
  )
  backbone = get(config, where, 'backbone_config')
  require(
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
  patch, width = config.get('patch_size', 14), get(backbone, where, 'hidden_size')
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
    heads=get(backbone, where, 'num_attention_heads'),
    hidden=int(width * backbone.get('mlp_ratio', 4)),
    taps=[index - 1 for index in _out_indices(backbone, layers, where)],
    positions=positions,
    eps=backbone.get('layer_norm_eps', 1e-6),
    neck=list(get(config, where, 'neck_hidden_sizes')),
    fusion=get(config, where, 'fusion_hidden_size'),
    head=config.get('head_hidden_size', 32),
  )


def _out_indices(backbone: Mapping[str, Any], layers: int, where: str) -> list[int]:
  """Stages of the backbone that feed the neck: 0 is the embedding, 1 the first layer; negative ones count back."""
  if backbone.get('out_indices'):
    return [index % (layers + 1) for index in backbone['out_indices']]
  features = get(backbone, where, 'out_features')
  return [int(name.removeprefix('stage')) for name in features]
