"""The UNet of latent diffusion, with optional fusion on each residual branch and a ControlNet's residuals."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ssr_jax.nn.blocks import ResBlock, TimeEmbedding, Transformer, UpConv, group_norm
from ssr_jax.nn.remat import remat


class UNet(nn.Module):
  """UNet with the structure of Stable Diffusion's (the defaults are the sizes of SD 2.1; SD 1.5 has 8 heads a level).

  Attributes:
    channels: widths, highest resolution first; each level but the last halves the resolution.
    latent_channels: channels c of latent and prediction.
    blocks: residual blocks per level of the downward path; the upward path has one more.
    attention: per level, whether a transformer follows each residual block.
    mid_attention: whether the middle has a transformer between its two residual blocks.
    heads: heads of each level's transformers: one number for all levels, one per level, or None.
    head_dim: width of a head if heads is None.
    cross_attention_dim: channels e of the context; None for no context: transformers have self-attention only.
    groups: groups of every GroupNorm.
    fusion: makes the fusion of each residual block, as in `ResBlock`; None for none.
    dtype: dtype of the computation; parameters and normalisation statistics stay float32.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
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
  fusion: Callable[[], nn.Module] | None = None
  dtype: Any = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(
    self,
    z_t: jax.Array,
    t: jax.Array,
    context: jax.Array | None = None,
    conditions: Sequence[Any] = (),
    residuals: tuple[Sequence[jax.Array], jax.Array] | None = None,
    *,
    train: bool = False,
  ) -> jax.Array:
    """Predicts noise (or v) at step t.

    Args:
      z_t: noisy latent [b, h, w, c]; h and w multiples of 2**(len(channels) - 1).
      t: [b], time steps.
      context: [b, n, e]; required if cross_attention_dim is set, else not allowed.
      conditions: inputs of the fusion, one entry per level, highest resolution first. Empty disables the fusion, which
        leaves the base UNet: the same parameters without the fusion's.
      residuals: outputs of a ControlNet to add: one array per skip connection, in the order of the downward path, and
        one for the middle's output. None adds nothing.
      train: passed to the fusion, for batch statistics.

    Returns:
      float32 [b, h, w, c].

    Raises:
      ValueError: sizes, context, conditions or residuals that do not fit the attributes.
    """
    levels = len(self.channels)
    step = 2 ** (levels - 1)
    if z_t.ndim != 4 or z_t.shape[3] != self.latent_channels or z_t.shape[1] % step or z_t.shape[2] % step:
      raise ValueError(f'latent must be [b, h, w, {self.latent_channels}], h and w multiples of {step}: {z_t.shape}')
    if len(self.attention) != levels:
      raise ValueError(f'attention has {len(self.attention)} flags for {levels} levels')
    if (context is None) != (self.cross_attention_dim is None):
      raise ValueError(f'cross_attention_dim is {self.cross_attention_dim} but context is {type(context).__name__}')
    if context is not None and context.shape[-1] != self.cross_attention_dim:
      raise ValueError(f'context must be [b, n, {self.cross_attention_dim}]; got {context.shape}')
    if conditions and len(conditions) != levels:
      raise ValueError(f'conditions must have one entry per level ({levels}); got {len(conditions)}')

    embedding = TimeEmbedding(self.channels[0], self.dtype, name='time')(t)

    def res(x, level, name):
      block = ResBlock(self.channels[level], self.groups, fusion=self.fusion, dtype=self.dtype, name=name)
      return remat(block, self.remat)(x, embedding, conditions[level] if conditions else (), train=train)

    def transformer(x, level, name):
      block = Transformer(self._heads(level), self.groups, dtype=self.dtype, name=name)
      return remat(block, self.remat)(x, context)

    x = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name='conv_in')(z_t.astype(self.dtype))
    skips = [x]
    for i, channels in enumerate(self.channels):
      for j in range(self.blocks):
        x = res(x, i, f'down_{i}_res_{j}')
        if self.attention[i]:
          x = transformer(x, i, f'down_{i}_attn_{j}')
        skips.append(x)
      if i < levels - 1:
        x = nn.Conv(channels, (3, 3), 2, padding=1, dtype=self.dtype, name=f'down_{i}_conv')(x)
        skips.append(x)

    x = res(x, levels - 1, 'mid_res_0')
    if self.mid_attention:
      x = transformer(x, levels - 1, 'mid_attn')
    x = res(x, levels - 1, 'mid_res_1')
    if residuals is not None:
      for_skips, for_middle = residuals
      if len(for_skips) != len(skips):
        raise ValueError(f'{len(for_skips)} residuals for {len(skips)} skip connections')
      skips = [skip + extra.astype(skip.dtype) for skip, extra in zip(skips, for_skips, strict=True)]
      x = x + for_middle.astype(x.dtype)

    # Levels of the upward path are numbered from the lowest resolution.
    for i, level in enumerate(reversed(range(levels))):
      for j in range(self.blocks + 1):
        x = res(jnp.concatenate([x, skips.pop()], axis=-1), level, f'up_{i}_res_{j}')
        if self.attention[level]:
          x = transformer(x, level, f'up_{i}_attn_{j}')
      if level:
        x = UpConv(self.channels[level], self.dtype, name=f'up_{i}_conv')(x)
    x = nn.silu(group_norm(self.groups, 1e-5, self.dtype, 'norm_out')(x))
    return nn.Conv(self.latent_channels, (3, 3), dtype=self.dtype, name='conv_out')(x).astype(jnp.float32)

  def _heads(self, level: int) -> int:
    if self.heads is None:
      return self.channels[level] // self.head_dim
    return self.heads if isinstance(self.heads, int) else self.heads[level]
