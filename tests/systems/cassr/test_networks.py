"""CasSR's networks: their sizes, and what steers a prior at initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax import systems
from ssr_jax.systems.cassr import core, networks
from ssr_jax.systems.cassr.sizes import SIZES
from ssr_jax.systems.ssr.sizes import SIZES as SSR_SIZES
from ssr_jax.weights import format
from tests.systems.cassr.conftest import drawn


def count(part, size, prefix='params/'):
  shapes = format.abstract_variables(part, SIZES[size][part], system='cassr')
  return sum(shape.size for name, shape in shapes.items() if name.startswith(prefix))


@pytest.mark.slow
def test_parameters_of_the_full_size():
  assert count('prior', 'full') == 859_520_964  # SD 1.5's
  assert count('activation', 'full') == count('cassr', 'full', 'params/controlnet/') == 361_279_120
  assert count('cassr', 'full', 'params/extra_') == 47_576_960
  # Eqs. 1 and 2 in each of the nine transformers of the way up: c and e of its query and its tap.
  pairs = [(1280, 1280)] * 2 + [(1280, 640)] + [(640, 640)] * 2 + [(640, 320)] + [(320, 320)] * 3
  assert count('cassr', 'full', 'params/extra_') == 2 * sum(2 * c * c + 2 * c * e + 3 * c + 2 * e for c, e in pairs)
  assert count('prior', 'full', 'constants/') == 3 * 77 * 768


def test_parameters_of_the_compact_size():
  assert (count('prior', 'compact', 'params/unet/'), count('prior', 'compact', 'params/prompts')) == (2_691_400, 96)
  assert count('cassr', 'compact', 'params/controlnet/') == 1_177_824
  assert count('cassr', 'compact', 'params/extra_') == 195_456
  assert count('vae', 'compact') == 1_415_652


def test_the_parts_of_ssr_have_ssrs_sizes():
  for size, theirs in (('tiny', 'tiny'), ('compact', 'compact'), ('full', 'sd15')):
    for part in ('depth', 'dkenet', 'nbsr', 'vae'):
      assert SIZES[size][part] == SSR_SIZES[theirs][part], (size, part)
      assert systems.get('cassr').parts[part] is systems.get('ssr').parts[part]


def test_each_transformer_attends_to_the_tap_whose_skip_the_block_before_it_took():
  """At the full size: level and channels of taps by the rule that the way up pops what the way down pushed."""
  module = systems.build('cassr', system='cassr', **SIZES['full']['cassr'])
  channels = (320, 320, 320, 320, 640, 640, 640, 1280, 1280, 1280, 1280, 1280)  # of SD's twelve skip connections
  places = module.places()
  assert list(places) == [f'up_{i}_attn_{j}' for i in (1, 2, 3) for j in (0, 1, 2)]
  assert [skip for _, skip in places.values()] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
  assert [channels[skip] for _, skip in places.values()] == [1280, 1280, 640, 640, 640, 320, 320, 320, 320]


B, SIDE = 2, 16
Z = jnp.asarray(np.random.default_rng(0).standard_normal((B, SIDE, SIDE, 4)), jnp.float32)
T = jnp.array([10, 900])
HINTS = {
  name: jnp.asarray(np.random.default_rng(i).standard_normal((B, SIDE, SIDE, 8)), jnp.float32)
  for i, name in enumerate(('lr', 'reference'))
}


@pytest.fixture(scope='module')
def fresh():
  """A prior without zeros and what steers it as it is initialised, the ControlNet a copy of the prior."""
  prior, variables = drawn('prior')
  steering = systems.build('cassr', system='cassr', **SIZES['tiny']['cassr'])
  own = jax.jit(steering.init)(jax.random.key(1), *systems.get('cassr').parts['cassr'].example(steering))['params']
  trunk = variables['params']['unet']
  own = {**own, 'controlnet': {name: trunk.get(name, value) for name, value in own['controlnet'].items()}}
  return {'prior': prior, 'cassr': steering}, {'prior': variables, 'cassr': {'params': own}}


@pytest.mark.slow
def test_at_initialisation_it_is_the_prior_bit_for_bit(fresh):
  modules, variables = fresh
  context = jnp.asarray(variables['prior']['params']['prompts'])[jnp.array([1, 0])]
  alone = core.predict(modules, variables, Z, T, context)
  steered = core.predict(modules, variables, Z, T, context, HINTS)
  assert np.std(alone) > 0.1
  np.testing.assert_array_equal(steered, alone)


@pytest.mark.slow
def test_at_initialisation_what_is_zero_has_a_gradient(fresh):
  """The output layers of attention and the zero convolutions, each kernel and bias."""
  modules, variables = fresh
  context = jnp.asarray(variables['prior']['params']['prompts'])[jnp.array([1, 0])]

  def loss(params):
    return jnp.square(core.predict(modules, {**variables, 'cassr': {'params': params}}, Z, T, context, HINTS)).mean()

  gradients = format.flatten(jax.jit(jax.grad(loss))(variables['cassr']['params']))
  zero = [
    name for name in gradients if '/zero_' in name or (name.split('/')[-2] == 'to_out' and name.startswith('extra'))
  ]
  assert len(zero) == 2 * (5 + 4)  # four taps and the middle; two transformers, two images
  for name in zero:
    assert not np.any(format.flatten(variables['cassr']['params'])[name]) and np.any(gradients[name]), name


def test_tap_attention_is_a_restatement_in_numpy():
  """Heads by a loop, softmax and norms written out, e != c."""
  rng = np.random.default_rng(0)
  y, tap = rng.standard_normal((2, 6, 8)), rng.standard_normal((2, 2, 3, 5))
  module = networks.TapAttention(2)
  shapes = jax.eval_shape(module.init, jax.random.key(0), y, tap)
  params = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)['params']
  found = module.apply({'params': params}, jnp.asarray(y, jnp.float32), jnp.asarray(tap, jnp.float32))

  def norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p['scale'] + p['bias']

  a = params['attention']
  query, source = norm(y, params['norm']), norm(tap.reshape(2, 6, 5), params['norm_tap'])
  q, k, v = query @ a['to_q']['kernel'], source @ a['to_k']['kernel'], source @ a['to_v']['kernel']
  out = np.zeros((2, 6, 8))
  for b in range(2):
    for head in range(2):
      own = slice(4 * head, 4 * head + 4)
      weights = np.exp(q[b, :, own] @ k[b, :, own].T / 2)
      out[b, :, own] = weights / weights.sum(-1, keepdims=True) @ v[b, :, own]
  np.testing.assert_allclose(found, out @ a['to_out']['kernel'] + a['to_out']['bias'], atol=2e-5)


def test_tap_attention_stays_within_a_window():
  rng = np.random.default_rng(0)
  y, tap = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((1, 16, 8), (1, 4, 4, 5)))
  module = networks.TapAttention(2, window=2)
  shapes = jax.eval_shape(module.init, jax.random.key(0), y, tap)
  variables = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)
  gradient = jax.grad(lambda tap: module.apply(variables, y, tap)[0, 0].sum())(tap)
  seen = np.any(np.asarray(gradient)[0], -1)
  np.testing.assert_array_equal(seen, np.pad(np.ones((2, 2), bool), ((0, 2), (0, 2))))


@pytest.mark.parametrize('controls', [(), ('lr', 'lr'), ('lr', 'depth')])
def test_unknown_controls_are_refused(controls):
  fields = {**SIZES['tiny']['cassr'], 'controls': controls}
  module = systems.build('cassr', system='cassr', **fields)
  with pytest.raises(ValueError, match='must be some of lr, reference, each once'):
    jax.eval_shape(module.init, jax.random.key(0), *systems.get('cassr').parts['cassr'].example(module))
