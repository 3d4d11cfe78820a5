"""CLIPText: sizes of the published encoders, causality, complaints. Its numbers are compared in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.nn.clip import CLIPText

SMALL = dict(width=16, layers=2, heads=2, hidden=24, vocabulary=50, positions=9)


def filled(module, tokens):
  rng = np.random.default_rng(0)
  tree = jax.eval_shape(module.init, jax.random.key(0), tokens)
  return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.3, a.shape), jnp.float32), tree)


@pytest.mark.parametrize(
  'config, count',
  [({}, 123_060_480), (dict(width=1024, layers=23, heads=16, hidden=4096, activation='gelu'), 340_387_840)],
  ids=['sd15', 'sd21'],
)
def test_full_size_has_the_parameters_of_stable_diffusions_encoders(config, count):
  tokens = jax.ShapeDtypeStruct((1, 77), jnp.int32)
  module = CLIPText(**config)
  v = jax.eval_shape(module.init, jax.random.key(0), tokens)
  assert sum(int(np.prod(a.shape)) for a in jax.tree.leaves(v)) == count
  assert jax.eval_shape(module.apply, v, tokens).shape == (1, 77, config.get('width', 768))


def test_a_token_sees_those_before_it_only():
  tokens = jnp.arange(9)[None] + 3
  module = CLIPText(**SMALL)
  v = filled(module, tokens)
  run = jax.jit(module.apply)
  before, after = run(v, tokens), run(v, tokens.at[0, 5].set(40))
  np.testing.assert_allclose(before[0, :5], after[0, :5], atol=1e-6)
  assert (jnp.abs(before - after)[0, 5:].max(-1) > 1e-3).all()


def test_activations_differ():
  tokens = jnp.arange(4)[None]
  v = filled(CLIPText(**SMALL), tokens)
  quick, exact = (CLIPText(**SMALL, activation=a).apply(v, tokens) for a in ('quick_gelu', 'gelu'))
  assert 1e-4 < jnp.abs(quick - exact).max() < 0.5


@pytest.mark.parametrize(
  'config, shape, match',
  [
    ({}, (1, 10), 'n up to 9'),
    (dict(activation='relu'), (1, 3), "'relu'.*quick_gelu"),
    (dict(heads=3), (1, 3), '3 heads'),
  ],
)
def test_what_does_not_fit_is_named(config, shape, match):
  module = CLIPText(**{**SMALL, **config})
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape, jnp.int32))
