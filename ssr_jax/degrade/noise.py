"""Sensor noise of the Real-ESRGAN chain: Gaussian or Poisson, in colour or gray.

Both are made by inversion from one uniform draw for each sample: on a CPU the random generator is the slowest part, and
rejection sampling would call it many times.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.types import Array, Bool, Float, Int

_EXACT_BELOW = 4.0  # Poisson rates; above, a Cornish-Fisher expansion finds the count
_TERMS = 20  # P(X >= 20) at rate 4 is 1e-8, below what a float32 uniform resolves
_GRAY = (0.299, 0.587, 0.114)


def noise(
  key: Array,
  image: Float[Array, '3 H W'],
  inside: Bool[Array, 'H W'],
  gaussian: Bool[Array, ''],
  level: Float[Array, ''],
  gray: Bool[Array, ''],
) -> Float[Array, '3 H W']:
  """Noise for one image, not added to it.

  Poisson noise follows the published chain: the image is rounded to 8 bits and counted in units of 1/n, n being the
  number of distinct values in it raised to a power of two; the scale then multiplies the noise, so that it does
  not stand for a number of photons. Gray noise is that of the gray image, the same in each channel.

  Args:
    key: one key.
    image: [3, H, W] in [0, 1].
    inside: [H, W] bool, which samples count as the image.
    gaussian: bool scalar; else Poisson.
    level: standard deviation of Gaussian noise, of 1; or the scale of Poisson noise.
    gray: bool scalar.

  Returns:
    [3, H, W].
  """
  uniform = jax.random.uniform(key, image.shape, minval=np.nextafter(np.float32(-1), np.float32(0)))
  uniform = jnp.where(gray, uniform[:1], uniform)  # in (-1, 1)
  normal = np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)

  luma = sum(weight * image[i] for i, weight in enumerate(_GRAY))
  rounded = jnp.round(255 * jnp.clip(jnp.where(gray, luma, image), 0, 1)).astype(jnp.int32)
  distinct = distinct_levels(rounded, inside)
  units = 2 ** jnp.ceil(jnp.log2(distinct.astype(jnp.float32)) - 1e-4)
  counts = poisson((uniform + 1) / 2, normal, rounded * (units / 255))
  return jnp.where(gaussian, level * normal, level * (counts / units - rounded / 255))


def poisson(
  uniform: Float[Array, '*shape'], normal: Float[Array, '*shape'], rate: Float[Array, '*#shape']
) -> Float[Array, '*shape']:
  """Poisson variates by inversion: the smallest count whose distribution function reaches `uniform`.

  Below a rate of 4 by summing the probabilities; above by the Cornish-Fisher expansion to third order, corrected for a
  distribution on whole numbers. At most two draws in a thousand are off, by one.

  Args:
    uniform: in [0, 1).
    normal: the same draw as a standard normal variate, sqrt(2) erfinv(2 uniform - 1).
    rate: non-negative.

  Returns:
    whole numbers as float32, of their common shape.
  """
  small = jnp.minimum(rate, _EXACT_BELOW)
  probability = jnp.exp(-small)
  reached = jnp.zeros_like(probability)
  count = jnp.zeros_like(uniform)
  for k in range(_TERMS):
    reached = reached + probability
    count = count + (uniform > reached)
    probability = probability * small / (k + 1)
  root = jnp.sqrt(jnp.maximum(rate, _EXACT_BELOW))
  square = normal * normal
  expanded = rate + root * normal + (square - 1) / 6 - normal * (2 + square) / (72 * root)
  expanded = expanded + ((3 * square + 7) * square - 16) / (810 * root * root)
  return jnp.where(rate < _EXACT_BELOW, count, jnp.maximum(jnp.round(expanded), 0))


def distinct_levels(levels: Int[Array, 'c H W'], inside: Bool[Array, 'H W']) -> Int[Array, '']:
  """How many of the values 0 to 255 occur in [c, H, W] int32 where inside [H, W]; a scalar, at least 1."""
  zero = np.uint32(0)
  levels = levels.astype(jnp.uint32)
  bits = jnp.where(inside, jnp.uint32(1) << (levels & 31), zero)
  words = [jnp.where(levels >> 5 == word, bits, zero) for word in range(8)]
  # One reduction of eight operands reads the image once. It keeps the last axis, which makes it a vector operation; a
  # second reduction removes that axis.
  join = lambda a, b: [jax.lax.bitwise_or(x, y) for x, y in zip(a, b, strict=True)]
  words = jnp.stack(jax.lax.reduce(words, [zero] * 8, join, (0, 1)))
  words = jax.lax.reduce(words, zero, jax.lax.bitwise_or, (1,))
  return jnp.maximum(jax.lax.population_count(words).sum().astype(jnp.int32), 1)
