"""Kernel-aware guidance: the step against float64, what it does to an image, and that it can be left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from ssr_jax import cli, runtime
from ssr_jax.image.blur import blur_downsample
from ssr_jax.image.kernels import gaussian_kernels
from ssr_jax.systems.ssr import core
from ssr_jax.types import SSRError

B, H, C, S = 2, 16, 2, 4
RNG = np.random.default_rng(0)
MIX = RNG.normal(0, 0.3, (C, 3)).astype(np.float32)
LR = jnp.asarray(RNG.random((B, H // S, H // S, 3), np.float32))
KERNELS = gaussian_kernels(RNG.uniform(1, 9, (B, H // S, H // S)), 2.0, 0.4)
Z = RNG.normal(size=(B, H // 2, H // 2, C)).astype(np.float32)


def _decoded(z, bend=0.0):
  """Enlarges twice and mixes channels; not linear with a bend."""
  y = jnp.tanh(bend * z) / bend if bend else z
  return jnp.repeat(jnp.repeat(y, 2, 1), 2, 2) @ MIX + 0.5


def _residuals(z, bend=0.0):
  """[b], |r|^2 of each image, in float64."""
  with jax.enable_x64(True):
    return np.asarray(_squares(*(jnp.asarray(x, jnp.float64) for x in (z, LR, KERNELS)), bend))


@functools.partial(jax.jit, static_argnums=3)
def _squares(z, lr, kernels, bend):
  return jnp.square(lr - blur_downsample(_decoded(z, bend), kernels, S)).sum((1, 2, 3))


def _step(weight, bend=0.0, part=slice(None)):
  correct = core.guidance(weight, lambda z: _decoded(z, bend), LR[part], KERNELS[part], S)
  return np.asarray(correct(jnp.asarray(Z[part]), jnp.zeros(len(Z[part]), int)))


@pytest.mark.slow
def test_the_direction_is_the_steepest_and_each_image_has_its_own_step():
  moved = (_step(1.0, 0.7) - Z).astype(np.float64)
  for i in range(B):
    gradient = np.zeros_like(Z[i], np.float64)
    for place in np.ndindex(*Z[i].shape):
      ends = []
      for sign in (1, -1):
        z = Z.astype(np.float64)
        z[(i, *place)] += sign * 1e-4
        ends.append(_residuals(z, 0.7)[i])
      gradient[place] = (ends[0] - ends[1]) / 2e-4
    cosine = (moved[i] * -gradient).sum() / np.linalg.norm(moved[i]) / np.linalg.norm(gradient)
    assert cosine > 1 - 1e-5
  np.testing.assert_allclose(_step(1.0, 0.7, slice(1, 2))[0], Z[1] + moved[1], rtol=1e-4, atol=1e-5)


def test_a_whole_step_is_the_best_one_along_its_line_where_the_decoder_is_linear():
  moved = _step(1.0) - Z
  least = _residuals(Z + moved)
  assert (least < 0.8 * _residuals(Z)).all()
  for factor in (0.9, 1.1):
    assert (_residuals(Z + factor * moved) > least).all()
  np.testing.assert_allclose(_step(0.25) - Z, moved / 4, rtol=1e-3, atol=1e-5)


def test_nothing_moves_where_the_lr_image_is_met():
  met = blur_downsample(_decoded(jnp.asarray(Z)), KERNELS, S)
  found = core.guidance(1.0, _decoded, met, KERNELS, S)(jnp.asarray(Z), jnp.zeros(B, int))
  np.testing.assert_allclose(found, Z, atol=1e-4)


@pytest.mark.slow
def test_an_image_comes_nearer_to_the_photo_and_weight_zero_is_without(tiny_model_dir):
  model = runtime.load(tiny_model_dir)
  lr = data.coffee()[100:132, 200:240]
  options = {'steps': 2, 'start': 0.3, 'colour_fix': 'none', 'blend': 1.0}
  plain = model.sample(lr, **options)
  np.testing.assert_array_equal(model.sample(lr, guidance=0.0, **options).image, plain.image)
  pulled = model.sample(lr, guidance=1.0, **options)
  np.testing.assert_array_equal(pulled.kernels, plain.kernels)
  wrong = lambda found: float(
    jnp.sqrt(
      jnp.mean((lr / 255 - blur_downsample(found.image[None] / np.float32(255), found.kernels[None], 4)[0]) ** 2)
    )
  )
  assert wrong(pulled) < 0.9 * wrong(plain)


@pytest.mark.parametrize('value', [-0.1, 1.5, float('nan')])
def test_other_weights_are_refused(tiny_model_dir, value):
  with pytest.raises(SSRError, match=r'^guidance .*: must lie in \[0, 1\]'):
    runtime.load(tiny_model_dir).check(guidance=value)


def test_the_command_line_passes_it_on(tiny_model_dir, tmp_path, monkeypatch):
  from PIL import Image

  Image.fromarray(data.coffee()[100:110, 200:212]).save(tmp_path / 'a.png')
  seen = {}

  def sample(self, lr, **options):
    seen.update(options)
    return runtime.Result(np.repeat(np.repeat(lr, 4, 0), 4, 1), {})

  monkeypatch.setattr(runtime.Restorer, 'sample', sample)
  command = ['upscale', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'b.png'), '--model', str(tiny_model_dir)]
  assert cli.main([*command, '--guidance', '0.5']) == 0 and seen['guidance'] == 0.5
  assert '"guidance": 0.5' in Image.open(tmp_path / 'b.png').getexif()[11]
