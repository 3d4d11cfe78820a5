"""LPIPS as a metric: the network of `nn.lpips` and the file of its weights, which `ssr weights import` writes.

The weights are other people's and are not in the package: a classifier of torchvision and the heads of LPIPS.
"""

import functools
import hashlib
import json
import os
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ssr_jax import xla
from ssr_jax.image import io
from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric, Missing
from ssr_jax.types import SSRError, one_line

LABELS = {'alex': 'LPIPS (Alex)', 'vgg': 'LPIPS (VGG)'}
"""{backbone: what tables call the distance}."""


class Weights(NamedTuple):
  """Weights of an LPIPS network.

  Attributes:
    variables: of `nn.lpips.LPIPS`, float32 NumPy arrays.
    name: what tables call weights that are not the published ones; '' for those.
    digest: sha256 of the weights.
  """

  variables: dict[str, Any]
  name: str
  digest: str


class LPIPS(Metric):
  """LPIPS on AlexNet, which the tables of this field print; see `nn.lpips`.

  Attributes:
    backbone: 'alex' or 'vgg'.
    loaded: the weights.
  """

  name = 'lpips'
  label = LABELS['alex']
  higher_is_better = False
  needs = ('image', 'reference')
  weights = 'weights; import them with `ssr weights import lpips-alex FILE FILE`'
  digits = 4
  backbone: ClassVar[str] = 'alex'

  def __init__(self, loaded: Weights):
    self.loaded = loaded

  @classmethod
  def load(cls, weights: str | os.PathLike | None = None) -> Self:
    """Reads the weights; see `load_weights`.

    Raises:
      Missing: there is no file; the message says how to import one.
      SSRError: the file cannot be used.
    """
    if not weights:
      raise Missing(f"metric '{cls.name}' has no {cls.weights}")
    return cls(load_weights(weights, cls.backbone))

  @classmethod
  def shapes(cls) -> dict[str, Any]:
    """Flat names and shapes of the weights; nothing is computed."""
    return shapes(cls.backbone)

  def __call__(self, inputs: Inputs) -> float:
    """LPIPS of 'image' and 'reference' on RGB, with 'crop'."""
    crop = inputs.get('crop', 0)
    pixels.check_pair(inputs['image'], inputs['reference'])
    image, reference = (pixels.rgb_255(inputs[which], crop) / 255 for which in ('image', 'reference'))
    return lpips(image, reference, self.loaded.variables, self.backbone)

  def heading(self, space: str = 'y') -> str:
    """See `Metric.heading`."""
    return f'{super().heading(space)}{f" ({self.loaded.name})" if self.loaded.name else ""}'


class LPIPSVGG(LPIPS):
  """LPIPS on VGG-16, which is used as a loss."""

  name = 'lpips-vgg'
  label = LABELS['vgg']
  weights = 'weights; import them with `ssr weights import lpips-vgg FILE FILE`'
  backbone = 'vgg'


def lpips(image: np.ndarray, reference: np.ndarray, variables: dict[str, Any], backbone: str) -> float:
  """LPIPS of two images in float32; 0 for equal ones, lower is better.

  Args:
    image: RGB [H, W, 3] in [0, 1].
    reference: RGB [H, W, 3] in [0, 1].
    variables: of `nn.lpips.LPIPS`.
    backbone: 'alex' or 'vgg'.

  Raises:
    ValueError: shapes that differ, or images that are too small.
  """
  with jax.default_matmul_precision('highest'):
    return float(_distance(backbone)(variables, *(jnp.asarray(x, jnp.float32)[None] for x in (image, reference)))[0])


@functools.cache
def _distance(backbone: str):
  from ssr_jax.nn import lpips as network  # imports flax, which no other metric needs

  return xla.jit(network.LPIPS(backbone).apply)


def shapes(backbone: str) -> dict[str, Any]:
  """Flat names ('params/conv_0/kernel') and shapes of the variables of `nn.lpips.LPIPS`; nothing is computed."""
  from flax import traverse_util

  from ssr_jax.nn import lpips as network

  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  tree = jax.eval_shape(network.LPIPS(backbone).init, jax.random.key(0), image, image)
  return dict(traverse_util.flatten_dict(tree, sep='/'))


def load_weights(path: str | os.PathLike, backbone: str) -> Weights:
  """Reads the file that `save_weights` wrote.

  Raises:
    SSRError: the file is missing, was changed since, or holds the weights of something else.
  """
  again = f'import it again with `ssr weights import lpips-{backbone}`'
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      about = json.loads((file.metadata() or {})['lpips'])
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
    found, name, digest = (str(about[field]) for field in ('backbone', 'name', 'sha256'))
  except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
    raise SSRError(f'{os.fspath(path)}: no weights of LPIPS ({one_line(str(error))}); {again}') from error
  expected = shapes(backbone)
  if found != backbone or {k: (v.shape, v.dtype) for k, v in tensors.items()} != {
    k: (v.shape, v.dtype) for k, v in expected.items()
  }:
    raise SSRError(f'{os.fspath(path)}: no weights of LPIPS on {backbone}; {again}')
  if _digest(tensors) != digest:
    raise SSRError(f'{os.fspath(path)}: changed since it was imported; {again}')
  return Weights(_tree(tensors), one_line(name), digest)


def save_weights(path: str | os.PathLike, backbone: str, tensors: dict[str, np.ndarray], published: bool) -> Weights:
  """Writes weights as `load_weights` reads them; the same weights give the same bytes.

  Args:
    path: the file, a .safetensors.
    backbone: 'alex' or 'vgg'.
    tensors: float32 arrays with the names and shapes of `shapes`.
    published: whether they are known to be the published ones. Tables give others a name, since their values cannot be
      compared.

  Raises:
    SSRError: a value that is not finite, or the file cannot be written.
  """
  for name, value in tensors.items():
    if not np.isfinite(value).all():
      raise SSRError(f'{os.fspath(path)}: {name} has values that are not finite; fetch the source again')
  digest = _digest(tensors)
  about = {'backbone': backbone, 'name': '' if published else f'weights {digest[:8]}', 'sha256': digest}
  # A single metadata entry: safetensors writes several in random order.
  tensors = {name: np.ascontiguousarray(value) for name, value in sorted(tensors.items())}
  data = safetensors.numpy.save(tensors, metadata={'lpips': json.dumps(about)})
  io.write_bytes(path, data)
  return Weights(_tree(tensors), about['name'], digest)


def _tree(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
  from flax import traverse_util

  return traverse_util.unflatten_dict(tensors, sep='/')


def _digest(tensors: dict[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name, value in sorted(tensors.items()):
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(value).tobytes())
  return digest.hexdigest()
