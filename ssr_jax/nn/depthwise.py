"""Depthwise convolution as shifted products, one loop in XLA; a grouped one is 30 times slower on a CPU."""

from collections.abc import Iterator
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ssr_jax.types import Array, Float


@jax.custom_vjp
def depthwise(x: Float[Array, 'b h w c'], kernel: Array) -> Float[Array, 'b h w c']:
  """Filters each channel with its own kernel: correlation, zero padding, as torch's Conv2d(padding=k // 2, groups=c).

  The gradient with respect to x is the same operation with the kernel turned by 180 degrees. Automatic differentiation
  would add up k*k padded arrays instead, each in memory.

  Args:
    x: [b, h, w, c].
    kernel: [k, k, c], k odd, dtype of x.

  Returns:
    [b, h, w, c], the dtype of x; products and sums are at least float32.

  Raises:
    ValueError: a kernel that is not square, not odd or of another number of channels.
  """
  k = kernel.shape[0]
  if kernel.shape != (k, k, x.shape[-1]) or k % 2 == 0:
    raise ValueError(f'kernel must be [k, k, {x.shape[-1]}] with k odd; got {kernel.shape}')
  wide = jnp.promote_types(x.dtype, jnp.float32)
  first, *others = (window.astype(wide) * kernel[i, j].astype(wide) for (i, j), window in _windows(x, k))
  return sum(others, first).astype(x.dtype)


def _windows(x: Array, k: int) -> Iterator[tuple[tuple[int, int], Array]]:
  """((i, j), the values that tap (i, j) of each pixel sees), [b, h, w, c] each."""
  _, h, w, _ = x.shape
  radius = k // 2
  padded = jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))
  for i in range(k):
    for j in range(k):
      yield (i, j), padded[:, i : i + h, j : j + w]


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return depthwise(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
  x, kernel = saved
  k = kernel.shape[0]
  taps = jax.lax.platform_dependent(x, g, cpu=lambda x, g: _taps_by_rows(x, g, k), default=lambda x, g: _taps(x, g, k))
  return depthwise(g, kernel[::-1, ::-1]), taps.reshape(kernel.shape).astype(kernel.dtype)


def _taps(x: Array, g: Array, k: int) -> Array:
  """The kernel's gradient, [k*k, c]: for each tap the product of what it sees and g, summed over the pixels."""
  wide = jnp.promote_types(x.dtype, jnp.float32)  # sums over a whole map need float32
  return jnp.stack([(window * g).astype(wide).sum((0, 1, 2)) for _, window in _windows(x, k)])


def _taps_by_rows(x: Array, g: Array, k: int) -> Array:
  """`_taps` a row at a time: all taps' sums stay in a CPU core's cache, which is ten times as fast."""
  b, h, w, c = x.shape
  radius, wide = k // 2, jnp.promote_types(x.dtype, jnp.float32)
  padded = jnp.pad(x, ((0, 0), (radius, radius), (radius, radius), (0, 0)))

  def add_row(row, sums):
    seen = jax.lax.dynamic_slice(padded, (0, row, 0, 0), (b, k, w + 2 * radius, c))
    here = jax.lax.dynamic_slice(g, (0, row, 0, 0), (b, 1, w, c))[:, 0]
    product = lambda n: (seen[:, n // k, n % k : n % k + w] * here).astype(wide).sum(0)
    return tuple(total + product(n) for n, total in enumerate(sums))

  sums = jax.lax.fori_loop(0, h, add_row, tuple(jnp.zeros((w, c), wide) for _ in range(k * k)))
  return jnp.stack(sums).sum(1)


depthwise.defvjp(_forward, _backward)


class Depthwise(nn.Module):
  """Depthwise k x k convolution without bias, zero padding; parameters are those of a grouped `nn.Conv`.

  Attributes:
    size: k, odd.
    dtype: dtype of the computation.
  """

  size: int = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
    """[b, h, w, c] -> [b, h, w, c]."""
    shape = self.size, self.size, 1, x.shape[-1]
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    return depthwise(x.astype(self.dtype), jnp.asarray(kernel[:, :, 0], self.dtype))
