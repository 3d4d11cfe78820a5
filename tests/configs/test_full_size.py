"""configs/sd21.py and sd15.py: every part can be built, with the parameters that the published networks have."""

import importlib

import pytest

from configs.ssr import base
from ssr_jax import systems
from ssr_jax.systems.ssr.sizes import SIZES
from ssr_jax.weights import format

COUNTS = {
  'sd21': {'depth': 341_848_257, 'dkenet': 2_875_065, 'nbsr': 8_086_256, 'vae': 83_653_863, 'unet': 865_910_724},
  'sd15': {'depth': 341_848_257, 'dkenet': 2_875_065, 'nbsr': 8_086_256, 'vae': 83_653_863, 'unet': 859_520_964},
}


@pytest.mark.slow
@pytest.mark.parametrize('name', COUNTS)
def test_parts_have_the_published_sizes(name):
  """The UNet's is that of the base: without AMF and encoders, which the publications lack."""
  config = importlib.import_module(f'configs.{name}').get_config()
  for part, count in COUNTS[name].items():
    shapes = format.abstract_variables(part, config.model[part].to_dict())
    if part == 'unet':
      assert shapes['constants/prompt'].shape == (77, config.model.unet.cross_attention_dim)
      shapes = {k: v for k, v in shapes.items() if k.startswith('params/unet/') and '/amf/' not in k}
    assert sum(v.size for k, v in shapes.items() if k.startswith('params/')) == count, part


@pytest.mark.parametrize('name', SIZES)
def test_networks_have_the_systems_sizes(name):
  config = importlib.import_module(f'configs.{name}').get_config()
  assert config.model.to_dict() == SIZES[name] == systems.get('ssr').sizes[name]


@pytest.mark.parametrize('name', COUNTS)
@pytest.mark.parametrize('stage', ['', *systems.get('ssr').stages])
def test_every_stage_has_a_config_with_the_common_fields(name, stage):
  config = importlib.import_module(f'configs.{name}').get_config(stage)
  assert config.stage == stage and config.parts_from == config.name == name
  assert set(config) == set(base.base(stage))
  if stage == 'diffusion':
    assert config.init_from == name  # never from scratch by accident
