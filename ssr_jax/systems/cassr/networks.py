"""The networks of CasSR: the frozen prior with its prompts, and what steers it.

CasSR, section 3. The prior and what steers it are parts of their own, so that a prior is stored once for a plain
ControlNet and for CasSR, and training has neither moments nor averages of it.
"""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax.numpy as jnp

from ssr_jax.nn.blocks import Attention, from_windows, to_windows
from ssr_jax.nn.controlnet import Control, ControlNet
from ssr_jax.nn.layers import Dtype
from ssr_jax.nn.unet import Attend, UNet
from ssr_jax.types import Array, Float, Num

PROMPTS = ('null', 'clean', 'degraded')
"""The texts of a prior, in their order: '', 'clean, high-resolution' and the negative prompt of Stable Diffusion."""

CONTROLS = ('lr', 'reference')
"""The images that steer, in the order of a batch of them."""

TRUNK = (
  'channels',
  'latent_channels',
  'blocks',
  'attention',
  'mid_attention',
  'heads',
  'head_dim',
  'cross_attention_dim',
  'groups',
  'window',
)
"""The attributes that a prior and what steers it have in common."""


class OnTrunk(nn.Module):
  """A module around networks with the structure of Stable Diffusion's UNet.

  Attributes:
    channels, latent_channels, blocks, attention, mid_attention, heads, head_dim, cross_attention_dim, groups, window:
      as in `nn.unet.Trunk`; the defaults are those of SD 1.5. What steers a prior has the prior's.
    dtype: dtype of the computation.
    remat: as in `nn.unet.Trunk`.
  """

  channels: Sequence[int] = (320, 640, 1280, 1280)
  latent_channels: int = 4
  blocks: int = 2
  attention: Sequence[bool] = (True, True, True, False)
  mid_attention: bool = True
  heads: int | Sequence[int] | None = 8
  head_dim: int = 64
  cross_attention_dim: int = 768
  groups: int = 32
  window: Sequence[int] | None = None
  dtype: Dtype = jnp.float32
  remat: str = ''

  def trunk(self) -> dict[str, Any]:
    """The attributes of its networks' trunk, those of the computation too."""
    return {name: getattr(self, name) for name in (*TRUNK, 'dtype', 'remat')}


class Prior(OnTrunk):
  """A latent diffusion model of photos, and the prompts that it knows.

  Attributes:
    tokens: n of a prompt.
    learned: whether the prompts are parameters; else they are constants, stored embeddings of a text encoder.
  """

  tokens: int = 77
  learned: bool = False

  def setup(self):
    """Makes the UNet and the table of prompts."""
    self.unet = UNet(**self.trunk())
    shape = (len(PROMPTS), self.tokens, self.cross_attention_dim)
    if self.learned:
      self.table = self.param('prompts', nn.initializers.normal(1.0), shape)
    else:
      self.table = self.variable('constants', 'prompts', jnp.zeros, shape).value

  def prompts(self) -> Float[Array, '3 n e']:
    """The embeddings of `PROMPTS`, [3, n, e]."""
    return self.table

  def __call__(
    self,
    z_t: Float[Array, 'b h w c'],
    t: Num[Array, ' b'],
    context: Float[Array, 'b n e'],
    residuals: tuple[Sequence[Float[Array, 'b _ _ _']], Float[Array, 'b hm wm cm']] | None = None,
    attend: Attend | None = None,
  ) -> Float[Array, 'b h w c']:
    """Predicts noise (or v): as `nn.unet.UNet`, with a context [b, n, e] of `prompts`."""
    return self.unet(z_t, t, context, residuals=residuals, attend=attend)


class TapAttention(nn.Module):
  """O Att(Q LN(y), K LN(tap), V LN(tap)), Eqs. 1 and 2; zero at initialisation.

  The paper gives softmax(Q K^T / sqrt(d)) V alone. Norms, heads and the output layer are ours: without an output that
  starts at zero the equations would destroy the features of a frozen network.

  Attributes:
    heads: number of heads; divides c.
    window: as in `nn.blocks.Transformer`.
    dtype: dtype of the computation.
  """

  heads: int
  window: int = 0
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, y: Float[Array, 'b pixels c'], tap: Float[Array, 'b h w e']) -> Float[Array, 'b h*w c']:
    """Features y [b, h*w, c] and a tap [b, h, w, e] of a ControlNet -> what to add to y, [b, h*w, c]."""
    b, h, w, e = tap.shape
    norm = lambda name, x: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)(x)
    query, source = norm('norm', y), norm('norm_tap', tap.reshape(b, h * w, e))
    query, source = (to_windows(x, (h, w), self.window) for x in (query, source))
    attention = Attention(self.heads, self.dtype, nn.initializers.zeros, name='attention')
    return from_windows(attention(query, source), (h, w), self.window)


class Steering(OnTrunk):
  """What steers a prior: one ControlNet for all images, and attention of the prior's way up to its features.

  Attributes:
    hint: 'pixels' or 'latent', as in `nn.controlnet.ControlNet`.
    hint_channels: as there.
    controls: which of `CONTROLS` steer.
    multiple_attention: whether there is attention to the features of each, in every transformer of the way up.
  """

  hint: str = 'pixels'
  hint_channels: Sequence[int] = (16, 32, 96, 256)
  controls: Sequence[str] = CONTROLS
  multiple_attention: bool = True

  def setup(self):
    """Makes the ControlNet and the attention of each transformer."""
    unknown = [name for name in self.controls if name not in CONTROLS]
    if unknown or not self.controls or len(set(self.controls)) < len(self.controls):
      raise ValueError(f'controls {tuple(self.controls)}: must be some of {", ".join(CONTROLS)}, each once')
    self.controlnet = ControlNet(**self.trunk(), hint=self.hint, hint_channels=self.hint_channels)
    extra = {}
    for place, (level, _) in self.places().items() if self.multiple_attention else ():
      for name in self.controls:
        extra[f'{place}_{name}'] = TapAttention(
          self.controlnet.heads_of(level), self.controlnet.window_of(level), self.dtype
        )
    self.extra = extra

  def places(self) -> dict[str, tuple[int, int]]:
    """{transformer of the way up: (its level, the skip connection that the residual block before it takes)}."""
    levels = len(self.channels)
    found, skip = {}, levels * (self.blocks + 1)
    for i, level in enumerate(reversed(range(levels))):
      for j in range(self.blocks + 1):
        skip -= 1
        if self.attention[level]:
          found[f'up_{i}_attn_{j}'] = level, skip
    return found

  def embed(self, image: Float[Array, 'b H W c']) -> Float[Array, 'b h w {self.channels[0]}']:
    """The hint of an image, as `nn.controlnet.ControlNet.embed`."""
    return self.controlnet.embed(image)

  def control(
    self,
    z_t: Float[Array, 'b h w c'],
    t: Num[Array, ' b'],
    context: Float[Array, 'b n e'],
    hint: Float[Array, 'b h w {self.channels[0]}'],
  ) -> Control:
    """What the ControlNet finds, with the hint of one of the images."""
    return self.controlnet(z_t, t, context, hint=hint)

  def attend(
    self, place: str, name: str, y: Float[Array, 'b n c'], taps: Sequence[Float[Array, 'b _ _ _']]
  ) -> Float[Array, 'b n c']:
    """What a transformer of the way up adds to its features y [b, n, c] for one of `controls`, by its taps."""
    return self.extra[f'{place}_{name}'](y, taps[self.places()[place][1]])

  def __call__(
    self,
    z_t: Float[Array, 'b h w c'],
    t: Num[Array, ' b'],
    context: Float[Array, 'b n e'],
    image: Float[Array, 'b H W _'],
  ) -> Control:
    """Runs every layer once, to initialise them: the ControlNet on an image, and attention on features of zero."""
    found = self.controlnet(z_t, t, context, image)
    for place, (level, skip) in self.places().items() if self.multiple_attention else ():
      b, h, w, _ = found.taps[skip].shape
      for name in self.controls:
        self.attend(place, name, jnp.zeros((b, h * w, self.channels[level])), found.taps)
    return found
