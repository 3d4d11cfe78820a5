"""What the golden test pins: sampling, the first loss and the first step of each stage, as dictionaries of numbers.

python -m tests.golden.programs                            # writes tests/golden/outputs.npz anew
python -m tests.golden.programs --only compact/step/vae    # this case of it; the other numbers stay, to the bit
python -m tests.golden.programs FILE.npz   # writes another file, to compare two versions of the code to the bit
"""

import argparse
from collections.abc import Iterator, Sequence
import importlib
import pathlib
import sys
import tempfile

import jax
import numpy as np
import skimage.data

OUTPUTS = pathlib.Path(__file__).parent / 'outputs.npz'
STAGES = ('depth', 'kernel', 'nbsr', 'svkr', 'vae', 'diffusion', 'distill')
SIZES = ('tiny', 'compact')
SAMPLING = {
  'own': {},
  'restored': {'steps': 0},
  'unet': {'steps': 2, 'start': 0.5, 'seed': 3},
  'noise': {'steps': 2, 'sampler': 'ddpm', 'start': 1.0, 'colour_fix': 'none', 'strength': 0.7},
}


def names() -> Iterator[str]:
  """Every case."""
  for size in SIZES:
    yield from (f'{size}/sample/{how}' for how in (*SAMPLING, 'tiles'))
    yield from (f'{size}/{kind}/{stage}' for kind in ('loss', 'step') for stage in STAGES)


def run(name: str, tiny_model: pathlib.Path) -> dict[str, np.ndarray]:
  """The outputs of a case; those of 'tiny' are of the model in that directory."""
  size, kind, which = name.split('/')
  model = str(tiny_model) if size == 'tiny' else 'compact'
  return sample(model, which) if kind == 'sample' else step(size, which, model, kind == 'step')


def check(name: str, tiny_model: pathlib.Path) -> None:
  """Asserts that a case gives what was written."""
  with np.load(OUTPUTS) as stored:
    wanted = {key.split(':')[1]: stored[key] for key in stored.files if key.split(':')[0] == name}
  found = run(name, tiny_model)
  assert found.keys() == wanted.keys()
  for key, value in wanted.items():
    # Machines differ in how they order sums, and an optimiser's first steps are signs of gradients.
    moved = key.startswith(('moved/', 'step/update_norm'))
    np.testing.assert_allclose(found[key], value, rtol=2e-2 if moved else 2e-3, atol=2e-4, err_msg=f'{name}:{key}')


def sample(model: str, how: str) -> dict[str, np.ndarray]:
  """Image, restored image, depth and kernels of a photo of 40x52 pixels (of 72x100, in tiles of 64), thinned out."""
  import ssr_jax

  photo = skimage.data.astronaut()[::4, ::4].astype(np.float32) / 255
  options = SAMPLING.get(how, {'tile': 64})
  lr = photo[10:82, 20:120] if how == 'tiles' else photo[20:60, 40:92]
  result = ssr_jax.sample(lr, model=model, **options)
  found = {'image': result.image, 'restored': result.restored, 'depth': result.depth, 'kernels': result.kernels}
  return {key: np.asarray(value)[::5, ::5, ::7] for key, value in found.items()}


def begun(size: str, stage: str, model: str, **fields):
  """A stage before its first step: its config and the stage, a batch of two photos, parameters, statistics, frozen.

  Args:
    size: a file of configs/.
    stage: of SSR.
    model: where the frozen parts come from.
    **fields: of the config's section `train`.
  """
  from ssr_jax.training import stages
  from ssr_jax.weights import store

  config = importlib.import_module(f'configs.{size}').get_config(stage)
  config.parts_from = model
  config.train.warmup = 1
  config.train.update(fields)
  built = stages.build(config)
  side = config.data.patch = 64
  photo = skimage.data.coffee()
  hr = np.stack([photo[y : y + side, x : x + side] for y, x in ((20, 250), (150, 300))])
  rows = np.linspace(0, 1, side, dtype=np.float32)[:, None]
  depth = np.stack([np.broadcast_to(rows, (side, side)), rows * rows.T])
  batch = {'hr': hr, 'depth': depth, 'seed': np.array([5, 6], np.uint32)}
  if built.depth == 'none':
    del batch['depth']

  params, stats, constants = built.init(jax.random.key(0))
  frozen = dict(store.load_model(model, parts=built.needs).variables) if built.needs else {}
  frozen['constants'] = constants
  params, stats = built.prepare(stages.context(params, stats, frozen), batch, False)
  return config, built, batch, params, stats, frozen


def step(size: str, stage: str, model: str, moves: bool) -> dict[str, np.ndarray]:
  """Scalars of a stage's first loss and of its validation; or also of its first step, and norms after two."""
  from ssr_jax import xla
  from ssr_jax.training import sharding, stages
  from ssr_jax.training import state as state_lib

  config, built, batch, params, stats, frozen = begun(size, stage, model)
  found = {}
  context = stages.context(params, stats, frozen, jax.random.key(1))
  if not moves:
    value, (scalars, _) = xla.jit(built.loss)(context, batch)
    found |= {'loss/total': value, **{f'loss/{key}': value for key, value in scalars.items()}}
    found |= {f'validate/{key}': value for key, value in xla.jit(built.validate)(context, batch).items()}
    return {key: np.asarray(value) for key, value in found.items()}

  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  program = state_lib.program(built, config, mesh, params, stats, frozen)
  state = program.create(params, stats)
  state, scalars = program.step(state, frozen, batch, np.int32(0))
  state, _ = program.step(state, frozen, batch, np.int32(0))
  found |= {f'step/{key}': value for key, value in scalars.items()}
  for part in sorted(state.params):
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(state.ema[part])]
    found[f'norm/{part}'] = np.sqrt(sum((x**2).sum() for x in leaves))
    found[f'moved/{part}'] = np.sqrt(
      sum(((x - np.asarray(y)) ** 2).sum() for x, y in zip(leaves, jax.tree.leaves(params[part]), strict=True))
    )
  return {key: np.asarray(value) for key, value in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
  """Writes the cases' outputs."""
  sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
  from tests import conftest

  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('file', nargs='?', type=pathlib.Path, default=OUTPUTS)
  parser.add_argument('--only', action='append', choices=list(names()), metavar='CASE', help='may be given again')
  options = parser.parse_args(arguments)
  found = {}
  if options.only:
    with np.load(options.file) as stored:
      found = {key: x for key, x in stored.items() if key.split(':')[0] not in options.only}
  with tempfile.TemporaryDirectory() as directory:
    model = conftest.write_tiny_model(pathlib.Path(directory) / 'tiny')
    for name in options.only or names():
      found |= {f'{name}:{key}': x for key, x in run(name, model).items()}
  np.savez_compressed(options.file, **found)
  print(f'{len(found)} arrays, {sum(x.size for x in found.values())} numbers: {options.file}')


if __name__ == '__main__':
  main()
