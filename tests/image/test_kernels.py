"""Gaussian kernels by their moments, their alignment by measurement, and the PCA code."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ssr_jax.image import blur, kernels


@pytest.mark.parametrize('lambda1,lambda2,theta', [(3.0, 1.0, 0.3), (5.0, 0.7, 1.2), (2.0, 2.0, 0.0)])
def test_covariance_is_the_one_asked_for(lambda1, lambda2, theta):
  """Eigenvalues are variances: a kernel drawn with standard deviations instead fails by their square."""
  kernel = kernels.gaussian_kernels(lambda1, lambda2, theta)
  centroid, covariance = kernels.moments(kernel)
  direction = np.array([np.sin(theta), np.cos(theta)])  # (y, x)
  across = np.array([np.cos(theta), -np.sin(theta)])
  np.testing.assert_allclose(centroid, 0, atol=1e-4)
  assert direction @ covariance @ direction == pytest.approx(lambda1, rel=0.03)
  assert across @ covariance @ across == pytest.approx(lambda2, rel=0.03)
  assert float(direction @ covariance @ across) == pytest.approx(0, abs=0.05)


def test_kernels_are_distributions_over_the_whole_range():
  rng = np.random.default_rng(0)
  lambdas = rng.uniform(0.7, 10, (2, 200))
  field = np.asarray(kernels.gaussian_kernels(*lambdas, rng.uniform(0, np.pi, 200)))
  assert (field >= 0).all() and np.isfinite(field).all()
  np.testing.assert_allclose(field.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize('lambda1,lambda2,theta', [(0.7, 0.7, 0.0), (10.0, 10.0, 0.0), (10.0, 0.7, 0.7)])
def test_no_shift_against_the_hr_grid(lambda1, lambda2, theta):
  """A linear ramp, blurred and sampled, must be the ramp at the LR pixels' centres, s*i + (s-1)/2."""
  y, x = np.meshgrid(np.arange(96.0), np.arange(96.0), indexing='ij')
  ramp = np.stack([y, x, x + y], -1)[None].astype(np.float32)
  kernel = kernels.gaussian_kernels(lambda1, lambda2, theta)[None, None, None]
  out = np.asarray(blur.blur_downsample(ramp, kernel, 4))[0, 6:-6, 6:-6]
  centres = 4 * np.arange(24.0)[6:-6] + 1.5
  assert np.abs(out[..., 0] - centres[:, None]).max() < 0.05
  assert np.abs(out[..., 1] - centres[None, :]).max() < 0.05


@pytest.mark.parametrize('plateau', [False, True])
@pytest.mark.parametrize(
  'sigma1,sigma2,theta,beta,side',
  [(0.2, 0.2, 0.0, 4.0, 7), (3.0, 0.4, 0.7, 0.5, 21), (1.3, 2.2, -2.0, 1.0, 15), (0.5, 0.5, 0.0, 1.7, 9)],
)
def test_shaped_kernels_are_the_papers_formulas(sigma1, sigma2, theta, beta, side, plateau):
  """With the covariance matrix and its inverse by NumPy, on a grid of the kernel's own size."""
  y, x = np.mgrid[:side, :side] - side // 2
  rotation = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
  inverse = np.linalg.inv(rotation @ np.diag([sigma1**2, sigma2**2]) @ rotation.T)
  at = np.stack([x, y], -1)
  q = np.einsum('...i,ij,...j->...', at, inverse, at)
  expected = 1 / (1 + q**beta) if plateau else np.exp(-0.5 * q**beta)
  pad = (21 - side) // 2
  expected = np.pad(expected / expected.sum(), pad)
  got = np.asarray(kernels.shaped_kernels(sigma1, sigma2, theta, beta, plateau, side)).reshape(21, 21)
  np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize('omega,side', [(np.pi / 5, 21), (np.pi / 3, 7), (2.0, 13), (np.pi, 21)])
def test_sinc_kernels_are_scipys_bessel_function(omega, side):
  y, x = np.mgrid[:side, :side] - side // 2
  r = np.hypot(y, x)
  r[side // 2, side // 2] = 1  # of no use
  expected = omega * scipy.special.j1(omega * r) / (2 * np.pi * r)
  expected[side // 2, side // 2] = omega**2 / (4 * np.pi)
  expected = np.pad(expected / expected.sum(), (21 - side) // 2)
  np.testing.assert_allclose(np.asarray(kernels.sinc_kernels(omega, side)).reshape(21, 21), expected, atol=2e-6)


def test_a_kernel_of_no_side_is_a_lone_tap():
  impulse = np.zeros(441)
  impulse[220] = 1
  np.testing.assert_array_equal(kernels.sinc_kernels(1.0, 0), impulse)
  np.testing.assert_array_equal(kernels.shaped_kernels(1.0, 1.0, 0.0, 1.0, False, 0), impulse)


def test_pca_basis_is_the_best_linear_code():
  """Orthonormal, and its error is the tail of NumPy's singular values (Eckart-Young)."""
  rng = np.random.default_rng(0)
  field = np.asarray(kernels.gaussian_kernels(*rng.uniform(0.7, 10, (2, 300)), rng.uniform(0, np.pi, 300)))
  basis = kernels.pca_basis(field, 15)
  np.testing.assert_allclose(basis.T @ basis, np.eye(15), atol=1e-5)
  code = np.asarray(kernels.pca_code(jnp.asarray(field), jnp.asarray(basis)))
  error = np.linalg.norm(field - code @ basis.T)
  tail = np.linalg.norm(np.linalg.svd(field, compute_uv=False)[15:])
  assert error == pytest.approx(tail, rel=1e-2, abs=1e-5)
  with pytest.raises(ValueError, match='at least as many'):
    kernels.pca_basis(field[:10], 15)


@pytest.mark.parametrize('factor', [0.5, 0.8, 1.0, 1.25, 2.0])
def test_scaled_variance_is_that_of_the_wider_gaussian(factor):
  """Analytic: stretching a Gaussian by sqrt(f) gives the Gaussian of f times the covariance, about the same centre."""
  lambda1, lambda2 = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 1.0, 2.0, 0.7])
  found = kernels.scale_variance(kernels.gaussian_kernels(lambda1, lambda2, 0.6), factor)
  expected = np.asarray(kernels.gaussian_kernels(factor * lambda1, factor * lambda2, 0.6))
  assert np.abs(found - expected).sum(-1).max() < 0.02 and found.min() >= 0
  np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
  centroid, covariance = kernels.moments(found)
  np.testing.assert_allclose(centroid, 0, atol=5e-3)
  np.testing.assert_allclose(np.trace(covariance, axis1=-2, axis2=-1), factor * (lambda1 + lambda2), rtol=0.01)


@pytest.mark.parametrize('factor', [0.0, -1.0, np.inf, np.nan])
def test_a_variance_cannot_be_scaled_by_that(factor):
  with pytest.raises(ValueError, match='must be above 0'):
    kernels.scale_variance(kernels.gaussian_kernels(2.0, 2.0, 0.0), factor)
