"""Multi-head attention: the one place where a kernel is chosen by device, shape and dtype.

'xla' is what the compiler makes of two matrix products and a softmax, and runs everywhere. 'cudnn' is cuDNN's fused
attention on NVIDIA's GPUs, 'splash' JAX's Pallas kernel on TPUs; neither keeps the scores in memory. The environment
variable SSR_ATTENTION overrides the choice; it is read when a program is traced.
"""

from collections.abc import Callable, Sequence
import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ssr_jax import xla
from ssr_jax.types import Array, Float, SSRError

IMPLEMENTATIONS = ('cudnn', 'splash', 'xla')
"""In the order of preference; 'xla' can do everything."""

VARIABLE = 'SSR_ATTENTION'

QUERY_CHUNK = 512
"""Queries per step of the chunked form, at most; on a CPU the scores of one chunk then stay in the cache."""

PLAIN_SCORES = 1024 * 1024
"""Largest number of scores, queries x keys, that is computed at once."""

SPLASH_BLOCK = 512
"""Queries and keys of one step of splash attention, at most; a multiple of the 128 lanes."""

RECORD_AXES, HEAD_AXIS = ('data', 'fsdp'), 'tensor'
"""Axes of a mesh that records and heads are split over: those of training/sharding.py."""


def attention(
  q: Array,
  k: Array,
  v: Array,
  *,
  bias: Array | None = None,
  implementation: str | None = None,
  chunk: int | None = None,
) -> Float[Array, 'b n heads d']:
  """Scaled dot-product attention, `softmax(q k^T / sqrt(d) + bias) v` per head.

  XLA computes few tokens at once and many in chunks of queries, so that memory never holds a whole [n, m] array; the
  backward pass recomputes each chunk's scores. All implementations give the same numbers up to rounding; scores and
  softmax are float32.

  Args:
    q: [b, n, heads, d].
    k: [b, m, heads, d].
    v: [b, m, heads, d].
    bias: [heads, n, m] or [1, n, m], added to the scores; -inf hides a key.
    implementation: one of `IMPLEMENTATIONS`; default `choose`'s.
    chunk: queries per step of XLA's form; default 0 (all at once) up to PLAIN_SCORES scores per head, else QUERY_CHUNK.

  Returns:
    [b, n, heads, d] in v's dtype.

  Raises:
    ValueError: shapes that do not fit together.
    SSRError: the named implementation cannot run on this device, shape or dtype.
  """
  if q.ndim != 4 or k.shape != v.shape or q.shape[::2] != k.shape[::2] or q.shape[3] != k.shape[3]:
    raise ValueError(f'q, k, v must be [b, n, heads, d], [b, m, heads, d] twice; got {q.shape}, {k.shape}, {v.shape}')
  n, m, heads = q.shape[1], k.shape[1], q.shape[2]
  if bias is not None and bias.shape not in ((heads, n, m), (1, n, m)):
    raise ValueError(f'bias must be {(heads, n, m)} or {(1, n, m)}; got {bias.shape}')
  description = (xla.platform(), q.shape, m, q.dtype, bias is not None)
  if implementation is None:
    implementation = choose(*description, forced=os.environ.get(VARIABLE, ''))
  else:
    _check_known(implementation, 'attention')
    problems = [*obstacles(implementation, *description), *_cudnn_missing(implementation)]
    if problems:
      raise SSRError(f"attention: '{implementation}' cannot be used: {problems[0]}; leave the choice to the program")
  if implementation == 'cudnn':
    kernel = functools.partial(jax.nn.dot_product_attention, implementation='cudnn')
    return _on_each_device(kernel, q, k, v).astype(v.dtype)
  if implementation == 'splash':
    return _on_each_device(functools.partial(splash_kernel, interpret=False), q, k, v)
  return _xla(q, k, v, bias, chunk)


def choose(platform: str, shape: Sequence[int], keys: int, dtype: Any, bias: bool, *, forced: str = '') -> str:
  """Which of `IMPLEMENTATIONS` computes one attention.

  Args:
    platform: 'cpu', 'gpu' or 'tpu'.
    shape: [b, n, heads, d] of the queries.
    keys: m.
    dtype: of q.
    bias: whether there is one.
    forced: name of the implementation to use. XLA still computes the shapes that it cannot, such as 77 text tokens
      with splash.

  Raises:
    SSRError: an unknown name, or an implementation that cannot run on this device or dtype at all.
  """
  if forced:
    _check_known(forced, VARIABLE)
    found = obstacles(forced, platform, shape, keys, dtype, bias, shapes=False)
    found += _cudnn_missing(forced)
    if found:
      raise SSRError(f"{VARIABLE}={forced}: {found[0]}; unset it, or set it to 'xla'")
  for name in (forced, 'xla') if forced else IMPLEMENTATIONS:
    if not obstacles(name, platform, shape, keys, dtype, bias) and not _cudnn_missing(name):
      return name
  raise AssertionError('xla can do everything')


def obstacles(
  implementation: str, platform: str, shape: Sequence[int], keys: int, dtype: Any, bias: bool, *, shapes: bool = True
) -> list[str]:
  """Reasons why an implementation cannot compute this; empty if it can. Without `shapes`, those true of any shape."""
  _, queries, _, width = shape
  dtype = jnp.dtype(dtype).name
  if implementation == 'cudnn':
    device, dtypes = 'gpu', ('bfloat16', 'float16')
    # Hopper allows 256; no network of ours has a width in between.
    shape_obstacles = {
      f'{width} channels a head, not a multiple of 8 up to 128': width % 8 or width > 128,
      # JAX has no gradient of cuDNN's kernel for odd lengths, and tracing does not tell training from sampling. The 77
      # tokens of a text are few enough for XLA.
      f'{queries} queries and {keys} keys, not both even': queries % 2 or keys % 2,
      'a bias is left to XLA': bias,
    }
  elif implementation == 'splash':
    device, dtypes = 'tpu', ('bfloat16', 'float32')
    shape_obstacles = {
      f'{queries} queries and {keys} keys, not multiples of 128': queries % 128 or keys % 128,
      'a bias is left to XLA': bias,
    }
  else:
    return []
  found = []
  if platform != device:
    found.append(f'it is for a {device.upper()}, this is a {platform.upper()}')
  if dtype not in dtypes:
    found.append(f'it computes in {" or ".join(dtypes)}, not in {dtype}')
  return found + [reason for reason, holds in shape_obstacles.items() if holds and shapes]


def _check_known(implementation: str, where: str) -> None:
  if implementation not in IMPLEMENTATIONS:
    raise SSRError(f"{where}: unknown implementation '{implementation}'; known: {', '.join(IMPLEMENTATIONS)}")


def _cudnn_missing(implementation: str) -> list[str]:
  """Reasons why this GPU cannot use cuDNN; asked when the program is traced."""
  if implementation != 'cudnn' or xla.platform() != 'gpu':
    return []
  capability = xla.cuda_capability()
  if capability is None:
    return ["this GPU is not NVIDIA's, as far as JAX tells"]
  return [] if capability >= 8 else [f'this GPU is of compute capability {capability}, it needs 8.0']


# ---- XLA -------------------------------------------------------------------------------------------------------------


def _xla(q: Array, k: Array, v: Array, bias: Array | None, chunk: int | None) -> Array:
  b, n, heads, d = q.shape
  m = k.shape[1]
  if chunk is None:
    chunk = 0 if n * m <= PLAIN_SCORES else QUERY_CHUNK
  if chunk <= 0 or chunk >= n:
    return _plain(q, k, v, bias)

  steps = -(-n // chunk)
  chunk = -(-n // steps)  # even chunks: 1025 queries are 3 x 342, not 3 x 512
  rest = steps * chunk - n
  parts = jnp.pad(q, ((0, 0), (0, rest), (0, 0), (0, 0)))
  parts = parts.reshape(b, steps, chunk, heads, d).swapaxes(0, 1)  # [steps, b, chunk, heads, d]
  if bias is not None:
    bias = jnp.pad(bias, ((0, 0), (0, rest), (0, 0))).reshape(len(bias), steps, chunk, m).swapaxes(0, 1)
  out = jax.lax.map(jax.checkpoint(lambda part: _plain(part[0], k, v, part[1])), (parts, bias))
  return out.swapaxes(0, 1).reshape(b, steps * chunk, heads, d)[:, :n]


def _plain(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
  scores = jnp.einsum('bnhd,bmhd->bhnm', q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
  if bias is not None:
    scores += bias.astype(jnp.float32)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum('bhnm,bmhd->bnhd', weights, v)


# ---- Kernels ---------------------------------------------------------------------------------------------------------


def _on_each_device(kernel: Callable[..., Array], q: Array, k: Array, v: Array) -> Array:
  """Runs a kernel on each device, for that device's records and heads.

  The compiler cannot split these kernels reliably: it does not split splash at all, and its rule for cuDNN fails when
  each device has some of the heads, which it chooses when parameters are sharded.

  The mesh must be known: trace a program for several devices under `jax.set_mesh` or `use_abstract_mesh`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return kernel(q, k, v)
  b, _, heads, _ = q.shape
  records = tuple(axis for axis in RECORD_AXES if axis in mesh.shape)
  records = records if b % math.prod(mesh.shape[axis] for axis in records) == 0 else None
  split = HEAD_AXIS if heads % mesh.shape.get(HEAD_AXIS, heads + 1) == 0 else None
  spec = PartitionSpec(records, None, split, None)
  return jax.shard_map(kernel, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False)(q, k, v)


def splash_kernel(
  q: Float[Array, 'b n heads d'], k: Float[Array, 'b m heads d'], v: Float[Array, 'b m heads d'], *, interpret: bool
) -> Float[Array, 'b n heads d']:
  """The kernel itself, on one device; `interpret` runs it on any kind of device, slowly."""
  from jax.experimental.pallas.ops.tpu import splash_attention as splash  # heavy, and for TPUs only

  n, m = q.shape[1], k.shape[1]
  rows, columns = _block(n), _block(m)
  blocks = splash.BlockSizes(
    block_q=rows,
    block_kv=columns,
    block_kv_compute=columns,
    block_q_dkv=rows,
    block_kv_dkv=columns,
    block_kv_dkv_compute=columns,
    block_q_dq=rows,
    block_kv_dq=columns,
  )
  mask = splash.MultiHeadMask([splash.FullMask((n, m))] * q.shape[2])
  kernel = splash.make_splash_mha(mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret)
  first = lambda x: x.swapaxes(1, 2)  # heads before tokens
  return first(jax.vmap(kernel)(first(q * q.shape[-1] ** -0.5), first(k), first(v)))


def _block(tokens: int) -> int:
  """The largest multiple of 128, up to SPLASH_BLOCK, that divides `tokens`."""
  return next(size for size in range(SPLASH_BLOCK, 0, -128) if tokens % size == 0)
