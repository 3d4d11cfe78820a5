"""Networks of RRDB blocks: RRDBNet, the generator of ESRGAN, and NBSR, conditioned on a kernel code by SFT (MANet)."""

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.image.kernels import pca_code
from ssr_jax.image.resize import depth_to_space, resize, space_to_depth, upscale
from ssr_jax.nn.layers import SFT, Dtype, conv3x3
from ssr_jax.nn.remat import POLICIES, check, remat
from ssr_jax.types import Array, Float

# ESRGAN scales its initial weights by 0.1 so that a deep residual trunk starts near the identity.
_small_init = nn.initializers.variance_scaling(0.02, 'fan_in', 'normal')


class RDB(nn.Module):
  """Residual dense block: five 3x3 convolutions, each on all features before it, LeakyReLU 0.2, residual scale 0.2.

  Attributes:
    growth: gc, channels each of the first four convolutions adds.
    dtype: dtype of the computation.
  """

  growth: int = 32
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w nf']) -> Float[Array, 'b h w nf']:
    """[b, h, w, nf] -> [b, h, w, nf]."""
    seen = x
    for i in range(4):
      y = conv3x3(self.growth, self.dtype, name=f'conv_{i + 1}', kernel_init=_small_init)(seen)
      seen = jnp.concatenate([seen, nn.leaky_relu(y, 0.2)], -1)
    return x + 0.2 * conv3x3(x.shape[-1], self.dtype, name='conv_5', kernel_init=_small_init)(seen)


class RRDB(nn.Module):
  """Residual in residual dense block: three RDBs, residual scale 0.2.

  Attributes:
    growth: gc.
    dtype: dtype of the computation.
  """

  growth: int = 32
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w nf']) -> Float[Array, 'b h w nf']:
    """[b, h, w, nf] -> [b, h, w, nf]."""
    y = x
    for i in range(3):
      y = RDB(self.growth, self.dtype, name=f'rdb_{i + 1}')(y)
    return x + 0.2 * y


class RRDBNet(nn.Module):
  """The generator of ESRGAN and Real-ESRGAN: an RRDB trunk at LR size, two nearest enlargements by 2, each convolved.

  Attributes:
    blocks: RRDB blocks (23; 6 in Real-ESRGAN's network for anime).
    features: nf (64).
    growth: gc (32).
    unshuffle: side of the cells of LR pixels that become one pixel with more channels before the first convolution: 1
      for x4, 2 for Real-ESRGAN's x2. The factor of the network is 4 / unshuffle.
    dtype: dtype of the computation, except the last convolution.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
  """

  blocks: int = 23
  features: int = 64
  growth: int = 32
  unshuffle: int = 1
  dtype: Dtype = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(self, lr: Float[Array, 'b h w 3']) -> Float[Array, 'b 4*h//{self.unshuffle} 4*w//{self.unshuffle} 3']:
    """[b, h, w, 3] in [0, 1], sides divisible by `unshuffle` -> [b, s*h, s*w, 3], s = 4 / unshuffle, not clipped."""
    conv = lambda name: conv3x3(self.features, self.dtype, name=name, kernel_init=_small_init)
    first = conv('conv_in')(space_to_depth(lr, self.unshuffle))
    x = first
    for i in range(self.blocks):
      x = remat(RRDB(self.growth, self.dtype, name=f'block_{i + 1}'), self.remat)(x)
    x = first + conv('conv_trunk')(x)
    for i in (1, 2):
      x = nn.leaky_relu(conv(f'conv_up_{i}')(_twice(x)), 0.2)
    x = nn.leaky_relu(conv('conv_hr')(x), 0.2)
    # float32 with every dtype: bfloat16 would round the image to 8 bits.
    return conv3x3(lr.shape[-1], jnp.float32, name='conv_out', kernel_init=_small_init)(x)


def _twice(x: Float[Array, 'b h w c']) -> Float[Array, 'b 2*h 2*w c']:
  """[b, h, w, c] -> [b, 2h, 2w, c], nearest."""
  b, h, w, c = x.shape
  return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


class RRDBSFT(nn.Module):
  """SFT by the kernel code, three RDBs, residual scale 0.2.

  Attributes:
    growth: gc.
    dtype: dtype of the computation.
  """

  growth: int = 32
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b h w nf'], code: Float[Array, 'b h w t']
  ) -> tuple[Float[Array, 'b h w nf'], None]:
    """Maps x [b, h, w, nf] and code [b, h, w, t] to ([b, h, w, nf], None), as the body of a scan does."""
    y = SFT(dtype=self.dtype, name='sft')(x, code)
    for i in range(3):
      y = RDB(self.growth, self.dtype, name=f'rdb_{i + 1}')(y)
    return x + 0.2 * y, None


class NBSR(nn.Module):
  """Non-blind super-resolution `(LR, K) -> SR`, conditioned per pixel on the PCA code of K.

  The PCA basis is a variable of the collection 'constants': it is computed from sampled kernels before training
  (`image.kernels.pca_basis`) and saved with the weights.

  Attributes:
    blocks: RRDB blocks (10 in RRDB-SFT).
    features: nf (64).
    growth: gc (32).
    components: t, size of the code (15).
    taps: k*k.
    scale: s.
    global_skip: add the bicubic LR to the output, so that the trunk only learns the difference. RRDB-SFT has none.
    scan: run the blocks as one scanned block with stacked parameters, which compiles fast at full depth. On a CPU the
      weight gradients of convolutions inside a scan are a hundred times slower than in unrolled blocks.
    dtype: dtype of the computation, except the last convolution.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
  """

  blocks: int = 10
  features: int = 64
  growth: int = 32
  components: int = 15
  taps: int = 441
  scale: int = 4
  global_skip: bool = False
  scan: bool = False
  dtype: Dtype = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(self, lr: Float[Array, 'b h w 3'], kernels: Array) -> Float[Array, 'b {self.scale}*h {self.scale}*w 3']:
    """Restores an image.

    Args:
      lr: [b, h, w, 3] in [0, 1].
      kernels: [b, h, w, k*k], normalised.

    Returns:
      [b, s*h, s*w, 3], not clipped.
    """
    if kernels.shape != (*lr.shape[:3], self.taps):
      raise ValueError(f'kernels must be {(*lr.shape[:3], self.taps)}; got {kernels.shape}')
    basis = self.variable('constants', 'pca', jnp.zeros, (self.taps, self.components))
    code = pca_code(kernels, basis.value)  # [b, h, w, t]
    first = conv3x3(self.features, self.dtype, name='conv_in')(lr)
    return _restore(self, lr, first, code)


class LatentNBSR(nn.Module):
  """`NBSR` that also sees a latent: makes an image of the latent of a diffusion model, whose LR image is known.

  The latent enters the first features by a convolution that starts at zero: with NBSR's weights the image is NBSR's,
  and training adds to it what the latent says. All work is done at LR size.

  Attributes:
    blocks: as of `NBSR`, as are the others.
    features: nf.
    growth: gc.
    components: t, size of the kernel code.
    latent_channels: c, channels of the latent.
    scale: s.
    global_skip: add the bicubic LR to the output.
    scan: run the blocks as one scanned block with stacked parameters.
    dtype: dtype of the computation, except the last convolution.
    remat: what the backward pass recomputes: a name of `remat.POLICIES`, or '' for nothing.
  """

  blocks: int = 10
  features: int = 64
  growth: int = 32
  components: int = 15
  latent_channels: int = 4
  scale: int = 4
  global_skip: bool = False
  scan: bool = False
  dtype: Dtype = jnp.float32
  remat: str = ''

  @nn.compact
  def __call__(
    self, latent: Float[Array, 'b hl wl c'], lr: Float[Array, 'b h w 3'], code: Float[Array, 'b h w t']
  ) -> Float[Array, 'b {self.scale}*h {self.scale}*w 3']:
    """Makes an image.

    Args:
      latent: [b, hl, wl, c], scaled, of any resolution; it is enlarged or reduced to the LR image's.
      lr: [b, h, w, 3] in [0, 1].
      code: [b, h, w, t], the PCA code of the kernels in NBSR's basis.

    Returns:
      [b, s*h, s*w, 3], not clipped.

    Raises:
      ValueError: a code or a latent of other channels.
    """
    for name, x, channels in (('code', code, self.components), ('latent', latent, self.latent_channels)):
      if x.shape[-1] != channels:
        raise ValueError(f'{name} must have {channels} channels; got {x.shape}')
    first = conv3x3(self.features, self.dtype, name='conv_in')(lr)
    _, h, w, _ = lr.shape
    if latent.shape[1:3] != (h, w):
      latent = resize(latent, (h, w), 'bilinear')
    first += conv3x3(self.features, self.dtype, name='conv_latent', kernel_init=nn.initializers.zeros)(latent)
    return _restore(self, lr, first, code)


def _restore(
  net: NBSR | LatentNBSR, lr: Float[Array, 'b h w 3'], first: Float[Array, 'b h w nf'], code: Float[Array, 'b h w t']
) -> Float[Array, 'b {net.scale}*h {net.scale}*w 3']:
  """The trunk behind the first features, and the image; the layers are `net`'s."""
  x = first
  if net.scan:
    # nn.scan takes the class and makes the block itself, with stacked parameters.
    block = RRDBSFT
    if check(net.remat, 'remat'):
      block = nn.remat(RRDBSFT, policy=POLICIES[net.remat], prevent_cse=False)
    stack = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]  # flax declares an int and documents broadcast
      length=net.blocks,
    )
    x, _ = stack(net.growth, net.dtype, name='trunk')(x, code)
  else:
    for i in range(net.blocks):
      x, _ = remat(RRDBSFT(net.growth, net.dtype, name=f'block_{i + 1}'), net.remat)(x, code)
  x = first + conv3x3(net.features, net.dtype, name='conv_trunk')(x)
  # float32 with every dtype: bfloat16 would round the image to 8 bits.
  x = conv3x3(lr.shape[-1] * net.scale**2, jnp.float32, name='conv_out', kernel_init=_small_init)(x)
  sr = depth_to_space(x, net.scale)
  return sr + upscale(lr, net.scale) if net.global_skip else sr
