"""What is kept of a restorer's last call, and what is forgotten."""

import dataclasses

import numpy as np

from ssr_jax.evaluation.report.recorder import Recorder
from ssr_jax.runtime import Result
from ssr_jax.systems.ssr.system import SYSTEM


def test_the_recorder_hands_over_what_the_last_call_found():
  depth, kernels, image = (np.zeros((2, 2, n)) for n in (1, 9, 3))
  asked = []

  @dataclasses.dataclass
  class Double:
    system = SYSTEM
    config = 'config'

    def sample(self, lr, *, keep_kernels, **options):
      asked.append((keep_kernels, options))
      return Result(image, {'depth': depth, 'kernels': kernels if keep_kernels else None, 'restored': image})

  recorder = Recorder(Double())
  assert recorder.restorer.config == 'config' and recorder.take() == []
  recorder.start(keep_kernels=True)
  assert recorder.restorer.sample(None, keep_kernels=False, steps=3).image is image
  first, second = recorder.take()
  assert (first[0].name, second[0].name) == ('depth', 'kernels') and first[1] is depth and second[1] is kernels
  assert recorder.take() == []  # of a model that asked the restorer nothing
  recorder.restorer.sample(None, keep_kernels=False)
  recorder.start(keep_kernels=False)
  assert recorder.take() == []  # what a failed case has left
  recorder.restorer.sample(None, keep_kernels=False)
  assert [output.name for output, _ in recorder.take()] == ['depth']
  recorder.restorer.sample(None, keep_kernels=True)  # a metric needs them
  assert [output.name for output, _ in recorder.take()] == ['depth', 'kernels']
  assert asked == [(True, {'steps': 3}), (True, {}), (False, {}), (True, {})]

  nothing = Recorder(None)
  nothing.start(keep_kernels=True)
  assert nothing.restorer is None and nothing.take() == []
