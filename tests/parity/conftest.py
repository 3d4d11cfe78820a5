"""The networks that are compared with PyTorch's, at small width, and what the comparisons share.

Every weight is drawn from its own name, so that the same weights can be made with torch and without: the golden files
hold outputs only. `python tests/parity/make_golden.py` writes them. One file above 400 lines, since each case names the
other library's module, ours, and how one's weights become the other's.
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import pathlib
import re
from typing import Any
import zlib

import jax
import numpy as np
import pytest

from ssr_jax.nn.clip import CLIPText
from ssr_jax.nn.controlnet import ControlNet
from ssr_jax.nn.depth.dpt import DPT, SIZES
from ssr_jax.nn.lpips import LPIPS
from ssr_jax.nn.rrdb import NBSR, RRDBNet
from ssr_jax.nn.unet import UNet
from ssr_jax.nn.vae import VAE
from ssr_jax.systems.blinddiff.mcformer import MCFormer
from ssr_jax.systems.ssr.dkenet import DKENet
from ssr_jax.weights import format, importers

TOLERANCE = 2e-5
"""Largest absolute error in float32 on a CPU, where the reference has unit scale or less."""
GOLDEN = pathlib.Path(__file__).parent / 'golden'


@dataclasses.dataclass(frozen=True)
class Case:
  """One network on both sides.

  Attributes:
    module: ours.
    table: names of both.
    inputs: NumPy arguments of both calls, NHWC.
    theirs: makes the torch module.
    run: (torch module, torch inputs with images NCHW) -> output, a torch tensor.
    options: keyword arguments of our call.
    constants: variables besides the parameters.
    answer: our call's result -> the array that `run` gives.
    double: module by module both compute in float64 and must agree to 1e-9. For networks whose inner values are
      differences of nearly equal ones: the rounding of float32 alone exceeds `TOLERANCE` on some processors. Their
      outputs in float32 are compared with the stored ones.
  """

  module: Any
  table: importers.Table
  inputs: tuple[np.ndarray, ...]
  theirs: Callable[[], Any]
  run: Callable[..., Any]
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  answer: Callable[[Any], Any] = lambda out: out[0] if isinstance(out, tuple) else out
  double: bool = False

  @property
  def tolerance(self) -> float:
    return 1e-9 if self.double else TOLERANCE

  @functools.cached_property
  def expected(self) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = jax.eval_shape(lambda *a: self.module.init(jax.random.key(0), *a, **self.options), *self.inputs)
    return {name: s for name, s in format.flatten_shapes(shapes).items() if name.startswith('params/')}

  @functools.cached_property
  def state(self) -> dict[str, np.ndarray]:
    """Their state dict, but for what the network never uses, drawn by name, in the order of `expected`."""
    names = self.table.to_theirs({name: np.zeros(s.shape, np.float32) for name, s in self.expected.items()})
    return {name: draw(name, array.shape) for name, array in names.items()}

  def variables(self) -> dict[str, Any]:
    ours = self.table.to_ours(self.state, self.expected, 'drawn')
    return format.unflatten({**ours, **self.constants})

  def ours(self, double: bool = False):
    """Our output, and that of every module within, by path; in float32 or float64."""
    options = dict(self.options, capture_intermediates=True, mutable=['intermediates'])
    module, inputs = self.module, self.inputs
    if double:
      module, inputs = module.clone(dtype=np.float64), tuple(x.astype(np.float64) for x in inputs)
    with jax.default_matmul_precision('highest'), jax.enable_x64(double):
      out, state = jax.jit(lambda v, *a: module.apply(v, *a, **options))(self.variables(), *inputs)
      return np.asarray(self.answer(out)), _calls(state['intermediates'])

  def torch_module(self):
    """Theirs, with the same weights; what the network never uses keeps its own."""
    torch = pytest.importorskip('torch')
    pytest.importorskip('diffusers')
    pytest.importorskip('transformers')
    module = self.theirs().eval()
    state = {name: torch.from_numpy(array) for name, array in self.state.items()}
    used = {self.today(name, module): tensor for name, tensor in state.items()}
    missing, unexpected = module.load_state_dict(used, strict=False)
    unused = [name for name in missing if not any(re.fullmatch(p, name) for p in (*self.table.unused, 'pca_matrix'))]
    assert not unexpected and not unused, (unexpected, unused)
    return module

  def today(self, name: str, module) -> str:
    """A checkpoint's name in the module that the library builds from it today."""
    own = dict(module.named_parameters())
    if name in own:
      return name
    return next((candidate for candidate in own if self.table.canonical(candidate) == name), name)

  def torch_run(self, module):
    torch = pytest.importorskip('torch')
    tensors = [nchw(x) if x.ndim == 4 else torch.from_numpy(x) for x in self.inputs]
    if self.double:
      module, tensors = module.double(), [x.double() for x in tensors]
    with torch.no_grad():
      return self.run(module, *tensors)


def _calls(tree, path='') -> dict[str, np.ndarray]:
  found = {}
  for name, value in tree.items():
    if name == '__call__':
      if not path:  # the whole, which is compared by itself
        continue
      last = value[-1]  # of several calls, as theirs
      found[path] = np.asarray(last[0] if isinstance(last, tuple) else last)
    else:
      found |= _calls(value, f'{path}/{name}' if path else name)
  return found


def draw(name: str, shape) -> np.ndarray:
  """A weight by its name: no zero and no one to hide behind, outputs of about unit scale."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith(('head.head.4.bias', 'head.conv3.bias')):
    return np.full(shape, 3, np.float32)  # a last ReLU would hide half of the output
  if ('embedding' in name and 'cond_embedding' not in name) or name.endswith(
    ('cls_token', 'relative_position_bias_table')
  ):
    return rng.normal(0, 1, shape).astype(np.float32)
  if len(shape) < 2:
    return rng.normal(1.0 if name.endswith(('weight', 'lambda1', 'lambda_1', 'lambda_2')) else 0.0, 0.2, shape).astype(
      np.float32
    )
  # Features of a drawn classifier hardly depend on the image, the less the deeper they are.
  head = re.match(r'lin(\d)\.model', name)
  scale = 200 * 4 ** int(head[1]) if head else 1
  return rng.normal(0, scale * np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)


def random(shape, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def image(shape, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).random(shape).astype(np.float32)


def nchw(x):
  import torch

  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def nhwc(x) -> np.ndarray:
  x = x.detach().numpy()
  return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def assert_close(ours, theirs, tolerance: float = TOLERANCE, what: str = ''):
  """Largest absolute error, over the reference's deviation where that is above one."""
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape, (what, ours.shape, theirs.shape)
  assert theirs.std() > 1e-2, f'{what}: the reference says nothing'
  error = np.abs(ours - theirs).max() / max(theirs.std(), 1)
  assert error <= tolerance, (what, error)


# ---- a tokenizer -----------------------------------------------------------------------------------------------------

TEXTS = (
  '',
  ' ',
  'a photo of a cat',
  'clean, high-resolution',
  "It's  CAT'S  24/7!!! we'll isn't I'M they'VE o'clock",
  'tabs\tand\nlines\r\n',
  'na\u00efve cafe\u0301 \u00c5ngstr\u00f6m STRASSE \u00df \u0130stanbul',
  '\u4f60\u597d\u4e16\u754c',
  '\U0001f642\U0001f3fd\u200d\u2695',
  'x\u00b2 + \u00bd = \u2163 \u0663\u0664',
  '<|endoftext|> in <|startoftext|>the middle',
  '<|ENDOFTEXT|>',
  '$1,000.00 (50%) _under_score_ --- ...',
  '\u00a0no-break\u2003em\u3000wide',
  "''s 'sa 's",
  'e\u0301\u0301 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35',
  'word ' * 90,
)
"""What tokenizers stumble over: case, accents, other scripts, digits, blanks, contractions, special tokens, length."""


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
  """A small byte-pair vocabulary with CLIP's layout: bytes, bytes that end a word, merges, start and end.

  Merges are learnt from `TEXTS`: always the pair that is most frequent now.
  """
  from ssr_jax.weights.importers import tokenizer

  letters = tokenizer._LETTERS
  words = [[letters[byte] for byte in word.encode()] for text in TEXTS[2:-1] for word in text.lower().split()] * 2
  words += [
    [letters[byte] for byte in word.encode()] for word in ('photo', 'photos', 'resolution', 'cat', 'cats', 'word')
  ]
  words = [[*word[:-1], word[-1] + '</w>'] for word in words]
  merges = []
  for _ in range(150):
    counts: dict[tuple[str, str], int] = {}
    for word in words:
      for pair in itertools.pairwise(word):
        counts[pair] = counts.get(pair, 0) + 1
    best = max(counts, key=lambda pair: (counts[pair], pair), default=None)
    if best is None:
      break
    merges.append(best)
    for word in words:
      i = 0
      while i < len(word) - 1:
        if (word[i], word[i + 1]) == best:
          word[i : i + 2] = [word[i] + word[i + 1]]
        i += 1
  tokens = [
    *letters,
    *(letter + '</w>' for letter in letters),
    *(a + b for a, b in merges),
    tokenizer.START,
    tokenizer.END,
  ]
  return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges


# ---- the networks ----------------------------------------------------------------------------------------------------


def _unet(linear: bool) -> Case:
  heads = (2, 4, 4) if linear else 4

  def theirs():
    import diffusers

    return diffusers.UNet2DConditionModel(
      sample_size=8,
      block_out_channels=(32, 64, 64),
      cross_attention_dim=24,
      norm_num_groups=8,
      down_block_types=('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
      up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
      attention_head_dim=heads,
      use_linear_projection=linear,
    )

  return Case(
    UNet(channels=(32, 64, 64), attention=(True, True, False), heads=heads, cross_attention_dim=24, groups=8),
    importers.unet_table(linear),
    (random((2, 8, 12, 4)), np.array([3, 700]), random((2, 7, 24), 1)),
    theirs,
    lambda m, z, t, c: m(z, t, c).sample,
  )


def _controlnet(linear: bool) -> Case:
  """All residuals and the middle's, in a row; the tests of modules compare the taps, which lie before them."""
  heads = (2, 4, 4) if linear else 4

  def theirs():
    import diffusers

    return diffusers.ControlNetModel(
      block_out_channels=(32, 64, 64),
      cross_attention_dim=24,
      norm_num_groups=8,
      down_block_types=('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
      attention_head_dim=heads,
      use_linear_projection=linear,
      conditioning_embedding_out_channels=(8, 12, 16, 24),
    )

  def run(module, z, t, context, image):
    import torch

    residuals, middle = module(z, t, context, image, return_dict=False)
    return torch.cat([x.movedim(1, -1).flatten(1) for x in (*residuals, middle)], 1)

  return Case(
    ControlNet(
      channels=(32, 64, 64),
      attention=(True, True, False),
      heads=heads,
      cross_attention_dim=24,
      groups=8,
      hint_channels=(8, 12, 16, 24),
    ),
    importers.controlnet_table(linear),
    (random((2, 8, 12, 4)), np.array([3, 700]), random((2, 7, 24), 1), image((2, 64, 96, 3))),
    theirs,
    run,
    answer=lambda out: np.concatenate([np.asarray(x).reshape(len(x), -1) for x in (*out.residuals, out.middle)], 1),
  )


def _vae() -> Case:
  def theirs():
    import diffusers

    return diffusers.AutoencoderKL(
      block_out_channels=(16, 32),
      down_block_types=('DownEncoderBlock2D',) * 2,
      up_block_types=('UpDecoderBlock2D',) * 2,
      layers_per_block=1,
      norm_num_groups=8,
      sample_size=16,
    )

  return Case(
    VAE(channels=(16, 32), encoder_blocks=1, decoder_blocks=2, groups=8),
    importers.vae_table(),
    (image((2, 16, 24, 3)),),
    theirs,
    lambda m, x: (m(2 * x - 1, sample_posterior=False).sample + 1) / 2,
  )


def _clip(activation: str) -> Case:
  def theirs():
    import transformers

    return transformers.CLIPTextModel(
      transformers.CLIPTextConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=99,
        hidden_act=activation,
        max_position_embeddings=20,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
      )
    )

  return Case(
    CLIPText(32, 3, 4, 48, activation, 99, 20),
    importers.text_table(),
    (np.random.default_rng(0).integers(0, 99, (2, 17)),),
    theirs,
    lambda m, ids: m(ids).last_hidden_state,
  )


_SMALL_DPT = dict(width=32, layers=5, heads=4, taps=(1, 2, 3, 4), neck=(16, 24, 32, 40), fusion=16)


def _depth(module: DPT, table: importers.Table, theirs) -> Case:
  def run(m, x):
    mean, deviation = (x.new_tensor(values)[:, None, None] for values in (module.mean, module.deviation))
    return m((x - mean) / deviation).predicted_depth[:, None]

  return Case(module, table, (image((2, *module.resolution, 3)),), theirs, run, options={'raw': True})


def _dpt() -> Case:
  def theirs():
    import transformers

    return transformers.DPTForDepthEstimation(
      transformers.DPTConfig(
        hidden_size=32,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=64,
        patch_size=16,
        backbone_out_indices=[1, 2, 3, 4],
        neck_hidden_sizes=[16, 24, 32, 40],
        fusion_hidden_size=16,
        is_hybrid=False,
        readout_type='project',
      )
    )

  return _depth(DPT(resolution=(64, 64), hidden=48, positions=4, **_SMALL_DPT), importers.dpt_table(), theirs)


def _dpt_beit(resolution: tuple[int, int]) -> Case:
  def theirs():
    import transformers

    backbone = transformers.BeitConfig(
      hidden_size=32,
      num_hidden_layers=5,
      num_attention_heads=4,
      intermediate_size=48,
      image_size=64,
      patch_size=16,
      use_relative_position_bias=True,
      reshape_hidden_states=False,
      out_features=[f'stage{i}' for i in (2, 3, 4, 5)],
    )
    return transformers.DPTForDepthEstimation(
      transformers.DPTConfig(backbone_config=backbone, neck_hidden_sizes=[16, 24, 32, 40], fusion_hidden_size=16)
    )

  sizes = {**SIZES['dpt-beit-large-512'], **_SMALL_DPT, 'hidden': 48, 'positions': 4, 'resolution': resolution}
  return _depth(DPT(**sizes), importers.dpt_beit_table(), theirs)


def _depth_anything(resolution: tuple[int, int]) -> Case:
  def theirs():
    import transformers

    backbone = transformers.Dinov2Config(
      hidden_size=32,
      num_hidden_layers=5,
      num_attention_heads=4,
      mlp_ratio=2,
      image_size=70,
      patch_size=14,
      out_indices=[2, 3, 4, 5],
      reshape_hidden_states=False,
      apply_layernorm=True,
    )
    return transformers.DepthAnythingForDepthEstimation(
      transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        patch_size=14,
        neck_hidden_sizes=[16, 24, 32, 40],
        fusion_hidden_size=16,
        head_hidden_size=8,
      )
    )

  sizes = {**SIZES['depth-anything-v2-small'], **_SMALL_DPT, 'hidden': 64, 'head': 8, 'positions': 5}
  return _depth(DPT(**{**sizes, 'resolution': resolution}), importers.depth_anything_table(), theirs)


def _manet() -> Case:
  """MANet as its paper and state dict have it, stated again; nf 8 instead of 128."""

  def theirs():
    import torch
    from torch import nn

    class MAConv(nn.Module):
      def __init__(self, c):
        super().__init__()
        for i in range(2):
          setattr(self, f'fc{i}', nn.Sequential(nn.Conv2d(c // 2, c // 4, 1), nn.ReLU(), nn.Conv2d(c // 4, c, 1)))
          setattr(self, f'conv{i}', nn.Conv2d(c // 2, c // 2, 3, padding=1))

      def forward(self, x):
        a, b = x.chunk(2, 1)
        out = []
        for own, other, fc, conv in ((a, b, self.fc0, self.conv0), (b, a, self.fc1, self.conv1)):
          scale, shift = fc(other).chunk(2, 1)
          out.append(conv(own * scale.sigmoid() + shift))
        return torch.cat(out, 1)

    class MABlock(nn.Module):
      def __init__(self, c):
        super().__init__()
        self.res = nn.Sequential(MAConv(c), nn.ReLU(), MAConv(c))

      def forward(self, x):
        return x + self.res(x)

    class MANet(nn.Module):
      def __init__(self, c=8):
        super().__init__()
        self.m_head = nn.Conv2d(3, c, 3, padding=1)
        self.m_down1 = nn.Sequential(MABlock(c), nn.Conv2d(c, 2 * c, 2, 2))
        self.m_body = MABlock(2 * c)
        self.m_up1 = nn.Sequential(nn.ConvTranspose2d(2 * c, c, 2, 2), MABlock(c))
        self.m_tail = nn.Conv2d(c, 441, 3, padding=1)

      def forward(self, x):
        h, w = x.shape[-2:]
        x = nn.functional.pad(x, (0, -w % 8, 0, -h % 8), mode='replicate')
        first = self.m_head(x)
        down = self.m_down1(first)
        x = self.m_tail(self.m_up1(self.m_body(down) + down) + first)
        return 21 * x[..., :h, :w].softmax(1)  # kernels of 21 instead of 1, nearer to unit scale

    return MANet()

  class Scaled(DKENet):
    def __call__(self, lr):
      return 21 * super().__call__(lr)

  return Case(
    Scaled(features=8, depth_features=0), importers.manet_table(), (image((2, 10, 13, 3)),), theirs, lambda m, x: m(x)
  )


def _rrdb_sft() -> Case:
  """RRDB-SFT stated again; 2 blocks, nf 8, gc 4, kernels of 5 x 5 pixels with a code of 6."""
  pca = random((25, 6), 3) / 5

  def theirs():
    import torch
    from torch import nn

    leaky = nn.LeakyReLU(0.2)
    conv = lambda a, b: nn.Conv2d(a, b, 3, padding=1)

    class SFT(nn.Module):
      def __init__(self):
        super().__init__()
        for name in ('mul', 'add'):
          setattr(self, f'{name}_conv1', conv(14, 32))
          setattr(self, f'{name}_conv2', conv(32, 8))

      def forward(self, x, code):
        both = torch.cat([x, code], 1)
        mul = self.mul_conv2(leaky(self.mul_conv1(both))).sigmoid()
        return x * mul + self.add_conv2(leaky(self.add_conv1(both)))

    class RDB(nn.Module):
      def __init__(self):
        super().__init__()
        for i in range(5):
          setattr(self, f'conv{i + 1}', conv(8 + 4 * i, 4 if i < 4 else 8))

      def forward(self, x):
        seen = [x]
        for i in range(4):
          seen.append(leaky(getattr(self, f'conv{i + 1}')(torch.cat(seen, 1))))
        return x + 0.2 * self.conv5(torch.cat(seen, 1))

    class Block(nn.Module):
      def __init__(self):
        super().__init__()
        self.SFT, self.RDB1, self.RDB2, self.RDB3 = SFT(), RDB(), RDB(), RDB()

      def forward(self, x, code):
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(self.SFT(x, code))))

    class RRDBSFT(nn.Module):
      def __init__(self):
        super().__init__()
        self.register_buffer('pca_matrix', torch.from_numpy(pca)[None, :, :, None, None])
        self.conv_first = conv(3, 8)
        self.RRDB_trunk = nn.ModuleList([Block(), Block()])
        self.trunk_conv = conv(8, 8)
        self.upsampler = nn.Sequential(conv(8, 48), nn.PixelShuffle(4))

      def forward(self, x, kernels):
        code = (kernels[:, :, None] * self.pca_matrix).sum(1)
        first = self.conv_first(x)
        x = first
        for block in self.RRDB_trunk:
          x = block(x, code)
        return self.upsampler(first + self.trunk_conv(x))

    return RRDBSFT()

  kernels = image((2, 6, 7, 25), 1)
  kernels /= kernels.sum(-1, keepdims=True)
  return Case(
    NBSR(blocks=2, features=8, growth=4, components=6, taps=25),
    importers.rrdb_sft_table(),
    (image((2, 6, 7, 3)), kernels),
    theirs,
    lambda m, x, k: m(x, k),
    constants={'constants/pca': pca},
  )


def _rrdbnet(unshuffle: int) -> Case:
  """ESRGAN's generator stated again, by BasicSR's names; 2 blocks, nf 8, gc 4."""

  def theirs():
    import torch
    from torch import nn
    from torch.nn import functional as F

    leaky = lambda x: F.leaky_relu(x, 0.2)
    conv = lambda a, b: nn.Conv2d(a, b, 3, padding=1)

    class Dense(nn.Module):
      def __init__(self):
        super().__init__()
        for i in range(5):
          setattr(self, f'conv{i + 1}', conv(8 + 4 * i, 4 if i < 4 else 8))

      def forward(self, x):
        seen = x
        for i in range(1, 5):
          seen = torch.cat([seen, leaky(getattr(self, f'conv{i}')(seen))], 1)
        return x + 0.2 * self.conv5(seen)

    class Block(nn.Module):
      def __init__(self):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = Dense(), Dense(), Dense()

      def forward(self, x):
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))

    class Generator(nn.Module):
      def __init__(self):
        super().__init__()
        self.conv_first = conv(3 * unshuffle**2, 8)
        self.body = nn.Sequential(Block(), Block())
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (conv(8, 8) for _ in range(4))
        self.conv_last = conv(8, 3)

      def forward(self, x):
        first = self.conv_first(F.pixel_unshuffle(x, unshuffle))
        x = first + self.conv_body(self.body(first))
        for up in (self.conv_up1, self.conv_up2):
          x = leaky(up(F.interpolate(x, scale_factor=2, mode='nearest')))
        return self.conv_last(leaky(self.conv_hr(x)))

    return Generator()

  return Case(
    RRDBNet(blocks=2, features=8, growth=4, unshuffle=unshuffle),
    importers.rrdbnet_table(),
    (image((2, 6, 10, 3)),),
    theirs,
    lambda m, x: m(x),
  )


def _mcformer(variance: str) -> Case:
  """MCFormer stated again from the formulas of BlindDiff and Restormer; 8 channels, blocks of each level 1, 1, 1, 2."""
  images = {'fixed': 1, 'learned': 2}[variance]

  def theirs():
    import torch
    from torch import nn
    import torch.nn.functional as F

    flat = lambda a, b, k, **more: nn.Conv2d(a, b, k, padding=k // 2, bias=False, **more)

    class Norm(nn.Module):
      def __init__(self, c):
        super().__init__()
        self.body = nn.LayerNorm(c, 1e-5)

      def forward(self, x):
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class MDTA(nn.Module):
      def __init__(self, c, n):
        super().__init__()
        self.n = n
        self.temperature = nn.Parameter(torch.ones(n, 1, 1))
        self.qkv, self.qkv_dwconv = flat(c, 3 * c, 1), flat(3 * c, 3 * c, 3, groups=3 * c)
        self.project_out = flat(c, c, 1)

      def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv_dwconv(self.qkv(x)).view(b, 3, self.n, c // self.n, h * w).unbind(1)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature
        return self.project_out((weights.softmax(-1) @ v).reshape(b, c, h, w))

    class GDFN(nn.Module):
      def __init__(self, c):
        super().__init__()
        h = int(2.66 * c)
        self.project_in, self.project_out = flat(c, 2 * h, 1), flat(h, c, 1)
        self.dwconv = flat(2 * h, 2 * h, 3, groups=2 * h)

      def forward(self, x):
        gate, y = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * y)

    class Block(nn.Module):
      def __init__(self, c, n):
        super().__init__()
        self.norm1, self.norm2, self.attn, self.ffn = Norm(c), Norm(c), MDTA(c, n), GDFN(c)
        self.modulation = nn.Sequential(nn.Mish(), nn.Linear(8, 4 * c))

      def forward(self, both):
        x, s = both
        t1, g1, t2, g2 = self.modulation(s)[..., None, None].chunk(4, 1)
        x = x + self.attn(self.norm1(x) * (1 + g1) + t1)
        return x + self.ffn(self.norm2(x) * (1 + g2) + t2), s

    class Waves(nn.Module):
      def forward(self, t):
        angles = t.double()[:, None] * 10 ** (-4 * torch.arange(4, dtype=torch.float64) / 4)
        return torch.cat([angles.sin(), angles.cos()], 1).to(t)

    class MCFormer(nn.Module):
      def __init__(self):
        super().__init__()
        level = lambda c, n, count: nn.Sequential(*(Block(c, n) for _ in range(count)))
        self.t_embedder = nn.Sequential(Waves(), nn.Linear(8, 32), nn.Mish(), nn.Linear(32, 8))
        self.k_mlp = nn.Sequential(nn.Linear(9, 8), nn.Mish(), nn.Linear(8, 8))
        convs = [nn.Conv2d(6 if i == 0 else 8, 8, 5, 2 if i == 3 else 1, 2) for i in range(6)]
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 9, 1), nn.Softmax(1)]
        self.predictor = nn.Sequential(*(m for conv in convs for m in (conv, nn.LeakyReLU(0.2))), *pooled)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = flat(6, 8, 3)
        for i in range(3):
          c = 8 * 2**i
          setattr(self, f'encoder_level{i + 1}', level(c, 2**i, 1))
          down, up = nn.Module(), nn.Module()
          down.body = nn.Sequential(flat(c, c // 2, 3), nn.PixelUnshuffle(2))
          up.body = nn.Sequential(flat(2 * c, 4 * c, 3), nn.PixelShuffle(2))
          setattr(self, f'down{i + 1}_{i + 2}', down)
          setattr(self, f'up{i + 2}_{i + 1}', up)
          if i:
            setattr(self, f'reduce_chan_level{i + 1}', flat(2 * c, c, 1))
          setattr(self, f'decoder_level{i + 1}', level(c if i else 16, 2**i, 1))
        self.latent, self.refinement = level(64, 8, 2), level(16, 1, 1)
        self.output = flat(16, 3 * images, 3)

      def forward(self, x_t, t, u):
        z = torch.cat([x_t, u], 1)
        s = self.t_embedder(t) + self.k_mlp(self.predictor(z).flatten(1))
        x, skips = self.patch_embed.proj(z), []
        for i in (1, 2, 3):
          x, _ = getattr(self, f'encoder_level{i}')((x, s))
          skips.append(x)
          x = getattr(self, f'down{i}_{i + 1}').body(x)
        x, _ = self.latent((x, s))
        for i in (3, 2, 1):
          x = torch.cat([getattr(self, f'up{i + 1}_{i}').body(x), skips.pop()], 1)
          if i > 1:
            x = getattr(self, f'reduce_chan_level{i}')(x)
          x, _ = getattr(self, f'decoder_level{i}')((x, s))
        x, _ = self.refinement((x, s))
        return self.output(x) + x_t.repeat(1, images, 1, 1)

    return MCFormer()

  return Case(
    MCFormer(features=8, blocks=(1, 1, 1, 2), refinement=1, taps=9, variance=variance),
    importers.mcformer_table(),
    (random((2, 16, 24, 3)), np.array([3, 870], np.float32), image((2, 16, 24, 3))),
    theirs,
    lambda m, x, t, u: m(x, t, u),
    double=True,
  )


def _lpips(backbone: str) -> Case:
  """LPIPS stated again, by the names of torchvision's classifiers and of the file of heads; at full width."""
  # (input and output channels, kernel side, stride, padding) of each convolution, and 'pool'.
  alex = [(3, 64, 11, 4, 2), 'pool', (64, 192, 5, 1, 2), 'pool', (192, 384, 3, 1, 1), (384, 256, 3, 1, 1)]
  alex.append((256, 256, 3, 1, 1))
  widths = (3, 64, 64, 'pool', 128, 128, 'pool', 256, 256, 256, 'pool', 512, 512, 512, 'pool', 512, 512, 512)
  numbers = [width for width in widths if width != 'pool']
  pairs = iter(itertools.pairwise(numbers))
  vgg = ['pool' if width == 'pool' else (*next(pairs), 3, 1, 1) for width in widths[1:]]
  ends = {'alex': (1, 4, 7, 9, 11), 'vgg': (3, 8, 15, 22, 29)}[backbone]  # positions of the last ReLUs
  side = {'alex': 3, 'vgg': 2}[backbone]

  def theirs():
    import torch
    from torch import nn

    class Head(nn.Module):
      def __init__(self, channels):
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

      def forward(self, x):
        return self.model(x)

    class LPIPS(nn.Module):
      def __init__(self):
        super().__init__()
        layers, channels = [], []
        for what in {'alex': alex, 'vgg': vgg}[backbone]:
          if what == 'pool':
            layers.append(nn.MaxPool2d(side, 2))
          else:
            a, b, kernel, stride, padding = what
            layers += [nn.Conv2d(a, b, kernel, stride, padding), nn.ReLU()]
          channels.append(channels[-1] if what == 'pool' else b)
          if what != 'pool':
            channels.append(b)
        self.features = nn.Sequential(*layers)
        for i, end in enumerate(ends):
          setattr(self, f'lin{i}', Head(channels[end]))

      def forward(self, image, reference):
        shift = torch.tensor([-0.030, -0.088, -0.188], dtype=image.dtype)[:, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450], dtype=image.dtype)[:, None, None]
        x = (2 * torch.cat([image, reference]) - 1 - shift) / scale
        total, head = 0, 0
        for i, layer in enumerate(self.features):
          x = layer(x)
          if i in ends:
            a, b = (x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)).chunk(2)
            total = total + getattr(self, f'lin{head}')((a - b) ** 2).mean((1, 2, 3))
            head += 1
        return total

    return LPIPS()

  # Sides that no pooling divides, so that incomplete windows are dropped; distances from small to large.
  reference = image((6, 45, 38, 3), 1)
  steps = np.array([0.0, 0.02, 0.1, 0.3, 0.6, 1.0], np.float32)[:, None, None, None]
  changed = (1 - steps) * reference + steps * image(reference.shape, 2)
  return Case(
    LPIPS(backbone), importers.lpips_table(), (changed, reference), theirs, lambda m, a, b: m(a, b), double=True
  )


CASES = {
  'unet_sd21': lambda: _unet(True),
  'unet_sd15': lambda: _unet(False),
  'controlnet_sd21': lambda: _controlnet(True),
  'controlnet_sd15': lambda: _controlnet(False),
  'vae': _vae,
  'clip_sd15': lambda: _clip('quick_gelu'),
  'clip_sd21': lambda: _clip('gelu'),
  'dpt': _dpt,
  'dpt_beit': lambda: _dpt_beit((64, 64)),
  'dpt_beit_resized': lambda: _dpt_beit((96, 32)),
  'depth_anything': lambda: _depth_anything((70, 70)),
  'depth_anything_resized': lambda: _depth_anything((56, 84)),
  'manet': _manet,
  'rrdb_sft': _rrdb_sft,
  'rrdbnet': lambda: _rrdbnet(1),
  'rrdbnet_x2': lambda: _rrdbnet(2),
  'lpips_vgg': lambda: _lpips('vgg'),
  'lpips_alex': lambda: _lpips('alex'),
  'mcformer': lambda: _mcformer('fixed'),
  'mcformer_learned': lambda: _mcformer('learned'),
}


_SLOW = ('unet_sd15', 'unet_sd21')  # the ControlNets have the same blocks


def pytest_generate_tests(metafunc):
  if 'case' in metafunc.fixturenames:
    cases = [pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in CASES]
    metafunc.parametrize('case', cases, indirect=True)


@pytest.fixture(scope='session')
def case(request) -> Case:
  return CASES[request.param]()
