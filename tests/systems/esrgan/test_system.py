"""ESRGAN as a system: its network against NumPy, tiles against one piece, and the commands."""

import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import skimage.data

import ssr_jax
from ssr_jax import cli, systems
from ssr_jax.types import SSRError
from ssr_jax.weights import format

CONFIG = dict(blocks=1, features=4, growth=2)


def _variables(config, seed=0):
  rng = np.random.default_rng(seed)
  shapes = format.abstract_variables('restorer', config, system='esrgan')
  draw = lambda s: rng.normal(0, 0.3 if len(s.shape) > 1 else 0.1, s.shape)
  return format.unflatten({name: draw(s).astype(np.float16).astype(np.float32) for name, s in shapes.items()})


@pytest.fixture
def model(tmp_path):
  format.save_part(tmp_path / 'm', 'restorer', CONFIG, _variables(CONFIG), system='esrgan')
  return tmp_path / 'm'


@pytest.fixture
def photo():
  return skimage.data.astronaut()[100:180, 150:330]


def _conv(x, layer):
  """3x3 convolution with zero padding, pixel by pixel."""
  kernel, bias = layer['kernel'], layer['bias']
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  h, w, _ = x.shape
  return np.array([[np.tensordot(padded[i : i + 3, j : j + 3], kernel, 3) for j in range(w)] for i in range(h)]) + bias


def _leaky(x):
  return np.where(x > 0, x, 0.2 * x)


def _in_numpy(params, lr):
  """The generator as ESRGAN's paper has it."""
  first = x = _conv(lr, params['conv_in'])
  block = params['block_1']
  y = x
  for n in (1, 2, 3):
    seen = y
    for m in (1, 2, 3, 4):
      seen = np.concatenate([seen, _leaky(_conv(seen, block[f'rdb_{n}'][f'conv_{m}']))], -1)
    y = y + 0.2 * _conv(seen, block[f'rdb_{n}']['conv_5'])
  x = first + _conv(x + 0.2 * y, params['conv_trunk'])
  for n in (1, 2):
    x = _leaky(_conv(x.repeat(2, 0).repeat(2, 1), params[f'conv_up_{n}']))
  return _conv(_leaky(_conv(x, params['conv_hr'])), params['conv_out'])


def test_the_network_is_the_papers():
  variables = _variables(CONFIG)
  lr = np.random.default_rng(1).random((5, 6, 3)).astype(np.float32)
  module = systems.build('restorer', system='esrgan', **CONFIG)
  got = np.asarray(module.apply(variables, jnp.asarray(lr)[None]))[0]
  want = _in_numpy(variables['params'], lr.astype(np.float64))
  assert got.shape == (20, 24, 3) and want.std() > 0.05
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_tiles_give_what_one_piece_gives(model, photo):
  """With dense blocks that add nothing, the reach is four pixels, and a tile has little weight so near its edge."""
  variables = _variables(CONFIG)
  for dense in variables['params']['block_1'].values():
    dense['conv_5'] = {name: 0 * value for name, value in dense['conv_5'].items()}
  format.save_part(model, 'restorer', CONFIG, variables)
  restorer = ssr_jax.load(model)
  whole, tiled = (restorer.sample(photo / 255, tile=tile).image for tile in (192, 64))
  assert whole.shape == (320, 720, 3) and whole.std() > 0.01
  inside = (slice(0, 280), slice(0, 680))  # past the image's end the two are padded differently
  np.testing.assert_allclose(whole[inside], tiled[inside], atol=5e-4)


def test_the_same_image_for_every_seed(model, photo):
  restorer = ssr_jax.load(model)
  first, second = (restorer.sample(photo, seed=seed).image for seed in (0, 1))
  np.testing.assert_array_equal(first, second)
  assert restorer.traces['restore'] == 1


def test_the_commands_know_it(model, photo, tmp_path, capsys):
  Image.fromarray(photo[:40, :40]).save(tmp_path / 'in.png')
  assert cli.main(['upscale', str(tmp_path / 'in.png'), '-o', str(tmp_path / 'out.png'), '--model', str(model)]) == 0
  assert Image.open(tmp_path / 'out.png').size == (160, 160)
  capsys.readouterr()
  assert cli.main(['info', str(model)]) == 0
  found = capsys.readouterr().out.split()
  assert found[1:6] == ['a', 'model', 'of', 'esrgan,', 'x4,'] and 'restorer' in found
  command = ['upscale', str(tmp_path / 'in.png'), '-o', str(tmp_path / 'x.png'), '--model', str(model)]
  assert cli.main([*command, '--steps', '3']) == 2
  assert 'steps' in capsys.readouterr().err and not (tmp_path / 'x.png').exists()


def test_a_model_without_its_part_is_refused(model):
  (model / 'model.json').write_text((model / 'model.json').read_text().replace('"scale": 4', '"scale": 3'))
  with pytest.raises(SSRError, match='scale is 3, but its restorer with unshuffle 1 makes a factor of 4'):
    ssr_jax.load(model)
