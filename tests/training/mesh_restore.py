"""Writes a checkpoint on one mesh of 8 virtual devices and hands it from mesh to mesh.

  python tests/training/mesh_restore.py DIR MESH MESH ...

On each mesh the state of the one before is restored and saved again, with every leaf split where it can be. Prints one
JSON object: {MESH: {"differ": arrays that are not bit-equal to the first, "split": arrays that lie on several devices
in parts, "elsewhere": arrays that are not where the rules of this mesh put them}}. Run by test_sharding.py.
"""

import json
import pathlib
import sys

import jax

jax.config.update('jax_num_cpu_devices', 8)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from configs import common  # noqa: E402
from ssr_jax.training import checkpoint, sharding  # noqa: E402
from ssr_jax.training import state as state_lib  # noqa: E402


def main(folder, *meshes):
  """Prints the JSON object."""
  rng = np.random.default_rng(0)
  shapes = {'conv1/kernel': (3, 3, 8, 16), 'to_out/kernel': (16, 8), 'odd': (5, 7), 'bias': (16,), 'number': ()}
  draw = lambda: {'net': {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}}
  optimizer = state_lib.make_optimizer(common.base('nbsr', 'ssr').train)
  state = state_lib.create(draw(), {'net': draw()['net']}, optimizer)
  # As after some steps: no two arrays alike.
  state = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype) if x.dtype == jnp.float32 else x, state)
  first, constants, found = jax.tree.map(np.asarray, state), {'net': {'pca': np.arange(6.0, dtype=np.float32)}}, {}
  for i, name in enumerate(meshes):
    shape = dict(zip(sharding.AXES, map(int, name.split('x')), strict=True))
    mesh = sharding.make_mesh(shape, jax.devices()[: int(np.prod(list(shape.values())))])
    places = sharding.shardings(jax.eval_shape(lambda: first), mesh, 1)
    state = sharding.put(first if i == 0 else jax.tree.map(np.zeros_like, first), places)
    if i:
      store = checkpoint.Checkpoints(pathlib.Path(folder) / str(i - 1), 1, 'psnr', True)
      state, restored, data, _ = store.restore(7, state, constants)
      store.close()
      assert data == {'next_index': 3} and (restored['net']['pca'] == constants['net']['pca']).all()
    store = checkpoint.Checkpoints(pathlib.Path(folder) / str(i), 1, 'psnr', True)
    store.save(7, state, constants, {'next_index': 3}, {})
    store.close()
    leaves = list(zip(jax.tree.leaves(state), jax.tree.leaves(first), jax.tree.leaves(places), strict=True))
    found[name] = {
      'differ': sum(np.asarray(x).tobytes() != y.tobytes() for x, y, _ in leaves),
      'split': sum(not x.sharding.is_fully_replicated for x, _, _ in leaves),
      'elsewhere': sum(not x.sharding.is_equivalent_to(place, x.ndim) for x, _, place in leaves),
    }
  print(json.dumps(found))


if __name__ == '__main__':
  main(*sys.argv[1:])
