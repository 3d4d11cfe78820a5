"""Every stage learns: some steps on one batch, at tiny size, improve the stage's own metric by a margin."""

import jax
import numpy as np
import pytest

from ssr_jax import xla
from ssr_jax.training import sharding, stages
from ssr_jax.training import state as state_lib
from tests.golden import programs

# Steps, learning rate, and the least gain as a share of the metric at the start.
RUNS = {
  'depth': (40, 1e-2, 0.3),
  'kernel': (40, 1e-2, 0.3),
  'nbsr': (40, 1e-2, 0.02),
  'svkr': (20, 1e-2, 0.02),
  'vae': (40, 1e-2, 0.1),
  'diffusion': (40, 1e-2, 0.1),
  'distill': (20, 1e-3, 0.02),
}


@pytest.mark.slow
@pytest.mark.parametrize('stage', RUNS)
def test_its_own_metric_improves_by_a_margin(stage, tiny_model_dir):
  steps, rate, margin = RUNS[stage]
  settings = {'steps': steps, 'learning_rate': rate}
  config, built, batch, params, stats, frozen = programs.begun('tiny', stage, str(tiny_model_dir), **settings)
  program = state_lib.program(built, config, sharding.make_mesh(config.mesh, jax.devices()[:1]), params, stats, frozen)

  @xla.jit
  def validate(params, stats, batch):
    return built.validate(stages.context(params, stats, frozen, jax.random.key(1)), batch)[built.metric]

  state = program.create(params, stats)
  before = float(validate(state.params, state.stats, batch))
  for _ in range(steps):
    state, _ = program.step(state, frozen, batch, np.int32(0))
  after = float(validate(state.params, state.stats, batch))
  gain = (after - before) / abs(before) * (1 if built.higher_is_better else -1)
  assert int(state.skipped) == 0 and gain > margin, (before, after)
