"""Sampling and the first steps of every stage give what they gave when these numbers were written; here at tiny size.

They pin the wiring between parts: flip the depth that the UNet sees, or swap two conditions, and a number moves. The
parts themselves are compared with independent references elsewhere. A change that is meant to change results writes
the numbers anew (`python -m tests.golden.programs`) and says why.
"""

import numpy as np
import pytest

from tests.golden import programs

# Whole networks are compiled for one number, or several programs.
_LONG = tuple(f'tiny/loss/{stage}' for stage in ('depth', 'kernel', 'nbsr', 'svkr', 'vae', 'diffusion', 'distill'))
_LONG += ('tiny/sample/own', 'tiny/sample/unet', 'tiny/sample/tiles', 'tiny/sample/noise')


def _cases():
  # Gradients take minutes to compile.
  names = [name for name in programs.names() if name.startswith('tiny/')]
  quick = lambda name: '/step/' not in name and name not in _LONG
  return [pytest.param(name, marks=() if quick(name) else pytest.mark.slow) for name in names]


def test_sampling_and_every_stages_loss_and_step_are_pinned_at_both_sizes():
  with np.load(programs.OUTPUTS) as stored:
    assert {key.split(':')[0] for key in stored.files} == set(programs.names())


@pytest.mark.parametrize('name', _cases())
def test_outputs_are_as_they_were(name, tiny_model_dir):
  programs.check(name, tiny_model_dir)
