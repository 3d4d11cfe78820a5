"""Meshes: where arrays go, and that no stage's training depends on how many devices share it."""

import json
import os
import pathlib
import subprocess
import sys

import jax
from jax.sharding import PartitionSpec
import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax.training import sharding
from ssr_jax.types import SSRError

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAGES = ('depth', 'kernel', 'nbsr', 'svkr', 'vae', 'diffusion', 'distill')
# One device, copies, slices, both. Each is compiled anew, so that all four for all stages take minutes:
# 'make test-all'.
MESHES = ('1x1x1', '8x1x1', '1x8x1', '2x4x1')


class _Mesh:
  """The sizes of a mesh, for the rules, which look at nothing else."""

  def __init__(self, data=1, fsdp=1, tensor=1):
    self.shape = dict(data=data, fsdp=fsdp, tensor=tensor)


@pytest.mark.parametrize(
  'path,shape,mesh,expected',
  [
    ('params/unet/conv_in/kernel', (3, 3, 64, 128), _Mesh(fsdp=8), (None, None, None, 'fsdp')),
    ('params/unet/conv_in/kernel', (3, 3, 128, 64), _Mesh(fsdp=8), (None, None, 'fsdp', None)),
    # The last of equals.
    ('params/unet/conv_in/kernel', (3, 3, 128, 128), _Mesh(fsdp=8), (None, None, None, 'fsdp')),
    ('params/unet/conv_in/kernel', (3, 3, 4, 60), _Mesh(fsdp=8), (None,) * 4),  # nothing divides
    ('params/unet/conv_in/bias', (64,), _Mesh(fsdp=8), ()),  # small
    ('params/unet/conv_in/kernel', (3, 3, 64, 128), _Mesh(data=8), (None,) * 4),
    ('params/unet/mid_attn/block_0_self/to_q/kernel', (128, 256), _Mesh(fsdp=2, tensor=4), ('fsdp', 'tensor')),
    ('params/unet/mid_attn/block_0_self/to_out/kernel', (128, 256), _Mesh(fsdp=2, tensor=4), ('tensor', 'fsdp')),
    ('optimizer/1/0/mu/unet/mid_res_0/conv1/kernel', (3, 3, 64, 64), _Mesh(tensor=4), (None, None, None, 'tensor')),
    ('params/unet/mid_res_0/conv2/kernel', (3, 3, 64, 64), _Mesh(tensor=4), (None, None, 'tensor', None)),
  ],
)
def test_rules(path, shape, mesh, expected):
  assert sharding.spec(path, shape, mesh, min_size=1000) == PartitionSpec(*expected)


def test_wrong_meshes_and_batches_say_what_fits():
  one = jax.devices()[:1]
  with pytest.raises(SSRError, match='does not divide 1 devices'):
    sharding.make_mesh({'data': 1, 'fsdp': 2}, one)
  with pytest.raises(SSRError, match='does not divide'):
    sharding.make_mesh({'data': -1, 'fsdp': -1}, one)
  assert dict(sharding.make_mesh({'data': -1}, one).shape) == {'data': 1, 'fsdp': 1, 'tensor': 1}
  with pytest.raises(SSRError, match='train.batch_size=6: must be a multiple of .* 2 x 2 x 3'):
    sharding.check_batch_size(6, 3, _Mesh(data=2, fsdp=2))


@pytest.mark.slow
@pytest.mark.parametrize('stage', STAGES)
def test_every_mesh_has_the_same_losses(stage, tiny_model_dir, tmp_path):
  """Five steps on 8 virtual devices, shared out as copies, as slices and as both, against one device."""
  for name in ('astronaut', 'coffee', 'chelsea', 'rocket'):
    Image.fromarray(getattr(data, name)()[:200, :240]).save(tmp_path / f'{name}.png')
  script = pathlib.Path(__file__).with_name('mesh_losses.py')
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, str(script), stage, str(tmp_path), str(tiny_model_dir), '5', *MESHES]
  done = subprocess.run(command, capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stderr[-3000:]
  losses = json.loads(done.stdout.splitlines()[-1])
  single = losses.pop(MESHES[0])
  assert np.ptp(single[::2]) > 1e-3 * abs(single[0]), 'five steps changed nothing'
  for mesh, found in losses.items():
    np.testing.assert_allclose(found, single, rtol=2e-4, err_msg=mesh)


@pytest.mark.slow
def test_a_state_goes_from_mesh_to_mesh_bit_for_bit(tmp_path):
  """8 slices -> 2 x 2 -> 2 x 2 x 2 -> one device: nothing differs from what was written first."""
  script = pathlib.Path(__file__).with_name('mesh_restore.py')
  meshes = ('1x8x1', '2x2x1', '2x2x2', '1x1x1')
  command = [sys.executable, str(script), str(tmp_path), *meshes]
  done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  assert tuple(found) == meshes
  for mesh, counts in found.items():
    assert counts['differ'] == counts['elsewhere'] == 0, mesh
    assert (counts['split'] > 0) is (mesh != '1x1x1'), mesh
