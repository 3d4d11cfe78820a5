"""Improves the bundled model: trains a stage for some minutes, validates, and keeps the better weights.

  python tools/improve.py STAGE --minutes 30 --data 'folder:DIR[;folder:DIR2]' [--workdir runs] [--scratch]

It starts from the model's weights if the model has the stage's parts (from scratch with --scratch), times a few steps,
and trains as many as fit into the given minutes, with a complete cosine schedule. The new weights replace the old ones
only if they are better in the stage's validation metric on a fixed set of held-out training photos; test images are not
used. Old weights that cannot be evaluated in this way, such as a UNet with another prediction type, are not replaced:
train with train.py, compare with evaluate.py, and install the better weights with `ssr export`. To continue an
interrupted run, repeat the command.
"""

import argparse
import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PROBE_STEPS = 40
_DECODES = re.compile('params/(decoder|post_quant_conv|shortcut_out)')


def train(arguments, workdir: pathlib.Path, fields: dict) -> None:
  """Runs train.py; exits with its code where it fails."""
  command = [sys.executable, str(ROOT / 'train.py'), f'--config={ROOT}/configs/{arguments.config}.py:{arguments.stage}']
  command += [f'--workdir={workdir}'] + [f'--config.{name}={value}' for name, value in fields.items()]
  code = subprocess.run(command, cwd=ROOT).returncode
  if code:
    sys.exit(code)


def rate(workdir: pathlib.Path) -> float:
  """Steps a second between the first and the last logged step of a probe."""
  rows = [json.loads(line) for line in (workdir / 'scalars.jsonl').read_text().splitlines()]
  rows = [row for row in rows if 'loss' in row]
  return (rows[-1]['step'] - rows[0]['step']) / max(rows[-1]['time'] - rows[0]['time'], 1e-3)


def as_built(fields: dict, name: str, stage: str, parts: dict) -> dict:
  """Config fields for a run with the existing networks, even if `fields` describe other ones.

  Args:
    fields: {config field: value}.
    name: of the config, a file in configs/.
    stage: the stage.
    parts: {part: its config in model.json}; entries without a config field, such as a measured scaling, are
      left out.
  """
  from ssr_jax import systems

  config = importlib.import_module(f'configs.{name}').get_config(stage)
  new = tuple(f'model.{part}.' for part in parts)
  kept = {field: value for field, value in fields.items() if not field.startswith(new)}
  modules = {part: systems.build(part, system=config.system, **entry) for part, entry in parts.items()}
  return kept | {
    f'model.{part}.{field}': getattr(module, field) for part, module in modules.items() for field in config.model[part]
  }


def verdict(summary: dict, former: dict | None) -> tuple[bool, str]:
  """Whether new weights replace the old ones, and the reason in one line.

  Args:
    summary: what train.py wrote: metric, higher_is_better and validation.
    former: validation of the weights to be replaced, or None if there are none.
  """
  metric = summary['metric']
  new = summary['validation'][metric]
  if former is None:
    return True, f'{metric} {new:.5f}; there were no weights to compare with'
  better = new > former[metric] if summary['higher_is_better'] else new < former[metric]
  return better, f'{metric} {former[metric]:.5f} -> {new:.5f}: {"better" if better else "not better"}'


def latents_change(new: pathlib.Path, old: pathlib.Path) -> bool:
  """Whether two models' autoencoders make different latents; False if only their decoders differ."""
  import numpy as np

  from ssr_jax.weights import format, store

  models = [store.load_model(m, parts=('vae',)) for m in (new, old)]
  scalings = [np.asarray(m.config['parts']['vae']['config'].get('scaling_factor')) for m in models]
  encoders = [format.flatten(m.variables['vae']) for m in models]
  encoders = [{k: v for k, v in tree.items() if not _DECODES.match(k)} for tree in encoders]
  return (
    not np.array_equal(*scalings)
    or encoders[0].keys() != encoders[1].keys()
    or any(not np.array_equal(encoders[0][k], encoders[1][k]) for k in encoders[0])
  )


def main(argv: list[str] | None = None) -> int:
  """Returns 0 if the new weights were installed, 3 if the old ones were kept, 2 for wrong arguments."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('stage', help="of the config's system; `ssr info SYSTEM` lists them")
  parser.add_argument('--minutes', type=float, required=True, help='how long to train')
  parser.add_argument('--data', required=True, help="training photos: 'folder:DIR', several joined by ';'")
  parser.add_argument('--config', default='compact', help='file in configs/')
  parser.add_argument('--model', default='compact', help='the model to improve: a name or a directory')
  parser.add_argument('--workdir', default='runs', help='where runs are kept')
  parser.add_argument('--scratch', action='store_true', help='start from new weights')
  parser.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', help='more config fields')
  arguments = parser.parse_args(argv)

  sys.path.insert(0, str(ROOT))
  from ssr_jax.training import checkpoint, stages
  from ssr_jax.weights import format, store

  try:
    target = store.resolve(arguments.model)
    entries = format.read_config(target)['parts']
    own = stages.build(importlib.import_module(f'configs.{arguments.config}').get_config(arguments.stage)).trains
  except ValueError as error:  # an SSRError, or an unknown stage
    print(f'error: {error}', file=sys.stderr)
    return 2
  present = all(part in entries for part in own)
  fields = {'data.train': arguments.data, 'parts_from': str(target)}
  fields |= dict(item.split('=', 1) for item in arguments.set)
  start = {'init_from': str(target)} if present and not arguments.scratch else {}

  run = pathlib.Path(arguments.workdir).absolute() / f'improve_{arguments.stage}'
  plan = run / 'plan.json'
  if not plan.exists():
    probe = run / 'probe'
    former = None
    if present:  # a run of no steps evaluates the old weights
      shutil.rmtree(probe, ignore_errors=True)
      here = as_built(fields, arguments.config, arguments.stage, {part: entries[part]['config'] for part in own})
      train(arguments, probe, here | {'init_from': str(target), 'train.steps': 0})
      former = json.loads((probe / 'summary.json').read_text())['validation']
    shutil.rmtree(probe, ignore_errors=True)
    quick = {'train.steps': _PROBE_STEPS, 'train.log_every': 10, 'train.validation_batches': 1}
    train(arguments, probe, fields | start | quick)
    steps = max(int(arguments.minutes * 60 * rate(probe)), 1)
    shutil.rmtree(probe)
    plan.write_text(json.dumps({'steps': steps, 'former': former}) + '\n')
  steps, former = (json.loads(plan.read_text())[name] for name in ('steps', 'former'))
  train(arguments, run / 'run', fields | start | {'train.steps': steps})

  summary = json.loads((run / 'run' / 'summary.json').read_text())
  better, line = verdict(summary, former)
  print(line)
  if better:
    moved = arguments.stage == 'vae' and 'unet' in entries and latents_change(run / 'run' / 'model', target)
    for part in summary['parts']:
      format.copy_part(run / 'run' / 'model', part, target)
    _, about, _ = checkpoint.read_weights(run / 'run')
    format.update(target, **about['export']['sections'])
    if moved:
      print('the latents changed: train diffusion and distill again before the model is used', file=sys.stderr)
  shutil.rmtree(run)
  return 0 if better else 3


if __name__ == '__main__':
  sys.exit(main())
