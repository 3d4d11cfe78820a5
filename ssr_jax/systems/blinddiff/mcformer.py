"""MCFormer: a Restormer whose blocks are modulated by the time step and by the blur kernel that it estimates.

BlindDiff, section 3.3 and Fig. 3. Where the paper and its released code differ, this is the code's network, whose
26.51 M parameters are those that the paper reports: six convolutions and a softmax over all taps instead of four and a
PCA code, norms and residuals around both modulations, 96 channels in the last level. Restormer is arXiv 2111.09881.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from ssr_jax.image.resize import depth_to_space, space_to_depth
from ssr_jax.nn.blocks import timestep_embedding
from ssr_jax.nn.depthwise import Depthwise
from ssr_jax.nn.layers import Dtype, conv3x3, wide
from ssr_jax.nn.remat import remat
from ssr_jax.types import Array, Float, Num

VARIANCES = {'fixed': 1, 'learned': 2}
"""{variance of the sampler: images that the network returns}; the second one is the released weights' range."""
MODULATIONS = ('both', 'time')


class MDTA(nn.Module):
  """Multi-head attention between channels, with a depthwise convolution of queries, keys and values (Restormer, Eq. 1).

  Attributes:
    heads: n; divides c.
    dtype: dtype of the computation; norms, softmax and their products are float32.
  """

  heads: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """[b, h, w, c] -> [b, h, w, c]."""
    b, h, w, c = x.shape
    if c % self.heads:
      raise ValueError(f'{c} channels do not divide into {self.heads} heads')
    temperature = self.param('temperature', nn.initializers.ones, (self.heads, 1, 1))
    y = nn.Dense(3 * c, use_bias=False, dtype=self.dtype, name='qkv')(x)
    y = Depthwise(3, self.dtype, name='depthwise')(y)
    q, k, v = jnp.moveaxis(y.reshape(b, h * w, 3, self.heads, c // self.heads), 2, 0)  # [b, h*w, n, c/n]
    sums = wide(self.dtype)
    scores = jnp.einsum('bpnc,bpnd->bncd', q, k, preferred_element_type=sums)
    # Dividing the c/n x c/n products by the norms is cheaper than normalising two maps. One norm after the other: the
    # square of the least possible product of both is below float32's range, and a gradient would be NaN.
    scores = scores / _norm(q, sums)[..., :, None] / _norm(k, sums)[..., None, :]
    weights = nn.softmax(scores * temperature, -1).astype(self.dtype)
    out = jnp.einsum('bncd,bpnd->bpnc', weights, v).reshape(b, h, w, c)
    return nn.Dense(c, use_bias=False, dtype=self.dtype, name='out')(out)


def _norm(x: Float[Array, 'b p n c'], dtype: Dtype) -> Float[Array, 'b n c']:
  """L2 norm over the pixels, [b, p, n, c] -> [b, n, c], at least 1e-12; its gradient at 0 is 0, not NaN."""
  return jnp.sqrt(jnp.maximum(jnp.square(x.astype(dtype)).sum(1), 1e-24))


class GDFN(nn.Module):
  """Gated feed-forward network with a depthwise convolution (Restormer, Eq. 2): GELU of one half times the other.

  Attributes:
    expansion: hidden channels for each channel, rounded down.
    dtype: dtype of the computation.
  """

  expansion: float = 2.66
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """[b, h, w, c] -> [b, h, w, c]."""
    c = x.shape[-1]
    y = nn.Dense(2 * int(self.expansion * c), use_bias=False, dtype=self.dtype, name='in')(x)
    gate, y = jnp.split(Depthwise(3, self.dtype, name='depthwise')(y), 2, -1)
    return nn.Dense(c, use_bias=False, dtype=self.dtype, name='out')(nn.gelu(gate, approximate=False) * y)


class Block(nn.Module):
  """Eqs. 16 and 17: x += MDTA(M1(LN(x))), x += GDFN(M2(LN(x))), M(x) = (1 + gamma) x + tau of the modulation.

  Attributes:
    heads: of MDTA.
    expansion: of GDFN.
    dtype: dtype of the computation; the norms' statistics are float32.
  """

  heads: int
  expansion: float = 2.66
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c'], s: Float[Array, 'b e'] | None) -> Float[Array, 'b h w c']:
    """Maps x [b, h, w, c], with the modulation's input s [b, e] or None for none, to [b, h, w, c]."""
    c = x.shape[-1]
    shift_1, scale_1, shift_2, scale_2 = [jnp.zeros((), self.dtype)] * 4
    if s is not None:
      found = nn.Dense(4 * c, dtype=self.dtype, name='modulation')(s)
      shift_1, scale_1, shift_2, scale_2 = jnp.split(found[:, None, None], 4, -1)
    norm = lambda name: nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=name)
    y = (1 + scale_1) * norm('norm_1')(x) + shift_1
    x = x + MDTA(self.heads, self.dtype, name='attention')(y)
    y = (1 + scale_2) * norm('norm_2')(x) + shift_2
    return x + GDFN(self.expansion, self.dtype, name='feedforward')(y)


class Estimator(nn.Module):
  """Kernel estimator K (Eq. 15): six 5x5 convolutions, the fourth of stride 2, mean over pixels, softmax over taps.

  Attributes:
    features: channels.
    taps: k*k.
    dtype: dtype of the computation; mean and softmax are float32.
  """

  features: int = 48
  taps: int = 441
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Float[Array, 'b h w c']) -> Float[Array, 'b {self.taps}']:
    """[b, h, w, c] -> kernels [b, k*k], non-negative, each summing to one, float32."""
    for i in range(6):
      stride = 2 if i == 3 else 1
      z = nn.Conv(self.features, (5, 5), stride, padding=2, dtype=self.dtype, name=f'conv_{i + 1}')(z)
      z = nn.leaky_relu(z, 0.2)
    dtype = wide(self.dtype)
    return nn.softmax(nn.Dense(self.taps, dtype=dtype, name='taps')(z.astype(dtype).mean((1, 2))), -1)


class UNet(nn.Module):
  """Restormer's U-Net of four levels; the defaults are those of MCFormer.

  Attributes:
    features: channels of the first level; each next one has twice as many at half the resolution.
    blocks: of each level; encoder and decoder have as many.
    heads: of each level.
    refinement: blocks after the decoder, at twice the channels of the first level, as its last level has.
    expansion: of GDFN.
    stem: the input is unshuffled by this factor before the first convolution, the output shuffled after the last one;
      1 for neither, as published. 2 makes the network four times cheaper.
    dtype: dtype of the computation, except the last convolution.
    remat: what the backward pass recomputes in each block: a name of `remat.POLICIES`, or '' for nothing.
  """

  features: int = 48
  blocks: Sequence[int] = (2, 3, 6, 8)
  heads: Sequence[int] = (1, 2, 4, 8)
  refinement: int = 2
  expansion: float = 2.66
  stem: int = 1
  dtype: Dtype = jnp.float32
  remat: str = ''

  def _unshuffled(self, z: Array) -> Array:
    if len(self.blocks) != 4 or len(self.heads) != 4:
      raise ValueError(f'blocks {self.blocks} and heads {self.heads}: four levels need four numbers each')
    step = 8 * self.stem
    if z.shape[1] % step or z.shape[2] % step:
      raise ValueError(f'image {z.shape[1]}x{z.shape[2]}: sides must be multiples of {step}')
    return space_to_depth(z, self.stem)

  def _run(self, z: Array, s: Array | None, channels: int) -> Array:
    conv = lambda channels, name: conv3x3(channels, self.dtype, name=name, use_bias=False)

    def level(x, blocks, heads, name):
      for i in range(blocks):
        x = remat(Block(heads, self.expansion, self.dtype, name=f'{name}_{i}'), self.remat)(x, s)
      return x

    x = conv(self.features, 'conv_in')(z.astype(self.dtype))
    skips = []
    for i in (1, 2, 3):
      x = level(x, self.blocks[i - 1], self.heads[i - 1], f'encoder_{i}')
      skips.append(x)
      x = space_to_depth(conv(x.shape[-1] // 2, f'down_{i}')(x), 2)
    x = level(x, self.blocks[3], self.heads[3], 'latent')
    for i in (3, 2, 1):
      x = depth_to_space(conv(2 * x.shape[-1], f'up_{i}')(x), 2)
      x = jnp.concatenate([x, skips.pop()], -1)
      if i > 1:
        x = nn.Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, name=f'reduce_{i}')(x)
      x = level(x, self.blocks[i - 1], self.heads[i - 1], f'decoder_{i}')
    x = level(x, self.refinement, self.heads[0], 'refinement')
    x = conv3x3(channels * self.stem**2, wide(self.dtype), name='conv_out', use_bias=False)(x)
    return depth_to_space(x, self.stem)


class Restormer(UNet):
  """Restormer itself, without its skip from input to output."""

  @nn.compact
  def __call__(self, z: Float[Array, 'b H W 3']) -> Float[Array, 'b H W 3']:
    """[b, H, W, 3], H and W multiples of 8 * stem -> [b, H, W, 3]."""
    return self._run(self._unshuffled(z), None, z.shape[-1])


class MCFormer(UNet):
  """(x_t, t, u) -> (noise or what else the schedule predicts, kernel); attributes as in `UNet`, and these.

  Attributes:
    taps: k*k of the kernel.
    variance: 'fixed', or 'learned': the network returns a second image, with which the released weights choose the
      variance of a step.
    modulate: 'both', or 'time': blocks are modulated by the time step alone (Table 3, models Baseline to B and F).
    skip: add x_t to what the network returns.
  """

  taps: int = 441
  variance: str = 'fixed'
  modulate: str = 'both'
  skip: bool = True

  @nn.compact
  def __call__(
    self, x_t: Float[Array, 'b H W 3'], t: Num[Array, ' b'], u: Array
  ) -> tuple[Float[Array, 'b H W images'], Float[Array, 'b {self.taps}']]:
    """Predicts noise, and estimates the kernel.

    Args:
      x_t: noisy image [b, H, W, 3]; H and W multiples of 8 * stem.
      t: [b], time steps.
      u: the LR image, enlarged, [b, H, W, 3].

    Returns:
      [b, H, W, 3], or [b, H, W, 6] with a learned variance; and the kernel [b, k*k]; float32.

    Raises:
      ValueError: sizes that do not fit, or an unknown variance or modulation.
    """
    if x_t.shape != u.shape:
      raise ValueError(f'x_t {x_t.shape} and u {u.shape} must have one shape')
    if self.variance not in VARIANCES or self.modulate not in MODULATIONS:
      raise ValueError(
        f'variance {self.variance!r} and modulate {self.modulate!r}; known: {", ".join(VARIANCES)} and '
        f'{", ".join(MODULATIONS)}'
      )
    z = self._unshuffled(jnp.concatenate([x_t, u], -1).astype(self.dtype))
    kernel = Estimator(self.features, self.taps, self.dtype, name='estimator')(z)
    dense = lambda width, name: nn.Dense(width, dtype=self.dtype, name=name)
    # Theirs has sines first.
    waves = jnp.roll(timestep_embedding(t, self.features), self.features // 2, -1).astype(self.dtype)
    s = dense(self.features, 'time_2')(jax.nn.mish(dense(4 * self.features, 'time_1')(waves)))
    if self.modulate == 'both':
      s += dense(self.features, 'kernel_2')(jax.nn.mish(dense(self.features, 'kernel_1')(kernel)))
    images = VARIANCES[self.variance]
    out = self._run(z, jax.nn.mish(s), 3 * images)
    return out + jnp.tile(x_t, images) if self.skip else out, kernel
