"""CLIP's text encoder, which makes Stable Diffusion's context from a prompt's tokens (arXiv 2103.00020)."""

from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.nn.attention import attention
from ssr_jax.types import Array, Float

ACTIVATIONS = ('quick_gelu', 'gelu')


class CLIPText(nn.Module):
  """Causal transformer over tokens.

  The defaults are SD 1.5's ViT-L/14; SD 2.1 has width 1024, 23 layers, 16 heads, gelu. SD 2.1 takes OpenCLIP ViT-H's
  last layer but one: its checkpoint holds 23 of the 24 layers, followed by the final norm, so no option is needed.

  Attributes:
    width: channels e.
    layers: transformer layers.
    heads: heads of each.
    hidden: width of each MLP.
    activation: of the MLPs: 'quick_gelu', x * sigmoid(1.702 x), or 'gelu', the exact one.
    vocabulary: number of tokens.
    positions: longest sequence.
    dtype: dtype of the computation; parameters and normalisation statistics stay float32.
  """

  width: int = 768
  layers: int = 12
  heads: int = 12
  hidden: int = 3072
  activation: str = 'quick_gelu'
  vocabulary: int = 49408
  positions: int = 77
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: Array) -> Float[Array, 'b n {self.width}']:
    """Token numbers int32 [b, n], n up to `positions` -> the normed last layer, float32 [b, n, width].

    Raises:
      ValueError: tokens that are no [b, n] or too long, an unknown activation, heads that do not divide the width.
    """
    if tokens.ndim != 2 or tokens.shape[1] > self.positions:
      raise ValueError(f'tokens must be [b, n] with n up to {self.positions}; got {tokens.shape}')
    if self.activation not in ACTIVATIONS:
      raise ValueError(f'activation {self.activation!r}: unknown; known: {", ".join(ACTIVATIONS)}')
    if self.width % self.heads:
      raise ValueError(f'{self.width} channels do not divide into {self.heads} heads')
    n = tokens.shape[1]
    x = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, name='token_embedding')(tokens)
    x += nn.Embed(self.positions, self.width, dtype=self.dtype, name='position_embedding')(jnp.arange(n))
    for i in range(self.layers):
      layer = _Layer(self.heads, self.hidden, self.activation, self.dtype, name=f'layer_{i}')
      x = layer(x)
    return _norm(self.dtype, 'norm_out')(x).astype(jnp.float32)


class _Layer(nn.Module):
  """x + attention(LN(x)), then x + MLP(LN(x)); a token attends to itself and earlier ones."""

  heads: int
  hidden: int
  activation: str
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, 'b n c']) -> Float[Array, 'b n c']:
    b, n, c = x.shape
    y = _norm(self.dtype, 'norm1')(x)
    q, k, v = (
      nn.Dense(c, dtype=self.dtype, name=name)(y).reshape(b, n, self.heads, -1) for name in ('to_q', 'to_k', 'to_v')
    )
    causal = jnp.where(jnp.tri(n, dtype=bool), 0.0, -jnp.inf)[None]
    y = attention(q, k, v, bias=causal)
    x += nn.Dense(c, dtype=self.dtype, name='to_out')(y.reshape(b, n, c))
    y = nn.Dense(self.hidden, dtype=self.dtype, name='fc1')(_norm(self.dtype, 'norm2')(x))
    y = y * nn.sigmoid(1.702 * y) if self.activation == 'quick_gelu' else nn.gelu(y, approximate=False)
    return x + nn.Dense(c, dtype=self.dtype, name='fc2')(y)


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=1e-5, dtype=dtype, use_fast_variance=False, name=name)
