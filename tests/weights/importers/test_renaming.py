"""Name tables: every tensor gets its place and layout, or is listed in an error."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.types import SSRError
from ssr_jax.weights import format, importers
from tests.weights.importers import helpers

VAE = dict(channels=[8, 16], encoder_blocks=1, decoder_blocks=2, groups=4)


def test_every_wrong_name_and_shape_is_listed():
  table, shapes = importers.vae_table(), helpers.expected('vae', VAE)
  state = helpers.theirs(table, shapes)
  state['encoder.conv_in.weight'] = state['encoder.conv_in.weight'][:, :2]
  state['encoder.extra.weight'] = state.pop('decoder.conv_out.bias')
  with pytest.raises(SSRError) as error:
    table.to_ours(state, shapes, 'FILE')
  message = str(error.value)
  assert message.startswith('FILE: not the weights of this network: no place for encoder.extra.weight; ')
  assert 'missing decoder.conv_out.bias; ' in message and 'shape of encoder.conv_in.weight (8, 2, 3, 3)' in message
  assert '\n' not in message
  with pytest.raises(SSRError, match='no name for params/gan/kernel'):
    table.to_theirs({'params/gan/kernel': np.zeros((2, 2))})


def test_two_tensors_for_one_place_are_an_error():
  table, shapes = importers.vae_table(), helpers.expected('vae', VAE)
  state = helpers.theirs(table, shapes)
  state['encoder.mid_block.attentions.0.query.weight'] = state['encoder.mid_block.attentions.0.to_q.weight']
  with pytest.raises(SSRError, match=r'no place for encoder\.mid_block\.attentions\.0\.query\.weight'):
    table.to_ours(state, shapes, 'FILE')


def test_old_names_of_the_autoencoders_attention_and_both_kinds_of_projection():
  table, shapes = importers.vae_table(), helpers.expected('vae', VAE)
  state = helpers.theirs(table, shapes)
  want = table.to_ours(state, shapes, 'FILE')
  renames = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
  old = {}
  for name, array in state.items():
    for new, before in renames.items():
      if f'attentions.0.{new}.' in name:
        name = name.replace(f'.{new}.', f'.{before}.')
        array = array[:, :, None, None] if array.ndim == 2 else array  # 1x1 convolutions in the oldest ones
    old[name] = array
  assert old.keys() != state.keys()
  got = table.to_ours(old, shapes, 'FILE')
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])


def test_layouts_against_loops():
  """A 2x2 convolution of stride 2 and its transpose, applied by loops to both layouts."""
  from ssr_jax.nn.layers import Downsample2x2, Upsample2x2

  w, bias, x = (
    helpers.rng().normal(size=(5, 3, 2, 2)),
    helpers.rng(1).normal(size=5),
    helpers.rng(2).normal(size=(1, 4, 6, 3)),
  )
  table = importers.Table([('a', 'b', 'cell')])
  ours = table.to_ours(
    {'b.weight': w, 'b.bias': bias}, {'params/a/conv/kernel': np.empty((12, 5)), 'params/a/conv/bias': np.empty(5)}, ''
  )
  got = Downsample2x2(5).apply({'params': format.unflatten(ours)['params']['a']}, jnp.asarray(x, jnp.float32))
  want = np.array(
    [
      [
        [
          [(x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].transpose(2, 0, 1) * w[o]).sum() + bias[o] for o in range(5)]
          for j in range(3)
        ]
        for i in range(2)
      ]
    ]
  )
  np.testing.assert_allclose(got, want, atol=1e-5)

  w = helpers.rng().normal(size=(3, 5, 2, 2))
  table = importers.Table([('a', 'b', 'transposed2')])
  ours = table.to_ours(
    {'b.weight': w, 'b.bias': bias}, {'params/a/conv/kernel': np.empty((3, 20)), 'params/a/bias': np.empty(5)}, ''
  )
  got = Upsample2x2(5).apply({'params': format.unflatten(ours)['params']['a']}, jnp.asarray(x, jnp.float32))
  want = np.empty((1, 8, 12, 5))
  for i in range(8):
    for j in range(12):
      want[0, i, j] = x[0, i // 2, j // 2] @ w[:, :, i % 2, j % 2] + bias
  np.testing.assert_allclose(got, want, atol=1e-5)
