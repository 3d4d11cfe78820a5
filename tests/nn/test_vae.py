import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.nn import discriminator as disc
from ssr_jax.nn import vae as vae_lib
from ssr_jax.nn.vae import VAE

SMALL = dict(channels=(8, 16), encoder_blocks=1, decoder_blocks=2, groups=4, scaling_factor=0.5)


def filled(module, x):
  """Variables drawn by NumPy: compiling an init takes longer than all the rest."""
  rng = np.random.default_rng(0)
  tree = jax.eval_shape(module.init, jax.random.key(0), x)
  return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.1, a.shape), jnp.float32), tree)


def test_full_size_has_the_parameters_of_stable_diffusion():
  v = jax.eval_shape(VAE().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
  count = sum(int(np.prod(a.shape)) for a in jax.tree.leaves(v))
  assert count == 83_653_863  # AutoencoderKL of SD 1.5 and 2.1


@pytest.mark.parametrize('patch, mid_attention', [(1, True), (2, False)])
def test_shapes_ranges_and_scaling(patch, mid_attention):
  vae = VAE(**SMALL, patch=patch, mid_attention=mid_attention)
  f = 2 * patch
  x = jax.random.uniform(jax.random.key(0), (2, 6 * f, 4 * f, 3))

  @jax.jit
  def run(v, x):
    mean, logvar = vae.apply(v, x, method='encode')
    z = vae.apply(v, x, method='to_latents')
    images = (vae.apply(v, z, method='from_latents'), vae.apply(v, mean, method='decode'), vae.apply(v, x)[0])
    return mean, logvar, z, images

  mean, logvar, z, images = run(filled(vae, x), x)
  assert vae.reduction == f
  assert mean.shape == logvar.shape == (2, 6, 4, 4)
  np.testing.assert_allclose(z, 0.5 * mean, rtol=1e-6)
  for image in images:
    assert image.shape == x.shape and image.dtype == jnp.float32
    np.testing.assert_allclose(image, images[0], atol=1e-5)


def test_posterior_samples_have_the_posteriors_moments():
  mean, logvar = jnp.full((40_000,), 0.7), jnp.full((40_000,), np.log(0.25))
  draws = np.asarray(vae_lib.sample_posterior(jax.random.key(0), mean, logvar))
  assert abs(draws.mean() - 0.7) < 0.01 and abs(draws.std() - 0.5) < 0.01


def test_a_size_that_is_no_multiple_is_named():
  with pytest.raises(ValueError, match=r'multiples of 4.*30'):
    jax.eval_shape(VAE(**SMALL, patch=2).init, jax.random.key(0), jnp.zeros((1, 30, 32, 3)))


def test_bfloat16_computes_near_float32_and_returns_float32():
  x = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3))

  v = filled(VAE(**SMALL), x)
  params = jax.eval_shape(VAE(**SMALL, dtype=jnp.bfloat16).init, jax.random.key(0), x)
  assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  full, half = jax.jit(lambda v, x: [VAE(**SMALL, dtype=d).apply(v, x)[0] for d in (jnp.float32, jnp.bfloat16)])(v, x)
  assert half.dtype == jnp.float32
  np.testing.assert_allclose(half, full, atol=0.06)


@pytest.mark.slow
def test_a_guided_decoder_starts_as_one_without_a_guide_and_learns_from_it():
  plain, guided = (VAE(**SMALL, patch=2, guided=guided) for guided in (False, True))
  x = jax.random.uniform(jax.random.key(0), (1, 16, 24, 3))
  v = filled(plain, x)
  fresh = jax.jit(guided.init)(jax.random.key(1), x)['params']
  own = {name: tree for name, tree in fresh.items() if name.startswith('guide')}
  levels = [f'guide_in_{i}' for i in range(len(plain.channels))]
  assert fresh.keys() - v['params'].keys() == own.keys() == {*levels, 'guide_out'}
  z, guide, target = jnp.ones((1, 4, 6, 4)), x[:, ::-1], jnp.zeros_like(x)
  decode = jax.jit(lambda params, guide: guided.apply({'params': v['params'] | params}, z, guide, method='decode'))
  expected = jax.jit(lambda v: plain.apply(v, z, method='decode'))(v)
  np.testing.assert_allclose(decode(own, guide), expected, atol=1e-6)
  gradient = jax.jit(jax.grad(lambda params: jnp.sum((decode(params, guide) - target) ** 2)))(own)
  assert min(float(jnp.abs(gradient[name]['kernel']).max()) for name in own) > 1e-4
  # A kernel of guide_out that has one tap adds the guide at its place: 2 g - 1 inside, half of it in [0, 1].
  kernel = jnp.zeros((3, 3, 12, 12)).at[1, 1].set(jnp.eye(12))
  moved = decode(own | {'guide_out': {'kernel': kernel}}, guide)
  np.testing.assert_allclose(moved - expected, guide - 0.5, atol=1e-5)
  for level in levels:
    through = decode(own | {level: jax.tree.map(lambda a: a + 0.1, own[level])}, guide)
    assert np.abs(through - expected).max() > 1e-3, level


@pytest.mark.slow
@pytest.mark.parametrize('shortcut', [False, True])
def test_a_decoder_that_passes_its_guide_gives_it_for_every_latent_and_learns(shortcut):
  vae = VAE(**SMALL, patch=2, guided=True, shortcut=shortcut)
  x = jax.random.uniform(jax.random.key(0), (1, 16, 24, 3))
  v = filled(vae, x)
  params = vae_lib.passing_guide(v['params'])
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, v['params'])
  decode = jax.jit(lambda params, z, guide: vae.apply({'params': params}, z, guide, method='decode'))
  for seed in (1, 2):
    z = 3 * jax.random.normal(jax.random.key(seed), (1, 4, 6, 4))
    np.testing.assert_allclose(decode(params, z, x), x, atol=1e-6)
    assert np.abs(decode(v['params'], z, x) - x).max() > 0.05
  rest = lambda tree: {name: sub for name, sub in tree.items() if name not in ('decoder', 'guide_out', 'shortcut_out')}
  assert all(map(np.array_equal, *map(jax.tree.leaves, map(rest, (params, v['params'])))))
  # One step along the gradient of what makes the image, and the layers before it have a gradient too.
  loss = jax.jit(jax.grad(lambda params: jnp.sum((decode(params, z, x) - 0.5) ** 2)))
  first = loss(params)
  assert float(jnp.abs(first['decoder']['conv_out']['kernel']).max()) > 1e-4
  second = loss(jax.tree.map(lambda p, g: p - 1e-3 * g, params, first))
  assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(second['decoder'])) > 0


def test_a_guide_of_another_size_is_refused_and_so_is_none():
  x = jnp.zeros((1, 16, 16, 3))
  z = jnp.zeros((1, 4, 4, 4))
  for vae, guide in ((VAE(**SMALL, patch=2, guided=True), None), (VAE(**SMALL, patch=2, guided=True), x[:, :8])):
    with pytest.raises(ValueError, match=r'guide must be \(1, 16, 16, 3\)'):
      jax.eval_shape(lambda z, vae=vae, guide=guide: vae.apply(filled(vae, x), z, guide, method='decode'), z)
  vae = VAE(**SMALL, patch=2)
  with pytest.raises(ValueError, match='guide must be None'):
    jax.eval_shape(lambda z: vae.apply(filled(vae, x), z, x, method='decode'), z)


def test_kl_equals_numerical_integration():
  mean, logvar = 0.8, np.log(0.3)
  x = np.linspace(-12, 12, 200_001)
  p = np.exp(-((x - mean) ** 2) / 0.6) / np.sqrt(0.6 * np.pi)
  log_ratio = -((x - mean) ** 2) / 0.6 - 0.5 * np.log(0.6 * np.pi) + x**2 / 2 + 0.5 * np.log(2 * np.pi)
  expected = np.sum(p * log_ratio) * (x[1] - x[0])
  got = vae_lib.kl_loss(jnp.full((1, 2, 2, 1), mean), jnp.full((1, 2, 2, 1), logvar))
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_detail_loss_equals_loops_and_ignores_a_constant():
  a, b = (np.asarray(jax.random.uniform(jax.random.key(i), (1, 9, 8, 2)), np.float64) for i in range(2))
  total = 0.0
  for i in range(3):
    p, q = a, b
    for _ in range(i):
      p, q = (
        np.stack(
          [
            np.stack([z[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2)) for x in range(z.shape[2] // 2)], 1)
            for y in range(z.shape[1] // 2)
          ],
          1,
        )
        for z in (p, q)
      )
    total += np.abs((p[:, 1:] - p[:, :-1]) - (q[:, 1:] - q[:, :-1])).mean()
    total += np.abs((p[:, :, 1:] - p[:, :, :-1]) - (q[:, :, 1:] - q[:, :, :-1])).mean()
  np.testing.assert_allclose(vae_lib.detail_loss(jnp.asarray(a), jnp.asarray(b)), total / 6, rtol=1e-5)
  np.testing.assert_allclose(vae_lib.detail_loss(jnp.asarray(a) + 0.3, jnp.asarray(a)), 0, atol=1e-6)


def test_discriminator_scores_patches_locally():
  d = disc.Discriminator(channels=(4, 8))
  x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
  v = filled(d, x)
  scores = d.apply(v, x)
  assert scores.shape == (2, 8, 8, 1)
  moved = d.apply(v, x.at[0, :4, :4].set(0.0))
  changed = np.asarray(jnp.abs(moved - scores)[..., 0] > 0)
  assert changed[0, 0, 0] and not changed[0, 4:].any() and not changed[0, :, 4:].any() and not changed[1].any()


def test_adversarial_losses():
  real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 0.0])
  np.testing.assert_allclose(disc.hinge_loss(real, fake), 0.5 * (0.25 + 0.5), rtol=1e-6)
  np.testing.assert_allclose(disc.generator_loss(fake), np.mean(np.log1p(np.exp([3.0, 0.0]))), rtol=1e-6)


@pytest.mark.slow
def test_shortcut_adds_a_linear_map_of_squares_of_pixels():
  """With all else equal, mean and image differ by W x of each f x f square, pixels taken by a loop."""
  config = dict(
    channels=(8, 8), latent_channels=3, encoder_blocks=1, decoder_blocks=1, groups=4, mid_attention=False, patch=2
  )
  plain, with_shortcut = VAE(**config), VAE(**config, shortcut=True)
  x = jax.random.uniform(jax.random.key(0), (1, 16, 8, 3))
  v = jax.jit(with_shortcut.init)(jax.random.key(1), x)
  base = {'params': {k: p for k, p in v['params'].items() if not k.startswith('shortcut')}}
  mean = jax.jit(lambda v: with_shortcut.apply(v, x, method='encode')[0])(v)
  difference = mean - jax.jit(lambda v: plain.apply(v, x, method='encode')[0])(base)
  squares = np.asarray(2 * x - 1).reshape(4, 4, 2, 4, 3).transpose(0, 2, 4, 1, 3).reshape(4, 2, 48)  # (c, y, x)
  np.testing.assert_allclose(difference[0], squares @ np.asarray(v['params']['shortcut_in']['kernel']), atol=1e-5)
  image = jax.jit(lambda v, z: with_shortcut.apply(v, z, method='decode'))(v, mean)
  difference = 2 * (image - jax.jit(lambda v, z: plain.apply(v, z, method='decode'))(base, mean))
  squares = np.asarray(difference).reshape(4, 4, 2, 4, 3).transpose(0, 2, 4, 1, 3).reshape(4, 2, 48)
  np.testing.assert_allclose(squares, mean[0] @ v['params']['shortcut_out']['kernel'], atol=1e-5)


def test_the_posterior_starts_quiet():
  x = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
  module = VAE(channels=(8, 8), encoder_blocks=1, decoder_blocks=1, groups=4, mid_attention=False)
  v = jax.jit(module.init)(jax.random.key(1), x)
  np.testing.assert_array_equal(v['params']['quant_conv']['bias'], [0, 0, 0, 0, -6, -6, -6, -6])


def test_channels_are_scaled_by_the_root_of_what_they_show():
  """A linear decoder whose effects are known: deviations 1, 2, 4 by gains 9, 2, 1/4 show 9, 4 and 1."""
  rng = np.random.default_rng(0)
  mean = jnp.asarray(rng.normal(size=(4, 16, 16, 3)) * [1, 2, 4], jnp.float32)
  mixing = np.linalg.qr(rng.normal(size=(12, 3)))[0].T * np.sqrt(12) * [[9], [2], [0.25]]
  scaling = vae_lib.visible_scaling(lambda z: z @ jnp.asarray(mixing, jnp.float32) + 0.5, mean, jax.random.key(0))
  mean = np.asarray(mean)
  shown = np.array([9, 4, 1]) * np.std(mean, (0, 1, 2)) / np.array([1, 2, 4])
  np.testing.assert_allclose(scaling, np.sqrt(shown / shown.mean()) / np.std(mean, (0, 1, 2)), rtol=1e-4)
  scaled = np.std(np.asarray(mean * scaling), (0, 1, 2))
  np.testing.assert_allclose(np.mean(scaled**2), 1, rtol=1e-3)


def test_latents_with_a_factor_for_each_channel_come_back():
  factors = np.arange(1, 5, dtype=np.float32)
  image = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
  one = VAE(**SMALL | dict(scaling_factor=1.0))
  many = VAE(**SMALL | dict(scaling_factor=tuple(factors.tolist())))
  variables = filled(one, image)
  z = one.apply(variables, image, method='to_latents')
  np.testing.assert_allclose(many.apply(variables, image, method='to_latents'), z * factors, rtol=1e-5)
  np.testing.assert_allclose(
    many.apply(variables, z * factors, method='from_latents'), one.apply(variables, z, method='from_latents'), atol=1e-5
  )
