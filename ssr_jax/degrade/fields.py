"""Kernel fields: how the covariance of the blur varies over one image.

A field is (lambda1, lambda2, theta), each [h, w] at LR size: eigenvalues (variances in HR pixels squared) and an angle;
`image.kernels.gaussian_kernels` turns it into kernels. Every function takes one key for one image; batch with vmap.
"""

import math
import re

import jax
import jax.numpy as jnp

from ssr_jax.types import Array, Float

Field = tuple[Float[Array, '*b h w'], Float[Array, '*b h w'], Float[Array, '*b h w']]
Eigenvalues = tuple[Array | float, Array | float]
"""(low, high): a range of variances, HR pixels squared."""

MODES = ('mode1', 'mode2', 'mode3', 'mode4', 'mode5', 'mode6')
KINDS = ('invariant', 'smooth', *MODES, 'depth', 'motion', 'depth_motion', 'mixed')
NEED_DEPTH = ('depth', 'depth_motion')
_BLOCK = 40  # HR pixels, side of the blocks of MANet's test modes.
_SHORTEST_PERIOD = 12.0  # LR pixels, least distance between the nodes of a smooth field.


def smooth_noise(key: Array, height: int, width: int, period: Array | float) -> Float[Array, '{height} {width}']:
  """Value noise in [0, 1]: uniform draws at the nodes of a lattice, interpolated with a smooth step.

  Args:
    key: one key.
    height: rows.
    width: columns.
    period: distance between nodes in pixels, at least 12 (the lattice has a fixed size for jit).

  Returns:
    [height, width].
  """
  node_key, offset_key = jax.random.split(key)
  nodes = math.ceil(max(height, width) / _SHORTEST_PERIOD) + 2
  values = jax.random.uniform(node_key, (nodes, nodes))
  offset = jax.random.uniform(offset_key, (2,))

  def weights(size, start):
    position = start + jnp.arange(size) / period
    t = jnp.clip(1 - jnp.abs(position[:, None] - jnp.arange(nodes)[None, :]), 0, 1)
    return t * t * (3 - 2 * t)  # [size, nodes]; the two that are not zero sum to one

  rows, columns = weights(height, offset[0]), weights(width, offset[1])
  return jnp.matmul(jnp.matmul(rows, values, precision='highest'), columns.T, precision='highest')


def invariant(key: Array, height: int, width: int, eigenvalues: Eigenvalues) -> Field:
  """One kernel for the whole image: lambda1 ~ U(range), lambda2 ~ U(min, lambda1), theta ~ U(0, pi) (MANet)."""
  low, high = eigenvalues
  k1, k2, k3 = jax.random.split(key, 3)
  lambda1 = jax.random.uniform(k1, (), minval=low, maxval=high)
  lambda2 = low + (lambda1 - low) * jax.random.uniform(k2, ())
  theta = jax.random.uniform(k3, (), maxval=jnp.pi)
  lambda1, lambda2, theta = (jnp.broadcast_to(a, (height, width)) for a in (lambda1, lambda2, theta))
  return lambda1, lambda2, theta


def known(name: str) -> tuple[float, float, float] | None:
  """(lambda1, lambda2, theta in radians) of 'invariant-L1-L2-DEGREES', such as invariant-9-1-45; None for other names.

  Variances are above 0 and at most 100, degrees from 0 to 180.
  """
  number = r'(\d{1,3}(?:\.\d{1,3})?)'
  found = re.fullmatch(rf'invariant-{number}-{number}-{number}', name)
  lambda1, lambda2, degrees = map(float, found.groups()) if found else (0.0, 0.0, 0.0)
  if not (0 < lambda1 <= 100 and 0 < lambda2 <= 100 and degrees <= 180):
    return None
  return lambda1, lambda2, math.radians(degrees)


NINE = tuple(
  f'invariant-{l1}-{l2}-{angle}'
  for l1, l2, angle in (
    (1, 1, 0),
    (5, 1, 0),
    (5, 1, 45),
    (5, 5, 0),
    (9, 1, 0),
    (9, 1, 45),
    (9, 5, 0),
    (9, 5, 45),
    (9, 9, 0),
  )
)
"""The nine kernels that MANet is tested with at x4: variances 1, 1 + s, 1 + 2 s, at 0 and 45 degrees."""


def smooth(key: Array, height: int, width: int, eigenvalues: Eigenvalues, period: Array | float) -> Field:
  """Smoothly varying anisotropic blur that spans the whole eigenvalue range within an image."""
  low, high = eigenvalues
  k1, k2, k3 = jax.random.split(key, 3)
  lambda1 = low + (high - low) * smooth_noise(k1, height, width, period)
  lambda2 = low + (high - low) * smooth_noise(k2, height, width, period)
  # Kernels repeat after pi. A range of two periods lets the direction turn past pi instead of turning back.
  theta = 2 * jnp.pi * smooth_noise(k3, height, width, period)
  return lambda1, lambda2, theta


def motion(key: Array, height: int, width: int, eigenvalues: Eigenvalues, period: Array | float) -> Field:
  """Motion jitter: kernels that are long in the direction of a smooth motion field and narrow across it."""
  low, high = eigenvalues
  k1, k2, k3 = jax.random.split(key, 3)
  dy = 2 * smooth_noise(k1, height, width, period) - 1
  dx = 2 * smooth_noise(k2, height, width, period) - 1
  strength = motion_strength(k3)
  speed = jnp.sqrt(dx**2 + dy**2)
  lambda1 = jnp.clip(low + strength * (high - low) * speed**2, low, high)
  return lambda1, jnp.full((height, width), low), jnp.arctan2(dy, dx)


def motion_strength(key: Array) -> Float[Array, '']:
  """The factor with which `motion` multiplies the variance along the motion."""
  return jax.random.uniform(key, (), minval=0.5, maxval=1.5)


def defocus(key: Array, depth: Float[Array, 'h w'], eigenvalues: Eigenvalues) -> Field:
  """Depth-dependent defocus: a thin lens' circle of confusion, c ~ |1/d - 1/d_focus| on inverse depth.

  The focus is drawn between the scene's smallest and largest inverse depth. The aperture is drawn so that the variance
  of the most blurred part covers between a third of the range and all of it.

  Args:
    key: one key.
    depth: inverse depth at LR size, [h, w], relative in [0, 1].
    eigenvalues: (low, high) variances.

  Returns:
    An isotropic field.
  """
  low, _ = eigenvalues
  focus, widest = lens(key, depth, eigenvalues)
  coc = jnp.abs(depth - focus)
  variance = low + (widest - low) * (coc / jnp.maximum(coc.max(), 1e-6)) ** 2
  return variance, variance, jnp.zeros_like(variance)


def lens(key: Array, depth: Float[Array, 'h w'], eigenvalues: Eigenvalues) -> tuple[Float[Array, ''], Float[Array, '']]:
  """What `defocus` draws: the inverse depth in focus, and the variance of the most blurred part."""
  low, high = eigenvalues
  k1, k2 = jax.random.split(key)
  focus = jax.random.uniform(k1, (), minval=depth.min(), maxval=depth.max() + 1e-6)
  return focus, low + (high - low) * jax.random.uniform(k2, (), minval=1 / 3, maxval=1.0)


def depth_motion(
  key: Array, depth: Float[Array, 'h w'], eigenvalues: Eigenvalues, period: Array | float
) -> tuple[Field, dict[str, Array]]:
  """Defocus followed by motion jitter: the covariances of the two Gaussians add.

  A drawn share of the range, between a quarter and three quarters, goes to defocus and the rest to motion, so that the
  sum stays in the range. Defocus is isotropic, so the direction is that of the motion.

  Args:
    key: one key.
    depth: inverse depth at LR size, [h, w], relative in [0, 1].
    eigenvalues: (low, high) variances.
    period: distance between the nodes of the motion field.

  Returns:
    the field, and the draws: period, strength, focus, widest, share.
  """
  low, high = eigenvalues
  share_key, lens_key, motion_key = jax.random.split(key, 3)
  share = jax.random.uniform(share_key, (), minval=0.25, maxval=0.75)
  sharpest_to_widest = low, low + share * (high - low)
  added = defocus(lens_key, depth, sharpest_to_widest)[0] - low
  height, width = depth.shape
  along, across, theta = motion(motion_key, height, width, (low, high - share * (high - low)), period)
  focus, widest = lens(lens_key, depth, sharpest_to_widest)
  strength = motion_strength(jax.random.split(motion_key, 3)[2])
  draws = {'period': period, 'strength': strength, 'focus': focus, 'widest': widest, 'share': share}
  return (along + added, across + added, theta), draws


def manet_mode(key: Array, mode: str, height: int, width: int, scale: int) -> Field:
  """MANet's block-wise test modes: 40x40 HR pixel blocks, one kernel each.

  With a = (2.5 - 0.175) s, b = 0.175 s and (u, v) the block's row and column as fractions of the last block:
  1: (a+b, a u+b, 0); 2: (a v+b, a u+b, 0); 3: (a+b, b, pi u); 4: modes 1 and 2 mixed (a coin per block), theta pi u;
  5: all random; 6: (a+b, b) on a checkerboard of pi/4 and 3 pi/4. "Mixed" is not defined in the paper; a coin is ours.

  Args:
    key: one key, used by modes 4 and 5.
    mode: 'mode1' to 'mode6'.
    height: h, LR rows.
    width: w, LR columns.
    scale: s.

  Returns:
    A field constant on blocks.
  """
  a, b = (2.5 - 0.175) * scale, 0.175 * scale
  block = _BLOCK // scale
  rows, columns = -(-height // block), -(-width // block)
  u = jnp.broadcast_to(jnp.linspace(0, 1, rows)[:, None], (rows, columns))
  v = jnp.broadcast_to(jnp.linspace(0, 1, columns)[None, :], (rows, columns))
  widest, zero = jnp.full((rows, columns), a + b), jnp.zeros((rows, columns))
  k1, k2, k3 = jax.random.split(key, 3)
  if mode == 'mode1':
    field = widest, a * u + b, zero
  elif mode == 'mode2':
    field = a * v + b, a * u + b, zero
  elif mode == 'mode3':
    field = widest, jnp.full((rows, columns), b), jnp.pi * u
  elif mode == 'mode4':
    coin = jax.random.bernoulli(k1, shape=(rows, columns))
    field = jnp.where(coin, widest, a * v + b), a * u + b, jnp.pi * u
  elif mode == 'mode5':
    draws = [jax.random.uniform(k, (rows, columns)) for k in (k1, k2, k3)]
    field = a * draws[0] + b, a * draws[1] + b, jnp.pi * draws[2]
  elif mode == 'mode6':
    odd = (jnp.arange(rows)[:, None] + jnp.arange(columns)[None, :]) % 2
    field = widest, jnp.full((rows, columns), b), jnp.where(odd == 1, 3 * jnp.pi / 4, jnp.pi / 4)
  else:
    raise ValueError(f'unknown mode {mode!r}; known: {", ".join(MODES)}')
  lambda1, lambda2, theta = (jnp.repeat(jnp.repeat(f, block, 0), block, 1)[:height, :width] for f in field)
  return lambda1, lambda2, theta
