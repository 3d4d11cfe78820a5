"""Trains one stage of the tiny config for some steps on several meshes of 8 virtual devices and prints the losses.

  python tests/training/mesh_losses.py STAGE PHOTOS MODEL_DIR STEPS MESH [MESH ...]

with STAGE one of configs/tiny.py, or SYSTEM:STAGE of configs/SYSTEM/tiny.py, and MESH such as 2x4x1 (data x fsdp x
tensor). One JSON object on stdout: {MESH: [loss, ...]}. Run by test_sharding.py
in a process of its own, for the number of devices is fixed when jax starts.
"""

import importlib
import json
import sys

import jax

jax.config.update('jax_num_cpu_devices', 8)

import numpy as np  # noqa: E402

from configs import common  # noqa: E402
from ssr_jax import xla  # noqa: E402
from ssr_jax.data import loader, records, sources  # noqa: E402
from ssr_jax.training import sharding, stages  # noqa: E402
from ssr_jax.training import state as state_lib  # noqa: E402
from ssr_jax.weights import store  # noqa: E402


def losses(config, mesh_shape: tuple[int, ...], steps: int) -> list[float]:
  """Loss and gradient norm of each step on one mesh."""
  count = int(np.prod(mesh_shape))
  mesh = sharding.make_mesh(dict(zip(sharding.AXES, mesh_shape, strict=True)), jax.devices()[:count])
  stage = stages.build(config)
  photos = sources.from_spec(config.data.train, ('hr',))
  make = records.scene_record(photos, 64, 64) if stage.depth == 'needs' else records.photo_record(64)
  data = loader.dataset(range(8) if stage.depth == 'needs' else photos, make, config.train.batch_size, 0)
  params, stats, constants = stage.init(jax.random.key(0))
  frozen = dict(store.load_model(config.parts_from, parts=stage.needs).variables) if stage.needs else {}
  frozen |= {'constants': constants}
  params, stats = jax.tree.map(np.asarray, stage.prepare(stages.context(params, stats, frozen), data[0], False))
  # Nothing is too small to be split here.
  program = state_lib.program(stage, common.apply(config, {'mesh.min_size': 1}), mesh, params, stats, frozen)
  split = [place for place in jax.tree.leaves(program.places) if any(place.spec)]
  assert bool(split) == (mesh.shape['fsdp'] * mesh.shape['tensor'] > 1), 'the mesh splits nothing'
  frozen = sharding.put(frozen, program.frozen_places)
  state = jax.jit(program.create, out_shardings=program.places)(params, stats)
  seed, found = sharding.put(np.int32(0), sharding.replicated(mesh)), []
  for i in range(steps):
    state, scalars = program.step(state, frozen, sharding.put_batch(data[i], mesh), seed)
    found += [float(scalars['loss']), float(scalars['gradient_norm'])]
  return found


def main(stage, photos, model, steps, *meshes):
  """Prints the JSON object."""
  xla.enable_compilation_cache()
  system, _, stage = stage.rpartition(':')
  tiny = importlib.import_module(f'configs.{system}.tiny' if system else 'configs.tiny')
  config = common.apply(
    tiny.get_config(stage),
    {'data.train': f'folder:{photos}', 'parts_from': model, 'train.batch_size': 8, 'train.learning_rate': 1e-3},
  )
  print(json.dumps({mesh: losses(config, tuple(map(int, mesh.split('x'))), int(steps)) for mesh in meshes}))


if __name__ == '__main__':
  main(*sys.argv[1:])
