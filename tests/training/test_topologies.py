"""Names of slices and hosts, and what is said where their compiler is not installed."""

import importlib.util
import math

import pytest

from ssr_jax.training import topologies
from ssr_jax.types import SSRError


@pytest.mark.parametrize('kind,chips_per_number', [('v4', 2), ('v5p', 2), ('v5e', 1), ('v6e', 1)])
def test_slices_have_as_many_chips_as_their_name_says(kind, chips_per_number):
  for number in topologies.CHIPS[kind].slices:
    _, name = topologies.find_chip(f'{kind}-{number}')
    assert math.prod(map(int, name.split(':')[1].split('x'))) * chips_per_number == number


@pytest.mark.parametrize('name', ['v9-4', 'v5e-3', 'v5e', 'v5p-x'])
def test_an_unknown_slice_lists_the_known_ones(name):
  with pytest.raises(SSRError, match=rf'--topology={name}: unknown; known: v4-.*v5e-\{{1,4,8,16,.*256\}}'):
    topologies.find_chip(name)


def test_without_a_compiler_it_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(SSRError, match=r"libtpu.* is not installed; pip install 'jax\[tpu\]'"):
    topologies.devices('v5e-4')
  with pytest.raises(SSRError, match=r"plugin for CUDA.* is not installed; pip install 'jax\[cuda12\]'"):
    topologies.devices('h200-1')
