"""Blur kernels: anisotropic Gaussians from covariance fields and their PCA code; generalised, plateau and sinc kernels.

A kernel is the weights with which an LR sample gathers HR pixels (correlation, no flip). LR sample (i, j) is read at HR
pixel (s*i, s*j), but its place on the HR grid is the centre of the s x s cell, s*i + (s-1)/2: the kernels drawn here
are centred on that offset, so that LR and HR are aligned the way every resize in this project (and Pillow) aligns them.
"""

import math

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from ssr_jax.types import Array, ArrayLike, Float

SIZE = 21


def gaussian_kernels(
  lambda1: ArrayLike | float, lambda2: ArrayLike | float, theta: ArrayLike | float, size: int = SIZE, scale: int = 4
) -> Array:
  """Anisotropic Gaussian kernels from covariance eigenvalues and an angle.

  The support is the `size - scale + 1` taps that lie symmetrically around the cell's centre (MANet draws on the same
  smaller grid); the first scale - 1 rows and columns are zero.

  Args:
    lambda1: variance along the direction theta, in HR pixels squared (an eigenvalue, not a standard deviation), any
      shape [...].
    lambda2: variance across it, [...].
    theta: angle in radians from the x axis towards the y axis (down), [...].
    size: k, odd.
    scale: s, the stride with which the kernels will be applied.

  Returns:
    [..., k*k] row-major taps (y, x), non-negative, each kernel summing to one.

  Raises:
    ValueError: an even size, or one not larger than the scale.

  >>> kernels = gaussian_kernels(jnp.array([2.0, 8.0]), 2.0, 0.0)  # round, and twice as long along x
  >>> kernels.shape
  (2, 441)
  >>> [round(float(total), 4) for total in kernels.sum(-1)]
  [1.0, 1.0]
  """
  if size % 2 == 0 or size <= scale:
    raise ValueError(f'kernel size must be odd and larger than the scale; got size {size}, scale {scale}')
  taps = jnp.arange(size) - (size // 2) - (scale - 1) / 2
  inside = jnp.arange(size) >= scale - 1
  y, x = jnp.meshgrid(taps, taps, indexing='ij')
  mask = (inside[:, None] & inside[None, :]).reshape(-1)
  x, y = x.reshape(-1), y.reshape(-1)  # [k*k]

  lambda1, lambda2, theta = jnp.broadcast_arrays(
    *(jnp.asarray(a, jnp.float32)[..., None] for a in (lambda1, lambda2, theta))
  )
  cos, sin = jnp.cos(theta), jnp.sin(theta)
  # Precision matrix R diag(1/lambda) R^T, written out.
  a = cos**2 / lambda1 + sin**2 / lambda2
  b = cos * sin * (1 / lambda1 - 1 / lambda2)
  c = sin**2 / lambda1 + cos**2 / lambda2
  weights = jnp.where(mask, jnp.exp(-0.5 * (a * x**2 + 2 * b * x * y + c * y**2)), 0.0)
  return weights / weights.sum(-1, keepdims=True)


def shaped_kernels(
  sigma1: ArrayLike | float,
  sigma2: ArrayLike | float,
  theta: ArrayLike | float,
  beta: ArrayLike | float,
  plateau: ArrayLike | float,
  side: ArrayLike | float,
  size: int = SIZE,
) -> Array:
  """Generalised Gaussian and plateau-shaped kernels (Real-ESRGAN, section 3.1), centred on the middle tap.

  With q = x^T Sigma^-1 x: exp(-q^beta / 2), or 1 / (1 + q^beta) where `plateau`; beta = 1 makes the first a Gaussian.

  Args:
    sigma1: standard deviation along the direction theta, in pixels, any shape [...].
    sigma2: standard deviation across it, [...].
    theta: angle in radians from the x axis towards the y axis (down), [...].
    beta: shape, positive, [...].
    plateau: which of the two, bool [...].
    side: odd number of taps on each axis that are not zero, at most `size`, [...].
    size: k, odd.

  Returns:
    [..., k*k] row-major taps (y, x), non-negative, each kernel summing to one.
  """
  y, x, inside = _centred_taps(side, size)
  sigma1, sigma2, theta, beta, plateau = (jnp.asarray(a)[..., None] for a in (sigma1, sigma2, theta, beta, plateau))
  cos, sin = jnp.cos(theta), jnp.sin(theta)
  q = ((cos * x + sin * y) / sigma1) ** 2 + ((cos * y - sin * x) / sigma2) ** 2
  # The floor keeps the logarithm finite at the middle tap, which is set to 0 below.
  powered = jnp.exp(jnp.minimum(beta * jnp.log(jnp.maximum(q, 1e-12)), 80.0))
  powered = jnp.where(q > 0, powered, 0.0)
  weights = jnp.where(inside, jnp.where(plateau, 1 / (1 + powered), jnp.exp(-0.5 * powered)), 0.0)
  return weights / weights.sum(-1, keepdims=True)


def sinc_kernels(omega: ArrayLike | float, side: ArrayLike | float, size: int = SIZE) -> Array:
  """Circular low-pass kernels cut to a square: omega J1(omega r) / (2 pi r), which cause ringing (Real-ESRGAN, 3.4).

  Args:
    omega: cut-off frequency in radians per pixel, up to pi, any shape [...].
    side: odd number of taps on each axis that are not zero, at most `size`, [...].
    size: k, odd.

  Returns:
    [..., k*k] row-major taps, of both signs, each kernel summing to one.
  """
  y, x, inside = _centred_taps(side, size)
  # A grid has few distinct distances: J1 is computed once for each.
  squares, where = np.unique(x**2 + y**2, return_inverse=True)
  radius = np.sqrt(squares[1:].astype(np.float32))
  omega = jnp.asarray(omega, jnp.float32)[..., None]
  ring = omega * _bessel_j1(omega * radius) / (2 * jnp.pi * radius)
  middle = omega**2 / (4 * jnp.pi)  # the limit at r = 0
  weights = jnp.where(inside, jnp.concatenate([middle, ring], -1)[..., where.reshape(-1)], 0.0)
  return weights / weights.sum(-1, keepdims=True)


def scale_variance(kernels: ArrayLike, factor: float, scale: int = 4) -> np.ndarray:
  """Kernels of another width: their variance times a factor, in all directions.

  Each is stretched by sqrt(factor) about the cell's centre, by cubic interpolation on the host. What then reaches past
  the support is lost, as in `gaussian_kernels`.

  Args:
    kernels: [..., k*k], each summing to one.
    factor: above 0; 1 returns the kernels but for taps outside the support of `gaussian_kernels`.
    scale: s, the stride with which the kernels will be applied.

  Returns:
    float32 [..., k*k], non-negative, each kernel summing to one.

  Raises:
    ValueError: a factor that is not positive.
  """
  if not 0 < factor < math.inf:
    raise ValueError(f'the factor of a variance must be above 0; got {factor}')
  kernels = np.asarray(kernels, np.float32)
  k = side(kernels)
  places = np.arange(k)
  centre = k // 2 + (scale - 1) / 2
  # Row i of the matrix: what tap i of the stretched axis takes of each tap. It acts on rows and on columns.
  source = centre + (places - centre) / factor**0.5
  inside = (places >= scale - 1)[:, None]
  axis = np.stack([ndimage.map_coordinates(unit, [source], order=3, mode='constant') for unit in np.eye(k)], -1)
  axis = (axis * inside).astype(np.float32)
  stretched = np.einsum('iy,...yx,jx->...ij', axis, kernels.reshape(*kernels.shape[:-1], k, k), axis, optimize=True)
  stretched = np.maximum(stretched, 0).reshape(kernels.shape)
  return stretched / stretched.sum(-1, keepdims=True)


def _centred_taps(side: ArrayLike | float, size: int) -> tuple[np.ndarray, np.ndarray, Array]:
  """Y and x of k*k taps around the middle one, [k*k], and which lie in a square of `side` taps, [..., k*k]."""
  if size % 2 == 0:
    raise ValueError(f'kernel size must be odd; got {size}')
  y, x = (a.reshape(-1) for a in np.mgrid[:size, :size] - size // 2)
  inside = np.maximum(np.abs(y), np.abs(x)) <= jnp.asarray(side)[..., None] // 2
  return y, x, inside


def _bessel_j1(x: Array) -> Array:
  """J1 by the midpoint rule on Bessel's integral, (1/pi) int_0^pi cos(t - x sin t) dt; exact to rounding for x < 80.

  The integrand is periodic and smooth, so that the error of n nodes is about J of order 2n - 1.
  """
  nodes = (np.arange(64) + 0.5) * np.pi / 64
  return jnp.cos(nodes - x[..., None] * np.sin(nodes).astype(np.float32)).mean(-1)


def moments(
  kernels: Float[ArrayLike, '*b taps'], scale: int = 4
) -> tuple[Float[Array, '*b 2'], Float[Array, '*b 2 2']]:
  """Centroid, relative to the cell's centre, and covariance of kernels, in HR pixels.

  Args:
    kernels: [..., k*k], summing to one.
    scale: s.

  Returns:
    centroid [..., 2] as (y, x), and covariance [..., 2, 2].
  """
  k = side(kernels)
  taps = jnp.arange(k) - (k // 2) - (scale - 1) / 2
  grid = jnp.stack(jnp.meshgrid(taps, taps, indexing='ij'), -1).reshape(-1, 2)  # [k*k, 2]
  centroid = jnp.matmul(kernels, grid, precision='highest')
  second = jnp.einsum('...t,ti,tj->...ij', kernels, grid, grid, precision='highest')
  return centroid, second - centroid[..., :, None] * centroid[..., None, :]


def side(kernels: ArrayLike) -> int:
  """Side k of kernels [..., k*k]; ValueError unless k is whole and odd."""
  taps = kernels.shape[-1]
  k = round(taps**0.5)
  if k * k != taps or k % 2 == 0:
    raise ValueError(f'kernels must have k*k taps with k odd; got {taps}')
  return k


def pca_basis(kernels: np.ndarray, components: int = 15) -> np.ndarray:
  """Leading right singular vectors of a set of kernels, no mean removed (as RRDB-SFT's code).

  Args:
    kernels: [n, k*k], n >= components.
    components: t.

  Returns:
    [k*k, t] float32, orthonormal columns; the sign of each makes its sum non-negative, so that the basis is unique.
  """
  kernels = np.asarray(kernels, np.float64)
  if len(kernels) < components:
    raise ValueError(f'{components} components need at least as many kernels; got {len(kernels)}')
  _, vectors = np.linalg.eigh(kernels.T @ kernels)
  basis = vectors[:, ::-1][:, :components]
  basis = basis * np.where(basis.sum(0) < 0, -1.0, 1.0)
  return basis.astype(np.float32)


def pca_code(kernels: Float[ArrayLike, '*b taps'], basis: Float[ArrayLike, 'taps t']) -> Float[Array, '*b t']:
  """Code of kernels in a PCA basis: [..., k*k] . [k*k, t] -> [..., t]."""
  return jnp.matmul(kernels, basis, precision='highest')
