"""The shared step: clipping by part, the average, and a loss that goes down on a problem with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from ssr_jax.training import flops
from ssr_jax.training import state as state_lib
from ssr_jax.types import SSRError


def _train(**fields):
  config = common.base('nbsr', 'ssr').train
  return common.apply(config, {'warmup': 1, 'steps': 50, **fields})


def test_a_part_with_a_large_gradient_does_not_shrink_anothers():
  """The first Adam moment shows the clipped gradient: (1 - b1) times it."""
  optimizer = state_lib.make_optimizer(_train(clip=1.0))
  params = {'small': jnp.zeros(4), 'large': jnp.zeros(4)}
  gradients = {'small': jnp.full(4, 0.01), 'large': jnp.full(4, 1000.0)}
  _, state = optimizer.update(gradients, optimizer.init(params), params)
  (moments,) = [
    s
    for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, optax.ScaleByAdamState))
    if isinstance(s, optax.ScaleByAdamState)
  ]
  np.testing.assert_allclose(moments.mu['small'], 0.1 * 0.01, rtol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(moments.mu['large']), 0.1 * 1.0, rtol=1e-5)


def test_average_follows_its_formula_and_steps_reach_the_minimum():
  target = jnp.asarray([1.0, -2.0, 0.5])

  def loss(params, stats, frozen, batch, key, step):
    del frozen, batch, key, step
    return jnp.sum((params['p'] - target) ** 2), ({}, {'p': stats['p'] + 1})

  optimizer = state_lib.make_optimizer(_train(learning_rate=0.1, clip=100.0, steps=200))
  step = state_lib.make_step(loss, optimizer, ema=0.9)
  state = state_lib.create({'p': jnp.zeros(3)}, {'p': jnp.zeros(())}, optimizer)
  average = np.zeros(3)
  for n in range(200):
    state, scalars = step(state, {}, {}, 0)
    decay = min(0.9, (1 + n) / (10 + n))
    average = decay * average + (1 - decay) * np.asarray(state.params['p'])
  np.testing.assert_allclose(state.ema['p'], average, atol=1e-5)
  np.testing.assert_allclose(state.params['p'], target, atol=0.05)
  assert int(state.step) == 200 and float(state.stats['p']) == 200
  assert float(scalars['loss']) < 0.01


def test_frozen_parameters_stay_bit_equal_and_have_no_moments():
  """Weight decay would pull on them, were they only given zero gradients."""
  fixed = np.linspace(0.1, 1, 300, dtype=np.float32)
  params = {'net': {'a': {'kernel': fixed}, 'b': {'kernel': jnp.ones(5)}}, 'critic': {'a': {'kernel': jnp.ones(2)}}}
  mask = state_lib.trainable(params, ['net/a'])
  assert mask == {'net': {'a': {'kernel': False}, 'b': {'kernel': True}}, 'critic': {'a': {'kernel': True}}}

  def loss(params, stats, frozen, batch, key, step):
    del frozen, batch, key, step
    return sum(jnp.sum((p - 3.0) ** 2) for p in jax.tree.leaves(params)), ({}, stats)

  optimizer = state_lib.make_optimizer(_train(learning_rate=0.1, weight_decay=0.1), mask)
  state = state_lib.create(params, {}, optimizer)
  assert sum(x.size for x in jax.tree.leaves(state.optimizer) if x.ndim) == 2 * (5 + 2)
  step = state_lib.make_step(loss, optimizer, 0.9, mask=mask)
  for _ in range(20):  # a mean of equal numbers rounds to another one now and then
    state, _ = step(state, {}, {}, 0)
  for tree in (state.params, state.ema):
    np.testing.assert_array_equal(tree['net']['a']['kernel'], fixed)
    assert np.all(np.asarray(tree['net']['b']['kernel']) > 1) and np.all(np.asarray(tree['critic']['a']['kernel']) > 1)


def test_the_backward_pass_stops_at_what_is_frozen():
  """Of two layers the first is frozen: its weight gradient, as many operations as its forward pass, is not computed."""
  params = {'net': {'a': jnp.ones((8, 8)), 'b': jnp.ones((8, 8))}}

  def operations(frozen):
    mask = state_lib.trainable(params, frozen)
    optimizer = state_lib.make_optimizer(_train(), mask)
    state = state_lib.create(params, {}, optimizer)
    step = state_lib.make_step(
      lambda p, stats, frozen, batch, key, step: (
        jnp.sum((batch['x'] @ p['net']['a'] @ p['net']['b']) ** 2),
        ({}, stats),
      ),
      optimizer,
      0.9,
      mask=mask,
    )
    return flops.count(step.__wrapped__, state, {}, {'x': jnp.ones((4, 8))}, 0)

  product = 2 * 4 * 8 * 8
  assert operations([]) == 5 * product  # two forward, two weights, one input
  assert operations(['net/a']) == 3 * product


@pytest.mark.parametrize('frozen, complaint', [(['nut/a'], 'net/a'), (['net/('], 'expression'), (['.*'], 'nothing')])
def test_a_wrong_frozen_expression_says_what_there_is(frozen, complaint):
  with pytest.raises(SSRError, match=complaint):
    state_lib.trainable({'net': {'a': {'kernel': jnp.ones(3)}}}, frozen)


def _regression(params, stats, frozen, batch, key, step):
  del frozen, key, step
  error = batch['x'] @ params['net']['w'] - batch['y']
  return jnp.mean(error**2), ({'error': jnp.abs(error).mean()}, stats)


def test_accumulated_parts_give_the_whole_batchs_step():
  rng = np.random.default_rng(0)
  batch = {'x': rng.normal(size=(12, 3)).astype(np.float32), 'y': rng.normal(size=12).astype(np.float32)}
  params = {'net': {'w': jnp.asarray([0.3, -0.2, 0.1])}}
  found = []
  for parts in (1, 3):
    optimizer = state_lib.make_optimizer(_train(learning_rate=0.1))
    step = state_lib.make_step(_regression, optimizer, 0.9, accumulate=parts)
    state = state_lib.create(params, {}, optimizer)
    for _ in range(3):
      state, scalars = step(state, {}, batch, 0)
    found.append((state.params['net']['w'], scalars['loss'], scalars['error'], scalars['gradient_norm']))
  for whole, parts in zip(*found, strict=True):
    # A weight that passes near zero has lost its digits: 2e-7 is some roundings of the numbers it is the difference of.
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=2e-7)


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts():
  batch = {'x': np.ones((4, 3), np.float32), 'y': np.zeros(4, np.float32)}
  optimizer = state_lib.make_optimizer(_train(learning_rate=0.1))
  step = state_lib.make_step(_regression, optimizer, 0.9)
  state = state_lib.create({'net': {'w': jnp.ones(3)}}, {}, optimizer)
  state, scalars = step(state, {}, batch, 0)
  assert float(scalars['finite']) == 1 and int(state.skipped) == 0
  before = jax.tree.map(np.array, state)
  state, scalars = step(state, {}, batch | {'y': np.full(4, np.nan, np.float32)}, 0)
  assert float(scalars['finite']) == 0
  assert (int(state.step), int(state.skipped)) == (2, 1)
  for name in ('params', 'ema', 'optimizer'):
    jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(state, name))


def test_batch_statistics_are_averaged_as_the_weights_are():
  """Statistics 1, 2, 3, ... against the recurrence by hand; the newest are kept beside."""

  def loss(params, stats, frozen, batch, key, step):
    del frozen, batch, key, step
    return jnp.sum(params['p'] ** 2), ({}, {'p': stats['p'] + 1})

  optimizer = state_lib.make_optimizer(_train())
  step = state_lib.make_step(loss, optimizer, ema=0.3)
  state, average = state_lib.create({'p': jnp.ones(2)}, {'p': jnp.zeros(())}, optimizer), 0.0
  for n in range(6):
    state, _ = step(state, {}, {}, 0)
    decay = min(0.3, (1 + n) / (10 + n))
    average = decay * average + (1 - decay) * (n + 1)
  assert float(state.stats['p']) == 6
  assert float(state.ema_stats['p']) == pytest.approx(average, rel=1e-5)


def test_every_step_and_seed_has_its_own_key():
  def loss(params, stats, frozen, batch, key, step):
    return jnp.sum(params['p'] ** 2), ({'draw': jax.random.uniform(key), 'seen': 1.0 * step}, stats)

  optimizer = state_lib.make_optimizer(_train())
  step = state_lib.make_step(loss, optimizer, ema=0.9)
  draws, seen = [], []
  for seed in (0, 1):
    state = state_lib.create({'p': jnp.ones(2)}, {}, optimizer)
    for _ in range(3):
      state, scalars = step(state, {}, {}, seed)
      draws.append(float(scalars['draw']))
      seen.append(float(scalars['seen']))
  assert len(set(draws)) == 6 and seen == [0, 1, 2, 0, 1, 2]


def test_accumulated_parts_each_move_the_statistics_and_draw_by_themselves():
  """Part i has every second record from i on; the second part begins with the first's statistics."""

  def loss(params, stats, frozen, batch, key, step):
    draw = jax.random.uniform(key)
    moved = {'p': 10 * stats['p'] + batch['x'].sum(), 'draws': jnp.roll(stats['draws'], 1).at[0].set(draw)}
    return jnp.sum(params['p'] ** 2), ({'draw': draw}, moved)

  optimizer = state_lib.make_optimizer(_train())
  step = state_lib.make_step(loss, optimizer, ema=0.9, accumulate=2)
  state = state_lib.create({'p': jnp.ones(2)}, {'p': jnp.ones(()), 'draws': jnp.zeros(2)}, optimizer)
  state, scalars = step(state, {}, {'x': jnp.array([1.0, 2.0, 3.0, 4.0])}, 0)
  assert float(state.stats['p']) == 10 * (10 * 1 + (1 + 3)) + (2 + 4)
  first, second = np.asarray(state.stats['draws'])
  assert first != second and float(scalars['draw']) == pytest.approx((first + second) / 2, rel=1e-6)
