"""MCFormer, the network of BlindDiff, by the names of its released code; Restormer's blocks have the same names."""

from collections.abc import Mapping

import numpy as np

from ssr_jax.types import SSRError
from ssr_jax.weights.importers.fields import Config
from ssr_jax.weights.importers.renaming import Table, below

_BLOCK = [
  ('norm_1', 'norm1.body', 'norm'),
  ('attention/temperature', 'attn.temperature', 'tensor'),
  ('attention/qkv', 'attn.qkv', 'pointwise'),
  ('attention/depthwise', 'attn.qkv_dwconv', 'conv'),
  ('attention/out', 'attn.project_out', 'pointwise'),
  ('norm_2', 'norm2.body', 'norm'),
  ('feedforward/in', 'ffn.project_in', 'pointwise'),
  ('feedforward/depthwise', 'ffn.dwconv', 'conv'),
  ('feedforward/out', 'ffn.project_out', 'pointwise'),
  ('modulation', 'modulation.1', 'linear'),
]


def mcformer_table() -> Table:
  """MCFormer of the released checkpoints and ours."""
  return Table(
    [
      ('time_1', 't_embedder.1', 'linear'),
      ('time_2', 't_embedder.3', 'linear'),
      ('kernel_1', 'k_mlp.0', 'linear'),
      ('kernel_2', 'k_mlp.2', 'linear'),
      *((f'estimator/conv_{i + 1}', f'predictor.{2 * i}', 'conv') for i in range(6)),
      ('estimator/taps', 'predictor.13', 'pointwise'),
      ('conv_in', 'patch_embed.proj', 'conv'),
      *below('encoder_{l}_{i}', 'encoder_level{l}.{i}', _BLOCK),
      *((f'down_{i}', f'down{i}_{i + 1}.body.0', 'conv') for i in (1, 2, 3)),
      *below('latent_{i}', 'latent.{i}', _BLOCK),
      *((f'up_{i}', f'up{i + 1}_{i}.body.0', 'conv') for i in (1, 2, 3)),
      ('reduce_{l}', 'reduce_chan_level{l}', 'pointwise'),
      *below('decoder_{l}_{i}', 'decoder_level{l}.{i}', _BLOCK),
      *below('refinement_{i}', 'refinement.{i}', _BLOCK),
      ('conv_out', 'output', 'conv'),
    ]
  )


def holds(tensors: Mapping[str, np.ndarray]) -> bool:
  """Whether a file is one of MCFormer: it has Restormer's first convolution and the kernel estimator."""
  return {'patch_embed.proj.weight', 'predictor.0.weight'} <= set(tensors)


def config(tensors: Mapping[str, np.ndarray], where: str) -> Config:
  """The attributes of our module, read from the shapes of a state dict.

  Args:
    tensors: the state dict.
    where: start of an error message, such as the file's path.

  Raises:
    SSRError: a tensor that fixes a size is missing, or has the wrong number of axes.
  """

  def shape(name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors or np.ndim(tensors[name]) != axes:
      raise SSRError(f'{where}: {name} is missing or has not {axes} axes; fetch the file again')
    return np.shape(tensors[name])

  def blocks(level: str) -> int:
    indices = [name.split('.')[1] for name in tensors if name.startswith(f'{level}.')]
    return 1 + max((int(i) for i in indices if i.isdecimal()), default=-1)

  levels = [*(f'encoder_level{i}' for i in (1, 2, 3)), 'latent']
  features, hidden = (shape(f'encoder_level1.0.{name}', 4) for name in ('attn.project_out.weight', 'ffn.dwconv.weight'))
  images = shape('output.weight', 4)[0] // 3
  if images not in (1, 2):
    raise SSRError(f'{where}: output.weight makes {images} images; MCFormer makes one, or two with a learned variance')
  # The released code has one expansion, 2.66; another one is told by the hidden channels of the first level.
  expansion = 2.66 if hidden[0] // 2 == int(2.66 * features[0]) else hidden[0] / 2 / features[0]
  return dict(
    features=features[0],
    blocks=[blocks(level) for level in levels],
    heads=[shape(f'{level}.0.attn.temperature', 3)[0] for level in levels],
    refinement=blocks('refinement'),
    expansion=expansion,
    taps=shape('predictor.13.weight', 4)[0],
    variance='learned' if images == 2 else 'fixed',
  )
