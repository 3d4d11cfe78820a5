"""ControlNet (Zhang et al. 2023): a copy of a UNet's way down that sees an image and adds to the UNet's features."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.nn.layers import conv3x3
from ssr_jax.nn.unet import Trunk
from ssr_jax.types import Array, Float, Num

HINTS = ('pixels', 'latent')


class Control(NamedTuple):
  """What a ControlNet finds.

  Attributes:
    taps: outputs of its own way down, one per skip connection of the UNet, each [b, hj, wj, ej].
    residuals: the taps behind their zero convolutions, the same shapes, for the UNet's skip connections.
    middle: [b, hm, wm, cm], for the UNet's middle.
  """

  taps: tuple[Float[Array, 'b hj wj ej'], ...]
  residuals: tuple[Float[Array, 'b hj wj ej'], ...]
  middle: Float[Array, 'b hm wm cm']


class PixelHint(nn.Module):
  """An image at eight times the latent's size -> features at the latent's size; zero at initialisation.

  Attributes:
    channels: of the result.
    widths: of the convolutions; between two of them one has stride 2.
    dtype: dtype of the computation.
  """

  channels: int
  widths: Sequence[int] = (16, 32, 96, 256)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: Float[Array, 'b H W 3']) -> Float[Array, 'b h w {self.channels}']:
    """[b, H, W, 3] in [0, 1], H and W multiples of 2**(len(widths) - 1) -> [b, h, w, channels]."""
    step = 2 ** (len(self.widths) - 1)
    if image.shape[1] % step or image.shape[2] % step:
      raise ValueError(f'an image for the hint has sides that are multiples of {step}; got {image.shape}')
    x = nn.silu(conv3x3(self.widths[0], self.dtype, 'conv_in')(image.astype(self.dtype)))
    for i, (narrow, wide) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
      x = nn.silu(conv3x3(narrow, self.dtype, f'block_{2 * i}')(x))
      x = nn.silu(conv3x3(wide, self.dtype, f'block_{2 * i + 1}', strides=2)(x))
    return conv3x3(self.channels, self.dtype, 'conv_out', kernel_init=nn.initializers.zeros)(x)


class LatentHint(nn.Module):
  """One convolution of an image's latent; zero at initialisation.

  Attributes:
    channels: of the result.
    dtype: dtype of the computation.
  """

  channels: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, latent: Float[Array, 'b h w c']) -> Float[Array, 'b h w {self.channels}']:
    """[b, h, w, c] -> [b, h, w, channels]."""
    return conv3x3(self.channels, self.dtype, 'conv', kernel_init=nn.initializers.zeros)(latent.astype(self.dtype))


class ControlNet(Trunk):
  """ControlNet of a UNet with the same attributes, whose parameters of the same paths it starts with.

  Attributes:
    hint: what the image is given as, one of `HINTS`: 'pixels', or 'latent', by the autoencoder.
    hint_channels: widths of the convolutions of the hint of pixels.
  """

  hint: str = 'pixels'
  hint_channels: Sequence[int] = (16, 32, 96, 256)

  def setup(self):
    """Makes the hint, which does not depend on the time step."""
    if self.hint not in HINTS:
      raise ValueError(f'hint {self.hint!r}; known: {", ".join(HINTS)}')
    if self.hint == 'pixels':
      self.see = PixelHint(self.channels[0], self.hint_channels, self.dtype)
    else:
      self.see = LatentHint(self.channels[0], self.dtype)

  def embed(self, image: Float[Array, 'b H W c']) -> Float[Array, 'b h w {self.channels[0]}']:
    """The hint [b, h, w, channels[0]] of an image, [b, H, W, 3] in [0, 1], or of its latent [b, h, w, c]."""
    return self.see(image)

  @nn.compact
  def __call__(
    self,
    z_t: Array,
    t: Num[Array, ' b'],
    context: Array | None,
    image: Float[Array, 'b H W _'] | None = None,
    hint: Array | None = None,
  ) -> Control:
    """What to add to a UNet's features at step t.

    Args:
      z_t: noisy latent [b, h, w, c], as the UNet's.
      t: [b], time steps.
      context: [b, n, e], as the UNet's.
      image: as of `embed`.
      hint: of `embed`, instead of the image.

    Raises:
      ValueError: sizes that do not fit, or neither or both of image and hint.
    """
    self.check(z_t, context)
    if image is not None and hint is None:
      hint = self.see(image)
    elif image is not None or hint is None:
      raise ValueError('give either an image or its hint')
    if hint.shape[:3] != z_t.shape[:3]:
      raise ValueError(f'the hint is {hint.shape[:3]}, the latent {z_t.shape[:3]}')
    _, taps, middle = self.descend(z_t, t, context, hint=hint)
    # 1x1 convolutions, written as Dense: the same arithmetic, twice as fast on a CPU.
    zero = lambda x, name: nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros, name=name)(x)
    return Control(tuple(taps), tuple(zero(tap, f'zero_{j}') for j, tap in enumerate(taps)), zero(middle, 'zero_mid'))
