"""MANet (kernel estimation) and RRDB-SFT (restoration), the two networks in the files of MANet's three stages."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ssr_jax.types import SSRError
from ssr_jax.weights.importers.fields import Config
from ssr_jax.weights.importers.renaming import Table, below

_PREFIX = 'kernel_estimation.'  # of MANet's tensors in a file that holds both networks

_MACONV = [
  ('affine_{i}_1', 'fc{i}.0', 'pointwise'),
  ('affine_{i}_2', 'fc{i}.2', 'pointwise'),
  ('conv_{i}', 'conv{i}', 'conv'),
]


class Network(NamedTuple):
  """One network of a file.

  Attributes:
    config: attributes of our module.
    tensors: its state dict, names without a prefix.
    table: its names on both sides.
    constants: our variables that are not parameters, by flat name.
  """

  config: Config
  tensors: dict[str, np.ndarray]
  table: Table
  constants: dict[str, np.ndarray]


def manet_table() -> Table:
  """MANet and our DKENet without its depth branch."""
  block = [*below('conv_1', 'res.0', _MACONV), *below('conv_2', 'res.2', _MACONV)]
  return Table(
    [
      ('image_in', 'm_head', 'conv'),
      *below('image_block_1', 'm_down1.0', block),
      ('image_down', 'm_down1.1', 'cell'),
      *below('image_block_2', 'm_body', block),
      ('image_up', 'm_up1.0', 'transposed2'),
      *below('image_block_3', 'm_up1.1', block),
      ('head', 'm_tail', 'conv'),
    ]
  )


def rrdb_sft_table() -> Table:
  """RRDB-SFT and our NBSR. The PCA matrix is a constant of ours, so the table does not name it."""
  block = [
    *((f'sft/{a}_{n}', f'SFT.{a}_conv{n}', 'conv') for a in ('mul', 'add') for n in (1, 2)),
    ('rdb_{n}/conv_{m}', 'RDB{n}.conv{m}', 'conv'),
  ]
  return Table(
    [
      ('conv_in', 'conv_first', 'conv'),
      *below('block_{i+1}', 'RRDB_trunk.{i}', block),
      ('conv_trunk', 'trunk_conv', 'conv'),
      ('conv_out', 'upsampler.0', 'conv'),
    ]
  )


def split(tensors: Mapping[str, np.ndarray], where: str) -> tuple[Network | None, Network | None]:
  """The two networks of a file: (MANet, RRDB-SFT), None for one that it does not hold.

  Args:
    tensors: the file's state dict.
    where: start of an error message, such as the file's path.

  Raises:
    SSRError: the file holds neither, or tensors that fix the size of RRDB-SFT are missing.
  """
  kernel_names = [name for name in tensors if name.startswith((_PREFIX, 'm_'))]
  other_names = [name for name in tensors if not name.startswith((_PREFIX, 'm_'))]
  if not kernel_names and 'RRDB_trunk.0.SFT.mul_conv1.weight' not in tensors:
    raise SSRError(
      f'{where}: holds neither MANet (m_head ...) nor RRDB-SFT (RRDB_trunk.0.SFT ...) nor MCFormer (predictor.0 ...) '
      'nor RRDBNet (body.0.rdb1 ..., model.1.sub.0 ...); only files of these can be imported, other networks come as '
      'folders'
    )
  manet = _manet({name.removeprefix(_PREFIX): tensors[name] for name in kernel_names}) if kernel_names else None
  return manet, _rrdb_sft({name: tensors[name] for name in other_names}, where) if other_names else None


def _manet(tensors: dict[str, np.ndarray]) -> Network:
  head = tensors.get('m_head.weight')
  config = dict(features=0 if head is None else head.shape[0], depth_features=0)
  return Network(config, tensors, manet_table(), {})


def _rrdb_sft(tensors: dict[str, np.ndarray], where: str) -> Network:
  pca = tensors.pop('pca_matrix', None)
  inner, last = (tensors.get(name) for name in ('RRDB_trunk.0.RDB1.conv1.weight', 'upsampler.0.weight'))
  if inner is None or last is None or pca is None:
    raise SSRError(f'{where}: RRDB-SFT without its RDB1.conv1, upsampler or pca_matrix; fetch the file again')
  pca = np.asarray(pca, np.float32).squeeze()  # [1, k*k, t, 1, 1] -> [k*k, t]
  growth, features = inner.shape[:2]
  config = dict(
    blocks=1 + max(int(name.split('.')[1]) for name in tensors if name.startswith('RRDB_trunk.')),
    features=features,
    growth=growth,
    components=pca.shape[1],
    taps=pca.shape[0],
    scale=round((last.shape[0] / 3) ** 0.5),
  )
  return Network(config, tensors, rrdb_sft_table(), {'constants/pca': pca})
