"""From a model's sections and a caller's options to the plan: whose value stands where."""

import copy

import pytest

from ssr_jax.systems.ssr import core, plan
from ssr_jax.systems.ssr.options import Options
from ssr_jax.types import SSRError

CONFIG = {
  'name': 'model',
  'scale': 4,
  'svkr': {'iterations': 2, 'gamma': 0.6, 'rule': 'eq2', 'unroll': 2},
  'schedule': {'prediction': 'v', 'steps': 500},
  'sampling': {
    'sampler': 'ddpm',
    'steps': 6,
    'start': 0.4,
    'strength': 0.7,
    'student': {
      'steps': 1,
      'start': 0.2,
      'noise': 0.3,
      'wavelet_levels': 3,
      'chroma_levels': 1,
      'strength': 0.9,
    },
  },
}
PARTS = (*core.RESTORING, 'vae', 'unet', 'student', 'student_vae')


def _plan(parts=PARTS, **asked):
  return plan.plan(CONFIG, dict.fromkeys(parts), Options(**asked))


def test_a_student_has_its_own_values_and_decoder():
  found = _plan()
  assert found.parts == (*core.RESTORING, 'student_vae', 'student')
  assert (found.network, found.autoencoder, found.sampler) == ('student', 'student_vae', 'ddim')
  assert found.decoder == 'student_vae'
  assert (found.steps, found.start, found.noise, found.blend, found.levels) == (1, 0.2, 0.3, 0.9, (3, 1))


def test_a_students_nbsr_makes_its_image_and_the_unets_comes_from_the_autoencoder():
  parts = (*core.RESTORING, 'vae', 'unet', 'student', 'student_nbsr')
  found = _plan(parts)
  assert found.parts == (*core.RESTORING, 'student_nbsr', 'vae', 'student')
  assert (found.network, found.autoencoder, found.decoder) == ('student', 'vae', 'student_nbsr')
  assert plan.required(dict.fromkeys(parts), Options()) == found.parts
  found = _plan(parts, steps=2)
  assert found.parts == (*core.RESTORING, 'vae', 'unet')
  assert (found.network, found.autoencoder, found.decoder) == ('unet', 'vae', 'vae')


def test_a_student_can_have_its_change_smoothed_and_its_image_sharpened():
  """Which models of before lack; whoever asks for a mode or a value gets that."""
  found = _plan()
  assert (found.smooth, found.sharpen) == (0.0, 0.0)
  config = copy.deepcopy(CONFIG)
  config['sampling']['student'] |= {'smooth': 1.2, 'sharpen': 1.0}
  ask = lambda **asked: plan.plan(config, dict.fromkeys(PARTS), Options(**asked))
  assert (ask().smooth, ask().sharpen, ask(sharpen=0.5).sharpen) == (1.2, 1.0, 0.5)
  assert (ask(mode='detailed').sharpen, ask(mode='faithful').sharpen, ask(mode='natural').sharpen) == (3.0, 0.0, 1.0)
  assert ask(mode='detailed', sharpen=1).sharpen == 1.0
  # With the blend, whose own value is 0.9, from nothing at 0, where the image is the restored one.
  assert [ask(blend=blend).sharpen for blend in (0, 0.45, 0.9, 1)] == pytest.approx([0, 0.5, 1, 1])
  assert ask(blend=0, sharpen=1.5).sharpen == 1.5
  assert ask(steps=0).sharpen == 0.0 and ask(steps=0, sharpen=1).sharpen == 1.0
  assert (ask(steps=3).smooth, ask(steps=3).sharpen) == (0.0, 0.0)  # the UNet has no student's values
  for wrong in (-0.1, 4.1, 'much', float('nan')):
    with pytest.raises(SSRError, match=r'^sharpen .*: must lie in \[0, 4\]'):
      ask(sharpen=wrong)


def test_the_unet_has_the_models_values_and_all_of_the_noise():
  found = _plan((*core.RESTORING, 'vae', 'unet'))
  assert (found.network, found.autoencoder, found.sampler) == ('unet', 'vae', 'ddpm')
  assert (found.steps, found.start, found.noise, found.blend, found.levels) == (6, 0.4, 1.0, 0.7, (5, None))
  assert (found.schedule.prediction, found.schedule.steps, found.scale) == ('v', 500, 4)


@pytest.mark.parametrize('asked', [{'steps': 3}, {'sampler': 'ddim'}, {'start': 0.1}])
def test_who_asks_for_a_way_of_sampling_gets_the_unet(asked):
  found = _plan(**asked)
  assert (found.network, found.autoencoder, found.noise) == ('unet', 'vae', 1.0)
  for name, value in asked.items():
    assert getattr(found, name) == value


@pytest.mark.parametrize('asked', [{'blend': 0.5}, {'colour_fix': 'none'}])
def test_what_comes_after_sampling_keeps_the_student(asked):
  found = _plan(**asked)
  assert found.network == 'student'
  for name, value in asked.items():
    assert getattr(found, name) == value


def test_modes_choose_what_was_not_asked_for():
  natural, detailed, faithful = (_plan(mode=mode) for mode in ('natural', 'detailed', 'faithful'))
  assert natural == _plan() and faithful == _plan(steps=0) and faithful.parts == core.RESTORING
  assert detailed == _plan(blend=(0.9 + 1) / 2)
  assert _plan(mode='detailed', blend=0.2) == _plan(blend=0.2)
  assert _plan(mode='faithful', steps=3) == _plan(steps=3)
  with pytest.raises(SSRError, match="mode 'sharp': unknown; known: faithful, natural, detailed"):
    _plan(mode='sharp')


def test_refinement_is_the_models_in_every_plan():
  for asked in ({}, {'steps': 0}, {'steps': 2}):
    assert _plan(**asked).svkr == {'scale': 4, **CONFIG['svkr']}
  assert _plan(steps=0).parts == core.RESTORING
