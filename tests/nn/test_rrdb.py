"""NBSR: published size, scanned equals unrolled, the kernel decides the output; and NBSR with a latent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.image import kernels, resize
from ssr_jax.nn.layers import SFT
from ssr_jax.nn.rrdb import NBSR, LatentNBSR


def _inputs(size=8):
  lr = jax.random.uniform(jax.random.key(0), (2, size, size, 3))
  field = kernels.gaussian_kernels(jnp.full((2, size, size), 4.0), 2.0, 0.5)
  return lr, field


def _with_basis(variables, components=15):
  basis = np.linalg.qr(np.random.default_rng(0).normal(size=(441, components)))[0].astype(np.float32)
  return {**variables, 'constants': {'pca': jnp.asarray(basis)}}


def test_parameter_counts_are_the_published_ones():
  count = lambda shapes: sum(x.size for x in jax.tree.leaves(shapes['params']))
  lr, field = _inputs()
  assert count(jax.eval_shape(NBSR().init, jax.random.key(0), lr, field)) == 8_086_256
  assert count(jax.eval_shape(NBSR(scan=True).init, jax.random.key(0), lr, field)) == 8_086_256
  sft = jax.eval_shape(SFT().init, jax.random.key(0), jnp.zeros((1, 4, 4, 64)), jnp.zeros((1, 4, 4, 15)))
  assert count(sft) == 82_560


@pytest.mark.slow
def test_scanned_trunk_equals_unrolled():
  lr, field = _inputs()
  config = dict(blocks=3, features=8, growth=4)
  unrolled = _with_basis(jax.jit(NBSR(**config).init)(jax.random.key(0), lr, field))
  params = dict(unrolled['params'])
  blocks = [params.pop(f'block_{i}') for i in (1, 2, 3)]
  params['trunk'] = jax.tree.map(lambda *p: jnp.stack(p), *blocks)
  expected = jax.jit(NBSR(**config).apply)(unrolled, lr, field)
  for remat in ('', 'blocks'):
    module = NBSR(**config, scan=True, remat=remat)
    np.testing.assert_allclose(jax.jit(module.apply)({**unrolled, 'params': params}, lr, field), expected, atol=1e-5)


@pytest.mark.slow
def test_the_kernel_decides_the_output_per_pixel():
  lr, field = _inputs(16)
  module = NBSR(blocks=2, features=8, growth=4)
  v = _with_basis(jax.jit(module.init)(jax.random.key(0), lr, field))
  v['params'] = jax.tree.map(lambda p: 5 * p, v['params'])
  run = jax.jit(module.apply)
  other = field.at[:, :2].set(kernels.gaussian_kernels(9.0, 1.0, 0.0))
  difference = np.abs(run(v, lr, other) - run(v, lr, field)).max((0, 2, 3))
  assert difference[:8].max() > 1e-4
  assert difference[:8].max() > 10 * difference[-4:].max()


def test_global_skip_adds_the_bicubic_image():
  lr, field = _inputs()
  plain, skip = NBSR(blocks=1, features=8, growth=4), NBSR(blocks=1, features=8, growth=4, global_skip=True)
  v = _with_basis(jax.jit(plain.init)(jax.random.key(0), lr, field))
  np.testing.assert_allclose(
    jax.jit(skip.apply)(v, lr, field), jax.jit(plain.apply)(v, lr, field) + resize.upscale(lr, 4), atol=1e-6
  )


def test_wrong_kernels_are_refused():
  lr, field = _inputs()
  with pytest.raises(ValueError, match='kernels must be'):
    NBSR(blocks=1, features=8, growth=4).init(jax.random.key(0), lr, field[:, :4])


@pytest.mark.slow
def test_with_nbsrs_weights_the_image_is_nbsrs_until_the_latent_is_learned():
  """The latent of another resolution is resized to the LR image's; its map begins at zero but has a gradient."""
  lr, field = _inputs()
  config = dict(blocks=1, features=8, growth=4, global_skip=True)
  v = _with_basis(jax.jit(NBSR(**config).init)(jax.random.key(0), lr, field))
  code = field @ v['constants']['pca']
  latent = jax.random.normal(jax.random.key(2), (2, 4, 4, 6))
  module = LatentNBSR(**config, latent_channels=6)
  fresh = jax.jit(module.init)(jax.random.key(1), latent, lr, code)['params']
  assert set(fresh) == {*v['params'], 'conv_latent'}
  params = {**fresh, **v['params']}
  run = jax.jit(lambda params, latent: module.apply({'params': params}, latent, lr, code))
  expected = jax.jit(NBSR(**config).apply)(v, lr, field)
  np.testing.assert_allclose(run(params, latent), expected, atol=1e-5)
  slope = jax.grad(lambda params: jnp.sum(run(params, latent) ** 2))(params)['conv_latent']['kernel']
  assert float(jnp.abs(slope).max()) > 1e-3
  learned = {**params, 'conv_latent': jax.tree.map(lambda x: x + 0.1, params['conv_latent'])}
  enlarged = jax.image.resize(latent, (2, 8, 8, 6), 'linear')
  np.testing.assert_allclose(run(learned, latent), run(learned, enlarged), atol=1e-5)
  assert float(jnp.abs(run(learned, latent) - expected).max()) > 1e-3


@pytest.mark.parametrize(('shapes', 'message'), [((5, 15), 'latent must have 6'), ((6, 14), 'code must have 15')])
def test_another_latent_or_code_is_refused(shapes, message):
  latent, code = (jnp.zeros((1, 8, 8, channels)) for channels in shapes)
  with pytest.raises(ValueError, match=message):
    LatentNBSR(blocks=1, features=8, growth=4, latent_channels=6).init(
      jax.random.key(0), latent, jnp.zeros((1, 8, 8, 3)), code
    )
