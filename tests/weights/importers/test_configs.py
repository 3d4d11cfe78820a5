"""Published configs give the published networks; a config that our networks cannot follow is an error."""

import jax
import jax.numpy as jnp
import pytest

from configs import sd15, sd21
from ssr_jax import systems
from ssr_jax.nn.unet import UNet
from ssr_jax.types import SSRError
from ssr_jax.weights import importers
from tests.weights.importers import helpers


@pytest.mark.parametrize(
  'config, count', [(helpers.SD15, 859_520_964), (helpers.SD21, 865_910_724)], ids=['sd15', 'sd21']
)
def test_published_unet_configs_give_the_published_parameters(config, count):
  module = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in importers.unet_config(config).items()})
  args = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 7, config['cross_attention_dim']))
  v = jax.eval_shape(module.init, jax.random.key(0), *args)
  assert sum(a.size for a in jax.tree.leaves(v)) == count


@pytest.mark.parametrize('config, ours', [(helpers.SD15, sd15), (helpers.SD21, sd21)], ids=['sd15', 'sd21'])
def test_training_on_imported_weights_is_not_refused(config, ours):
  """train.py compares every field of the networks with those of the weights that it starts from."""
  imported = importers.unet_config(config) | importers.widths(4) | {'prompt_tokens': 77}
  assert systems.build('unet', **imported) == systems.build('unet', **ours.get_config('diffusion').model.unet.to_dict())


@pytest.mark.parametrize(
  'change, match',
  [
    (dict(act_fn='gelu'), "act_fn is 'gelu'; our network has 'silu' only"),
    (dict(down_block_types=['AttnDownBlock2D'] * 4), "our UNet has no block 'AttnDownBlock2D'"),
    (dict(up_block_types=['CrossAttnUpBlock2D'] * 4), r'up_block_types .* do not mirror down_block_types'),
    (dict(out_channels=8), 'in_channels 4 and out_channels 8 differ'),
    (dict(transformer_layers_per_block=[1, 2, 10]), 'transformer_layers_per_block'),
  ],
)
def test_a_config_that_our_unet_cannot_honour_is_named(change, match):
  with pytest.raises(SSRError, match=match):
    importers.unet_config(helpers.SD21 | change, 'FILE')
  with pytest.raises(SSRError, match="FILE: field 'block_out_channels' is missing"):
    importers.unet_config({k: v for k, v in helpers.SD21.items() if k != 'block_out_channels'}, 'FILE')


def test_published_depth_configs_give_the_published_sizes():
  from ssr_jax.nn.depth import dpt

  backbone = dict(
    apply_layernorm=True,
    hidden_size=1024,
    image_size=518,
    model_type='dinov2',
    num_attention_heads=16,
    num_hidden_layers=24,
    out_features=['stage5', 'stage12', 'stage18', 'stage24'],
    patch_size=14,
    reshape_hidden_states=False,
  )
  anything = dict(
    backbone_config=backbone,
    fusion_hidden_size=256,
    head_hidden_size=32,
    head_in_index=-1,
    model_type='depth_anything',
    neck_hidden_sizes=[256, 512, 1024, 1024],
    patch_size=14,
    reassemble_factors=[4, 2, 1, 0.5],
  )
  large = dict(
    backbone_out_indices=[5, 11, 17, 23],
    fusion_hidden_size=256,
    hidden_act='gelu',
    hidden_size=1024,
    image_size=384,
    intermediate_size=4096,
    model_type='dpt',
    neck_hidden_sizes=[256, 512, 1024, 1024],
    num_attention_heads=16,
    num_hidden_layers=24,
    patch_size=16,
    readout_type='project',
    reassemble_factors=[4, 2, 1, 0.5],
  )
  assert systems.build('depth', **importers.dpt_config(large)) == dpt.DPT()
  beit = dict(  # fields of a ViT are in the file as well, and mean nothing
    backbone_config=dict(
      hidden_size=1024,
      image_size=512,
      intermediate_size=4096,
      model_type='beit',
      num_attention_heads=16,
      num_hidden_layers=24,
      out_features=['stage6', 'stage12', 'stage18', 'stage24'],
      reshape_hidden_states=False,
      use_relative_position_bias=True,
    ),
    hidden_size=768,
    fusion_hidden_size=256,
    image_size=384,
    is_hybrid=False,
    model_type='dpt',
    neck_ignore_stages=[],
    neck_hidden_sizes=[256, 512, 1024, 1024],
    num_hidden_layers=None,
    readout_type='project',
    use_bias_in_fusion_residual=None,
  )
  got = systems.build('depth', **importers.dpt_config(beit))
  assert got == dpt.DPT(**dpt.SIZES['dpt-beit-large-512'])
  for field in ('use_shared_relative_position_bias', 'use_absolute_position_embeddings', 'add_fpn'):
    with pytest.raises(SSRError, match=f'{field} is True'):
      importers.dpt_config(beit | dict(backbone_config=beit['backbone_config'] | {field: True}))
  got = systems.build('depth', **importers.depth_anything_config(anything))
  assert got == dpt.DPT(**dpt.SIZES['depth-anything-v2-large'])
  with pytest.raises(SSRError, match="depth_estimation_type is 'metric'"):
    importers.depth_anything_config(anything | dict(depth_estimation_type='metric'))
