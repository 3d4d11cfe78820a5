"""`ssr info`: its numbers against published ones, the bundled files and counts of single calls."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from ssr_jax import cli, systems
from ssr_jax.systems.ssr.encoders import Conditions
from ssr_jax.systems.ssr.options import Options
from ssr_jax.training import flops
from ssr_jax.weights import format, store

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _json(capsys, *arguments):
  assert cli.main(['info', *map(str, arguments), '--json']) == 0
  return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_system_is_described_as_it_is(capsys):
  found, system = _json(capsys, 'ssr', '--size', 'tiny'), systems.get('ssr')
  assert list(found['parts']) == list(system.parts) and list(found['stages']) == list(system.stages)
  assert found['parts']['depth']['families'] == ['compact', 'dpt']
  assert [(o['name'], o['kind'], o['label']) for o in found['outputs']][2:] == [
    ('restored', 'image', 'restored'),
    ('image', 'image', 'result'),
  ]
  assert list(found['options']) == list(Options.__dataclass_fields__)
  steps = found['options']['steps']
  assert steps['kind'] == 'int' and steps['default'] is None and 'diffusion steps' in steps['help']
  assert found['stages']['svkr'] == {
    'about': system.stages['svkr'].__doc__.splitlines()[0],
    'trains': ['dkenet', 'nbsr'],
    'needs': ['depth'],
    'metric': 'psnr',
    'higher_is_better': True,
  }
  assert found['variants'] == {
    'restored': {'output': 'restored', 'options': {'steps': 0}},
    'result': {'output': 'image', 'options': {}},
  }
  assert list(found['sizes']) == ['tiny']

  assert cli.main(['info', 'ssr', '--size', 'tiny']) == 0
  text = capsys.readouterr().out
  for word in (*system.parts, *system.stages, *found['options'], "shown as 'result'", 'size tiny'):
    assert word in text
  count = found['sizes']['tiny']['parts']['unet']['parameters']
  assert re.search(rf'^  unet +{count:,} ', text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize('size, base', [('sd21', 865_910_724), ('sd15', 859_520_964)])
def test_full_sizes_have_the_published_parameters(size, base, capsys):
  found = _json(capsys, 'ssr', '--size', size)['sizes'][size]
  counts = {part: entry['parameters'] for part, entry in found['parts'].items()}
  assert {**counts, 'unet': 0} == {
    'depth': 341_848_257,
    'dkenet': 2_875_065,
    'nbsr': 8_086_256,
    'vae': 83_653_863,
    'unet': 0,
  }
  for part in ('vae', 'unet'):  # the groups are the whole
    assert sum(found['parts'][part]['groups'].values()) == counts[part]
  assert found['parts']['unet']['groups']['base UNet'] == base
  assert found['parts']['vae'] | {'groups': None} == {
    'parameters': 83_653_863,
    'float32_bytes': 4 * 83_653_863,
    'bfloat16_bytes': 2 * 83_653_863,
    'groups': None,
  }
  # docs/sizes.md says the same.
  lines = [line.split() for line in (ROOT / 'docs' / 'sizes.md').read_text().splitlines()]
  table = lines[lines.index(['size', size]) :]
  for part, count in counts.items():
    (row,) = [line for line in table[: table.index(['```'])] if line[:1] == [part]]
    work = [f'{e["flops"][part] / 1e9:,.1f}' for e in found['restoring'].values() if part in e['flops']]
    assert row[1] == f'{count:,}' and row[4:] == work


@pytest.mark.slow
def test_operations_are_those_of_each_call(capsys):
  """SVKR of three rounds calls depth, DKENet and NBSR three times; the UNet runs once a step."""
  found = _json(capsys, 'ssr', '--size', 'tiny')['sizes']['tiny']['restoring']
  fields = systems.get('ssr').sizes['tiny']
  lr = jnp.zeros((1, 128, 128, 3))

  def one(part, *inputs, method='__call__'):
    module = systems.build(part, **fields[part])
    variables = format.unflatten(format.abstract_variables(part, fields[part]))
    return flops.count(lambda v, *a: module.apply(v, *a, method=method), variables, *inputs)

  restored = found['restored']['flops']
  assert restored['depth'] == 3 * one('depth', jnp.zeros((1, 32, 32, 3)))
  assert restored['dkenet'] == 3 * one('dkenet', lr, jnp.zeros((1, 128, 128, 1)))
  assert restored['nbsr'] == 3 * one('nbsr', lr, jnp.zeros((1, 128, 128, 441)))
  assert set(restored) == {'depth', 'dkenet', 'nbsr', 'other'} and found['restored']['options']['steps'] == 0
  result = found['result']['flops']
  assert {part: result[part] for part in ('depth', 'dkenet', 'nbsr')} == {k: restored[k] for k in list(restored)[:3]}
  vae = systems.build('vae', **fields['vae'])
  latent = jnp.zeros((1, 512 // vae.reduction, 512 // vae.reduction, vae.latent_channels))
  both = one('vae', jnp.zeros((2, 512, 512, 3)), method='to_latents')
  assert result['vae'] == both + one('vae', latent, method='from_latents')
  # The UNet: what it sees of kernels and depth once, then a call a step.
  unet = systems.build('unet', **fields['unet'])
  variables = format.unflatten(format.abstract_variables('unet', fields['unet']))
  steer = Conditions(jnp.zeros((1, 128, 128, unet.code_channels)), lr[..., :1], lr, latent)
  maps = lambda v, steer: unet.apply(v, steer, method='encode_maps')
  step = lambda v, z, t, steer, maps: unet.apply(v, z, t, steer, maps=maps)
  seen = jax.eval_shape(maps, variables, steer)
  each = flops.count(step, variables, latent, jnp.zeros(1, jnp.int32), steer, seen)
  assert found['result']['options']['steps'] == 8
  assert result['unet'] == flops.count(maps, variables, steer) + 8 * each


@pytest.mark.slow
def test_a_models_numbers_are_those_of_its_files(capsys):
  found = _json(capsys, 'compact')
  directory = store.BUNDLED['compact']
  assert found['system'] == 'ssr' and found['scale'] == 4 and found['directory'] == str(directory)
  for part, entry in found['parts'].items():
    file = directory / entry['file']
    count = sum(x.size for name, x in load_file(file).items() if name.startswith('params/'))
    assert entry['parameters'] == count and entry['bytes'] == file.stat().st_size and entry['intact'], part
    assert entry['training']['steps'] > 0
  assert found['sections']['sampling']['student']['steps'] == 1
  result = found['restoring']['result']
  assert result['options']['steps'] == 1 and result['options']['blend'] == 0.4  # the student's own
  assert set(result['flops']) == {'depth', 'dkenet', 'nbsr', 'student', 'student_vae', 'other'}

  assert cli.main(['info', str(directory)]) == 0
  text = capsys.readouterr().out
  assert text.startswith('compact: a model of ssr, x4')
  total = sum(entry['parameters'] for entry in found['parts'].values())
  assert re.search(rf'^  all +{total:,} ', text, re.MULTILINE)
  for entry in found['parts'].values():
    assert entry['sha256'][:12] in text and f'{entry["bytes"] / 1e6:.2f}' in text


def test_a_model_without_diffusion_or_with_a_lost_file(tiny_model_dir, tmp_path, capsys):
  shutil.copytree(tiny_model_dir, tmp_path / 'model')
  model = json.loads((tmp_path / 'model' / 'model.json').read_text())
  del model['parts']['unet']
  (tmp_path / 'model' / 'model.json').write_text(json.dumps(model))
  (tmp_path / 'model' / 'vae.safetensors').unlink()
  found = _json(capsys, tmp_path / 'model')
  assert found['restoring']['result'] == {'lacks': ['unet']} and found['restoring']['restored']['flops']['nbsr'] > 0
  assert not found['parts']['vae']['intact'] and found['parts']['nbsr']['intact']
  assert cli.main(['info', str(tmp_path / 'model')]) == 0
  text = capsys.readouterr().out
  assert 'result: not without unet' in text and 'vae.safetensors, which is missing' in text


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['nosuch'], "model 'nosuch': unknown model; known: compact, .*; systems: ssr"),
    (['ssr', '--size', 'huge'], "--size huge: unknown size of 'ssr'; known: tiny, compact, sd21, sd15"),
    (['compact', '--size', 'tiny'], "--size tiny: 'compact' is no system; known: ssr"),
  ],
)
def test_errors_are_one_line(arguments, message, capsys):
  assert cli.main(['info', *arguments]) == 2
  out, err = capsys.readouterr()
  assert not out and len(err.splitlines()) == 1 and re.search(message, err)


def test_help_imports_no_networks():
  code = (
    'import sys; from ssr_jax import cli; code = cli.main(["info", "--help"])\n'
    'heavy = [m for m in ("jax", "flax", "ml_collections") if m in sys.modules]\n'
    'assert code == 0 and not heavy, heavy\n'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert 'SYSTEM_OR_MODEL' in done.stdout


def test_labels_divide_a_count_and_change_nothing_in_it():
  a, b = np.zeros((5, 7), np.float32), np.zeros((7, 7), np.float32)
  product = flops.labelled('product', lambda a, b, scale: scale * (a @ b))

  def function(a, b):
    a = jax.lax.fori_loop(0, 3, lambda i, x: product(x, b, scale=2), a)
    return a @ b

  once = 2 * 5 * 7 * 7
  assert flops.count_by(function, a, b) == {'product': 3 * once, '': once}
  assert flops.count(function, a, b) == 4 * once
