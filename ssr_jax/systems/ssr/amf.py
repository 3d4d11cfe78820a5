"""AMF (Eq. 3) and AMF-UNet: the UNet whose every residual branch is modulated by kernel, depth and LR features."""

from collections.abc import Sequence
import functools
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from ssr_jax.nn.unet import UNet
from ssr_jax.systems.ssr.encoders import Conditions, Heads, LREncoder, MapEncoder
from ssr_jax.types import Array, Float, Num

Maps = tuple[Float[Array, 'b _ _ _'], ...]
"""Features of a modality, one map per level of the UNet."""

BN_EPS = 1e-5
"""Epsilon of AMF's batch norms."""


class AMF(nn.Module):
  """Adaptive multi-modal fusion, Eq. 3: F <- (1 + M_alpha_i(f_i)) * BN_i(F) + M_beta_i(f_i), i = 1, 2, 3 in turn.

  Each M is an MLP applied per pixel: dense, ReLU, dense, the last layer zero at initialisation, so that only BN acts.
  `amf.calibrate` sets BN's scale and offset to the deviation and mean that it divides out, so that the layer is the
  identity and a pretrained network keeps its prior.

  With train, BN normalises by the statistics of the (global) batch and updates the running ones in the collection
  'batch_stats'; without, it uses the running ones. If the collection 'calibration' is mutable, BN is skipped and the
  mean and variance of its input are sown there.

  Attributes:
    hidden: width of each MLP; the paper uses 128.
    momentum: of the running statistics.
    dtype: dtype of the computation; BN's statistics stay float32.
  """

  hidden: int = 128
  momentum: float = 0.99
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, features: Float[Array, 'b h w c'], modalities: Sequence[Array], *, train: bool = False
  ) -> Float[Array, 'b h w c']:
    """Features F [b, h, w, c] and modalities f_i, each [b, h, w, c_i] -> [b, h, w, c]."""
    calibrating = self.is_mutable_collection('calibration') and not self.is_initializing()
    for i, f in enumerate(modalities, start=1):
      if f.shape[:3] != features.shape[:3]:
        raise ValueError(f'f_{i} is {f.shape[:3]}, the features are {features.shape[:3]}')
      if calibrating:
        x = features.astype(jnp.float32)
        self.sow('calibration', f'bn_{i}', {'mean': x.mean((0, 1, 2)), 'var': x.var((0, 1, 2))}, reduce_fn=_last)
      else:
        features = nn.BatchNorm(
          use_running_average=not train,
          momentum=self.momentum,
          epsilon=BN_EPS,
          dtype=self.dtype,
          use_fast_variance=False,
          name=f'bn_{i}',
        )(features)
      alpha, beta = (self._mlp(f, features.shape[-1], f'{name}_{i}') for name in ('alpha', 'beta'))
      features = (1 + alpha) * features + beta
    return features

  def _mlp(self, f: Array, channels: int, name: str) -> Array:
    x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name=f'{name}_hidden')(f))
    return nn.Dense(channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name=f'{name}_out')(x)


def _last(_, new):
  return new


class AMFUNet(nn.Module):
  """Three encoders, AMF and the UNet in one module. The defaults are the sizes of SD 2.1.

  Parameters: 'unet' (the base UNet's, with an 'amf' in each residual block), 'kernel_encoder', 'depth_encoder',
  'lr_encoder', and 'reconstruction', which only training needs.

  Attributes:
    channels, latent_channels, blocks, attention, mid_attention, heads, head_dim, cross_attention_dim, groups:
      as in UNet.
    amf_hidden: hidden width of AMF's MLPs.
    kernel_channels: widths of the kernel encoder, one per UNet level.
    depth_channels: widths of the depth encoder.
    lr_channels: widths of the LR encoder.
    lr_blocks: residual blocks per level of the LR encoder.
    map_features: channels of f_1 and f_2.
    lr_features: channels of f_3.
    code_channels: channels of the kernel code.
    prompt_tokens: n > 0: the weights contain the embedding [n, cross_attention_dim] of a fixed prompt, as the constant
      'prompt'; it is the default context.
    dtype: dtype of the computation; parameters and normalisation statistics stay float32.
    remat: what the backward pass recomputes in the blocks of UNet and LR encoder: a name of `remat.POLICIES`, or ''.
  """

  channels: Sequence[int] = (320, 640, 1280, 1280)
  latent_channels: int = 4
  blocks: int = 2
  attention: Sequence[bool] = (True, True, True, False)
  mid_attention: bool = True
  heads: int | Sequence[int] | None = None
  head_dim: int = 64
  cross_attention_dim: int | None = 1024
  groups: int = 32
  amf_hidden: int = 128
  kernel_channels: Sequence[int] = (64, 64, 128, 128)
  depth_channels: Sequence[int] = (64, 64, 128, 128)
  lr_channels: Sequence[int] = (256, 256, 512, 512)
  lr_blocks: int = 2
  map_features: int = 64
  lr_features: int = 256
  code_channels: int = 15
  prompt_tokens: int = 0
  dtype: Any = jnp.float32
  remat: str = ''

  def setup(self):
    """Checks the widths and makes the submodules."""
    levels = len(self.channels)
    for field in ('kernel_channels', 'depth_channels', 'lr_channels'):
      if len(getattr(self, field)) != levels:
        raise ValueError(f'{field} must have one width per UNet level ({levels}); got {getattr(self, field)}')
    self.unet = UNet(
      self.channels,
      self.latent_channels,
      self.blocks,
      self.attention,
      self.mid_attention,
      self.heads,
      self.head_dim,
      self.cross_attention_dim,
      self.groups,
      functools.partial(AMF, self.amf_hidden, dtype=self.dtype, name='amf'),
      self.dtype,
      self.remat,
    )
    self.kernel_encoder = MapEncoder(self.kernel_channels, self.map_features, self.dtype)
    self.depth_encoder = MapEncoder(self.depth_channels, self.map_features, self.dtype)
    self.lr_encoder = LREncoder(
      self.lr_channels,
      self.lr_features,
      self.lr_blocks,
      self.mid_attention,
      self.head_dim,
      self.groups,
      self.dtype,
      self.remat,
    )
    self.reconstruction = Heads((self.code_channels, 1, self.latent_channels), dtype=self.dtype)
    if self.prompt_tokens:
      if self.cross_attention_dim is None:
        raise ValueError('prompt_tokens needs a cross_attention_dim')
      self.prompt = self.variable('constants', 'prompt', jnp.zeros, (self.prompt_tokens, self.cross_attention_dim))

  def __call__(
    self,
    z_t: Array,
    t: Num[Array, ' b'],
    conditions: Conditions,
    context: Float[Array, 'b n e'] | None = None,
    train: bool = False,
    return_features: bool = False,
    maps: tuple[Maps, Maps] | None = None,
  ):
    """Predicts noise (or v) at step t.

    Args:
      z_t: noisy latent [b, hl, wl, c]; hl and wl multiples of 2**(len(channels) - 1).
      t: [b], time steps.
      conditions: at any resolution, except lr_latent, which has z_t's shape.
      context: [b, n, e], if cross_attention_dim is set; None takes the prompt of the weights.
      train: whether AMF's batch norms use batch statistics and update 'batch_stats', which must be mutable.
      return_features: whether to return the features too.
      maps: f_1 and f_2 from `encode_maps`. They do not depend on t, so a sampler computes them once.

    Returns:
      The prediction, float32 [b, hl, wl, c]; with return_features also (f_1, f_2, f_3), each a tuple of one map per
      level.

    Raises:
      ValueError: shapes that do not fit.
    """
    if conditions.lr_latent.shape != z_t.shape:
      raise ValueError(f'lr_latent {conditions.lr_latent.shape} must have the shape of z_t {z_t.shape}')
    if context is None and self.prompt_tokens:
      context = jnp.broadcast_to(self.prompt.value, (len(z_t), *self.prompt.value.shape))
    if maps is None:
      maps = self.encode_maps(conditions)
    features = (*maps, self.lr_encoder(conditions.lr, conditions.lr_latent, t))
    if self.is_initializing():
      self.reconstruction(features)
    by_level = tuple(zip(*features, strict=True))
    prediction = self.unet(z_t, t, context, by_level, train=train)
    return (prediction, features) if return_features else prediction

  def encode_maps(self, conditions: Conditions) -> tuple[Maps, Maps]:
    """f_1 (kernel) and f_2 (depth), the features that do not depend on the time step."""
    _, h, w, _ = conditions.lr_latent.shape
    return self.kernel_encoder(conditions.kernel_code, (h, w)), self.depth_encoder(conditions.depth, (h, w))

  def reconstruct(self, features: Sequence[Maps]) -> tuple[Maps, ...]:
    """Kernel code, depth and clean latent from f_1, f_2, f_3, one map per level each, for C_i of Eq. 5."""
    return self.reconstruction(features)


def calibrate(module: nn.Module, variables: dict, *args: Any, **kwargs: Any) -> dict:
  """Makes every AMF of a module the identity on the features of one batch.

  One pass without the batch norms measures the mean and variance of each norm's input. They become the running
  statistics, and the deviation and mean become scale and offset, so that an AMF-UNet at initialisation equals its base
  UNet (AMF's other layers start at zero).

  Args:
    module: any module that contains AMF, such as AMFUNet or UNet.
    variables: its variables, with 'params' and 'batch_stats'.
    *args: arguments of the module's call, for a representative batch.
    **kwargs: keyword arguments of the call.

  Returns:
    new variables; `variables` does not change.
  """
  _, state = module.apply(variables, *args, **kwargs, mutable=['calibration'])
  measured, params, stats = map(_flatten, (state['calibration'], variables['params'], variables['batch_stats']))
  for path, value in measured.items():  # path: ..., 'amf', 'bn_i', 'mean' or 'var'
    if stats[path].shape != value.shape:
      raise ValueError(f'{"/".join(path)} is {stats[path].shape} in the variables, {value.shape} measured')
    stats[path] = value
    is_mean = path[-1] == 'mean'
    params[*path[:-1], 'bias' if is_mean else 'scale'] = value if is_mean else jnp.sqrt(value + BN_EPS)
  unflatten = traverse_util.unflatten_dict
  return {**variables, 'params': unflatten(params), 'batch_stats': unflatten(stats)}


def _flatten(tree: Any) -> dict[tuple[str, ...], Any]:
  """{path: array}; flax's function lacks a type for it."""
  flat: Any = traverse_util.flatten_dict(tree)
  return flat


def is_fresh(params: Any) -> bool:
  """Whether every AMF in a tree of parameters is untrained: the last layers of all its MLPs are zero."""
  last = [
    value
    for path, value in _flatten(params).items()
    if path[-2].startswith(('alpha', 'beta')) and path[-2].endswith('_out')
  ]
  return bool(last) and not any(np.any(np.asarray(value)) for value in last)
