"""CompactDepth: shapes, range, size; its loss: invariances, loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from ssr_jax.nn.depth import compact as depth


@pytest.fixture(scope='module')
def small():
  """A small net, its variables and its two compiled calls."""
  net = depth.CompactDepth(resolution=(32, 48), widths=(8, 16), blocks=(1,), heads=2)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
  rng = np.random.default_rng(0)

  def draw(path, leaf):  # compiling the initialisers would take longer than all the rest
    if path[-1].key == 'scale':
      return np.ones(leaf.shape, np.float32)
    return (rng.standard_normal(leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5 * (leaf.ndim > 1)).astype(np.float32)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  return net, variables, jax.jit(net.apply), jax.jit(lambda v, x: net.apply(v, x, raw=True))


def photos(height=40, width=56):
  """[2, height, width, 3]: parts of two photos."""
  crops = [skimage.data.astronaut()[60 : 60 + height, 180 : 180 + width], skimage.data.coffee()[:height, :width]]
  return jnp.asarray(np.stack(crops), jnp.float32) / 255


@pytest.fixture
def maps():
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.uniform(0, 3, (2, 18, 23, 1)), jnp.float32) for _ in range(2)]


@pytest.mark.parametrize('height, width', [(37, 51), (1, 5)])
def test_any_size_in_the_same_size_out(small, height, width):
  _, variables, apply, _ = small
  image = jax.random.uniform(jax.random.key(1), (2, height, width, 3))
  out = apply(variables, image)
  assert out.shape == (2, height, width, 1) and out.dtype == jnp.float32
  assert bool(jnp.isfinite(out).all()) and float(out.min()) >= 0 and float(out.max()) <= 1


def test_normalised_output_is_the_raw_one_up_to_scale_shift_and_clipping(small):
  _, variables, apply, raw = small
  image = photos()
  for out, before in zip(np.asarray(apply(variables, image)), np.asarray(raw(variables, image)), strict=True):
    inside = (out > 0.1) & (out < 0.9)
    assert np.corrcoef(out[inside], before[inside])[0, 1] > 0.98
    assert out.min() < 0.1 and out.max() > 0.9


def test_each_image_is_on_its_own(small):
  _, variables, apply, _ = small
  images = photos()
  swapped = apply(variables, images[::-1])[::-1]
  np.testing.assert_allclose(apply(variables, images), swapped, atol=1e-4)
  other = apply(variables, images.at[0].set(0.5))
  np.testing.assert_allclose(apply(variables, images)[1], other[1], atol=1e-4)


def test_normalise_depth_against_numpy():
  raw = np.random.default_rng(0).normal(3, 2, (3, 10, 12, 1)).astype(np.float32)
  out = np.asarray(depth.normalise_depth(jnp.asarray(raw)))
  for one, expected in zip(out, raw, strict=True):
    low, high = np.quantile(expected, (0.02, 0.98))
    np.testing.assert_allclose(one, np.clip((expected - low) / (high - low), 0, 1), atol=1e-5)
  np.testing.assert_allclose(depth.normalise_depth(jnp.asarray(5 * raw - 8)), out, atol=1e-5)
  flat = depth.normalise_depth(jnp.full((1, 4, 4, 1), 7.0))
  np.testing.assert_array_equal(flat, 0)


def test_the_far_corner_reaches_every_output(small):
  """The lowest level attends over the whole picture, so one corner moves the opposite one."""
  _, variables, _, raw = small
  image = photos()
  # A pattern of zero mean, so that it is not the group normalisation's mean that carries it.
  changed = image.at[:, :8, :8].add(0.3 * (-1.0) ** jnp.indices((8, 8)).sum(0)[None, ..., None])
  moved = jnp.abs(raw(variables, changed) - raw(variables, image))
  assert float(moved[0, -4:, -4:].mean()) > 0


def test_compact_size_is_what_was_promised():
  net = depth.CompactDepth()
  image = jax.ShapeDtypeStruct((1, 192, 192, 3), jnp.float32)
  variables = jax.eval_shape(net.init, jax.random.key(0), image)
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
  assert parameters < 1.6e6
  cost = jax.jit(net.apply).lower(variables, image).cost_analysis()
  assert cost['flops'] / 2 < 0.7e9


def test_bad_input_and_bad_attributes(small):
  net, variables, *_ = small
  with pytest.raises(ValueError, match=r'\[b, H, W, 3\]'):
    net.apply(variables, jnp.zeros((16, 16, 3)))
  key = jax.random.key(0)
  with pytest.raises(ValueError, match='multiple of 32'):
    jax.eval_shape(depth.CompactDepth(resolution=(100, 96)).init, key, jnp.zeros((1, 8, 8, 3)))
  with pytest.raises(ValueError, match='blocks'):
    jax.eval_shape(depth.CompactDepth(blocks=(1,)).init, key, jnp.zeros((1, 8, 8, 3)))


def test_loss_is_zero_for_affine_targets_and_not_for_swapped_ones(maps):
  prediction, other = maps
  assert float(depth.depth_loss(prediction, 4 * prediction + 9)) == pytest.approx(0, abs=1e-5)
  assert float(depth.depth_loss(prediction, -prediction)) > 1
  assert float(depth.depth_loss(prediction, other)) > 0.5


def test_loss_ignores_scale_and_shift_of_each_image(maps):
  prediction, target = maps
  loss = float(depth.depth_loss(prediction, target))
  scale, shift = jnp.asarray([2.0, 0.3])[:, None, None, None], jnp.asarray([-1.0, 5.0])[:, None, None, None]
  assert float(depth.depth_loss(scale * prediction + shift, target)) == pytest.approx(loss, rel=1e-4)
  assert float(depth.depth_loss(prediction, scale * target + shift)) == pytest.approx(loss, rel=1e-4)


def test_loss_against_a_loop(maps):
  def one(image):
    image = np.asarray(image[..., 0], np.float64)
    return (image - image.mean()) / np.abs(image - image.mean()).mean()

  difference = np.stack([one(p) - one(t) for p, t in zip(*maps, strict=True)])
  gradient = 0.0
  for k in range(4):
    r = difference[:, :: 2**k, :: 2**k]
    across, down = [], []
    for image in r:
      for i in range(r.shape[1]):
        for j in range(r.shape[2]):
          if j + 1 < r.shape[2]:
            across.append(abs(image[i, j + 1] - image[i, j]))
          if i + 1 < r.shape[1]:
            down.append(abs(image[i + 1, j] - image[i, j]))
    gradient += np.mean(across) + np.mean(down)
  assert float(depth.gradient_matching(jnp.asarray(difference[..., None]))) == pytest.approx(gradient, rel=1e-5)
  expected = np.abs(difference).mean() + 0.5 * gradient
  assert float(depth.depth_loss(*maps)) == pytest.approx(expected, rel=1e-5)
  plain = float(depth.depth_loss(*maps, gradient_weight=0.0))
  assert plain == pytest.approx(np.abs(difference).mean(), rel=1e-5)


def test_flat_target_and_flat_prediction_give_finite_loss_and_gradient(maps):
  prediction, _ = maps
  flat = jnp.ones_like(prediction)
  call = jax.jit(jax.value_and_grad(depth.depth_loss))
  for p, t in ((prediction, flat), (flat, prediction), (flat, flat)):
    loss, gradient = call(p, t)
    assert bool(jnp.isfinite(loss)) and bool(jnp.isfinite(gradient).all())


def test_loss_refuses_shapes_that_would_broadcast(maps):
  with pytest.raises(ValueError, match='share one shape'):
    depth.depth_loss(maps[0], maps[1][..., 0])


def test_a_few_steps_learn_one_scene(small):
  net, variables, _, _ = small
  image = photos()
  target = jnp.linspace(0, 1, 40)[None, :, None, None] * jnp.ones((2, 1, 56, 1))

  @jax.jit
  def step(v):
    loss, gradient = jax.value_and_grad(lambda v: depth.depth_loss(net.apply(v, image, raw=True), target))(v)
    return jax.tree.map(lambda p, g: p - 0.02 * g / (1e-6 + jnp.sqrt(jnp.mean(g**2))) * 0.2, v, gradient), loss

  losses = []
  for _ in range(40):
    variables, loss = step(variables)
    losses.append(float(loss))
  assert losses[-1] < 0.5 * losses[0]
