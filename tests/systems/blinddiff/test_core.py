"""The method against loops in NumPy, finite differences and laws, with stand-ins and with the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from skimage import data

from ssr_jax.diffusion import Schedule, samplers
from ssr_jax.diffusion.samplers.ddpm import posterior
from ssr_jax.image.blur import blur_reduce
from ssr_jax.image.resize import upscale
from ssr_jax.systems.blinddiff import core
from ssr_jax.systems.blinddiff.core import Domain, Guidance
from ssr_jax.systems.blinddiff.mcformer import MCFormer
from tests.systems.blinddiff.drawn import drawn

LINEAR = Schedule(beta_start=1e-4, beta_end=0.02, shape='linear')
NET = dict(features=4, blocks=(1, 0, 0, 1), heads=(1, 1, 1, 2), refinement=0, taps=441)


class Smooth:
  """Stands in for the network: a smooth function whose image and kernel depend on all of its inputs, in any dtype."""

  def apply(self, variables, x_t, t, u):
    del variables
    mixed = jnp.tanh(0.5 * x_t + 0.2 * jnp.roll(u, 1, 1) * jnp.roll(x_t, 1, 2)) + 0.001 * t[:, None, None, None]
    features = jnp.stack([(x_t**2).mean((1, 2, 3)), (x_t * u).mean((1, 2, 3)), u.mean((1, 2, 3))], -1)
    basis = jnp.asarray(np.random.default_rng(0).standard_normal((3, 441)), x_t.dtype)
    return mixed, jax.nn.softmax(3 * features @ basis, -1)


SMOOTH = {'mcformer': Smooth()}, {'mcformer': {}}


def _images(b=2, h=4, w=6, seed=0):
  rng = np.random.default_rng(seed)
  lr = jnp.asarray(rng.random((b, h, w, 3)), jnp.float32)
  return lr, jnp.asarray(rng.standard_normal((b, 4 * h, 4 * w, 3)), jnp.float32)


def test_the_released_schedule_is_a_loop():
  """Linear betas of 1000 steps respaced to 500 (section 3 of the released code): abar, betas, posterior, to 1e-12."""
  t = LINEAR.timesteps(500, spacing='linspace')
  assert [int(x) for x in t[::-1]] == [round(999 * i / 499) for i in range(500)]
  abar, product = [], 1.0
  for n in range(1000):
    product *= 1 - (1e-4 + (0.02 - 1e-4) * n / 999)
    abar.append(product)
  np.testing.assert_allclose(LINEAR.alphas_cumprod, abar, rtol=1e-12)
  ours = posterior(LINEAR.alphas_cumprod[t], np.append(LINEAR.alphas_cumprod[t][1:], 1.0))
  before = 1.0
  for i in range(500):  # from the least noisy
    here = abar[round(999 * i / 499)]
    alpha = here / before
    beta, row = 1 - alpha, 499 - i
    expected = {
      'from_x0': before**0.5 * beta / (1 - here),
      'from_z': alpha**0.5 * (1 - before) / (1 - here),
      'sigma': (beta * (1 - before) / (1 - here)) ** 0.5,
    }
    for name, value in expected.items():
      assert ours[name][row] == pytest.approx(value, rel=1e-12, abs=1e-15)
    before = here


def test_algorithm_2_is_a_loop_in_numpy():
  """Every line of it, with the gradient by central differences in float64."""
  lr, eps = _images(1, 2, 2)
  keys, domain = jax.random.split(jax.random.key(3), 1), Domain()
  guidance = Guidance(0.7)
  run = jax.jit(lambda *a: core.restore(*SMOOTH, *a, LINEAR, domain, guidance, steps=3))
  image, kernels = run(lr, eps, keys)
  t = [999, 500, 0]
  assert list(LINEAR.timesteps(3, spacing='linspace')) == t
  abar = [np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: n + 1]) for n in t] + [1.0]
  u = np.asarray(upscale(lr, 4), np.float64)
  y, x = np.asarray(lr, np.float64), np.asarray(eps, np.float64)

  with jax.enable_x64(True):

    @jax.jit
    def step(x, i):
      e, k = Smooth().apply(None, x, jnp.full(len(x), jnp.asarray(t)[i]), jnp.tile(u, (len(x), 1, 1, 1)))
      at = jnp.asarray(abar)[i]
      return (x - jnp.sqrt(1 - at) * e) / jnp.sqrt(at), k

    @jax.jit
    def norm(x, i):
      r = y - blur_reduce(*step(x, i), 4)
      return np.sqrt(12 / 12288) * jnp.sqrt((r**2).sum((1, 2, 3)))

    for i in range(3):
      x0, k = (np.asarray(a) for a in step(x, i))
      np.testing.assert_allclose(kernels[i], k, atol=1e-6)
      around = 1e-5 * np.eye(x.size).reshape(-1, *x.shape[1:])  # a move of each value
      g = ((np.asarray(norm(x + around, i)) - np.asarray(norm(x - around, i))) / 2e-5).reshape(x.shape)
      a = abar[i] / abar[i + 1]
      noise = np.asarray(samplers.image_noise(keys, i, x.shape[1:]), np.float64)
      sigma = np.sqrt((1 - a) * (1 - abar[i + 1]) / (1 - abar[i])) if i < 2 else 0
      x = (
        np.sqrt(abar[i + 1]) * (1 - a) / (1 - abar[i]) * x0
        + np.sqrt(a) * (1 - abar[i + 1]) / (1 - abar[i]) * x
        + sigma * noise
        - 0.7 * g
      )
  np.testing.assert_allclose(image, x, atol=2e-4 * np.abs(x).max())


@pytest.mark.slow
@pytest.mark.parametrize('residual', [False, True])
def test_the_gradient_is_that_of_central_differences(residual):
  """Of MCFormer itself, through its noise and its kernel, in float64: 1e-5 of the largest value."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(5)
    lr = jnp.asarray(rng.random((1, 4, 4, 3)))
    x_t = jnp.asarray(rng.standard_normal((1, 16, 16, 3)))
    module = MCFormer(**NET, dtype=jnp.float64, stem=2 if residual else 1)
    t, schedule = jnp.array([300]), Schedule(prediction='v') if residual else LINEAR
    domain = Domain(residual, 2.0) if residual else Domain()
    u = domain.enlarge(lr)
    modules, variables = {'mcformer': module}, {'mcformer': drawn(module, x_t, t, u, dtype=np.float64)}
    # A mean over the image hardly depends on one pixel: an estimator that responds makes the kernel's share visible.
    variables['mcformer']['params']['estimator']['taps']['kernel'] *= 15
    arguments = modules, variables

    def total(x, kernel=None, guidance=Guidance(1.0)):
      x0, own = core.estimate(*arguments, x, t, u, schedule)
      return core.mismatch(domain.to_image(x0, u), own if kernel is None else kernel, lr, domain).sum()

    total = jax.jit(total)
    run = jax.jit(
      lambda x, stop: core.guided(*arguments, x, t, u, lr, schedule, domain, Guidance(1.0, stop_kernel=stop)),
      static_argnums=1,
    )
    _, gradient, kernel = run(x_t, False)
    assert gradient.dtype == jnp.float64
    stopped = run(x_t, True)[1]
    scale = float(jnp.abs(gradient).max())
    for _ in range(8):
      d = jnp.asarray(rng.standard_normal(x_t.shape))
      h = 1e-5
      for found, fixed in ((gradient, None), (stopped, kernel)):
        difference = (total(x_t + h * d, fixed) - total(x_t - h * d, fixed)) / (2 * h)
        assert float((found * d).sum()) == pytest.approx(float(difference), rel=1e-5, abs=1e-5 * scale)
    # The kernel's share is there to be left out.
    assert float(jnp.abs(gradient - stopped).max()) > 1e-3 * scale


def test_operators_blur_with_what_they_say():
  lr, x_t = _images(2, 8, 8)
  t, u = jnp.array([5, 5]), upscale(lr, 4)
  known = jnp.asarray(np.random.default_rng(1).random((2, 441)), jnp.float32)
  known /= known.sum(-1, keepdims=True)
  x0, kernel = core.estimate(*SMOOTH, x_t, t, u, LINEAR)

  def reference(kernels):
    """The norm of each image's residual, by SciPy's correlation and a plain sum."""
    out = []
    for n in range(2):
      planes = np.asarray(x0[n], np.float64)
      if kernels is not None:
        taps = np.asarray(kernels[n]).reshape(21, 21)
        planes = np.stack([scipy.ndimage.correlate(planes[..., c], taps, mode='mirror') for c in range(3)], -1)
      small = np.asarray(blur_reduce(jnp.asarray(planes[None], jnp.float32), None, 4))[0]
      out.append(np.sqrt(8 * 8 * 3 / 12288) * np.linalg.norm(np.asarray(lr[n]) - small))
    return out

  for applied in (kernel, None, known):
    np.testing.assert_allclose(core.mismatch(x0, applied, lr, Domain()), reference(applied), rtol=1e-4)
  value = lambda x, applied: core.mismatch(core.estimate(*SMOOTH, x, t, u, LINEAR)[0], applied, lr, Domain()).sum()
  for operator, applied in (('bicubic', None), ('true', known)):
    guidance = Guidance(1.0, operator)
    _, found, _ = jax.jit(lambda x, g=guidance: core.guided(*SMOOTH, x, t, u, lr, LINEAR, Domain(), g, known))(x_t)
    np.testing.assert_allclose(found, jax.jit(jax.grad(value))(x_t, applied), rtol=1e-4, atol=1e-6)
  with pytest.raises(ValueError, match="operator 'true' needs the kernel"):
    core.guided(*SMOOTH, x_t, t, u, lr, LINEAR, Domain(), Guidance(1.0, 'true'))
  with pytest.raises(ValueError, match='known: estimated, bicubic, true'):
    core.guided(*SMOOTH, x_t, t, u, lr, LINEAR, Domain(), Guidance(1.0, 'cubic'))


def test_shrink_adds_the_norm_of_the_image():
  lr, x0 = _images(2, 8, 8)
  extra = core.mismatch(x0, None, lr, Domain(), 0.1) - core.mismatch(x0, None, lr, Domain())
  expected = 0.1 * np.sqrt(192 / 12288) * np.linalg.norm(np.asarray(x0).reshape(2, -1), axis=-1)
  np.testing.assert_allclose(extra, expected, rtol=1e-3)


@pytest.mark.slow
def test_without_guidance_it_is_the_plain_sampler_bit_for_bit():
  lr, eps = _images(2, 4, 4)
  module = MCFormer(**NET)
  modules, variables = {'mcformer': module}, {'mcformer': drawn(module, eps, jnp.zeros(2), eps)}
  keys = jax.random.split(jax.random.key(1), 2)
  u = upscale(lr, 4)

  @jax.jit
  def plain(variables, lr, eps, keys):
    network = lambda x, t: core.predict(modules, variables, x, t, upscale(lr, 4))[0]
    return samplers.ddpm(network, LINEAR, keys, eps, 4, spacing='linspace')

  restore = jax.jit(
    lambda weight, variables, lr, eps, keys: core.restore(
      modules, variables, lr, eps, keys, LINEAR, Domain(), Guidance(weight), steps=4
    ),
    static_argnums=0,
  )
  image, kernels = restore(0.0, variables, lr, eps, keys)
  np.testing.assert_array_equal(image, plain(variables, lr, eps, keys))
  assert kernels.shape == (4, 2, 441)
  np.testing.assert_allclose(kernels.sum(-1), 1, rtol=1e-5)
  # The first kernel of the trajectory is that of the first call; guidance changes the image and the kernels after it.
  first = jax.jit(lambda v: core.predict(modules, v, eps, jnp.array([999, 999]), u)[1])(variables)
  np.testing.assert_allclose(kernels[0], first, atol=1e-6)
  moved, others = restore(1.0, variables, lr, eps, keys)
  np.testing.assert_allclose(others[0], first, atol=1e-6)
  assert float(jnp.abs(moved - image).max()) > 1e-3 and float(jnp.abs(others[-1] - kernels[-1]).max()) > 1e-7


def test_a_batch_is_its_images():
  """Norm, gradient and noise are those of each image by itself."""
  lr, eps = _images(3, 4, 6)
  keys = jax.random.split(jax.random.key(1), 3)
  run = jax.jit(lambda *a: core.restore(*SMOOTH, *a, LINEAR, Domain(), Guidance(2.0), steps=3))
  image, kernels = run(lr, eps, keys)
  for i in range(3):
    turn = jnp.roll(jnp.arange(3), -i)  # the image in another place, among others
    other, theirs = run(lr[turn] * jnp.array([1, 0, 0.5])[:, None, None, None], eps[turn], keys[turn])
    np.testing.assert_allclose(other[0], image[i], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(theirs[:, 0], kernels[:, i], atol=1e-5)


def test_a_weight_means_the_same_at_any_size():
  """An image repeated over a larger one moves as much at each pixel."""
  rng = np.random.default_rng(2)
  lr, image = (jnp.asarray(rng.random(shape), jnp.float32) for shape in ((1, 16, 16, 3), (1, 64, 64, 3)))
  gradient = jax.jit(jax.grad(lambda image, lr: core.mismatch(image, None, lr, Domain()).sum()))
  small, large = gradient(image, lr), gradient(jnp.tile(image, (1, 2, 2, 1)), jnp.tile(lr, (1, 2, 2, 1)))
  np.testing.assert_allclose(large[:, 20:44, 20:44], small[:, 20:44, 20:44], rtol=1e-3, atol=1e-6)


def test_domains():
  """X and back; a step against the gradient moves the image as far in either domain; and torch's enlargement."""
  lr, image = _images(1, 8, 8)
  for domain in (Domain(), Domain(True, 2.0)):
    u = domain.enlarge(lr)
    np.testing.assert_allclose(domain.to_image(domain.from_image(image, u), u), image, atol=1e-6)
  u, gained = upscale(lr, 4), Domain(True, 2.0)
  np.testing.assert_allclose(gained.from_image(image, u), 2 * (image - u), atol=1e-5)
  moved = []
  for domain in (Domain(), gained):
    value = lambda x, domain=domain: core.mismatch(domain.to_image(x, u), None, lr, domain).sum()
    x = domain.from_image(image, u)
    moved.append(domain.to_image(x - domain.step * jax.grad(value)(x), u))
  np.testing.assert_allclose(moved[0], moved[1], atol=1e-5)
  # a = -0.75: the weights of the first output sample of an upscale by 4, at -3/8, with the border repeated.
  line = jnp.zeros((1, 1, 8, 3)).at[0, 0, 3].set(1.0)
  near, far = lambda d: (1.25 * d - 2.25) * d * d + 1, lambda d: ((-0.75 * d + 3.75) * d - 6) * d + 3
  found = Domain(up='torch').enlarge(line)[0, 0, :, 0]
  expected = [far(1.625), far(1.375), far(1.125), near(0.875), near(0.625), near(0.375), near(0.125)]
  np.testing.assert_allclose(found[7:14], expected, atol=1e-5)


def test_the_loss_is_equation_13():
  """The prediction's mean square, and a sum over the taps; gradients of the noise's error reach the estimator."""
  lr, image = _images(2, 4, 4)
  true = jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(441), 2), jnp.float32)
  seen = {}

  class Spy:
    def apply(self, variables, x_t, t, u):
      seen.update(x_t=x_t, t=t, u=u)
      return jnp.zeros_like(x_t), jnp.full((2, 441), 1 / 441)

  for schedule, domain in ((LINEAR, Domain()), (Schedule(prediction='v'), Domain(True, 2.0))):
    spied = {'mcformer': Spy()}, {'mcformer': {}}
    draws = []
    for n in range(16):
      value, terms = core.loss(*spied, jax.random.key(n), image, lr, true, schedule, domain, levels=4, weight=0.5)
      draws += [int(t) for t in seen['t']]
    np.testing.assert_allclose(seen['u'], upscale(lr, 4))
    x = domain.from_image(image, seen['u'])
    alpha, sigma = (c[:, None, None, None] for c in schedule.coefficients(seen['t']))
    eps = (seen['x_t'] - alpha * x) / sigma
    target = eps if schedule.prediction == 'eps' else alpha * eps - sigma * x
    np.testing.assert_allclose(terms['noise'], np.mean(np.square(target)), rtol=1e-3)
    assert abs(float(eps.std()) - 1) < 0.1
    l1 = np.abs(np.asarray(true) - 1 / 441).sum() / 2
    np.testing.assert_allclose(terms['kernel_l1'], l1, rtol=1e-5)
    np.testing.assert_allclose(value, terms['noise'] + 0.5 * terms['kernel_l1'], rtol=1e-6)
    assert set(draws) == {0, 333, 666, 999} and min(draws.count(t) for t in set(draws)) > 1

  module = MCFormer(**NET)
  variables = drawn(module, image, jnp.zeros(2), image)
  noise = lambda v: core.loss(
    {'mcformer': module}, {'mcformer': v}, jax.random.key(0), image, lr, true, LINEAR, Domain(), levels=4, weight=0.0
  )[0]
  gradient = jax.jit(jax.grad(noise))(variables)['params']['estimator']
  assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradient))


def test_guidance_lowers_the_mismatch(monkeypatch):
  """With a network that always finds half of the detail, ten guided steps end nearer to the LR image."""
  photo = jnp.asarray(data.astronaut()[None, 60:124, 160:224], jnp.float32) / 255
  kernel = jnp.zeros((1, 441)).at[0, 220].set(1.0)
  lr, key = blur_reduce(photo, kernel, 4), jax.random.split(jax.random.key(0), 1)
  u, domain = upscale(lr, 4), Domain(True, 2.0)

  class Half:
    def apply(self, variables, x_t, t, u):
      alpha, sigma = (c[:, None, None, None] for c in LINEAR.coefficients(t))
      return (x_t - alpha * 0.3 * x_t) / sigma, kernel

  eps = jax.random.normal(jax.random.key(1), u.shape)
  results = {}
  for weight in (0.0, 20.0):
    image, _ = jax.jit(
      lambda lr, eps, key, w=weight: core.restore(
        {'mcformer': Half()}, {'mcformer': {}}, lr, eps, key, LINEAR, domain, Guidance(w), steps=10
      )
    )(lr, eps, key)
    results[weight] = float(core.mismatch(image, kernel, lr, domain)[0])
  assert results[20.0] < 0.85 * results[0.0]
