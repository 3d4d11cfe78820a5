"""tools/improve.py: which weights it keeps."""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest
from skimage import data

from configs import tiny
import ssr_jax
from ssr_jax.weights import format, store

spec = importlib.util.spec_from_file_location(
  'improve', pathlib.Path(__file__).resolve().parents[1] / 'tools' / 'improve.py'
)
improve = importlib.util.module_from_spec(spec)
spec.loader.exec_module(improve)


@pytest.mark.parametrize(
  'higher,former,expected', [(True, 24.9, True), (True, 25.1, False), (False, 25.1, True), (False, 24.9, False)]
)
def test_keeps_the_better_in_the_metrics_own_direction(higher, former, expected):
  summary = {'metric': 'm', 'higher_is_better': higher, 'validation': {'m': 25.0}}
  assert improve.verdict(summary, {'m': former})[0] is expected


def test_equal_does_not_replace():
  summary = {'metric': 'psnr', 'higher_is_better': True, 'validation': {'psnr': 25.0}}
  assert not improve.verdict(summary, {'psnr': 25.0})[0]
  assert improve.verdict(summary, None)[0]


def test_rate_is_taken_after_the_first_compilation(tmp_path):
  rows = [
    {'step': 0, 'time': 0.0, 'validation/psnr': 1},
    {'step': 10, 'time': 100.0, 'loss': 1},
    {'step': 30, 'time': 110.0, 'loss': 1},
  ]
  (tmp_path / 'scalars.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  assert improve.rate(tmp_path) == pytest.approx(2.0)


def _vae(source, directory, change):
  """A model directory with the autoencoder of `source`, changed."""
  entry = format.read_config(source)['parts']['vae']
  config = dict(entry['config'])
  tensors = format.flatten(store.load_model(source, parts=('vae',)).variables['vae'])
  change(config, tensors)
  format.save_part(directory, 'vae', config, format.unflatten(tensors), {}, name='test')
  return directory


def test_only_what_encodes_or_scales_changes_latents(tiny_model_dir, tmp_path):
  def scale(config, tensors):
    config['scaling_factor'] = 0.5

  def double(name):
    def change(config, tensors):
      tensors[name] = 2 * tensors[name] + 0.5

    return change

  same = _vae(tiny_model_dir, tmp_path / 'same', lambda *_: None)
  assert not improve.latents_change(same, same)
  for i, decoder in enumerate(('decoder/conv_in/kernel', 'post_quant_conv/kernel')):
    assert not improve.latents_change(_vae(same, tmp_path / f'd{i}', double(f'params/{decoder}')), same)
  for i, encoder in enumerate(('encoder/conv_in/kernel', 'quant_conv/bias')):
    assert improve.latents_change(_vae(same, tmp_path / f'e{i}', double(f'params/{encoder}')), same)
  assert improve.latents_change(_vae(same, tmp_path / 's', scale), same)


def test_former_weights_are_measured_with_their_own_networks():
  """Whatever is set for the new ones; a field that a config does not have, such as a measured scaling, is left out."""
  fields = {'model.vae.channels': '(9, 9)', 'train.batch_size': '2', 'data.train': 'folder:x'}
  here = improve.as_built(
    fields, 'tiny', 'vae', {'vae': {'channels': [8, 4], 'groups': 2, 'scaling_factor': [1.0, 2.0]}}
  )
  assert (here['model.vae.channels'], here['model.vae.groups'], here['model.vae.shortcut']) == ((8, 4), 2, False)
  assert {k: v for k, v in here.items() if not k.startswith('model.')} == {
    'train.batch_size': '2',
    'data.train': 'folder:x',
  }
  assert {name.split('.')[-1] for name in here if name.startswith('model.')} == set(tiny.get_config('vae').model.vae)


def _photos(folder):
  """Two photos, [160, 160, 3], which are also written into the folder."""
  folder.mkdir()
  photos = [getattr(data, name)()[:160, :160] for name in ('astronaut', 'coffee')]
  for i, photo in enumerate(photos):
    Image.fromarray(photo).save(folder / f'{i}.png')
  return photos


def _improve_nbsr(model, folder, *more):
  """The exit code of `tools/improve.py nbsr --scratch` on a model, trained for a moment."""
  arguments = ['nbsr', '--minutes', '0.001', '--data', f'folder:{folder}/photos', '--config', 'tiny', '--scratch']
  return improve.main([*arguments, '--model', str(model), '--workdir', str(folder / 'runs'), *more])


def _psnr(model, photos):
  """Of images that the model restores from every fourth pixel's mean; nothing of the program's own figures."""
  lr = np.stack([photo.reshape(40, 4, 40, 4, 3).mean((1, 3)) / 255 for photo in photos]).astype(np.float32)
  restored = ssr_jax.load(model).sample(lr, steps=0, keep_kernels=False).image
  return float(-10 * np.log10(np.mean((restored - np.stack(photos) / 255) ** 2)))


@pytest.mark.slow
def test_weights_of_another_width_replace_those_that_are_worse(tiny_model_dir, tmp_path):
  """A whole run. The former weights are random, and measured with their own width; the new ones begin as bicubic."""
  model, photos = tmp_path / 'model', _photos(tmp_path / 'photos')
  shutil.copytree(tiny_model_dir, model)
  before = _psnr(model, photos)
  assert _improve_nbsr(model, tmp_path, '--set', 'model.nbsr.features=12') == 0
  assert format.read_config(model)['parts']['nbsr']['config']['features'] == 12
  assert _psnr(model, photos) > before + 5


@pytest.mark.slow
def test_weights_that_are_worse_are_not_installed(tiny_model_dir, tmp_path, capfd):
  """A whole run. The former weights enlarge bicubically, and the new ones have no skip to do that with."""
  model, photos = tmp_path / 'model', _photos(tmp_path / 'photos')
  shutil.copytree(tiny_model_dir, model)
  config = format.read_config(model)['parts']['nbsr']['config'] | {'global_skip': True}
  variables = format.load_part(model, 'nbsr')
  last = variables['params']['conv_out']
  last['kernel'] = np.zeros_like(last['kernel'])
  format.save_part(model, 'nbsr', config, variables, {'steps': 0})
  before = {file.name: file.read_bytes() for file in model.iterdir()}
  assert _psnr(model, photos) > 20
  assert _improve_nbsr(model, tmp_path, '--set', 'model.nbsr.global_skip=False') == 3
  assert 'not better' in capfd.readouterr().out
  assert {file.name: file.read_bytes() for file in model.iterdir()} == before
  assert not list((tmp_path / 'runs').iterdir())
