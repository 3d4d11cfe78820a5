"""Blur kernels: anisotropic Gaussians from covariance fields, and their PCA code.

A kernel is the weights with which an LR sample gathers HR pixels (correlation, no flip). LR sample (i, j) is read at HR
pixel (s*i, s*j), but its place on the HR grid is the centre of the s x s cell, s*i + (s-1)/2: the kernels drawn here are
centred on that offset, so that LR and HR are aligned the way every resize in this project (and Pillow) aligns them.
"""

import jax.numpy as jnp
import numpy as np

from ssr_jax.types import Array, ArrayLike

SIZE = 21


def gaussian_kernels(
    lambda1: ArrayLike, lambda2: ArrayLike, theta: ArrayLike, size: int = SIZE, scale: int = 4
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


def moments(kernels: Array, scale: int = 4) -> tuple[Array, Array]:
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
  centroid = kernels @ grid
  second = jnp.einsum('...t,ti,tj->...ij', kernels, grid, grid)
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


def pca_code(kernels: Array, basis: Array) -> Array:
  """Code of kernels in a PCA basis: [..., k*k] . [k*k, t] -> [..., t]."""
  return kernels @ basis
