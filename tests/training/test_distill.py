"""The stage that makes the student: its measure of texture, what it starts from, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from configs import common, tiny
from ssr_jax import diffusion
from ssr_jax.image import colour, colourfix
from ssr_jax.systems.ssr.stages import distill
from ssr_jax.training import stages
from ssr_jax.types import SSRError
from ssr_jax.weights import store


def _grass():
  return data.gravel()[:128, :128, None].repeat(3, -1)[None].astype(np.float32) / 255


def test_texture_distance_equals_a_loop():
  rng = np.random.default_rng(0)
  a, b = rng.random((2, 1, 40, 70, 3), np.float32)  # one row of two squares; the rest is left out
  filters = np.array(jax.random.normal(jax.random.key(0), (5, 5, 1, 3)))[:, :, 0]
  total = []
  for n in range(3):
    f = filters[..., n] - filters[..., n].mean()
    f /= np.sqrt((f**2).sum())
    responses = []
    for image in (a, b):
      y = np.pad(np.asarray(colour.luma(image[0])), 2)
      responses.append(np.array([[(y[i : i + 5, j : j + 5] * f).sum() for j in range(70)] for i in range(40)]))
    for left in (0, 32):
      x, y = (np.sort(r[:32, left : left + 32].ravel()) for r in responses)
      total.append(np.abs(x - y).mean())
  np.testing.assert_allclose(distill.texture_distance(a, b, filters=3), 255 * np.mean(total), rtol=1e-4)


def test_the_texture_loss_is_the_distance_at_full_and_at_half_size():
  rng = np.random.default_rng(0)
  a, b = rng.random((2, 2, 64, 96, 3), np.float32)
  halves = [x.reshape(2, 32, 2, 48, 2, 3).mean((2, 4)) for x in (a, b)]
  one, other = jax.random.split(jax.random.key(3))
  expected = distill.texture_distance(a, b, key=one) + distill.texture_distance(*halves, key=other)
  np.testing.assert_allclose(distill.texture_loss(a, b, jax.random.key(3)), expected / 255, rtol=1e-5)
  assert abs(float(distill.texture_distance(a, b, key=one) - distill.texture_distance(a, b))) > 1e-6
  with pytest.raises(SSRError, match=r'config\.data\.patch is 32: with loss\.texture it must be at least 64'):
    stages.build(common.apply(tiny.get_config('distill'), {'parts_from': '', 'loss.texture': 1.0, 'data.patch': 32}))


def test_texture_distance_dislikes_blur_and_grain_and_not_where_things_are():
  photo = _grass()
  blurred = np.asarray(colourfix.low_frequencies(photo, 2))
  grainy = np.clip(photo + 0.1 * np.random.default_rng(0).standard_normal(photo.shape).astype(np.float32), 0, 1)
  shifted = np.roll(photo, 3, axis=2)
  distance = lambda image: float(distill.texture_distance(image, photo))
  assert distance(photo) == 0
  assert distance(shifted) < 0.25 * min(distance(blurred), distance(grainy))
  # which a squared error gets the other way round
  assert np.mean((shifted - photo) ** 2) > np.mean((blurred - photo) ** 2)


def test_grid_loss_equals_a_loop_and_sees_patterns_only():
  rng = np.random.default_rng(1)
  image, target = rng.random((2, 2, 34, 70, 3), np.float32)  # of 32 x 64 pixels; the rest is left out
  total = []
  for n in range(2):
    for left in (0, 32):
      square = (image - target)[n, :32, left : left + 32]
      total += [abs(square[y::4, x::4].mean((0, 1))) for y in range(4) for x in range(4)]
  np.testing.assert_allclose(distill.grid_loss(image, target, 4), np.mean(total), rtol=1e-5)
  pattern = np.tile(rng.standard_normal((4, 4, 1)), (1, 16, 32, 3)).astype(np.float32)
  noise = rng.standard_normal(pattern.shape).astype(np.float32) * pattern.std()
  of = lambda error: float(distill.grid_loss(error, 0 * error, 4) / np.abs(error).mean())
  assert of(pattern) == pytest.approx(1, rel=1e-5) and of(noise) < 0.2


def _built(tiny_model_dir, **fields):
  config = common.apply(tiny.get_config('distill'), {'parts_from': str(tiny_model_dir)} | fields)
  built = stages.build(config)
  params, stats, constants = built.init(jax.random.key(0))
  frozen = dict(store.load_model(tiny_model_dir, parts=built.needs).variables) | {'constants': constants}
  return built, *built.prepare(stages.context(params, stats, frozen), None, False), frozen


@pytest.mark.slow
def test_the_critic_pulls_as_hard_as_it_is_told_and_knows_however_steep_it_is(tiny_model_dir, monkeypatch):
  """A hundred times its slope changes the student's gradient hardly; one that is wrong half of the time pulls half as
  hard, one that knows nothing not at all, and so does any before its start."""
  photo = data.astronaut()[:64, :64][None].repeat(2, 0)
  batch = {'hr': jnp.asarray(photo), 'seed': jnp.arange(2, dtype=jnp.uint32)}
  judge = distill.disc_lib.hinge_loss
  monkeypatch.setattr(distill.disc_lib, 'hinge_loss', lambda real, fake: 0 * judge(real, fake) + wrong)
  wrong = None
  built, params, stats, frozen = _built(tiny_model_dir, **{'loss.teacher': 0.0, 'loss.adversarial_start': 0.5})
  plain_critic = params['critic']
  steep_critic = plain_critic | {'conv_out': jax.tree.map(lambda x: 100 * x, plain_critic['conv_out'])}

  @jax.jit
  def gradients(critic, step, known):
    nonlocal wrong
    wrong = known

    def loss(student):
      changed = params | {'student': student, 'critic': critic}
      return built.loss(stages.context(changed, stats, frozen, jax.random.key(1), step), batch)[0]

    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(jax.grad(loss)(params['student']))])

  gradient = lambda critic, step, known: np.asarray(gradients(critic, step, known))
  plain = gradient(plain_critic, 0, 0.0)
  for critic, step, known in ((steep_critic, 0, 0.0), (plain_critic, 1, 1.0), (plain_critic, 1, 1.3)):
    np.testing.assert_array_equal(plain, gradient(critic, step, known))
  pulled, steeply, half = (
    gradient(c, 1, known) - plain for c, known in ((plain_critic, 0.0), (steep_critic, 0.0), (plain_critic, 0.5))
  )
  assert 0.1 < np.linalg.norm(pulled) / np.linalg.norm(plain) < 10  # it does pull
  assert 0.5 < np.linalg.norm(pulled) / np.linalg.norm(steeply) < 2
  np.testing.assert_allclose(half, pulled / 2, atol=1e-4 * np.abs(pulled).max())


def test_of_one_step_no_loop_is_left():
  """A convolution's gradient inside a loop is a hundred times slower on a CPU, also in a loop of one trip."""
  schedule = diffusion.Schedule()

  def loops(steps, unroll):
    def run(w):
      z = diffusion.ddim(
        lambda z, t: w * z, schedule, jax.random.split(jax.random.key(0), 1), jnp.ones((1, 2)), steps, unroll=unroll
      )
      return z.sum()

    text = str(jax.make_jaxpr(jax.grad(run))(2.0))
    return text.count('scan[') + text.count('while['), float(run(2.0))

  for steps in (1, 3):
    (bare, a), (looped, b) = loops(steps, True), loops(steps, False)
    assert bare == 0 < looped and a == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize(
  'field,value,complaint',
  [
    ('schedule.prediction', 'v', "prediction='v'.*the teacher of parts_from"),
    ('model.student_vae.decoder_blocks', 2, 'config.model.student_vae.decoder_blocks is 2.*starts as the vae there'),
    ('model.student.channels', (8, 16), 'config.model.student.channels is .*the student starts as the unet there'),
  ],
)
def test_a_student_that_is_not_like_its_teacher_is_refused(tiny_model_dir, field, value, complaint):
  with pytest.raises(SSRError, match=complaint):
    _built(tiny_model_dir, **{field: value})
