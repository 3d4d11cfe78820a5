"""Compares a full-size network with PyTorch's, random weights, float32 on a CPU; what docs/parity.md records.

  python tools/parity.py unet_sd21    # or unet_sd15, controlnet_sd15, vae, text_sd15, dpt_large ...
  python tools/parity.py amf_sd21     # AMF-UNet at initialisation and calibrated against its base UNet; no torch needed

Needs torch, diffusers and transformers, and up to 10 GB of memory. Exit code 1 where the largest error is above 1e-3
(AMF: 1e-4) of outputs of unit scale.
"""

import argparse
import pathlib
import resource
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

LIMIT = 1e-3
SD = {
  'unet_sd15': dict(cross_attention_dim=768, attention_head_dim=8),
  'unet_sd21': dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True),
}
TEXT = {
  'text_sd15': dict(
    hidden_act='quick_gelu', hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
  ),
  'text_sd21': dict(
    hidden_act='gelu', hidden_size=1024, num_hidden_layers=23, num_attention_heads=16, intermediate_size=4096
  ),
}
ANYTHING = {
  'depth_anything_v2_small': (384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64),
  'depth_anything_v2_base': (768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
  'depth_anything_v2_large': (1024, 24, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
}


def build(name: str):
  """(torch module, our module, table, inputs NHWC, torch call, options of our call)."""
  import diffusers
  import torch
  import transformers

  from ssr_jax import systems
  from ssr_jax.nn.clip import CLIPText
  from ssr_jax.nn.controlnet import ControlNet
  from ssr_jax.nn.unet import UNet
  from ssr_jax.weights import importers

  draw = np.random.default_rng(0)
  if name in SD:
    theirs = diffusers.UNet2DConditionModel(sample_size=64, block_out_channels=(320, 640, 1280, 1280), **SD[name])
    config = importers.unet_config(dict(theirs.config))
    inputs = (
      draw.standard_normal((1, 64, 64, 4), np.float32),
      np.array([601]),
      draw.standard_normal((1, 77, config['cross_attention_dim']), np.float32),
    )
    table = importers.unet_table(theirs.config.use_linear_projection)
    ours = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
    return theirs, ours, table, inputs, lambda m, *a: m(*a).sample, {}
  if name == 'controlnet_sd15':
    theirs = diffusers.ControlNetModel(cross_attention_dim=768, attention_head_dim=8)
    config = importers.controlnet_config(dict(theirs.config))
    ours = ControlNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})
    inputs = (
      draw.standard_normal((1, 64, 64, 4), np.float32),
      np.array([601]),
      draw.standard_normal((1, 77, 768), np.float32),
      draw.random((1, 512, 512, 3), np.float32),
    )

    def rows(module, *arguments):
      residuals, middle = module(*arguments, return_dict=False)
      return torch.cat([x.movedim(1, -1).flatten(1) for x in (*residuals, middle)], 1)

    return theirs, ours, importers.controlnet_table(False), inputs, rows, {}
  if name == 'vae':
    theirs = diffusers.AutoencoderKL(
      block_out_channels=(128, 256, 512, 512),
      layers_per_block=2,
      down_block_types=('DownEncoderBlock2D',) * 4,
      up_block_types=('UpDecoderBlock2D',) * 4,
    )
    ours = systems.build('vae', **importers.vae_config(dict(theirs.config)))
    inputs = (draw.random((1, 256, 256, 3), np.float32),)
    return (
      theirs,
      ours,
      importers.vae_table(),
      inputs,
      lambda m, x: (m(2 * x - 1, sample_posterior=False).sample + 1) / 2,
      {},
    )
  if name in TEXT:
    config = transformers.CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **TEXT[name])
    ours = CLIPText(**importers.text_config(config.to_dict()))
    inputs = (draw.integers(0, 49408, (1, 77)),)
    return (
      transformers.CLIPTextModel(config),
      ours,
      importers.text_table(),
      inputs,
      lambda m, x: m(x).last_hidden_state,
      {},
    )
  if name == 'dpt_beit_large_512':
    backbone = transformers.BeitConfig(
      image_size=512,
      hidden_size=1024,
      num_hidden_layers=24,
      num_attention_heads=16,
      intermediate_size=4096,
      use_relative_position_bias=True,
      reshape_hidden_states=False,
      out_features=['stage6', 'stage12', 'stage18', 'stage24'],
    )
    config = transformers.DPTConfig(backbone_config=backbone, neck_hidden_sizes=[256, 512, 1024, 1024])
    theirs, translate, table = (
      transformers.DPTForDepthEstimation(config),
      importers.dpt_config,
      importers.dpt_beit_table(),
    )
  elif name == 'dpt_large':
    config = transformers.DPTConfig(
      hidden_size=1024,
      num_hidden_layers=24,
      num_attention_heads=16,
      intermediate_size=4096,
      image_size=384,
      backbone_out_indices=[5, 11, 17, 23],
      neck_hidden_sizes=[256, 512, 1024, 1024],
      is_hybrid=False,
      readout_type='project',
    )
    theirs, translate, table = transformers.DPTForDepthEstimation(config), importers.dpt_config, importers.dpt_table()
  else:
    width, layers, heads, taps, neck, fusion = ANYTHING[name]
    backbone = transformers.Dinov2Config(
      hidden_size=width,
      num_hidden_layers=layers,
      num_attention_heads=heads,
      image_size=518,
      patch_size=14,
      out_indices=taps,
      reshape_hidden_states=False,
      apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
      backbone_config=backbone,
      reassemble_hidden_size=width,
      patch_size=14,
      neck_hidden_sizes=neck,
      fusion_hidden_size=fusion,
    )
    theirs = transformers.DepthAnythingForDepthEstimation(config)
    translate, table = importers.depth_anything_config, importers.depth_anything_table()
  ours = systems.build('depth', **translate(config.to_dict()))
  mean, deviation = (torch.tensor(v)[:, None, None] for v in (ours.mean, ours.deviation))
  inputs = (draw.random((1, *ours.resolution, 3), np.float32),)
  return theirs, ours, table, inputs, lambda m, x: m((x - mean) / deviation).predicted_depth[:, None], {'raw': True}


def compare(name: str) -> float:
  """Prints one row of docs/parity.md's table and returns the error over the reference's deviation."""
  import jax
  import torch

  from ssr_jax import xla
  from ssr_jax.weights import format

  theirs, ours, table, inputs, call, options = build(name)
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for key, parameter in theirs.named_parameters():
      if key in ('head.head.4.bias', 'head.conv3.bias'):
        parameter.fill_(3)  # a last ReLU would hide half of the output
      elif key.endswith('relative_position_bias_table'):
        parameter.normal_(0, 1, generator=generator)
      elif parameter.ndim < 2:
        parameter.normal_(float(key.endswith(('weight', 'lambda1', 'lambda_1', 'lambda_2'))), 0.1, generator=generator)
      else:
        parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
  theirs.eval()
  state = {key: tensor.detach().numpy() for key, tensor in theirs.state_dict().items()}
  shapes = format.flatten_shapes(jax.eval_shape(lambda *a: ours.init(jax.random.key(0), *a, **options), *inputs))
  found = table.to_ours(state, shapes, name)
  back = table.to_theirs(found)
  public = {table.canonical(key): array for key, array in state.items()}  # transformers has new names for some
  exact = all(np.array_equal(back[key], public[key]) for key in back)
  del back, public
  variables = jax.device_put(format.unflatten(found))

  start = time.monotonic()
  with torch.no_grad():
    tensors = [torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x) for x in inputs]
    reference = call(theirs, *tensors).numpy()
  torch_seconds = time.monotonic() - start
  reference = np.moveaxis(reference, 1, -1) if reference.ndim == 4 else reference
  with jax.default_matmul_precision('highest'):
    run = xla.jit(lambda v, *a: ours.apply(v, *a, **options))
    jax.block_until_ready(run(variables, *inputs))
    start = time.monotonic()
    out = run(variables, *inputs)
    if hasattr(out, 'residuals'):  # a ControlNet's, in a row
      out = np.concatenate([np.asarray(x).reshape(len(x), -1) for x in (*out.residuals, out.middle)], 1)
    out = np.asarray(out[0] if isinstance(out, tuple) else out)
  seconds = time.monotonic() - start
  error, scale = float(np.abs(out - reference).max()), float(reference.std())
  count = sum(array.size for array in found.values())
  trip = 'exact' if exact else 'DIFFERS'
  print(
    f'| {name} | {count:,} | {list(reference.shape)} | {scale:.3g} | {error:.2g} | {error / max(scale, 1):.2g} '
    f'| {trip} | {torch_seconds:.1f} | {seconds:.1f} | {_memory():.1f} |',
    flush=True,
  )
  return error / max(scale, 1) if exact else float('inf')


def compare_amf(name: str) -> float:
  """AMF-UNet of `ssr weights import` and calibrated, against its base, at full size: the larger error."""
  import importlib

  import jax
  import jax.numpy as jnp

  from ssr_jax import systems, xla
  from ssr_jax.nn.unet import UNet
  from ssr_jax.systems.ssr import amf
  from ssr_jax.systems.ssr.encoders import Conditions
  from ssr_jax.weights import format, importers

  config = importlib.import_module(f'configs.{name}').get_config().model.unet.to_dict()
  module = systems.build('unet', **config)
  draw = np.random.default_rng(0)
  shapes = format.abstract_variables('unet', config)
  tensors = importers.untrained(shapes, seed=0)
  for key, shape in shapes.items():
    if key not in tensors or key == 'constants/prompt':
      fan = np.prod(shape.shape[:-1])
      centre, deviation = (0, fan**-0.5) if len(shape.shape) > 1 else (float(key.endswith('scale')), 0.1)
      tensors[key] = draw.standard_normal(shape.shape, np.float32) * np.float32(deviation) + np.float32(centre)
  variables = jax.device_put(format.unflatten(tensors))
  del tensors
  normal = lambda *shape: jnp.asarray(draw.standard_normal(shape, np.float32))
  z, t = normal(1, 32, 32, 4), jnp.array([601])
  conditions = Conditions(normal(1, 32, 32, 15), normal(1, 32, 32, 1), normal(1, 32, 32, 3), normal(1, 32, 32, 4))
  fields = UNet.__dataclass_fields__
  base = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in fields})
  want = xla.jit(base.apply)({'params': variables['params']['unet']}, z, t, variables['constants']['prompt'][None])
  run = xla.jit(module.apply)
  first = run(variables, z, t, conditions)
  calibrated = xla.jit(lambda v, *a: amf.calibrate(module, v, *a))(variables, z, t, conditions)
  second = run(calibrated, z, t, conditions)
  scale = float(want.std())
  errors = [float(jnp.abs(x - want).max()) / max(scale, 1) for x in (first, second)]
  print(
    f'| amf_{name} | imported {errors[0]:.2g} | calibrated {errors[1]:.2g} | deviation {scale:.3g} '
    f'| {_memory():.1f} GB |'
  )
  return max(errors)


def _memory() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
  """Compares and prints the table."""
  names = [*SD, 'controlnet_sd15', 'vae', *TEXT, 'dpt_large', 'dpt_beit_large_512', *ANYTHING, 'amf_sd21', 'amf_sd15']
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('name', choices=names)
  name = parser.parse_args().name
  if name.startswith('amf_'):
    return int(compare_amf(name.removeprefix('amf_')) > LIMIT / 10)
  return int(compare(name) > LIMIT)


if __name__ == '__main__':
  sys.exit(main())
