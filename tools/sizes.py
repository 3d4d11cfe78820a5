"""Writes docs/sizes.md: parameters, operations and memory of each part of the full-size models and the compact one.

python tools/sizes.py            # writes docs/sizes.md
python tools/sizes.py --check    # exit code 1 where the file is not what it should be
"""

import argparse
import importlib
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FILE = ROOT / 'docs' / 'sizes.md'
LR = 128
HEAD = f"""# Sizes

Made by `python tools/sizes.py` from the configs; nothing is run, all shapes are traced. One image of {LR}x{LR} to
{4 * LR}x{4 * LR}. Operations are those of matrix products and convolutions, two for each multiply-add, of one call of
the part; SVKR calls depth and DKENet 1 + T times and NBSR T times (T = 3), sampling calls the UNet once a step (its
kernel and depth encoders' share is counted in, though a sampler computes it once) and the autoencoder's two halves
once. Weights are those of the parameters alone; a model's file on disk is float16.

"""

MEASURED = """## End to end

`python tools/random_model.py DIR --config sd21`, then `ssr upscale photo.png --model DIR --steps 2 -o out.png` with a
photo of 128x128, on a CPU with two cores in float32, random weights: 512x512 comes out, peak memory 8.8 GiB, 109 s of
processor time with loading and compiling. (Other programs held the cores; on the wall it was 1,298 s, which says
nothing.) Writing the model took 9.0 GiB.

## Training steps of the compact model on a CPU

`python tools/benchmark.py --cases train --configs compact`, two cores with nothing else to do, float32, jax 0.10.2:

| stage | batch | first step, with compilation, s | step, s | images a second | peak memory, MB |
|---|---|--:|--:|--:|--:|
| depth | 8 of 128x128 | 17.4 | 0.130 | 61.6 | 1569 |
| kernel | 16 of 128x128 | 21.0 | 0.399 | 40.1 | 1812 |
| nbsr | 8 of 128x128 | 11.9 | 0.299 | 26.7 | 1182 |
| svkr | 8 of 128x128 | 58.2 | 2.07 | 3.9 | 3397 |
| vae | 8 of 128x128 | 13.4 | 0.496 | 16.1 | 1952 |
| diffusion | 8 of 128x128, two draws each | 93.9 | 1.04 | 7.7 | 3895 |
| distill | 8 of 128x128 | 120.3 | 1.27 | 6.3 | 4356 |

A step is the device's part: without reading photos, which workers do beside it.
"""


def rows(name: str) -> list[tuple[str, int, int]]:
  """(part, parameters, operations) of a config's parts."""
  import jax
  import jax.numpy as jnp

  from ssr_jax import systems
  from ssr_jax.systems.ssr.encoders import Conditions
  from ssr_jax.training import flops

  config = importlib.import_module(f'configs.{name}').get_config()
  lr, hr = jnp.zeros((1, LR, LR, 3)), jnp.zeros((1, 4 * LR, 4 * LR, 3))
  found = []
  for part in (p for p in systems.get('ssr').parts if p in config.model):  # a student is the UNet again
    module = systems.build(part, **config.model[part].to_dict())
    shapes = jax.eval_shape(module.init, jax.random.key(0), *systems.get('ssr').parts[part].example(module))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
    if part == 'vae':
      side = 4 * LR // module.reduction
      latent = jnp.zeros((1, side, side, module.latent_channels))
      calls = [('vae, encoder', (hr,), 'encode'), ('vae, decoder', (latent,), 'decode')]
    elif part == 'unet':
      conditions = Conditions(jnp.zeros((1, LR, LR, module.code_channels)), jnp.zeros((1, LR, LR, 1)), lr, latent)
      calls = [('unet with AMF and encoders, one step', (latent, jnp.zeros((1,), jnp.int32), conditions), '__call__')]
    else:
      inputs = {'depth': (hr,), 'dkenet': (lr, jnp.zeros((1, LR, LR, 1))), 'nbsr': (lr, jnp.zeros((1, LR, LR, 441)))}
      calls = [(part, inputs[part], '__call__')]
    for label, inputs, method in calls:
      work = flops.count(lambda v, *a: module.apply(v, *a, method=method), shapes, *inputs)
      inside = count
      if part == 'vae':
        half = method == 'encode'
        inside = sum(
          leaf.size
          for path, leaf in jax.tree_util.tree_leaves_with_path(shapes['params'])
          if (path[0].key in ('encoder', 'quant_conv', 'shortcut_in')) == half
        )
      found.append((label, inside, work))
    if part == 'unet':
      base = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes['params']['unet'])
        if not any(entry.key == 'amf' for entry in path)
      )
      found.append(('  of these the base UNet', base, 0))
  return found


def table(name: str) -> str:
  """The section of one config."""
  lines = [
    f'## configs/{name}.py',
    '',
    '| part | parameters | GFLOP | weights float32, MB | bfloat16, MB |',
    '|---|--:|--:|--:|--:|',
  ]
  total = 0
  for label, count, work in rows(name):
    gflop = f'{work / 1e9:,.1f}' if work else ''
    lines.append(f'| {label} | {count:,} | {gflop} | {4 * count / 1e6:,.1f} | {2 * count / 1e6:,.1f} |')
    total += 0 if label.startswith(' ') else count
  lines.append(f'| all | {total:,} | | {4 * total / 1e6:,.1f} | {2 * total / 1e6:,.1f} |')
  return '\n'.join(lines) + '\n'


def depth_table() -> str:
  """The published depth nets, each at its own resolution."""
  import jax
  import jax.numpy as jnp

  from ssr_jax import systems
  from ssr_jax.nn.depth import dpt
  from ssr_jax.training import flops

  lines = [
    '## Depth nets to choose from',
    '',
    '| name | resolution | parameters | GFLOP | weights float32, MB | bfloat16, MB |',
    '|---|--:|--:|--:|--:|--:|',
  ]
  for name, fields in dpt.SIZES.items():
    module = systems.build('depth', family='dpt', **fields)
    image = jnp.zeros((1, *module.resolution, 3))
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    work = flops.count(module.apply, shapes, image)
    side = 'x'.join(map(str, module.resolution))
    lines.append(
      f'| {name} | {side} | {count:,} | {work / 1e9:,.1f} | {4 * count / 1e6:,.1f} | {2 * count / 1e6:,.1f} |'
    )
  return '\n'.join(lines) + '\n'


def main() -> int:
  """Writes or checks the file; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--check', action='store_true', help='compare with the file, write nothing')
  arguments = parser.parse_args()
  text = HEAD + '\n'.join([*(table(name) for name in ('sd21', 'sd15', 'compact')), depth_table(), MEASURED])
  if arguments.check:
    if not FILE.is_file() or FILE.read_text() != text:
      print(f'{FILE}: not what tools/sizes.py makes now; run it', file=sys.stderr)
      return 1
    return 0
  FILE.parent.mkdir(exist_ok=True)
  FILE.write_text(text)
  print(text)
  return 0


if __name__ == '__main__':
  sys.exit(main())
