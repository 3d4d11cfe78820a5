"""ControlNets as diffusers' folders: their configs, there and back, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ssr_jax.nn.controlnet import ControlNet
from ssr_jax.types import SSRError
from ssr_jax.weights import format, importers, store
from ssr_jax.weights.importers import torch_files
from tests.weights.importers import helpers

# As lllyasviel's for SD 1.5 have it.
SD15 = dict(
  _class_name='ControlNetModel',
  act_fn='silu',
  attention_head_dim=8,
  block_out_channels=[320, 640, 1280, 1280],
  class_embed_type=None,
  conditioning_embedding_out_channels=[16, 32, 96, 256],
  controlnet_conditioning_channel_order='rgb',
  cross_attention_dim=768,
  down_block_types=['CrossAttnDownBlock2D'] * 3 + ['DownBlock2D'],
  downsample_padding=1,
  flip_sin_to_cos=True,
  freq_shift=0,
  in_channels=4,
  layers_per_block=2,
  mid_block_scale_factor=1,
  norm_eps=1e-05,
  norm_num_groups=32,
  num_class_embeds=None,
  only_cross_attention=False,
  projection_class_embeddings_input_dim=None,
  resnet_time_scale_shift='default',
  upcast_attention=False,
  use_linear_projection=False,
)
SMALL = SD15 | dict(
  attention_head_dim=2,
  block_out_channels=[8, 16],
  conditioning_embedding_out_channels=[4, 6, 8, 10],
  cross_attention_dim=6,
  down_block_types=['CrossAttnDownBlock2D', 'DownBlock2D'],
  layers_per_block=1,
  norm_num_groups=4,
)


def shapes_of(config):
  module = ControlNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
  side = 2 ** (len(config['channels']) - 1)
  inputs = (
    jnp.zeros((1, side, side, config['latent_channels'])),
    jnp.zeros(1),
    jnp.zeros((1, 1, config['cross_attention_dim'])),
    jnp.zeros((1, 8 * side, 8 * side, 3)),
  )
  return format.flatten_shapes(jax.eval_shape(module.init, jax.random.key(0), *inputs))


def test_a_published_config_gives_the_published_parameters():
  config = importers.controlnet_config(SD15)
  assert sum(shape.size for shape in shapes_of(config).values()) == 361_279_120


@pytest.mark.parametrize(
  'change,match',
  [
    (dict(global_pool_conditions=True), 'global_pool_conditions is True'),
    (dict(controlnet_conditioning_channel_order='bgr'), "channel_order is 'bgr'"),
    (dict(down_block_types=['AttnDownBlock2D'] * 4), "our ControlNet has no block 'AttnDownBlock2D'"),
    (dict(conditioning_channels=1), 'conditioning_channels is 1'),
  ],
)
def test_a_config_that_our_controlnet_cannot_honour_is_named(change, match):
  with pytest.raises(SSRError, match=match):
    importers.controlnet_config(SD15 | change, 'FILE')
  with pytest.raises(SSRError, match="FILE: field 'layers_per_block' is missing"):
    importers.controlnet_config({k: v for k, v in SD15.items() if k != 'layers_per_block'}, 'FILE')


@pytest.mark.parametrize('linear', [False, True])
def test_a_folder_goes_out_and_comes_back_bit_for_bit(tmp_path, linear):
  theirs = SMALL | dict(use_linear_projection=linear)
  config = importers.controlnet_config(theirs)
  state = helpers.theirs(importers.controlnet_table(linear), shapes_of(config))
  ours = importers.controlnet_table(linear).to_ours(state, shapes_of(config), 'drawn')
  importers.write_controlnet(tmp_path / 'cn', config, format.unflatten(ours), linear)
  written = json.loads((tmp_path / 'cn' / 'config.json').read_text())
  assert importers.controlnet_config(written) == config
  shared = theirs.keys() & written.keys()
  assert {k: theirs[k] for k in shared} == {k: written[k] for k in shared} and len(shared) == 19
  back = torch_files.read(tmp_path / 'cn')
  assert set(back) == set(state)
  for name in state:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)


def test_another_networks_tensors_are_refused_both_ways(tmp_path):
  config = importers.controlnet_config(SMALL)
  expected, table = shapes_of(config), importers.controlnet_table(False)
  state = helpers.theirs(table, expected)
  more = state | {'controlnet_down_blocks.9.weight': np.zeros((8, 8, 1, 1), np.float32)}
  with pytest.raises(SSRError, match='FILE: not the weights .* no place for controlnet_down_blocks.9.weight'):
    table.to_ours(more, expected, 'FILE')
  less = {k: v for k, v in state.items() if k != 'controlnet_mid_block.bias'}
  with pytest.raises(SSRError, match='missing controlnet_mid_block.bias'):
    table.to_ours(less, expected, 'FILE')
  ours = format.unflatten({**table.to_ours(state, expected, 'FILE'), 'params/up_0_res_0/conv1/bias': np.zeros(8)})
  with pytest.raises(SSRError, match='no name for params/up_0_res_0/conv1/bias'):
    importers.write_controlnet(tmp_path / 'cn', config, ours)
  with pytest.raises(SSRError, match='has a hint of pixels'):
    importers.write_controlnet(tmp_path / 'cn', config | dict(hint='latent'), ours)
  assert not (tmp_path / 'cn').exists()


def test_diffusers_reads_the_folder_and_finds_what_we_find(tmp_path):
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  config = importers.controlnet_config(SMALL)
  state = helpers.theirs(importers.controlnet_table(False), shapes_of(config))
  variables = format.unflatten(importers.controlnet_table(False).to_ours(state, shapes_of(config), 'drawn'))
  importers.write_controlnet(tmp_path / 'cn', config, variables)
  theirs = diffusers.ControlNetModel.from_pretrained(tmp_path / 'cn').eval()
  rng = np.random.default_rng(0)
  z, context = rng.standard_normal((1, 4, 6, 4), np.float32), rng.standard_normal((1, 5, 6), np.float32)
  image = rng.random((1, 32, 48, 3), np.float32)
  nchw = lambda x: torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
  with torch.no_grad():
    residuals, middle = theirs(nchw(z), 601, torch.from_numpy(context), nchw(image), return_dict=False)
  module = ControlNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
  with jax.default_matmul_precision('highest'):
    found = module.apply(variables, jnp.asarray(z), jnp.array([601]), jnp.asarray(context), jnp.asarray(image))
  for a, b in zip((*found.residuals, found.middle), (*residuals, middle), strict=True):
    b = np.moveaxis(b.numpy(), 1, -1)
    np.testing.assert_allclose(a, b, atol=2e-5 * max(b.std(), 1))


def test_the_safetensors_file_says_that_it_is_torchs(tmp_path):
  """transformers and older diffusers refuse a file without that mark."""
  config = importers.controlnet_config(SMALL)
  state = helpers.theirs(importers.controlnet_table(False), shapes_of(config))
  variables = format.unflatten(importers.controlnet_table(False).to_ours(state, shapes_of(config), 'drawn'))
  importers.write_controlnet(tmp_path / 'cn', config, variables)
  with safetensors.safe_open(tmp_path / 'cn' / 'diffusion_pytorch_model.safetensors', 'np') as file:
    assert file.metadata() == {'format': 'pt'}


def test_a_folder_becomes_the_part_whose_samples_are_references(tmp_path):
  """Strict: a folder without one tensor writes nothing."""
  config = importers.controlnet_config(SMALL)
  state = helpers.theirs(importers.controlnet_table(False), shapes_of(config))
  ours = importers.controlnet_table(False).to_ours(state, shapes_of(config), 'drawn')
  importers.write_controlnet(tmp_path / 'cn', config, format.unflatten(ours))
  assert importers.import_checkpoint(tmp_path / 'cn', tmp_path / 'model') == ['activation']
  model = store.load_model(tmp_path / 'model')
  assert model.config['system'] == 'cassr'
  read = model.config['parts']['activation']['config']
  assert (read['controls'], read['multiple_attention'], read['hint']) == (['lr'], False, 'pixels')
  found = format.flatten(model.variables['activation']['params']['controlnet'])
  for name, value in ours.items():
    np.testing.assert_array_equal(found[name.removeprefix('params/')], value.astype(np.float16), err_msg=name)
  with pytest.raises(SSRError, match="part 'activation': it belongs to the system 'cassr'; 'ssr' has no such part"):
    importers.import_checkpoint(tmp_path / 'cn', tmp_path / 'other', system='ssr')
  path = tmp_path / 'cn' / 'diffusion_pytorch_model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  del tensors['controlnet_cond_embedding.conv_in.weight']
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(SSRError, match='missing controlnet_cond_embedding.conv_in.weight'):
    importers.import_checkpoint(tmp_path / 'cn', tmp_path / 'other')
  assert not (tmp_path / 'other').exists()
