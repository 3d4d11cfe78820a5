"""The KL autoencoder of latent diffusion and its reconstruction losses."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ssr_jax.image.resize import depth_to_space, space_to_depth
from ssr_jax.nn.attention import attention
from ssr_jax.nn.blocks import ResBlock, UpConv, group_norm
from ssr_jax.nn.remat import remat
from ssr_jax.types import Array, Float

EPS = 1e-6
"""GroupNorm's epsilon everywhere in the autoencoder (the UNet's residual blocks use 1e-5)."""


class VAE(nn.Module):
  """KL autoencoder with the structure of Stable Diffusion's (the defaults are its sizes).

  Spatial reduction f = patch * 2**(len(channels) - 1). With patch > 1 the pixels of a patch x patch square go to
  channels before the first convolution and back after the last one. Most of the work then happens at 1/patch of the
  image's resolution, which makes the compact model fast.

  Images are in [0, 1] at the interface and in [-1, 1] inside; height and width are multiples of f.

  Attributes:
    channels: widths, highest resolution first; each level but the last halves the resolution.
    latent_channels: channels c of the latent.
    encoder_blocks: residual blocks per level of the encoder.
    decoder_blocks: residual blocks per level of the decoder (Stable Diffusion: one more than the encoder).
    groups: groups of every GroupNorm.
    mid_attention: whether both middle blocks have a single-head self-attention.
    patch: side of the pixel-unshuffle in front and the pixel-shuffle behind; 1 is none.
    shortcut: add a linear map of each f x f square of pixels to the latent's mean, and one from the latent to the
      square, around encoder and decoder (the residual autoencoding of DC-AE, arXiv 2410.10733, with a learned map).
      Group norms remove an image's brightness and colour; the shortcut passes them on, and training starts from a
      linear code instead of a gray image. Stable Diffusion has none.
    guided: the decoder also sees an image at full size, such as a first estimate of the result, in each of its levels
      and in a linear map to the output. All start at zero, where the decoder is the one without a guide. What the image
      shows then need not pass through the latent, whose grid otherwise shows along edges. Stable Diffusion has none.
    scaling_factor: factor of to_latents, which gives latents about unit variance; one number or one per channel.
    dtype: dtype of the computation; parameters, normalisation statistics and the last layer stay float32.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
  """

  channels: Sequence[int] = (128, 256, 512, 512)
  latent_channels: int = 4
  encoder_blocks: int = 2
  decoder_blocks: int = 3
  groups: int = 32
  mid_attention: bool = True
  patch: int = 1
  shortcut: bool = False
  guided: bool = False
  scaling_factor: float | Sequence[float] = 0.18215
  dtype: Any = jnp.float32
  remat: str = ''

  def setup(self):
    """Makes the submodules."""
    self.encoder = Encoder(
      self.channels,
      self.latent_channels,
      self.encoder_blocks,
      self.groups,
      self.mid_attention,
      self.dtype,
      self.remat,
    )
    self.decoder = Decoder(
      self.channels,
      3 * self.patch**2,
      self.decoder_blocks,
      self.groups,
      self.mid_attention,
      self.dtype,
      self.remat,
    )
    # 1x1 convolutions, written as Dense: the same arithmetic, twice as fast on a CPU.
    self.quant_conv = nn.Dense(2 * self.latent_channels, dtype=self.dtype, bias_init=_quiet_posterior)
    self.post_quant_conv = nn.Dense(self.latent_channels, dtype=self.dtype)
    if self.shortcut:
      self.shortcut_in = nn.Dense(self.latent_channels, use_bias=False, dtype=self.dtype)
      self.shortcut_out = nn.Dense(3 * self.reduction**2, use_bias=False)
    if self.guided:
      zero = nn.initializers.zeros
      widths = (self.channels[-1], *self.channels[:0:-1])  # of the features as they enter each level
      self.guide_in = [nn.Conv(width, (3, 3), dtype=self.dtype, kernel_init=zero) for width in widths]
      self.guide_out = nn.Conv(3 * self.patch**2, (3, 3), use_bias=False, kernel_init=zero)

  @property
  def reduction(self) -> int:
    """f: image pixels per latent pixel on each axis."""
    return self.patch * 2 ** (len(self.channels) - 1)

  def encode(self, x: Array) -> tuple[Float[Array, 'b hl wl c'], Float[Array, 'b hl wl c']]:
    """Posterior of the latent, not yet scaled.

    Args:
      x: image [b, H, W, 3] in [0, 1].

    Returns:
      mean and logvar, each float32 [b, H/f, W/f, c]; logvar is clipped to [-30, 20].

    Raises:
      ValueError: not three channels, or a size that is no multiple of f.
    """
    if x.ndim != 4 or x.shape[3] != 3 or x.shape[1] % self.reduction or x.shape[2] % self.reduction:
      raise ValueError(f'image must be [b, H, W, 3] with H and W multiples of {self.reduction}; got {x.shape}')
    x = (2 * x - 1).astype(self.dtype)
    moments = self.quant_conv(self.encoder(space_to_depth(x, self.patch))).astype(jnp.float32)
    mean, logvar = jnp.split(moments, 2, axis=-1)
    if self.shortcut:
      mean += self.shortcut_in(space_to_depth(x, self.reduction)).astype(jnp.float32)
    return mean, jnp.clip(logvar, -30.0, 20.0)

  def decode(self, z: Array, guide: Array | None = None) -> Float[Array, 'b H W 3']:
    """Image of an unscaled latent.

    Args:
      z: [b, h, w, c].
      guide: image [b, f*h, f*w, 3] in [0, 1] of a guided decoder; None for others.

    Returns:
      float32 [b, f*h, f*w, 3], about [0, 1] and not clipped.

    Raises:
      ValueError: a latent of other channels; a guide of another size; a guide where the decoder takes none, or none
        where it takes one.
    """
    if z.ndim != 4 or z.shape[3] != self.latent_channels:
      raise ValueError(f'latent must be [b, h, w, {self.latent_channels}]; got {z.shape}')
    size = tuple(self.reduction * side for side in z.shape[1:3])
    wanted = (len(z), *size, 3) if self.guided else None
    if (None if guide is None else guide.shape) != wanted:
      raise ValueError(f'guide must be {wanted}; got {None if guide is None else guide.shape}')
    guides, seen = (), None
    if guide is not None:
      seen = [space_to_depth(2 * guide - 1, self.reduction // 2**i) for i in range(len(self.channels))]
      guides = tuple(conv(x.astype(self.dtype)) for conv, x in zip(self.guide_in, seen, strict=True))
    x = self.decoder(self.post_quant_conv(z), guides)
    if seen is not None:
      x += self.guide_out(seen[-1])
    x = depth_to_space(x, self.patch)
    if self.shortcut:
      x += depth_to_space(self.shortcut_out(z), self.reduction)
    return (x + 1) / 2

  def to_latents(self, x: Float[Array, 'b H W 3'], key: Array | None = None) -> Float[Array, 'b hl wl c']:
    """Latent for diffusion: scaling_factor times the posterior's mode, or times a sample where a key is given.

    Args:
      x: image [b, H, W, 3] in [0, 1].
      key: one PRNG key for the sample.

    Returns:
      float32 [b, H/f, W/f, c].
    """
    mean, logvar = self.encode(x)
    return jnp.asarray(self.scaling_factor) * (mean if key is None else sample_posterior(key, mean, logvar))

  def from_latents(
    self, z: Float[Array, 'b h w c'], guide: Float[Array, 'b H W 3'] | None = None
  ) -> Float[Array, 'b H W 3']:
    """Image [b, f*h, f*w, 3] of a latent of `to_latents` [b, h, w, c]; a guide as in `decode`."""
    return self.decode(z / jnp.asarray(self.scaling_factor), guide)

  def __call__(
    self, x: Array, key: Array | None = None
  ) -> tuple[Float[Array, 'b H W 3'], Float[Array, 'b hl wl c'], Float[Array, 'b hl wl c']]:
    """Reconstruction, mean and logvar of image x [b, H, W, 3]; from a posterior sample where a key is given.

    A guided decoder is guided by the image itself.
    """
    mean, logvar = self.encode(x)
    z = mean if key is None else sample_posterior(key, mean, logvar)
    return self.decode(z, x if self.guided else None), mean, logvar


def passing_guide(params: Any) -> Any:
  """A guided decoder's parameters, changed so that its image is the guide, whatever the latent.

  What makes the image begins at zero, and the guide's map to it at the identity: training then adds to the guide
  instead of making an image of its own first. All other parameters stay, and every one of them learns.

  Args:
    params: of a `VAE` with `guided`.

  Returns:
    A tree of the same shapes; the encoder is as it was.
  """
  zero = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  kernel = params['guide_out']['kernel']  # [3, 3, 3 patch^2, 3 patch^2]
  identity = jnp.zeros_like(kernel).at[1, 1].set(jnp.eye(kernel.shape[-1], dtype=kernel.dtype))
  changed = {
    'decoder': {**params['decoder'], 'conv_out': zero(params['decoder']['conv_out'])},
    'guide_out': {'kernel': identity},
  }
  if 'shortcut_out' in params:
    changed['shortcut_out'] = zero(params['shortcut_out'])
  return {**params, **changed}


def _quiet_posterior(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
  """Initial bias of the moments: logvar starts at -6, since more noise would hide the means in the first samples."""
  del key
  return jnp.concatenate([jnp.zeros(shape[0] // 2, dtype), jnp.full(shape[0] - shape[0] // 2, -6.0, dtype)])


class Encoder(nn.Module):
  """Convolutional encoder; attributes as in VAE."""

  channels: Sequence[int]
  latent_channels: int
  blocks: int
  groups: int
  mid_attention: bool
  dtype: Any
  remat: str = ''

  @nn.compact
  def __call__(self, x: Float[Array, 'b H W c']) -> Float[Array, 'b hl wl 2*{self.latent_channels}']:
    """[b, H, W, c] -> [b, H/2**n, W/2**n, 2 * latent_channels], n = len(channels) - 1."""
    x = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name='conv_in')(x)
    for i, channels in enumerate(self.channels):
      for j in range(self.blocks):
        x = remat(ResBlock(channels, self.groups, EPS, dtype=self.dtype, name=f'down_{i}_res_{j}'), self.remat)(x)
      if i < len(self.channels) - 1:
        # Padded at the bottom and right only, as in Stable Diffusion.
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        x = nn.Conv(channels, (3, 3), 2, padding='VALID', dtype=self.dtype, name=f'down_{i}_conv')(x)
    x = remat(Middle(self.channels[-1], self.groups, self.mid_attention, self.dtype, name='mid'), self.remat)(x)
    x = nn.silu(group_norm(self.groups, EPS, self.dtype, 'norm_out')(x))
    return nn.Conv(2 * self.latent_channels, (3, 3), dtype=self.dtype, name='conv_out')(x)


class Decoder(nn.Module):
  """Convolutional decoder; attributes as in VAE.

  Levels are numbered from the lowest resolution.
  """

  channels: Sequence[int]
  out_channels: int
  blocks: int
  groups: int
  mid_attention: bool
  dtype: Any
  remat: str = ''

  @nn.compact
  def __call__(
    self, z: Float[Array, 'b h w c'], guides: Sequence[Float[Array, 'b _ _ _']] = ()
  ) -> Float[Array, 'b H W {self.out_channels}']:
    """[b, h, w, c] -> [b, 2**n*h, 2**n*w, out_channels], n = len(channels) - 1.

    Guides, [b, 2**i*h, 2**i*w, c] for i = 0 to n, are added to the features as they enter each level, the lowest before
    the middle; they have the width of the level above, if there is one.
    """
    x = nn.Conv(self.channels[-1], (3, 3), dtype=self.dtype, name='conv_in')(z)
    if guides:
      x += guides[0]
    x = remat(Middle(self.channels[-1], self.groups, self.mid_attention, self.dtype, name='mid'), self.remat)(x)
    for i, channels in enumerate(reversed(self.channels)):
      if guides and i:
        x += guides[i]
      for j in range(self.blocks):
        x = remat(ResBlock(channels, self.groups, EPS, dtype=self.dtype, name=f'up_{i}_res_{j}'), self.remat)(x)
      if i < len(self.channels) - 1:
        x = UpConv(channels, self.dtype, name=f'up_{i}_conv')(x)
    x = nn.silu(group_norm(self.groups, EPS, self.dtype, 'norm_out')(x))
    # float32 with every dtype, as is the shortcut: bfloat16 would round the image to 8 bits.
    return nn.Conv(self.out_channels, (3, 3), name='conv_out')(x)


class Middle(nn.Module):
  """ResBlock, self-attention (optional), ResBlock, at the lowest resolution."""

  channels: int
  groups: int
  attention: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """[b, h, w, channels] -> the same shape."""
    x = ResBlock(self.channels, self.groups, EPS, dtype=self.dtype, name='res_0')(x)
    if self.attention:
      x = SelfAttention(self.groups, self.dtype, name='attn')(x)
    return ResBlock(self.channels, self.groups, EPS, dtype=self.dtype, name='res_1')(x)


class SelfAttention(nn.Module):
  """x + out(attention(GN(x))): one head over all pixels."""

  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """[b, h, w, c] -> the same shape."""
    b, h, w, c = x.shape
    y = group_norm(self.groups, EPS, self.dtype, 'norm')(x).reshape(b, h * w, 1, c)
    q, k, v = (nn.Dense(c, dtype=self.dtype, name=name)(y) for name in ('to_q', 'to_k', 'to_v'))
    y = attention(q, k, v).reshape(b, h, w, c)
    return x + nn.Dense(c, dtype=self.dtype, name='to_out')(y)


def sample_posterior(
  key: Array, mean: Float[Array, '*shape'], logvar: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """One draw of N(mean, exp(logvar)), the shape of mean."""
  return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)


def visible_scaling(decode: Callable[[Array], Array], mean: Float[Array, 'b h w c'], key: Array) -> Float[Array, ' c']:
  """A scaling factor per channel: its scaled deviation is proportional to the square root of its effect on the image.

  Channels of equal deviation, as in a whitened code, suit diffusion badly: noise that hides fine detail hides
  brightness and colour as much, and an error that is invisible in a detail channel shows as a mosaic in a colour
  channel. Full proportionality destroys detail at low noise; the square root is a compromise.

  Args:
    decode: unscaled latent [b, h, w, c] -> image.
    mean: unscaled latents of photos, [b, h, w, c].
    key: for the signs of the perturbations that measure a channel's effect.

  Returns:
    [c]; the mean over channels of the scaled latents' variance is 1.
  """
  deviation = jnp.std(mean, (0, 1, 2))
  signs = jax.random.rademacher(key, mean.shape, mean.dtype)

  def effect(channel):
    change = signs * deviation * (jnp.arange(len(deviation)) == channel)
    return jnp.sqrt(jnp.mean(jax.jvp(decode, (mean,), (change,))[1] ** 2))

  effects = jnp.stack([effect(i) for i in range(len(deviation))])
  return jnp.sqrt(effects / effects.mean()) / deviation


def kl_loss(mean: Float[Array, '*shape'], logvar: Float[Array, '*shape']) -> Float[Array, '']:
  """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, the mean over all elements (not the sum over an image); a scalar."""
  return 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)


def reconstruction_loss(prediction: Float[Array, 'b H W c'], target: Float[Array, 'b H W c']) -> Float[Array, '']:
  """Mean absolute error of images [b, H, W, c]; a scalar."""
  return jnp.mean(jnp.abs(prediction - target))


def detail_loss(
  prediction: Float[Array, 'b H W c'], target: Float[Array, 'b H W c'], scales: int = 3
) -> Float[Array, '']:
  """Mean absolute error of the horizontal and vertical differences at several scales.

  It replaces latent diffusion's LPIPS, which needs a pretrained network: it penalises edges and texture of the wrong
  place or strength and ignores a constant offset. Scale i is the image averaged over 2**i x 2**i squares; a remainder
  at the bottom and right is left out.

  Args:
    prediction: [b, H, W, c].
    target: [b, H, W, c], H and W at least 2**scales.
    scales: number of scales; the first is the full size.

  Returns:
    A scalar, the mean over scales and directions, in the images' unit.
  """
  if min(target.shape[1:3]) < 2**scales:
    raise ValueError(f'{scales} scales need sides of at least {2**scales}; got {target.shape}')
  difference = prediction - target  # differences and averages are linear, so one image is enough
  total = jnp.zeros((), difference.dtype)
  for i in range(scales):
    if i:
      b, H, W, c = difference.shape
      difference = difference[:, : H // 2 * 2, : W // 2 * 2].reshape(b, H // 2, 2, W // 2, 2, c).mean((2, 4))
    total += jnp.mean(jnp.abs(jnp.diff(difference, axis=1))) + jnp.mean(jnp.abs(jnp.diff(difference, axis=2)))
  return total / (2 * scales)
