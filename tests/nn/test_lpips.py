"""LPIPS: laws of the distance, and its gradient. That it is PyTorch's is in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.nn import lpips

SHAPE = (2, 40, 33, 3)


@pytest.fixture(scope='module')
def variables():
  example = jnp.zeros((1, 40, 33, 3))
  return jax.jit(lpips.LPIPS('alex').init)(jax.random.key(0), example, example)


def _images(seed=0):
  return np.random.default_rng(seed).random((2, *SHAPE), np.float32)


def test_the_distance_is_symmetric_zero_for_equal_images_and_of_each_image_alone(variables):
  apply = jax.jit(lpips.LPIPS('alex').apply)
  image, reference = _images()
  distance = apply(variables, image, reference)
  assert distance.shape == (2,) and distance.dtype == jnp.float32 and (np.abs(distance) > 1e-4).all()
  np.testing.assert_allclose(apply(variables, reference, image), distance, rtol=1e-4)
  np.testing.assert_array_equal(apply(variables, image, image), 0)
  other = np.stack([image[0], reference[1]])
  np.testing.assert_allclose(apply(variables, other, reference), [distance[0], 0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('backbone, stages', [('alex', 5), ('vgg', 5)])
def test_every_head_weighs_the_squared_difference_of_its_own_stage(backbone, stages):
  """With one head at one and the others at zero the sum over stages is the whole, and each stage says something."""
  example = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  shapes = jax.eval_shape(lpips.LPIPS(backbone).init, jax.random.key(0), example, example)['params']
  assert sum(name.startswith('head') for name in shapes) == stages
  assert sum(name.startswith('conv') for name in shapes) == {'alex': 5, 'vgg': 13}[backbone]
  widths = [shapes[f'head_{i}']['kernel'].shape for i in range(stages)]
  assert widths == [(n, 1) for n in {'alex': (64, 192, 384, 256, 256), 'vgg': (64, 128, 256, 512, 512)}[backbone]]
  if backbone == 'vgg':
    return
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda s: (rng.standard_normal(s.shape) * np.prod(s.shape[:-1]) ** -0.5).astype('f'), shapes)
  apply = jax.jit(lpips.LPIPS(backbone).apply)
  image, reference = _images()

  def distance(chosen):
    heads = {f'head_{i}': {'kernel': np.full((c, 1), i in chosen, 'f')} for i, (c, _) in enumerate(widths)}
    return np.asarray(apply({'params': params | heads}, image, reference))

  each = [distance({i}) for i in range(stages)]
  assert all((value > 1e-6).all() and (value <= 4).all() for value in each)  # of vectors of unit length
  np.testing.assert_allclose(sum(each), distance(set(range(stages))), rtol=1e-5)


def test_vectors_have_unit_length_and_a_finite_gradient_where_they_are_zero():
  features = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-18, 0.0]], jnp.float32)
  unit = np.asarray(lpips.unit_length(features))
  np.testing.assert_allclose(unit[:2], [[0.6, 0.8], [0, 0]], rtol=1e-6)
  gradient = jax.grad(lambda x: jnp.sum(lpips.unit_length(x) * jnp.array([1.0, -2.0])))(features)
  # d/dx of x/|x| along v is (v - u (u.v)) / |x|; zero where nothing is active.
  u, v = unit[0], np.array([1.0, -2.0])
  np.testing.assert_allclose(gradient[0], (v - u * (u @ v)) / 5, rtol=1e-5)
  np.testing.assert_array_equal(gradient[1], 0)


@pytest.mark.slow
def test_the_loss_has_a_finite_gradient_on_flat_images_too_and_none_to_its_own_weights(variables):
  # Biases so low that whole stages are silent.
  silent = jax.tree.map(lambda x: x - 5.0 if x.ndim == 1 else x, variables)
  module = lpips.LPIPS('alex')
  flat, other = np.full(SHAPE, 0.5, np.float32), _images()[0]
  both = jax.jit(jax.value_and_grad(lpips.lpips_loss, (0, 1)), static_argnums=3)
  for weights, image, reference in ((silent, flat, other), (variables, flat, flat)):
    assert np.isfinite(both(weights, image, reference, module)[1][1]).all()
  image = _images(1)[0]
  direction = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
  direction *= 0.05 / np.linalg.norm(direction)
  to_weights, to_image = both(variables, image, other, module)[1]
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(to_weights))
  slope = np.vdot(to_image, direction)
  ahead, behind = (float(both(variables, image + way * direction, other, module)[0]) for way in (1, -1))
  assert slope == pytest.approx((ahead - behind) / 2, rel=0.05)


@pytest.mark.parametrize('backbone, side', list(lpips.SMALLEST.items()))
def test_the_smallest_image_has_one_feature_left_and_smaller_ones_are_refused(backbone, side):
  module = lpips.LPIPS(backbone)
  shape = lambda n: jax.ShapeDtypeStruct((1, n, side + 9, 3), jnp.float32)
  run = lambda n: jax.eval_shape(lambda a: module.init_with_output(jax.random.key(0), a, a)[0], shape(n))
  assert run(side).shape == (1,)
  with pytest.raises(ValueError, match=rf'LPIPS \({backbone}\) needs {side}x{side} pixels; got {side - 1}x{side + 9}'):
    run(side - 1)


def test_what_cannot_be_compared_is_refused():
  image = jnp.zeros((1, 40, 40, 3))
  for module, other, words in (
    (lpips.LPIPS('squeeze'), image, "unknown backbone 'squeeze'; known: vgg, alex"),
    (lpips.LPIPS('alex'), image[:, :-1], 'compares'),
    (lpips.LPIPS('alex'), image[..., :1], 'compares'),
  ):
    with pytest.raises(ValueError, match=words):
      module.init(jax.random.key(0), image, other)
