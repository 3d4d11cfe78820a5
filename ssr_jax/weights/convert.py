"""Public checkpoints to our variables and back: one table of names per network, read in both directions.

A rule pairs a module of ours with one of theirs and says how its tensors are laid out on each side. `{i}` stands for a
number that both share, `{i+1}` for one that counts from one where theirs counts from zero. Whatever a table does not
name, on either side, is an error that lists it.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from ssr_jax.types import SSRError

Rule = tuple[str, str, str]

_LISTED = 8  # names shown in an error before it says how many more there are


@dataclasses.dataclass(frozen=True)
class _Layout:
  """How one tensor of a module is called and laid out: ours, theirs, and the way from one to the other."""

  ours: str
  theirs: str
  to_ours: Callable[[np.ndarray], np.ndarray] = lambda a: a
  to_theirs: Callable[[np.ndarray], np.ndarray] = lambda a: a


def _matrix(a: np.ndarray) -> np.ndarray:
  """[o, i] or, of a 1x1 convolution, [o, i, 1, 1] -> [i, o]; old and new checkpoints differ in which they have."""
  return a.reshape(a.shape[:2]).T


def _transposed(side: int) -> tuple[_Layout, ...]:
  """ConvTranspose2d whose stride is its size: [i, o, s, s] <-> Dense [i, o*s*s] before depth_to_space."""
  return (
    _Layout('conv/kernel', 'weight', lambda a: a.reshape(len(a), -1), lambda a: a.reshape(len(a), -1, side, side)),
    _Layout('bias', 'bias'),
  )


_BIAS = _Layout('bias', 'bias')
_KINDS: dict[str, tuple[_Layout, ...]] = {
  'tensor': (_Layout('', ''),),
  'norm': (_Layout('scale', 'weight'), _BIAS),
  'table': (_Layout('embedding', 'weight'),),
  'linear': (_Layout('kernel', 'weight', _matrix, lambda a: a.T), _BIAS),
  'pointwise': (_Layout('kernel', 'weight', _matrix, lambda a: a.T[:, :, None, None]), _BIAS),
  'conv': (_Layout('kernel', 'weight', lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1)), _BIAS),
  # Conv2d(2, stride 2) <-> Dense over the four pixels of a cell, ordered (y, x, channel).
  'cell': (
    _Layout(
      'conv/kernel',
      'weight',
      lambda a: a.transpose(2, 3, 1, 0).reshape(-1, len(a)),
      lambda a: a.reshape(2, 2, -1, a.shape[-1]).transpose(3, 2, 0, 1),
    ),
    _Layout('conv/bias', 'bias'),
  ),
  'transposed2': _transposed(2),
  'transposed4': _transposed(4),
}


@dataclasses.dataclass(frozen=True)
class Table:
  """The names of one network on both sides.

  Attributes:
    rules: (our module, their module, kind); kinds are 'linear' (Dense and Linear), 'pointwise' (Dense and a 1x1
      convolution), 'conv', 'norm', 'table' (Embed), 'cell', 'transposed2', 'transposed4' and 'tensor' (no module).
    aliases: (pattern, replacement) for other names that theirs have had; applied to every name before the rules.
    unused: patterns of tensors of theirs that the network never uses; they are left out, and not written on export.
  """

  rules: Sequence[Rule]
  aliases: Sequence[tuple[str, str]] = ()
  unused: Sequence[str] = ()

  def canonical(self, name: str) -> str:
    """The name that the rules know for one of theirs."""
    for pattern, replacement in self.aliases:
      name = re.sub(pattern, replacement, name)
    return name

  def to_ours(
    self, tensors: Mapping[str, np.ndarray], expected: Mapping[str, Any], where: str
  ) -> dict[str, np.ndarray]:
    """Converts a state dict.

    Args:
      tensors: theirs, by name.
      expected: ours by flat name ('params/conv_in/kernel'), anything with a shape.
      where: what an error names, such as the file.

    Returns:
      float32 arrays, exactly those of `expected`.

    Raises:
      SSRError: names without a place, names that are missing, shapes that differ; it lists them.
    """
    compiled = [
      (_pattern(theirs, '.', layout.theirs), _place(ours, '/', layout.ours, 1), layout)
      for ours, theirs, kind in self.rules
      for layout in _KINDS[kind]
    ]
    found: dict[str, np.ndarray] = {}
    unmapped, wrong = [], []
    for name in tensors:
      known = self.canonical(name)
      if any(re.fullmatch(pattern, known) for pattern in self.unused):
        continue
      ours, layout = _lookup(compiled, known)
      ours = f'params/{ours}'
      if layout is None or ours in found or ours not in expected:
        unmapped.append(name)
        continue
      array = np.asarray(tensors[name])
      shape = tuple(expected[ours].shape)
      try:
        found[ours] = np.asarray(layout.to_ours(array), np.float32)
      except ValueError:  # not the number of axes that the layout has
        found[ours] = array
      if found[ours].shape != shape:
        wrong.append(f'{name} {array.shape}, which gives {found[ours].shape} for {shape}')
    problems = [
      f'{what} {_some(names)}'
      for what, names in (
        ('no place for', unmapped),
        ('missing', self._their_names(expected.keys() - found.keys())),
        ('shape of', wrong),
      )
      if names
    ]
    if problems:
      raise SSRError(
        f'{where}: not the weights of this network: {"; ".join(problems)}; is its config.json the right one?'
      )
    return found

  def to_theirs(self, tensors: Mapping[str, np.ndarray], where: str = 'export') -> dict[str, np.ndarray]:
    """Converts flat variables of ours ('params/...') to their names and layouts.

    Raises:
      SSRError: variables that the table does not name; it lists them.
    """
    compiled = [
      (_pattern(ours, '/', layout.ours), _place(theirs, '.', layout.theirs, -1), layout)
      for ours, theirs, kind in self.rules
      for layout in _KINDS[kind]
    ]
    found, unmapped = {}, []
    for name, array in tensors.items():
      theirs, layout = _lookup(compiled, name.removeprefix('params/'))
      if layout is None:
        unmapped.append(name)
      else:
        found[theirs] = np.ascontiguousarray(layout.to_theirs(np.asarray(array)))
    if unmapped:
      raise SSRError(f'{where}: no name for {_some(unmapped)}; is this another network?')
    return found

  def _their_names(self, names) -> list[str]:
    """What is missing, by the names that a user finds in the file."""
    compiled = [
      (_pattern(ours, '/', layout.ours), _place(theirs, '.', layout.theirs, -1), layout)
      for ours, theirs, kind in self.rules
      for layout in _KINDS[kind]
    ]
    return [_lookup(compiled, name.removeprefix('params/'))[0] or name for name in names]


_NUMBER = re.compile(r'\{(\w)(\+1)?\}')


def _pattern(module: str, separator: str, leaf: str) -> re.Pattern:
  """A rule's side as an expression; its groups are named for the numbers ('i', or 'i1' where it counts from one)."""
  path = f'{module}{separator}{leaf}' if leaf else module
  parts, end = [], 0
  for number in _NUMBER.finditer(path):
    parts += [re.escape(path[end : number.start()]), rf'(?P<{number[1]}{"1" if number[2] else ""}>\d+)']
    end = number.end()
  return re.compile(''.join(parts) + re.escape(path[end:]))


def _place(module: str, separator: str, leaf: str, step: int) -> Callable[[Mapping[str, str]], str]:
  """A rule's other side as a function of the numbers found; step is 1 towards ours, -1 towards theirs."""
  path = f'{module}{separator}{leaf}' if leaf else module

  def fill(numbers: Mapping[str, str]) -> str:
    def one(number: re.Match) -> str:
      letter = number[1]
      if number[2]:  # this side counts from one
        return numbers[f'{letter}1'] if f'{letter}1' in numbers else str(int(numbers[letter]) + step)
      return numbers[letter] if letter in numbers else str(int(numbers[f'{letter}1']) + step)

    return _NUMBER.sub(one, path)

  return fill


def _lookup(compiled, name: str) -> tuple[str | None, _Layout | None]:
  for pattern, place, layout in compiled:
    match = pattern.fullmatch(name)
    if match:
      return place(match.groupdict()), layout
  return None, None


def _some(names) -> str:
  names = sorted(names)
  more = f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
  return ', '.join(names[:_LISTED]) + more


def _below(ours: str, theirs: str, rules: Sequence[Rule]) -> list[Rule]:
  return [(f'{ours}/{a}', f'{theirs}.{b}', kind) for a, b, kind in rules]


# ---- Stable Diffusion, by the names of diffusers ---------------------------------------------------------------------

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
    *_below('block_{k}_self', 'transformer_blocks.{k}.attn1', attention),
    *_below('block_{k}_cross', 'transformer_blocks.{k}.attn2', attention),
    ('block_{k}_norm1', 'transformer_blocks.{k}.norm1', 'norm'),
    ('block_{k}_norm2', 'transformer_blocks.{k}.norm2', 'norm'),
    ('block_{k}_norm3', 'transformer_blocks.{k}.norm3', 'norm'),
    ('block_{k}_geglu', 'transformer_blocks.{k}.ff.net.0.proj', 'linear'),
    ('block_{k}_out', 'transformer_blocks.{k}.ff.net.2', 'linear'),
    ('proj_out', 'proj_out', projection),
  ]


def unet(linear_projection: bool = True) -> Table:
  """UNet2DConditionModel. Projections are linear layers in SD 2.x and 1x1 convolutions in SD 1.x."""
  transformer = _transformer('linear' if linear_projection else 'pointwise')
  return Table(
    [
      ('conv_in', 'conv_in', 'conv'),
      ('time/dense_1', 'time_embedding.linear_1', 'linear'),
      ('time/dense_2', 'time_embedding.linear_2', 'linear'),
      *_below('down_{i}_res_{j}', 'down_blocks.{i}.resnets.{j}', _RESNET),
      *_below('down_{i}_attn_{j}', 'down_blocks.{i}.attentions.{j}', transformer),
      ('down_{i}_conv', 'down_blocks.{i}.downsamplers.0.conv', 'conv'),
      *_below('mid_res_{j}', 'mid_block.resnets.{j}', _RESNET),
      *_below('mid_attn', 'mid_block.attentions.0', transformer),
      *_below('up_{i}_res_{j}', 'up_blocks.{i}.resnets.{j}', _RESNET),
      *_below('up_{i}_attn_{j}', 'up_blocks.{i}.attentions.{j}', transformer),
      ('up_{i}_conv', 'up_blocks.{i}.upsamplers.0.conv', 'conv'),
      ('norm_out', 'conv_norm_out', 'norm'),
      ('conv_out', 'conv_out', 'conv'),
    ]
  )


def vae() -> Table:
  """AutoencoderKL, also by the names that its attention had at first."""
  half = [
    ('conv_in', 'conv_in', 'conv'),
    *_below('mid/res_{j}', 'mid_block.resnets.{j}', _RESNET),
    ('mid/attn/norm', 'mid_block.attentions.0.group_norm', 'norm'),
    *((f'mid/attn/{name}', f'mid_block.attentions.0.{name}', 'linear') for name in ('to_q', 'to_k', 'to_v')),
    ('mid/attn/to_out', 'mid_block.attentions.0.to_out.0', 'linear'),
    ('norm_out', 'conv_norm_out', 'norm'),
    ('conv_out', 'conv_out', 'conv'),
  ]
  old = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
  return Table(
    [
      *_below('encoder', 'encoder', half),
      *_below('encoder/down_{i}_res_{j}', 'encoder.down_blocks.{i}.resnets.{j}', _RESNET),
      ('encoder/down_{i}_conv', 'encoder.down_blocks.{i}.downsamplers.0.conv', 'conv'),
      ('quant_conv', 'quant_conv', 'pointwise'),
      ('post_quant_conv', 'post_quant_conv', 'pointwise'),
      *_below('decoder', 'decoder', half),
      *_below('decoder/up_{i}_res_{j}', 'decoder.up_blocks.{i}.resnets.{j}', _RESNET),
      ('decoder/up_{i}_conv', 'decoder.up_blocks.{i}.upsamplers.0.conv', 'conv'),
    ],
    aliases=[(rf'(mid_block\.attentions\.0)\.{a}\.', rf'\1.{b}.') for a, b in old.items()],
  )


def clip_text() -> Table:
  """CLIPTextModel, of SD 1.5 (ViT-L/14) and of SD 2.1 (OpenCLIP ViT-H)."""
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
      *_below('layer_{i}', 'text_model.encoder.layers.{i}', layer),
      ('norm_out', 'text_model.final_layer_norm', 'norm'),
    ],
    aliases=[(r'^(embeddings|encoder|final_layer_norm)\.', r'text_model.\1.')],
    unused=[r'text_model\.embeddings\.position_ids'],
  )


# ---- depth, by the names of transformers -----------------------------------------------------------------------------


def _dpt_neck(readout: bool) -> list[Rule]:
  units = [(f'residual_{a}/conv_{b}', f'residual_layer{a}.convolution{b}', 'conv') for a in (1, 2) for b in (1, 2)]
  rules = [
    ('reassemble_{i}', 'neck.reassemble_stage.layers.{i}.projection', 'pointwise'),
    ('resize_0', 'neck.reassemble_stage.layers.0.resize', 'transposed4'),
    ('resize_1', 'neck.reassemble_stage.layers.1.resize', 'transposed2'),
    ('resize_3', 'neck.reassemble_stage.layers.3.resize', 'conv'),
    ('neck_{i}', 'neck.convs.{i}', 'conv'),
    *_below('fusion_{i}', 'neck.fusion_stage.layers.{i}', [*units, ('projection', 'projection', 'pointwise')]),
  ]
  if readout:
    rules.append(('readout_{i}', 'neck.reassemble_stage.readout_projects.{i}.0', 'linear'))
  return rules


# The first fusion has nothing to add a residual of; its first unit is in every file and never used.
_UNUSED_FUSION = r'neck\.fusion_stage\.layers\.0\.residual_layer1\..*'


def dpt() -> Table:
  """DPTForDepthEstimation on a plain ViT: MiDaS's DPT-Large."""
  layer = [
    ('norm1', 'layernorm_before', 'norm'),
    *((f'to_{a[0]}', f'attention.attention.{a}', 'linear') for a in ('query', 'key', 'value')),
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
      *_below('layer_{i}', 'dpt.encoder.layer.{i}', layer),
      *_dpt_neck(readout=True),
      ('head_1', 'head.head.0', 'conv'),
      ('head_2', 'head.head.2', 'conv'),
      ('head_3', 'head.head.4', 'pointwise'),
    ],
    unused=[_UNUSED_FUSION, r'dpt\.layernorm\..*', r'dpt\.pooler\..*'],
  )


def dpt_beit() -> Table:
  """DPTForDepthEstimation on BEiT: MiDaS v3.1, by the names of its files; newer transformers' are aliases."""
  layer = [
    ('norm1', 'layernorm_before', 'norm'),
    *((f'to_{a[0]}', f'attention.attention.{a}', 'linear') for a in ('query', 'key', 'value')),
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
      *_below('layer_{i}', 'backbone.encoder.layer.{i}', layer),
      *_dpt_neck(readout=True),
      ('head_1', 'head.head.0', 'conv'),
      ('head_2', 'head.head.2', 'conv'),
      ('head_3', 'head.head.4', 'pointwise'),
    ],
    aliases=[
      (r'^backbone\.beit\.', 'backbone.'),
      (r'^backbone\.layers\.', 'backbone.encoder.layer.'),
      *((rf'^(backbone\.encoder\.layer\.\d+)\.{re.escape(a)}\.', rf'\1.{b}.') for a, b in newer.items()),
    ],
    # The first is a table of numbers that follows from the size.
    unused=[r'.*\.relative_position_index', _UNUSED_FUSION, r'backbone\.layernorm\..*'],
  )


def depth_anything() -> Table:
  """DepthAnythingForDepthEstimation on DINOv2."""
  layer = [
    ('norm1', 'norm1', 'norm'),
    *((f'to_{a[0]}', f'attention.attention.{a}', 'linear') for a in ('query', 'key', 'value')),
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
      *_below('layer_{i}', 'backbone.encoder.layer.{i}', layer),
      ('norm_out', 'backbone.layernorm', 'norm'),
      *_dpt_neck(readout=False),
      ('head_1', 'head.conv1', 'conv'),
      ('head_2', 'head.conv2', 'conv'),
      ('head_3', 'head.conv3', 'pointwise'),
    ],
    aliases=[(rf'\.attention\.{a}\.', f'.attention.{b}.') for a, b in newer.items()],
    unused=[_UNUSED_FUSION, r'backbone\.embeddings\.mask_token'],
  )


# ---- kernel estimation and non-blind super-resolution ----------------------------------------------------------------

_MACONV = [
  ('affine_{i}_1', 'fc{i}.0', 'pointwise'),
  ('affine_{i}_2', 'fc{i}.2', 'pointwise'),
  ('conv_{i}', 'conv{i}', 'conv'),
]


def manet() -> Table:
  """MANet; DKENet without a depth branch."""
  block = [*_below('conv_1', 'res.0', _MACONV), *_below('conv_2', 'res.2', _MACONV)]
  return Table(
    [
      ('image_in', 'm_head', 'conv'),
      *_below('image_block_1', 'm_down1.0', block),
      ('image_down', 'm_down1.1', 'cell'),
      *_below('image_block_2', 'm_body', block),
      ('image_up', 'm_up1.0', 'transposed2'),
      *_below('image_block_3', 'm_up1.1', block),
      ('head', 'm_tail', 'conv'),
    ]
  )


def rrdb_sft() -> Table:
  """RRDB-SFT of MANet; NBSR without a global skip. Its PCA matrix is no parameter and not in the table."""
  block = [
    *((f'sft/{a}_{n}', f'SFT.{a}_conv{n}', 'conv') for a in ('mul', 'add') for n in (1, 2)),
    ('rdb_{n}/conv_{m}', 'RDB{n}.conv{m}', 'conv'),
  ]
  return Table(
    [
      ('conv_in', 'conv_first', 'conv'),
      *_below('block_{i+1}', 'RRDB_trunk.{i}', block),
      ('conv_trunk', 'trunk_conv', 'conv'),
      ('conv_out', 'upsampler.0', 'conv'),
    ]
  )
