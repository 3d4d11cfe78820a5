"""Attention: every implementation against NumPy, which one is chosen, and what stays float32 in bfloat16 networks."""

import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax import xla
from ssr_jax.nn import attention as attention_lib
from ssr_jax.nn.attention import attention, choose, obstacles
from ssr_jax.nn.clip import CLIPText
from ssr_jax.nn.depth.dpt import DPT, SIZES
from ssr_jax.nn.unet import UNet
from ssr_jax.nn.vae import VAE
from ssr_jax.types import SSRError


def reference(q, k, v, bias=None):
  """One head of one record at a time, in float64."""
  q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
  out = np.empty(q.shape)
  for b in range(q.shape[0]):
    for h in range(q.shape[2]):
      scores = q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[3])
      if bias is not None:
        scores = scores + np.asarray(bias, np.float64)[h % len(bias)]
      weights = np.exp(scores - scores.max(1, keepdims=True))
      out[b, :, h] = weights / weights.sum(1, keepdims=True) @ v[b, :, h]
  return out


def reference_gradients(q, k, v, cotangent):
  """Of q, k, v, by the derivative of softmax written out."""
  q, k, v, cotangent = (np.asarray(a, np.float64) for a in (q, k, v, cotangent))
  root = np.sqrt(q.shape[3])
  gradients = [np.empty(a.shape) for a in (q, k, v)]
  for b in range(q.shape[0]):
    for h in range(q.shape[2]):
      scores = q[b, :, h] @ k[b, :, h].T / root
      weights = np.exp(scores - scores.max(1, keepdims=True))
      weights /= weights.sum(1, keepdims=True)
      inner = cotangent[b, :, h] @ v[b, :, h].T
      inner = weights * (inner - (weights * inner).sum(1, keepdims=True)) / root
      for gradient, value in zip(
        gradients, (inner @ k[b, :, h], inner.T @ q[b, :, h], weights.T @ cotangent[b, :, h]), strict=True
      ):
        gradient[b, :, h] = value
  return gradients


def draw(n, m, heads, d, dtype=jnp.float32):
  rng = np.random.default_rng(0)
  q, k, v = (jnp.asarray(rng.standard_normal((2, tokens, heads, d)), dtype) for tokens in (n, m, m))
  return q, k, v, jnp.asarray(rng.standard_normal((2, n, heads, d)), dtype)


def check(function, n, m, heads, d, dtype, tolerance):
  """Output and gradients of an implementation, relative to the reference's largest value."""
  q, k, v, cotangent = draw(n, m, heads, d, dtype)

  @jax.jit
  def run(q, k, v, cotangent):
    out, vjp = jax.vjp(function, q, k, v)
    return out, *vjp(cotangent)

  found = run(q, k, v, cotangent)
  wanted = (reference(q, k, v), *reference_gradients(q, k, v, cotangent))
  for name, a, b in zip(('output', 'dq', 'dk', 'dv'), found, wanted, strict=True):
    assert a.dtype == dtype and a.shape == b.shape
    error = np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
    assert error <= tolerance, (name, error)


@pytest.mark.parametrize('chunk', [0, 5, 8, 64])
def test_xla_equals_numpy_whatever_the_chunk(chunk):
  check(functools.partial(attention, implementation='xla', chunk=chunk), 17, 11, 3, 4, jnp.float32, 3e-6)


def test_xla_in_bfloat16():
  check(functools.partial(attention, implementation='xla', chunk=16), 40, 24, 2, 16, jnp.bfloat16, 2e-2)


@pytest.mark.parametrize('heads', [1, 3])
@pytest.mark.parametrize('chunk', [0, 5])
def test_a_bias_is_added_to_the_scores_and_minus_infinity_hides(chunk, heads):
  q, k, v, _ = draw(17, 11, 3, 4)
  bias = np.random.default_rng(1).standard_normal((heads, 17, 11))
  bias[:, :, 4] = -np.inf
  bias[:, 3, 6:] = -np.inf
  out = jax.jit(functools.partial(attention, chunk=chunk))(q, k, v, bias=jnp.asarray(bias, jnp.float32))
  np.testing.assert_allclose(out, reference(q, k, v, bias), atol=3e-6)


def test_splash_equals_numpy():
  """JAX's interpreter runs what a TPU would."""
  check(functools.partial(attention_lib.splash_kernel, interpret=True), 128, 256, 2, 40, jnp.float32, 3e-6)


@pytest.mark.skipif(jax.default_backend() != 'tpu', reason='needs a TPU')
@pytest.mark.parametrize('d', [40, 64, 80, 160])
def test_splash_on_a_tpu(d):
  check(functools.partial(attention, implementation='splash'), 1024, 1024, 4, d, jnp.bfloat16, 2e-2)


@pytest.mark.skipif(jax.default_backend() != 'gpu', reason='needs an NVIDIA GPU: cuDNN runs nowhere else')
@pytest.mark.parametrize('dtype, tolerance', [(jnp.bfloat16, 2e-2), (jnp.float16, 4e-3)])
@pytest.mark.parametrize('n, m, d', [(1024, 1024, 64), (576, 78, 40), (144, 144, 80)])
def test_cudnn_on_a_gpu(n, m, d, dtype, tolerance):
  check(functools.partial(attention, implementation='cudnn'), n, m, 4, d, dtype, tolerance)


@pytest.mark.parametrize(
  'n, m, heads, d, kernels',
  [
    (4096, 4096, 5, 64, 2),
    (9216, 9216, 5, 64, 2),
    (144, 144, 20, 64, 2),
    (4096, 4096, 8, 40, 2),
    (1024, 1024, 8, 80, 2),
    (256, 256, 8, 160, 0),
    (4096, 77, 5, 64, 0),
    (1369, 1369, 6, 64, 0),
  ],
)
def test_a_training_step_of_every_shape_can_be_built_for_a_gpu(n, m, heads, d, kernels):
  """What is chosen has a gradient: JAX says what cuDNN lacks when it makes the program, for which no GPU is needed."""
  q, k = (jax.ShapeDtypeStruct((2, tokens, heads, d), jnp.bfloat16) for tokens in (n, m))
  step = jax.jit(jax.value_and_grad(lambda q, k, v: attention(q, k, v).astype(jnp.float32).sum(), (0, 1, 2)))
  with xla.compiling_for('gpu', 9.0):
    program = step.trace(q, k, k).lower(lowering_platforms=('cuda',)).as_text()
  assert len(set(re.findall(r'__cudnn\$\w+', program))) == kernels  # there and back


@pytest.mark.parametrize(
  'sizes, q, local',
  [
    ((2, 2, 2), (8, 64, 4, 8), (2, 64, 2, 8)),
    ((1, 8, 1), (8, 64, 5, 8), (1, 64, 5, 8)),
    ((2, 2, 2), (8, 64, 5, 8), (2, 64, 5, 8)),  # five heads for two
    ((2, 2, 2), (2, 64, 4, 8), (2, 64, 2, 8)),  # two records for four
  ],
)
def test_a_kernel_sees_its_devices_own_records_and_heads(sizes, q, local):
  """Whatever the compiler would have done: each device gets whole heads, as many as can be shared evenly."""
  seen = []

  def kernel(*arrays):
    seen.extend(x.shape for x in arrays)
    return arrays[0]

  k = (q[0], 32, *q[2:])
  mesh = jax.sharding.AbstractMesh(sizes, ('data', 'fsdp', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 3)
  with jax.sharding.use_abstract_mesh(mesh):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (q, k, k)]
    out = jax.eval_shape(functools.partial(attention_lib._on_each_device, kernel), *shapes)
  assert seen == [local, (local[0], 32, *local[2:]), (local[0], 32, *local[2:])] and out.shape == q


BF16, F16, F32 = jnp.bfloat16, jnp.float16, jnp.float32


@pytest.mark.parametrize(
  'capability, expected, match',
  [(8.0, 'cudnn', ''), (7.5, 'xla', 'compute capability 7.5, it needs 8.0'), (None, 'xla', "not NVIDIA's")],
)
def test_cudnn_is_for_gpus_that_have_it(capability, expected, match):
  arguments = (1, 4096, 5, 64), 4096, BF16, False
  with xla.compiling_for('gpu', capability):
    assert choose('gpu', *arguments) == expected
    if match:
      with pytest.raises(SSRError, match=f'SSR_ATTENTION=cudnn: .*{match}'):
        choose('gpu', *arguments, forced='cudnn')


@pytest.mark.parametrize(
  'platform, n, m, heads, d, dtype, bias, expected',
  [
    # SD 2.1 at 64x64 latents, its text, SD 1.5's widths, the autoencoder's one head of 512.
    ('cpu', 4096, 4096, 5, 64, F32, False, 'xla'),
    ('cpu', 4096, 4096, 5, 64, BF16, False, 'xla'),
    ('gpu', 4096, 4096, 5, 64, BF16, False, 'cudnn'),
    ('gpu', 4096, 4096, 5, 64, F16, False, 'cudnn'),
    ('gpu', 4096, 4096, 5, 64, F32, False, 'xla'),
    ('gpu', 4096, 77, 5, 64, BF16, False, 'xla'),
    ('gpu', 1369, 1369, 6, 64, BF16, False, 'xla'),
    ('gpu', 4096, 4096, 8, 40, BF16, False, 'cudnn'),
    ('gpu', 1024, 1024, 8, 80, BF16, False, 'cudnn'),
    ('gpu', 256, 256, 8, 160, BF16, False, 'xla'),
    ('gpu', 4096, 4096, 8, 36, BF16, False, 'xla'),
    ('gpu', 4096, 4096, 1, 512, BF16, False, 'xla'),
    ('gpu', 1025, 1025, 16, 64, BF16, True, 'xla'),  # BEiT
    ('tpu', 4096, 4096, 5, 64, BF16, False, 'splash'),
    ('tpu', 4096, 4096, 5, 64, F32, False, 'splash'),
    ('tpu', 4096, 4096, 5, 64, F16, False, 'xla'),
    ('tpu', 4096, 77, 5, 64, BF16, False, 'xla'),
    ('tpu', 256, 256, 8, 160, BF16, False, 'splash'),
    ('tpu', 2304, 2304, 10, 64, BF16, False, 'splash'),  # 48x48
    ('tpu', 576, 576, 20, 64, BF16, False, 'xla'),  # 24x24
    ('tpu', 1370, 1370, 16, 64, BF16, False, 'xla'),  # Depth Anything
    ('tpu', 1024, 1024, 16, 64, BF16, True, 'xla'),
  ],
)
def test_choice(monkeypatch, platform, n, m, heads, d, dtype, bias, expected):
  monkeypatch.setattr(attention_lib, '_cudnn_missing', lambda implementation: [])
  arguments = (platform, (2, n, heads, d), m, dtype, bias)
  assert choose(*arguments) == expected
  assert not obstacles(expected, *arguments)
  assert choose(*arguments, forced='xla') == 'xla'
  if expected != 'xla':
    assert choose(*arguments, forced=expected) == expected


@pytest.mark.parametrize(
  'forced, platform, dtype, match',
  [
    ('flash', 'gpu', BF16, "unknown implementation 'flash'; known: cudnn, splash, xla"),
    ('cudnn', 'cpu', BF16, 'SSR_ATTENTION=cudnn: it is for a GPU, this is a CPU'),
    ('cudnn', 'gpu', F32, 'bfloat16 or float16, not in float32'),
    ('splash', 'gpu', BF16, 'for a TPU, this is a GPU'),
    ('splash', 'tpu', F16, 'not in float16'),
  ],
)
def test_a_kernel_that_is_not_there_cannot_be_forced(monkeypatch, forced, platform, dtype, match):
  monkeypatch.setattr(attention_lib, '_cudnn_missing', lambda implementation: [])
  with pytest.raises(SSRError, match=match):
    choose(platform, (1, 4096, 5, 64), 4096, dtype, False, forced=forced)


def test_what_a_forced_kernel_has_no_shape_for_is_left_to_xla():
  assert choose('tpu', (1, 4096, 5, 64), 77, BF16, False, forced='splash') == 'xla'


def test_the_variable_and_the_argument_are_heeded(monkeypatch):
  q, k, v, _ = draw(8, 8, 1, 8)
  monkeypatch.setenv(attention_lib.VARIABLE, 'pallas')
  with pytest.raises(SSRError, match="SSR_ATTENTION: unknown implementation 'pallas'"):
    attention(q, k, v)
  monkeypatch.setenv(attention_lib.VARIABLE, 'xla')
  np.testing.assert_allclose(attention(q, k, v), reference(q, k, v), atol=3e-6)
  with pytest.raises(SSRError, match="attention: 'splash' cannot be used: .*; leave the choice to the program"):
    attention(q, k, v, implementation='splash')  # 8 tokens, on any device


def test_shapes_that_do_not_fit_are_named():
  with pytest.raises(ValueError, match='q, k, v'):
    attention(jnp.zeros((1, 4, 2, 8)), jnp.zeros((1, 4, 3, 8)), jnp.zeros((1, 4, 3, 8)))
  with pytest.raises(ValueError, match='bias must be'):
    attention(*[jnp.zeros((1, 4, 2, 8))] * 3, bias=jnp.zeros((4, 4)))


# ---- Precision -------------------------------------------------------------------------------------------------------

_SMALL_DPT = dict(width=32, layers=4, heads=2, taps=(0, 1, 2, 3), neck=(8, 8, 8, 8), fusion=8, hidden=16, dtype=BF16)
_IMAGE = jnp.zeros((1, 28, 28, 3))
NETWORKS = {
  'unet': (
    UNet(channels=(32, 64), attention=(True, False), heads=2, cross_attention_dim=8, groups=8, dtype=BF16),
    (jnp.zeros((1, 8, 8, 4)), jnp.zeros((1,), jnp.int32), jnp.zeros((1, 7, 8))),
  ),
  'vae': (VAE(channels=(8, 16), encoder_blocks=1, decoder_blocks=1, groups=4, dtype=BF16), (jnp.zeros((1, 8, 8, 3)),)),
  'clip': (CLIPText(16, 2, 2, 32, 'gelu', 99, 20, dtype=BF16), (jnp.zeros((1, 9), jnp.int32),)),
  'beit': (DPT(**{**SIZES['dpt-beit-large-512'], **_SMALL_DPT, 'resolution': (64, 32), 'positions': 4}), (_IMAGE,)),
  'dinov2': (DPT(**{**SIZES['depth-anything-v2-small'], **_SMALL_DPT, 'resolution': (28, 42)}), (_IMAGE,)),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_softmax_norms_and_time_stay_float32_in_bfloat16(name):
  """Every exponential, root of a variance and sinusoid of the traced program, and every sum that they are made of."""
  module, inputs = NETWORKS[name]
  variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(F32)}
  seen = {}
  for equation in _equations(jax.make_jaxpr(module.apply)(variables, *inputs).jaxpr):
    kind = equation.primitive.name
    seen.setdefault(kind, set()).update(a.aval.dtype.name for a in equation.invars if hasattr(a.aval, 'dtype'))
  wanted = {'exp', 'rsqrt', 'reduce_sum', 'reduce_max'} | ({'sin', 'cos'} if name == 'unet' else set())
  assert {kind: seen.get(kind) for kind in wanted} == dict.fromkeys(wanted, {'float32'})
  assert 'bfloat16' in seen['dot_general']  # and it is a bfloat16 program


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, 'eqns')):
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from _equations(inner)


def test_norms_of_bfloat16_features_far_from_zero():
  """256 + noise: with sums in bfloat16, which has 8 bits, nothing would be left of the deviation."""
  x = jnp.asarray(256 + 8 * np.random.default_rng(0).standard_normal((1, 64, 64)), BF16)
  exact = np.asarray(x, np.float64)
  exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
  norm = nn.LayerNorm(dtype=BF16, use_fast_variance=False)
  np.testing.assert_allclose(np.asarray(norm.apply(norm.init(jax.random.key(0), x), x), np.float64), exact, atol=3e-2)
