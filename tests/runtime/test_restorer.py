"""The restorer with a tiny random model: shapes, types, sizes, seeds, tiles, compilation."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

import ssr_jax
from ssr_jax.diffusion.noise import NoiseField, noise_window
from ssr_jax.image import colourfix, resize, tiles
from ssr_jax.runtime import restorer
from ssr_jax.systems.ssr import system as ssr_system
from ssr_jax.systems.ssr.svkr import RULES
from ssr_jax.types import SSRError
from ssr_jax.weights import format

# A section 'sampling.student' of model.json.
STUDENT = {'steps': 1, 'start': 0.2, 'noise': 1.0, 'wavelet_levels': 2, 'chroma_levels': 1, 'strength': 1.0}


@pytest.fixture(scope='module')
def model(tiny_model_dir):
  return ssr_jax.load(tiny_model_dir)


def _photo(h=20, w=28, top=100, left=100):
  return data.chelsea()[top : top + h, left : left + w]


def test_bucket():
  sizes = (1, 32, 33, 96, 97, 128, 129, 192, 193, 300)
  assert [restorer.bucket(n) for n in sizes] == [32, 32, 64, 96, 128, 128, 192, 192, 256, 320]


@pytest.mark.parametrize('dtype', [np.uint8, np.float32, np.float16])
@pytest.mark.parametrize('batched', [False, True])
def test_result_has_the_inputs_dtype_and_rank(model, dtype, batched):
  lr = _photo() if dtype == np.uint8 else (_photo() / 255).astype(dtype)
  result = model.sample(lr[None] if batched else lr, steps=0)
  lead = (1,) if batched else ()
  assert result.image.shape == result.restored.shape == (*lead, 80, 112, 3)
  assert result.depth.shape == (*lead, 80, 112, 1) and result.kernels.shape == (*lead, 20, 28, 441)
  assert result.image.dtype == result.restored.dtype == dtype
  assert result.depth.dtype == result.kernels.dtype == np.float32
  np.testing.assert_allclose(result.kernels.sum(-1), 1, atol=1e-4)
  assert result.depth.min() >= 0 and result.depth.max() <= 1
  if dtype != np.uint8:
    assert result.image.min() >= 0 and result.image.max() <= 1


def test_restored_is_algorithm_1_by_hand(model):
  """With the model's networks, but none of the code between them."""
  lr = _photo(32, 32).astype(np.float32) / 255  # a size of the bucket: nothing is padded
  apply = {part: model.modules[part].apply for part in ('depth', 'dkenet', 'nbsr')}
  batch = jnp.asarray(lr)[None]
  image = resize.upscale(batch, 4)
  small = tuple(model.modules['depth'].resolution)
  see = lambda image: apply['depth'](model.variables['depth'], jax.image.resize(image, (1, *small, 3), 'linear'))
  down = lambda depth: jax.image.resize(depth, (1, 32, 32, 1), 'linear')
  depth = see(image)
  kernels = apply['dkenet'](model.variables['dkenet'], batch, down(depth))
  for _ in range(3):
    depth = see(image)
    kernels = 0.9 * apply['dkenet'](model.variables['dkenet'], batch, down(depth)) + 0.1 * kernels
    image = apply['nbsr'](model.variables['nbsr'], batch, kernels)
  found = model.sample(lr, steps=0)
  np.testing.assert_allclose(found.restored, np.clip(image[0], 0, 1), atol=2e-4)
  np.testing.assert_allclose(found.kernels, kernels[0], atol=2e-4)
  whole = jax.image.resize(depth, (1, 128, 128, 1), 'linear')
  np.testing.assert_allclose(found.depth, whole[0], atol=2e-4)
  np.testing.assert_array_equal(found.image, found.restored)
  assert set(RULES) == {'algorithm1', 'eq2'}


@pytest.mark.slow
def test_a_second_size_of_the_bucket_does_not_compile(model):
  model.sample(_photo(20, 28))
  before = dict(model.traces)
  for h, w in ((32, 32), (1, 1), (17, 31), (32, 5)):
    assert model.sample(_photo(h, w)).image.shape == (4 * h, 4 * w, 3)
  assert dict(model.traces) == before
  model.sample(_photo(33, 32), steps=0)
  assert model.traces['restore'] == before['restore'] + 1


@pytest.mark.slow
def test_same_seed_same_image_alone_or_in_a_batch(model):
  batch = np.stack([_photo(left=left) for left in (50, 100, 150)])
  together = model.sample(batch, seed=3)
  for index in range(3):
    alone = model.sample(batch[index], seed=3)
    np.testing.assert_array_equal(alone.image, together.image[index])
    np.testing.assert_array_equal(alone.restored, together.restored[index])
  other = model.sample(batch, seed=[3, 4, 3])
  np.testing.assert_array_equal(other.image[0], together.image[0])
  assert (other.image[1] != together.image[1]).any()


@pytest.mark.slow
def test_diffusion_changes_the_image_and_the_seed_only_that(model):
  first, second = (model.sample(_photo(), seed=seed, colour_fix='none') for seed in (0, 1))
  assert (first.image != first.restored).any() and (first.image != second.image).any()
  np.testing.assert_array_equal(first.restored, second.restored)
  start_at_noise = model.sample(_photo(), start=1.0, colour_fix='none')
  assert (start_at_noise.image != first.image).any()


@pytest.mark.slow
def test_colour_fixes_bring_the_restored_images_colours(model):
  lr = _photo(32, 32).astype(np.float32) / 255
  plain, adain, wavelet = (model.sample(lr, colour_fix=fix) for fix in ('none', 'adain', 'wavelet'))
  distance = lambda result: np.abs(result.image.mean((0, 1)) - result.restored.mean((0, 1))).max()
  assert distance(adain) < max(0.5 * distance(plain), 0.02)
  assert distance(wavelet) < max(0.5 * distance(plain), 0.02)


@pytest.mark.slow
def test_the_models_wavelet_levels_are_what_the_restored_image_gives(model, tiny_model_dir, tmp_path):
  """The uncorrected result, corrected outside, is what a model with that number of levels returns."""
  lr = _photo(32, 32).astype(np.float32) / 255
  plain = model.sample(lr, colour_fix='none')
  for levels in (1, 3):
    shutil.copytree(tiny_model_dir, tmp_path / str(levels))
    format.update(tmp_path / str(levels), sampling={'wavelet_levels': levels})
    found = restorer.load(tmp_path / str(levels)).sample(lr, colour_fix='wavelet')
    expected = np.clip(colourfix.wavelet(plain.image, plain.restored, levels), 0, 1)
    np.testing.assert_allclose(found.image, expected, atol=2e-3)  # the uncorrected one was clipped before
  with pytest.raises(SSRError, match=r'sampling\.wavelet_levels'):
    format.update(tmp_path / '1', sampling={'wavelet_levels': 0})


@pytest.mark.slow
def test_tiles_agree_with_the_whole_where_the_net_sees_the_same(model):
  """Tiles of 64 with 32 shared, against one tile: only what lies further than the nets see may differ."""
  lr = _photo(70, 90, 50, 100)
  whole = model.sample(lr, steps=0, tile=128)
  calls = []
  tiled = model.sample(lr, steps=0, tile=64, progress=lambda done, total: calls.append((done, total)))
  assert calls == [(i + 1, 12) for i in range(12)]  # four tiles in three passes, one for each round
  assert tiled.image.shape == whole.image.shape and tiled.kernels.shape == whole.kernels.shape
  np.testing.assert_allclose(tiled.kernels.sum(-1), 1, atol=1e-4)
  # Near a tile's border convolutions see zeros, which the blend dampens; elsewhere the two are the same.
  difference = np.abs(tiled.image.astype(float) - whole.image)
  assert difference.mean() < 0.05 * whole.image.std()
  assert np.abs(tiled.depth - whole.depth).mean() < 0.1 * whole.depth.std()


@pytest.mark.slow
def test_svkr_refines_in_tiles_as_it_does_on_the_whole(tiny_model_dir, tmp_path):
  """What three rounds change over one is the same for an image in tiles: it does not depend on the size class."""
  shutil.copytree(tiny_model_dir, tmp_path / 'once')
  format.update(tmp_path / 'once', svkr={'iterations': 1})
  once, thrice = ssr_jax.load(tmp_path / 'once'), ssr_jax.load(tiny_model_dir)
  lr = _photo(70, 90, 50, 100) / np.float32(255)
  changes = [thrice.sample(lr, steps=0, tile=n).depth - once.sample(lr, steps=0, tile=n).depth for n in (64, 128)]
  assert np.abs(changes[0]).mean() > 0.01  # the restored image has another depth than the bicubic one
  assert np.abs(changes[0] - changes[1]).mean() < 0.15 * np.abs(changes[1]).mean()


def test_depth_does_not_depend_on_padding(model, monkeypatch):
  """An image of 33x65 pixels in three buckets; what lies beyond it must not reach the depth net."""
  lr = _photo(33, 65) / np.float32(255)
  found = []
  for padded in (96, 128, 192):
    monkeypatch.setattr(restorer, 'bucket', lambda size, padded=padded: padded)
    found.append(model.sample(lr, steps=0, tile=padded))
  assert found[0].depth.std() > 0.1
  for other in found[1:]:
    np.testing.assert_allclose(other.depth, found[0].depth, atol=1e-3)
    np.testing.assert_allclose(other.kernels, found[0].kernels, atol=1e-3)


@pytest.mark.parametrize('factor', [4, 8])
def test_latents_of_tiles_see_one_field_of_noise(factor):
  """With f = 8 a latent pixel covers two LR pixels: tiles begin at even ones, and their windows of noise agree."""
  multiple = max(1, factor // 4)
  origins = tiles.origins((71, 71), 64, 32, multiple)
  assert all(y % multiple == 0 for y, _ in origins) and max(y for y, _ in origins) + 64 >= 71
  hl = 64 * 4 // factor
  whole, _ = NoiseField(jnp.uint32(5), jnp.array([0, 0])).window((2 * hl, 2 * hl, 2), 128)
  for y, x in origins:
    window, _ = NoiseField(jnp.uint32(5), jnp.array([y, x])).window((hl, hl, 2), 64)
    top, left = y * 4 // factor, x * 4 // factor
    np.testing.assert_array_equal(window, whole[top : top + hl, left : left + hl])


@pytest.mark.slow
def test_tiles_leave_no_seam(model):
  """A constant image must stay constant along each axis's middle, whatever the tiles."""
  lr = np.full((40, 160, 3), 128, np.uint8)
  result = model.sample(lr, steps=0, tile=64)
  middle = result.image[60:100, 100:540].astype(int)
  assert np.abs(np.diff(middle.reshape(40, -1, 4, 3)[:, :, 0], axis=1)).max() <= 2


def test_the_noise_field_is_one_for_all_windows():
  field = lambda y, x, h, w: np.asarray(noise_window(jax.random.key(1), jnp.array([y, x]), (h, w, 2)))
  whole = field(0, 0, 150, 200)
  np.testing.assert_array_equal(field(30, 70, 64, 96), whole[30:94, 70:166])
  np.testing.assert_array_equal(field(64, 128, 32, 32), whole[64:96, 128:160])
  assert abs(whole.mean()) < 0.02 and abs(whole.std() - 1) < 0.02


@pytest.mark.parametrize(
  'lr, words',
  [
    (np.zeros((8, 8), np.uint8), r'shape \[8, 8\]'),
    (np.zeros((8, 8, 4), np.uint8), r'shape \[8, 8, 4\]'),
    (np.zeros((0, 8, 3), np.uint8), r'shape \[0, 8, 3\]'),
    (np.zeros((8, 8, 3), np.int32), 'got int32'),
    (np.full((8, 8, 3), 255.0), r'must lie in \[0, 1\]'),
    (np.full((8, 8, 3), np.nan), r'must lie in \[0, 1\]'),
  ],
)
def test_bad_images(model, lr, words):
  with pytest.raises(ssr_jax.SSRError, match=words):
    model.sample(lr)


@pytest.mark.parametrize(
  'options, words',
  [
    ({'scale': 9}, 'scale 9'),
    ({'steps': 2.5}, 'steps 2.5'),
    ({'steps': 501}, 'more than the 500 that start 0.5 leaves'),
    ({'start': 1.5}, 'start 1.5'),
    ({'sampler': 'euler'}, "sampler 'euler'"),
    ({'colour_fix': 'hue'}, "colour_fix 'hue'"),
    ({'tile': 50}, 'tile 50'),
    ({'seed': [1, 2]}, '2 numbers for 1 images'),
  ],
)
def test_bad_options(model, options, words):
  with pytest.raises(ssr_jax.SSRError, match=words):
    model.sample(_photo(), **options)


@pytest.mark.slow
def test_module_level_sample_loads_once(tiny_model_dir, monkeypatch):
  loads = []
  monkeypatch.setattr(restorer, 'load', lambda name, load=restorer.load, **kw: loads.append(kw) or load(name, **kw))
  restorer._loaded.cache_clear()
  first, second = (ssr_jax.sample(_photo(), tiny_model_dir, steps=0) for _ in range(2))
  np.testing.assert_array_equal(first.image, second.image)
  assert len(loads) == 1
  other = ssr_jax.sample(_photo() / 255, tiny_model_dir, steps=0, dtype='bfloat16')
  assert [load['dtype'] for load in loads] == ['float32', 'bfloat16']
  assert (other.image != ssr_jax.sample(_photo() / 255, tiny_model_dir, steps=0).image).any() and len(loads) == 2
  restorer._loaded.cache_clear()


# -- The student -------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_student(tiny_model_dir, tmp_path):
  """The tiny model, and a student with other weights than its UNet's."""
  directory = tmp_path / 'model'
  shutil.copytree(tiny_model_dir, directory)
  entry = format.read_config(directory)['parts']['unet']
  variables = format.load_part(directory, 'unet')
  variables['params']['unet'] = jax.tree.map(lambda x: -1.3 * x, variables['params']['unet'])
  format.save_part(directory, 'student', entry['config'], variables)
  format.update(directory, sampling={'student': STUDENT})
  return directory


@pytest.mark.slow
def test_a_student_answers_unless_something_is_asked_of_the_unet(with_student, model):
  ssr = ssr_jax.load(with_student)
  assert ssr.required()[-1] == 'student'
  for asked in ({'steps': 2}, {'start': 0.3}, {'sampler': 'ddpm'}):
    assert ssr.required(**asked)[-1] == 'unet'
  plan = ssr.check()
  assert (plan.network, plan.steps, plan.sampler, plan.start, plan.noise) == ('student', 1, 'ddim', 0.2, 1.0)
  assert (plan.colour_fix, plan.blend, plan.levels) == ('wavelet', 1.0, (2, 1))
  lr = _photo()
  found = ssr.sample(lr)
  np.testing.assert_array_equal(ssr.sample(lr, steps=2).image, model.sample(lr, steps=2).image)
  np.testing.assert_array_equal(ssr.sample(lr, steps=0).image, found.restored)
  assert np.abs(found.image.astype(int) - model.sample(lr).image).max() > 0


@pytest.mark.slow
def test_a_students_step_is_that_of_its_weights_as_the_unet(with_student, tmp_path):
  """One DDIM step ends at the predicted clean latent, which every sampler does with one step."""
  swapped = tmp_path / 'swapped'
  shutil.copytree(with_student, swapped)
  entry = format.read_config(swapped)['parts']['unet']
  format.save_part(swapped, 'unet', entry['config'], format.load_part(with_student, 'student'))
  lr = _photo()
  as_unet = ssr_jax.load(swapped).sample(lr, steps=1, start=0.2, sampler='dpmpp_2m', colour_fix='none')
  as_student = ssr_jax.load(with_student).sample(lr, colour_fix='none')
  np.testing.assert_allclose(as_student.image.astype(int), as_unet.image, atol=1)


@pytest.mark.slow
def test_a_student_that_begins_without_noise_draws_none(with_student):
  """Another seed changes nothing then; with some of the noise it changes less than with all of it."""
  changes = []
  for noise in (0.0, 0.3, 1.0):
    format.update(with_student, sampling={'student': STUDENT | {'noise': noise}})
    ssr = ssr_jax.load(with_student)
    first, second = (ssr.sample(_photo() / 255, seed=seed, colour_fix='none').image for seed in (0, 1))
    changes.append(np.abs(first - second).mean())
    assert np.abs(first - ssr.sample(_photo() / 255, steps=1, colour_fix='none').image).mean() > 0
  assert changes[0] == 0 < 2 * changes[1] < changes[2]


@pytest.mark.slow
def test_blend_is_the_share_of_the_changes_that_stays(with_student):
  ssr = ssr_jax.load(with_student)
  lr = _photo() / 255
  whole, part, none = (ssr.sample(lr, blend=share) for share in (1, 0.25, 0))
  inside = (whole.image > 0) & (whole.image < 1)  # it was clipped elsewhere
  np.testing.assert_allclose(part.image[inside], (0.75 * whole.restored + 0.25 * whole.image)[inside], atol=1e-5)
  np.testing.assert_allclose(none.image, none.restored, atol=1e-6)
  format.update(with_student, sampling={'student': STUDENT | {'strength': 0.25}})
  np.testing.assert_array_equal(ssr_jax.load(with_student).sample(lr).image, part.image)
  np.testing.assert_array_equal(ssr.sample(lr, strength=0.25).image, part.image)  # the earlier name
  for options, words in (({'blend': 1.5}, 'blend 1.5: must'), ({'blend': 0.2, 'strength': 0.2}, 'the same option')):
    with pytest.raises(SSRError, match=words):
      ssr.sample(lr, **options)


@pytest.mark.slow
def test_a_student_has_a_decoder_of_its_own_where_there_is_one(with_student):
  """Its image is that of a model whose only autoencoder is that one; the UNet's image is as it was."""
  ssr = ssr_jax.load(with_student)
  entry, variables = format.read_config(with_student)['parts']['vae'], format.load_part(with_student, 'vae')
  before, unet = ssr.sample(_photo()).image, ssr.sample(_photo(), steps=1).image
  variables['params']['decoder'] = jax.tree.map(lambda x: 1.5 * x, variables['params']['decoder'])
  format.save_part(with_student, 'student_vae', entry['config'], variables)
  ssr = ssr_jax.load(with_student)
  assert ssr.required()[-2:] == ('student_vae', 'student') and ssr.required(steps=1)[-2:] == ('vae', 'unet')
  np.testing.assert_array_equal(ssr.sample(_photo(), steps=1).image, unet)
  image = ssr.sample(_photo()).image
  format.save_part(with_student, 'vae', entry['config'], variables)
  assert np.abs(image.astype(int) - before).max() > 0
  np.testing.assert_array_equal(ssr_jax.load(with_student).sample(_photo()).image, image)


@pytest.mark.slow
def test_a_students_image_has_its_own_colour_fix(with_student):
  ssr = ssr_jax.load(with_student)
  raw, fixed = (ssr.sample(_photo() / 255, colour_fix=how) for how in ('none', 'wavelet'))
  expected = np.clip(colourfix.wavelet(raw.image, raw.restored, levels=2, chroma_levels=1), 0, 1)
  np.testing.assert_allclose(fixed.image, expected, atol=1e-5)


@pytest.mark.parametrize('how', ['adain', 'wavelet'])
def test_colours_of_a_tall_image_are_those_of_the_whole(how):
  """They are fixed band by band, which must not show."""
  rng = np.random.default_rng(0)
  image, reference = rng.random((2, 1100, 20, 3), np.float32)
  found = ssr_system.fix_colours(image, reference, how, 5, 1)
  whole = colourfix.wavelet(image, reference, 5, 1) if how == 'wavelet' else colourfix.adain(image, reference)
  np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.parametrize(
  'section,complaint',
  [
    ({'steps': 1}, 'sampling.student has steps; it needs steps, start, noise, wavelet_levels, chroma_levels, strength'),
    (STUDENT | {'start': 1.5}, 'sampling.student.start'),
    (
      STUDENT | {'start': 0.5, 'wavelet_levels': 0, 'chroma_levels': None, 'strength': 1},
      'sampling.student.wavelet_levels',
    ),
    (STUDENT | {'start': 0.5, 'noise': 2}, 'sampling.student.noise'),
  ],
)
def test_a_wrong_student_section_is_said(with_student, section, complaint):
  """When it is written, or else at loading."""
  with pytest.raises(SSRError, match=complaint):
    format.update(with_student, sampling={'student': section})
    ssr_jax.load(with_student)
