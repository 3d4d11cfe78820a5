"""Multi-head attention: the one place where a backend is chosen."""

import jax
import jax.numpy as jnp

QUERY_CHUNK = 512
"""Queries per step of the chunked form; on a CPU the scores of one chunk then stay in the cache."""

PLAIN_SCORES = 1024 * 1024
"""Largest queries x keys that is done in one piece."""


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, chunk: int | None = None) -> jax.Array:
  """Scaled dot-product attention, `softmax(q k^T / sqrt(d)) v` per head.

  Few tokens are done in one piece, many in chunks of queries, so that no [n, m] array is ever whole in memory; in the
  backward pass each chunk's scores are computed again. Both forms give the same numbers. Softmax is in float32.
  A hardware kernel (cuDNN, splash) for one device kind belongs here and nowhere else.

  Args:
    q: [b, n, heads, d].
    k: [b, m, heads, d].
    v: [b, m, heads, d].
    chunk: queries per step; default 0 (one piece) up to PLAIN_SCORES scores a head, QUERY_CHUNK above.

  Returns:
    [b, n, heads, d] in v's dtype.

  Raises:
    ValueError: shapes that do not fit together.
  """
  if q.ndim != 4 or k.shape != v.shape or q.shape[::2] != k.shape[::2] or q.shape[3] != k.shape[3]:
    raise ValueError(f'q, k, v must be [b, n, heads, d], [b, m, heads, d] twice; got {q.shape}, {k.shape}, {v.shape}')
  n, m = q.shape[1], k.shape[1]
  if chunk is None:
    chunk = 0 if n * m <= PLAIN_SCORES else QUERY_CHUNK
  if chunk <= 0 or chunk >= n:
    return _plain(q, k, v)

  steps = -(-n // chunk)
  b, _, heads, d = q.shape
  padded = jnp.pad(q, ((0, 0), (0, steps * chunk - n), (0, 0), (0, 0)))
  padded = padded.reshape(b, steps, chunk, heads, d).swapaxes(0, 1)  # [steps, b, chunk, heads, d]
  out = jax.lax.map(jax.checkpoint(lambda part: _plain(part, k, v)), padded)
  return out.swapaxes(0, 1).reshape(b, steps * chunk, heads, d)[:, :n]


def _plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  scores = jnp.einsum('bnhd,bmhd->bhnm', q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum('bhnm,bmhd->bnhd', weights, v)
