"""Writes a model of a config's size with random weights, to measure time and memory without a download.

  python tools/random_model.py DIR --config sd21
  ssr upscale photo.png --model DIR --steps 2 -o noise.png

Its results are noise of the right shape. Parts are drawn and written one after the other; the largest, the UNet,
needs about 8 GB of memory.
"""

import argparse
import importlib
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

CONFIGS = ('sd21', 'sd15', 'compact', 'tiny')


def draw(shapes, seed: int) -> dict[str, np.ndarray]:
  """Random variables of the given shapes, scaled to gains of about one; biases are zero.

  Args:
    shapes: {flat name: anything with a shape}, as `format.abstract_variables` gives them.
    seed: of the draw.
  """
  rng = np.random.default_rng(seed)
  found = {}
  for name, shape in shapes.items():
    leaf, sizes = name.rsplit('/', 1)[-1], shape.shape
    if leaf in ('scale', 'var') or leaf.startswith('scale'):
      found[name] = np.ones(sizes, np.float32)
    elif len(sizes) < 2:
      found[name] = np.zeros(sizes, np.float32)
    else:
      value = rng.standard_normal(sizes, np.float32)
      value *= np.float32(np.prod(sizes[:-1]) ** -0.5)
      found[name] = value
  return found


def main() -> int:
  """Writes the model."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('directory', metavar='DIR', type=pathlib.Path)
  parser.add_argument('--config', choices=CONFIGS, default='sd21', help='configs/NAME.py (default: %(default)s)')
  parser.add_argument('--seed', type=int, default=0)
  arguments = parser.parse_args()

  from ssr_jax import systems
  from ssr_jax.weights import format

  config = importlib.import_module(f'configs.{arguments.config}').get_config()
  system = systems.get(config.system)
  for part in (p for p in system.parts if p in config.model):
    start = time.monotonic()
    fields = config.model[part].to_dict()
    tensors = draw(format.abstract_variables(part, fields, system=system.name), arguments.seed)
    count = sum(value.size for name, value in tensors.items() if name.startswith('params/'))
    about = {'random': True, 'seed': arguments.seed}
    format.save_part(arguments.directory, part, fields, format.unflatten(tensors), about, system=system.name)
    del tensors
    print(f'{part}: {count:,} parameters, {time.monotonic() - start:.0f} s', flush=True)
  sections = {name: config[name].to_dict() for name in system.sections if name in config}
  format.update(arguments.directory, **sections)
  return 0


if __name__ == '__main__':
  sys.exit(main())
