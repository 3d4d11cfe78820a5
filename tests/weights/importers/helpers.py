"""What the tests of importers share: random state dicts, and configs as they are published."""

import numpy as np

from ssr_jax.weights import format

SD15 = dict(
  _class_name='UNet2DConditionModel',
  act_fn='silu',
  attention_head_dim=8,
  block_out_channels=[320, 640, 1280, 1280],
  center_input_sample=False,
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
  out_channels=4,
  sample_size=64,
  up_block_types=['UpBlock2D'] + ['CrossAttnUpBlock2D'] * 3,
)
SD21 = SD15 | dict(
  attention_head_dim=[5, 10, 20, 20],
  cross_attention_dim=1024,
  dual_cross_attention=False,
  num_class_embeds=None,
  only_cross_attention=False,
  use_linear_projection=True,
)


def rng(seed=0):
  return np.random.default_rng(seed)


def expected(part, config):
  return {k: v for k, v in format.abstract_variables(part, config).items() if k.startswith('params/')}


def theirs(table, shapes, seed=0):
  """Their state dict with random values, made from our shapes."""
  generator = rng(seed)

  def draw(shape):
    mean, deviation = (0, np.prod(shape[:-1]) ** -0.5) if len(shape) > 1 else (0.5, 0.3)
    return generator.normal(mean, deviation, shape).astype(np.float32)

  return table.to_theirs({k: draw(v.shape) for k, v in shapes.items()})
