"""Counts of operations against formulas and against loops that multiply one number at a time."""

import jax
import jax.numpy as jnp
import pytest

from configs import common, tiny
from ssr_jax.training import flops, shapes, state


def test_matrix_products_in_loops_and_branches():
  a, b = jnp.zeros((5, 7)), jnp.zeros((7, 3))
  assert flops.count(lambda a, b: a @ b, a, b) == 2 * 5 * 7 * 3
  assert flops.count(jax.jit(lambda a, b: jnp.tanh(a @ b)), a, b) == 2 * 5 * 7 * 3
  assert flops.count(lambda a: jax.lax.fori_loop(0, 4, lambda i, x: x @ jnp.ones((7, 7)), a), a) == 4 * 2 * 5 * 7 * 7
  branches = lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) @ jnp.ones((3, 3)))
  assert flops.count(branches, a, b) == 2 * 5 * 7 * 3 + 2 * 5 * 3 * 3
  batched = lambda a: jnp.einsum('bij,bkj->bik', a, a)
  assert flops.count(batched, jnp.zeros((4, 5, 6))) == 2 * 4 * 5 * 5 * 6


def test_unknown_loops_are_refused():
  endless = lambda a: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, a)
  with pytest.raises(ValueError, match='unknown length'):
    flops.count(endless, jnp.zeros((3, 3)))


@pytest.mark.parametrize(
  'stride,padding,side', [(1, 'SAME', 6), (2, 'SAME', 7), (1, 'VALID', 6), (2, ((1, 1), (1, 1)), 6)]
)
def test_convolutions_count_the_multiplications_that_a_loop_would_do(stride, padding, side):
  image, kernel = jnp.zeros((2, side, side, 3)), jnp.zeros((3, 3, 3, 4))
  conv = lambda x, w: jax.lax.conv_general_dilated(
    x, w, (stride,) * 2, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  out = jax.eval_shape(conv, image, kernel).shape[1]
  pads = (
    {'VALID': 0, 'SAME': max((out - 1) * stride + 3 - side, 0) // 2}.get(padding, 1) if isinstance(padding, str) else 1
  )
  pairs = sum(0 <= o * stride + tap - pads < side for o in range(out) for tap in range(3))
  forward = flops.count(conv, image, kernel)
  assert forward == 2 * 2 * pairs**2 * 3 * 4
  # Each multiply-add of the forward pass has one in the gradient of the image and one in that of the kernel.
  both = flops.count(lambda x, w: jax.vjp(conv, x, w)[1](conv(x, w)), image, kernel)
  assert both == 2 * forward + 2 * forward  # vjp runs the forward pass too


def test_groups_count_their_own_inputs():
  image, kernel = jnp.zeros((1, 4, 4, 6)), jnp.zeros((1, 1, 2, 6))
  conv = lambda x, w: jax.lax.conv_general_dilated(
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=3
  )
  assert flops.count(conv, image, kernel) == 2 * 16 * 6 * 2


def test_a_step_counts_the_same_with_and_without_rematerialisation_and_less_where_parts_are_frozen():
  def count(**fields):
    config = common.apply(tiny.get_config('nbsr'), {f'train.{name}': value for name, value in fields.items()})
    stage, params, stats, frozen = shapes.of_run(config)
    batch = shapes.of_batch(stage, config, 2)

    def loss(params, stats, frozen, batch):
      return state.loss_of(stage)(params, stats, frozen, batch, jax.random.key(0), jnp.zeros((), jnp.int32))[0]

    as_run = flops.count(jax.grad(loss), params, stats, frozen, batch)
    return flops.of_step(config, params, stats, frozen, batch), as_run

  work, as_run = count()
  assert work == as_run > 0
  again, as_run = count(remat='blocks')
  assert again == work < as_run
  less, _ = count(frozen=('nbsr/conv_in', 'nbsr/block_1'))
  assert work / 3 < less < work  # the forward pass is a third


def test_an_unknown_chip_has_no_peak():
  class Chip:
    def __init__(self, kind):
      self.device_kind = kind

  assert flops.peak(Chip('TPU v5 lite')) == 197e12 and flops.peak(Chip('TPU v5')) == 459e12
  assert flops.peak(Chip('NVIDIA H200')) == 990e12
  assert flops.peak(Chip('cpu')) is None
