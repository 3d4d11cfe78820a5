"""The UNet of latent diffusion, with optional fusion on each residual branch and hooks for a second network."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.nn.blocks import ResBlock, TimeEmbedding, Transformer, UpConv, group_norm
from ssr_jax.nn.remat import remat
from ssr_jax.types import Array, Float, Num

Attend = Callable[[str, int, str, Array], Array]
"""(name of the transformer, its block, 'self' or 'cross', y [b, n, c]) -> what is added to y before that attention."""


class Trunk(nn.Module):
  """What the UNet and a ControlNet share: the way down and the middle. The defaults are the sizes of SD 2.1.

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
    window: per level, side of the squares of pixels within which self-attention stays; 0, or None for all levels, is
      the whole map.
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
  window: Sequence[int] | None = None

  def check(self, z_t: Array, context: Array | None) -> None:
    """ValueError if a latent or a context does not fit the attributes, or these do not fit each other."""
    levels = len(self.channels)
    step = 2 ** (levels - 1)
    if z_t.ndim != 4 or z_t.shape[3] != self.latent_channels or z_t.shape[1] % step or z_t.shape[2] % step:
      raise ValueError(f'latent must be [b, h, w, {self.latent_channels}], h and w multiples of {step}: {z_t.shape}')
    if len(self.attention) != levels:
      raise ValueError(f'attention has {len(self.attention)} flags for {levels} levels')
    if self.window is not None and len(self.window) != levels:
      raise ValueError(f'window has {len(self.window)} sides for {levels} levels')
    if (context is None) != (self.cross_attention_dim is None):
      raise ValueError(f'cross_attention_dim is {self.cross_attention_dim} but context is {type(context).__name__}')
    if context is not None and context.shape[-1] != self.cross_attention_dim:
      raise ValueError(f'context must be [b, n, {self.cross_attention_dim}]; got {context.shape}')

  def heads_of(self, level: int) -> int:
    """Heads of a level's transformers."""
    if self.heads is None:
      return self.channels[level] // self.head_dim
    return self.heads if isinstance(self.heads, int) else self.heads[level]

  def window_of(self, level: int) -> int:
    """Side of a level's windows; 0 for none."""
    return self.window[level] if self.window else 0

  def transformer(self, level: int, name: str) -> Transformer:
    """The transformer of a level."""
    return Transformer(self.heads_of(level), self.groups, dtype=self.dtype, window=self.window_of(level), name=name)

  def descend(
    self,
    z_t: Float[Array, 'b h w c'],
    t: Num[Array, ' b'],
    context: Float[Array, 'b n e'] | None,
    conditions: Sequence[Any] = (),
    hint: Float[Array, 'b h w {self.channels[0]}'] | None = None,
    *,
    train: bool = False,
  ) -> tuple[Float[Array, 'b 4*{self.channels[0]}'], list[Float[Array, 'b _ _ _']], Float[Array, 'b hm wm cm']]:
    """The way down and the middle; to be called within a compact method.

    Args:
      z_t: as in `UNet`.
      t: as in `UNet`.
      context: as in `UNet`.
      conditions: as in `UNet`.
      hint: [b, h, w, channels[0]], added behind the first convolution; None adds nothing.
      train: as in `UNet`.

    Returns:
      the time embedding; the outputs that skip connections carry, in the order of the way down, len(channels) *
      (blocks + 1) of them; the middle's output.
    """
    levels = len(self.channels)
    embedding = TimeEmbedding(self.channels[0], self.dtype, name='time')(t)

    def res(x, level, name):
      block = ResBlock(self.channels[level], self.groups, fusion=self.fusion, dtype=self.dtype, name=name)
      return remat(block, self.remat)(x, embedding, conditions[level] if conditions else (), train=train)

    x = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name='conv_in')(z_t.astype(self.dtype))
    if hint is not None:
      x = x + hint.astype(x.dtype)
    skips = [x]
    for i, channels in enumerate(self.channels):
      for j in range(self.blocks):
        x = res(x, i, f'down_{i}_res_{j}')
        if self.attention[i]:
          x = remat(self.transformer(i, f'down_{i}_attn_{j}'), self.remat)(x, context)
        skips.append(x)
      if i < levels - 1:
        x = nn.Conv(channels, (3, 3), 2, padding=1, dtype=self.dtype, name=f'down_{i}_conv')(x)
        skips.append(x)

    x = res(x, levels - 1, 'mid_res_0')
    if self.mid_attention:
      x = remat(self.transformer(levels - 1, 'mid_attn'), self.remat)(x, context)
    return embedding, skips, res(x, levels - 1, 'mid_res_1')


class UNet(Trunk):
  """UNet with the structure of Stable Diffusion's (the defaults are the sizes of SD 2.1; SD 1.5 has 8 heads a level).

  Its attributes are those of `Trunk`.
  """

  @nn.compact
  def __call__(
    self,
    z_t: Array,
    t: Num[Array, ' b'],
    context: Array | None = None,
    conditions: Sequence[Any] = (),
    residuals: tuple[Sequence[Float[Array, 'b _ _ _']], Float[Array, 'b hm wm cm']] | None = None,
    attend: Attend | None = None,
    *,
    train: bool = False,
  ) -> Float[Array, 'b h w c']:
    """Predicts noise (or v) at step t.

    Args:
      z_t: noisy latent [b, h, w, c]; h and w multiples of 2**(len(channels) - 1).
      t: [b], time steps.
      context: [b, n, e]; required if cross_attention_dim is set, else not allowed.
      conditions: inputs of the fusion, one entry per level, highest resolution first. Empty disables the fusion, which
        leaves the base UNet: the same parameters without the fusion's.
      residuals: outputs of a ControlNet to add: one array per skip connection, in the order of the downward path, and
        one for the middle's output. None adds nothing.
      attend: see `Attend`; called by the transformers of the way up, 'up_{i}_attn_{j}'. None adds nothing.
      train: passed to the fusion, for batch statistics.

    Returns:
      float32 [b, h, w, c].

    Raises:
      ValueError: sizes, context, conditions or residuals that do not fit the attributes.
    """
    levels = len(self.channels)
    self.check(z_t, context)
    if conditions and len(conditions) != levels:
      raise ValueError(f'conditions must have one entry per level ({levels}); got {len(conditions)}')
    embedding, skips, x = self.descend(z_t, t, context, conditions, train=train)
    if residuals is not None:
      for_skips, for_middle = residuals
      if len(for_skips) != len(skips):
        raise ValueError(f'{len(for_skips)} residuals for {len(skips)} skip connections')
      skips = [skip + extra.astype(skip.dtype) for skip, extra in zip(skips, for_skips, strict=True)]
      x = x + for_middle.astype(x.dtype)

    # Levels of the upward path are numbered from the lowest resolution.
    for i, level in enumerate(reversed(range(levels))):
      for j in range(self.blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        block = ResBlock(
          self.channels[level], self.groups, fusion=self.fusion, dtype=self.dtype, name=f'up_{i}_res_{j}'
        )
        x = remat(block, self.remat)(x, embedding, conditions[level] if conditions else (), train=train)
        if self.attention[level]:
          name = f'up_{i}_attn_{j}'
          more = {} if attend is None else {'attend': functools.partial(attend, name)}
          x = remat(self.transformer(level, name), self.remat)(x, context, **more)
      if level:
        x = UpConv(self.channels[level], self.dtype, name=f'up_{i}_conv')(x)
    x = nn.silu(group_norm(self.groups, 1e-5, self.dtype, 'norm_out')(x))
    return nn.Conv(self.latent_channels, (3, 3), dtype=self.dtype, name='conv_out')(x).astype(jnp.float32)
