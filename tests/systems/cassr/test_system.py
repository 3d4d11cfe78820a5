"""CasSR through the house: options, the reference image, tiles, `ssr info`, models that do not fit together."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

import ssr_jax
from ssr_jax import cli, systems
from ssr_jax.image import colourfix
from ssr_jax.image.resize import upscale
from ssr_jax.systems.cassr import core
from ssr_jax.systems.cassr.options import Options
from ssr_jax.systems.cassr.sizes import SIZES
from ssr_jax.types import SSRError
from ssr_jax.weights import format
from tests import typechecker
from tests.systems.cassr.conftest import drawn


@pytest.fixture(scope='module')
def model(model_dir):
  return ssr_jax.load(model_dir)


def fresh(model):
  """The model without compiled programs, for spies."""
  return ssr_jax.runtime.Restorer(model.system, model.config, model.variables, model.modules)


LR = data.coffee()[100:130, 200:232]  # 30 x 32, padded to 32 x 32


@pytest.mark.slow
def test_sample_returns_the_image_its_reference_and_what_was_enlarged(model):
  result = model.sample(LR)
  assert result.image.shape == (120, 128, 3) and result.image.dtype == np.uint8
  assert result.outputs.keys() == {'enlarged', 'restored'}
  exact = np.clip(upscale(LR[None] / np.float32(255), 4)[0], 0, 1)
  inner = np.s_[:112]  # the padding's reflection differs from the border's
  assert np.abs(result.enlarged[inner] / 255.0 - exact[inner]).max() <= 0.51 / 255
  mean = lambda image: image.reshape(-1, 3).mean(0)  # the colour fix: means of the enlarged image, but for clipping
  assert np.abs(mean(result.image) - mean(result.enlarged)).max() < 12
  np.testing.assert_array_equal(model.sample(LR).image, result.image)
  assert np.abs(model.sample(LR, seed=1).image.astype(int) - result.image).max() > 2
  stopped = model.sample(LR, steps=0)
  np.testing.assert_array_equal(stopped.image, result.restored)
  np.testing.assert_array_equal(stopped.restored, result.restored)


def spy(monkeypatch):
  """Puts a spy in place of core.restore; returns the list of what it sees."""
  seen = []

  def restore(modules, variables, u, images, eps, keys, schedule, how, part):
    seen.append(types.SimpleNamespace(u=u, images=images, eps=eps, keys=keys, schedule=schedule, how=how, part=part))
    return jnp.clip(u + 0.25, 0, 1)

  monkeypatch.setattr(core, 'restore', restore)
  return seen


def test_core_gets_what_the_plan_says(model, monkeypatch):
  seen = spy(monkeypatch)
  with jax.disable_jit(), typechecker.unchecked():  # without jit, tiles are NumPy arrays
    fresh(model).sample(
      LR, steps=3, guidance=2.0, sampler='dpmpp_2m', prompt='null', attention=False, reference='lr', iterations=0
    )
    fresh(model).sample(LR, reference='lr')
  assert seen[0].how == core.Sampling('dpmpp_2m', 3, 2.0, 'null', False, 64, 32)
  assert seen[1].how == core.Sampling('ddim', 2, 5.5, 'clean', True, 64, 32)
  assert seen[0].part == 'cassr' and seen[0].schedule.prediction == 'v'
  reduction = model.modules['vae'].reduction
  assert seen[0].u.shape == (1, 128, 128, 3) and seen[0].eps.shape == (1, 128 // reduction, 128 // reduction, 4)
  np.testing.assert_array_equal(seen[0].images['reference'], seen[0].u)


def test_a_given_image_is_the_reference_and_nothing_makes_one(model, monkeypatch):
  """Whole, and in tiles: each tile gets its own place."""
  seen = spy(monkeypatch)
  monkeypatch.setattr(core, 'activate', lambda *a, **b: pytest.fail('a reference was made'))
  lr = np.zeros((64, 96, 3), np.float32)
  given = np.random.default_rng(0).random((256, 384, 3)).astype(np.float32)
  with jax.disable_jit():
    whole = fresh(model).sample(lr[:32, :32], given={'restored': given[:128, :128]})
    tiled = fresh(model).sample(lr, given={'restored': given}, tile=64)
  np.testing.assert_array_equal(whole.restored, given[:128, :128])
  np.testing.assert_allclose(tiled.restored, given, atol=1e-6)
  np.testing.assert_array_equal(seen[1].images['reference'][0], given[:, :256])
  np.testing.assert_array_equal(seen[2].images['reference'][0], given[:, 128:])
  # The noise is one field over the image, and keys differ.
  half = seen[1].eps.shape[2] // 2
  np.testing.assert_array_equal(seen[1].eps[:, :, half:], seen[2].eps[:, :, :half])
  assert (jax.random.key_data(seen[1].keys) != jax.random.key_data(seen[2].keys)).any()
  with pytest.raises(SSRError, match=r"given\['restored'\] has shape \[64, 96, 3\]; it must be \[256, 384, 3\]"):
    model.sample(lr, given={'restored': lr})


@pytest.mark.slow
def test_svkrs_image_is_ssrs(model, tiny_model_dir):
  """The default reference is the image that SSR restores with the same networks; in tiles too."""
  ssr = ssr_jax.load(tiny_model_dir)
  theirs = ssr.sample(LR, steps=0, iterations=1)
  np.testing.assert_array_equal(model.sample(LR, steps=0, iterations=1).restored, theirs.image)
  large = np.tile(LR, (3, 2, 1))[:64, :64]
  ours = model.sample(large, steps=0, iterations=2, tile=64)
  np.testing.assert_array_equal(ours.image, ssr.sample(large, steps=0, iterations=2, tile=64).image)


def test_a_plain_controlnets_sample_can_be_the_reference(model, monkeypatch):
  seen = spy(monkeypatch)
  with jax.disable_jit(), typechecker.unchecked():
    result = fresh(model).sample(LR / np.float32(255), reference='controlnet')
  first, second = seen
  assert (first.part, first.images) == ('activation', {}) and second.part == 'cassr'
  np.testing.assert_allclose(second.images['reference'], np.clip(first.u + 0.25, 0, 1))
  np.testing.assert_allclose(result.restored, second.images['reference'][0, :120])
  assert np.abs(first.eps - second.eps).mean() > 0.5  # noise of its own


def test_the_colour_fix_is_against_the_enlarged_image(model):
  plan = model.check(reference='lr')
  rng = np.random.default_rng(0)
  found = {name: rng.random((24, 20, 3)).astype(np.float32) for name in ('enlarged', 'restored', 'image')}
  found['image'] = 0.3 + 0.2 * found['image']
  fixed = model.system.finish(found, plan)['image']
  np.testing.assert_allclose(fixed, np.clip(colourfix.adain(found['image'], found['enlarged']), 0, 1), atol=1e-5)
  none = model.system.finish(found, model.check(reference='lr', colour_fix='none'))['image']
  np.testing.assert_array_equal(none, found['image'])


@pytest.mark.parametrize(
  'options,match',
  [
    ({'steps': -1}, 'steps -1: must be a whole number from 0'),
    ({'steps': 1001}, 'to 1000'),
    ({'guidance': float('nan')}, 'guidance nan'),
    ({'iterations': 33}, 'iterations 33'),
    ({'sampler': 'euler'}, 'known: ddpm, ddim, dpmpp_2m'),
    ({'reference': 'scedit'}, 'known: svkr, lr, restorer, controlnet'),
    ({'reference': 'restorer'}, 'has no part restorer; take another --reference, train or import it'),
    ({'prompt': 'a cat'}, 'known: null, clean, degraded'),
    ({'colour_fix': 'histogram'}, 'known: none, adain, wavelet'),
    ({'blend': 0.5}, "unknown option 'blend'; system 'cassr' has steps, guidance"),
    ({'reference': 'controlnet', 'steps': 0}, 'is sampled, too'),
  ],
)
def test_wrong_options_are_one_line(model, options, match):
  with pytest.raises(SSRError, match=match):
    model.sample(LR, **options)


def test_parts_that_a_reference_needs_and_no_more(model):
  required = lambda **options: set(model.system.required(model.config, model.modules, Options(**options)))
  sampling = {'vae', 'prior', 'cassr'}
  assert required() == sampling | {'depth', 'dkenet', 'nbsr'}
  assert required(reference='lr') == sampling and required(reference='lr', steps=0) == set()
  assert required(reference='controlnet') == sampling | {'activation'}
  assert set(model.check(reference='lr').parts) == sampling
  few = {part: model.modules[part] for part in sampling}
  assert model.system.plan(model.config, few, Options(reference='lr')).reference == 'lr'
  with pytest.raises(SSRError, match='has no part depth, dkenet, nbsr; take another --reference'):
    model.system.plan(model.config, few, Options())
  with pytest.raises(SSRError, match='has no part cassr; train or import it'):
    model.system.plan(model.config, {k: v for k, v in few.items() if k != 'cassr'}, Options(reference='lr'))


@pytest.mark.parametrize(
  'part,fields,match',
  [
    ('cassr', {'head_dim': 8}, 'cassr.head_dim is 8, that of the prior is 4'),
    ('activation', {'window': (0, 4)}, r'activation.window is \(0, 4\), that of the prior is \(0, 8\)'),
    ('prior', {'latent_channels': 8}, 'cassr.latent_channels is 4, that of the prior is 8'),
  ],
)
def test_parts_that_do_not_fit_together_are_named(model, part, fields, match):
  modules = {**model.modules, part: systems.build(part, system='cassr', **{**SIZES['tiny'][part], **fields})}
  order = {'activation': modules['activation'], **modules} if part == 'activation' else modules
  if part == 'prior':
    del order['activation']
  with pytest.raises(SSRError, match=match):
    model.system.check_model(model.config, order)


def test_squares_must_suit_the_prior(model):
  config = {**model.config, 'sampling': {**model.config['sampling'], 'tile': 24, 'overlap': 8}}
  with pytest.raises(SSRError, match='sampling.tile 24 in model.json: must be a multiple of 16, or 0'):
    model.system.plan(config, model.modules, Options(reference='lr'))
  config['sampling'] |= {'tile': 32, 'overlap': 32}
  with pytest.raises(SSRError, match='sampling.overlap 32 in model.json: must be below sampling.tile 32'):
    model.system.plan(config, model.modules, Options(reference='lr'))


@pytest.mark.slow
def test_info_counts_every_part(capsys):
  assert cli.main(['info', 'cassr', '--size', 'tiny']) == 0
  out = capsys.readouterr().out
  assert 'multiple attention' in out and 'result: one image of 128x128, with steps 50' in out


def test_a_restorer_of_the_esrgan_family_makes_the_reference(model_dir, tmp_path):
  import shutil

  fields = {'blocks': 1, 'features': 4, 'growth': 2}
  shapes = format.abstract_variables('restorer', fields, system='esrgan')
  rng = np.random.default_rng(0)
  variables = format.unflatten({name: rng.normal(0, 0.2, s.shape).astype(np.float16) for name, s in shapes.items()})
  format.save_part(tmp_path / 'esrgan', 'restorer', fields, variables, system='esrgan')
  shutil.copytree(model_dir, tmp_path / 'cassr')
  assert (
    cli.main(['weights', 'import', str(tmp_path / 'esrgan'), '--as', str(tmp_path / 'cassr'), '--system', 'cassr']) == 0
  )
  expected = ssr_jax.load(tmp_path / 'esrgan').sample(LR).image
  found = ssr_jax.load(tmp_path / 'cassr').sample(LR, reference='restorer', steps=0)
  np.testing.assert_array_equal(found.restored, expected)


def test_parts_of_another_system_are_copied_where_they_are_the_same(model_dir, tiny_model_dir, tmp_path, monkeypatch):
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path))
  assert cli.main(['weights', 'import', str(tiny_model_dir), '--as', 'mine', '--system', 'cassr']) == 0
  assert set(format.read_config(tmp_path / 'mine')['parts']) == {'depth', 'dkenet', 'nbsr', 'vae'}
  assert format.read_config(tmp_path / 'mine')['system'] == 'cassr'
  with pytest.raises(SSRError, match="part 'unet' of the system 'ssr' is not one of 'cassr'"):
    format.copy_part(tiny_model_dir, 'unet', tmp_path / 'mine', system='cassr')
  assert drawn('prior')[0] == systems.build('prior', system='cassr', **SIZES['tiny']['prior'])
