"""Public checkpoints as parts of models: which network becomes which part, and the AMF-UNet around a base UNet.

This is the one importer that knows the systems' parts; the other files describe public checkpoints only.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ssr_jax import systems
from ssr_jax.systems.ssr.amf import BN_EPS
from ssr_jax.types import SSRError
from ssr_jax.weights import format, published, store
from ssr_jax.weights.importers import depth, esrgan, manet, mcformer, ncnn, stable_diffusion, torch_files
from ssr_jax.weights.importers.fields import Config, read_json
from ssr_jax.weights.importers.renaming import Table

SYSTEM = 'ssr'

# {kind of a folder's config.json: (part, config translation, table for the translated config)}.
_NETWORKS: dict[str, tuple[str, Callable[[Mapping[str, Any], str], Config], Callable[[Config], Table]]] = {
  'AutoencoderKL': ('vae', stable_diffusion.vae_config, lambda _: stable_diffusion.vae_table()),
  'dpt': ('depth', depth.dpt_config, depth.table_of),
  'depth_anything': ('depth', depth.depth_anything_config, lambda _: depth.depth_anything_table()),
}

PROMPTS = ('', 'clean, high-resolution', 'dotted, noise, blur, lowres, smooth')
"""What the prompts of CasSR's prior stand for: none, the paper's, and the negative prompt of SeeSR and PASD."""

# Channels of the AMF encoders at each UNet level. The paper does not give them.
_WIDTHS = {
  'kernel_channels': (64, 64, 128, 128),
  'depth_channels': (64, 64, 128, 128),
  'lr_channels': (256, 256, 512, 512),
}


@dataclasses.dataclass(frozen=True)
class _Imported:
  """A part that was read: its config, its flat variables, notes for the model card, and where it belongs.

  `sections` are those fields of model.json, beside the parts, that the weights need.
  """

  part: str
  config: Config
  tensors: dict[str, np.ndarray]
  notes: dict[str, Any] = dataclasses.field(default_factory=dict)
  system: str = SYSTEM
  sections: dict[str, Any] = dataclasses.field(default_factory=dict)


def import_checkpoint(
  source: str | os.PathLike,
  directory: pathlib.Path,
  *,
  prompt: str = '',
  system: str = '',
  report: Callable[[str], None] = lambda line: None,
) -> list[str]:
  """Writes the networks of a public checkpoint, or of another model, into a model directory; its other parts stay.

  Args:
    source: a folder of diffusers or transformers, a file of MANet, BlindDiff or the ESRGAN family (of PyTorch or ncnn's
      .param and .bin), a name in `published.PUBLISHED`, or a hub id. Or the bundled model or a model directory, whose
      parts are copied that the model's system has, too.
    directory: the model directory.
    prompt: the fixed text condition of a Stable Diffusion. Its embedding is computed here and stored with the UNet.
      CasSR's prior has `PROMPTS` instead.
    system: that of the model; '' takes the system that the network belongs to, of a Stable Diffusion SSR.
    report: called with one line before each slow step.

  Returns:
    the parts written.

  Raises:
    SSRError: the source is not found, its network is not supported, its tensors are not exactly those of the network,
      or, if it is named, its files are not the published ones.
  """
  if system:
    systems.get(system)  # an unknown name is an error
  if str(source) in store.BUNDLED or (pathlib.Path(source) / format.MODEL_FILE).is_file():
    return _copy(store.resolve(source), directory, system, report)
  path = published.fetch(source)
  report(f'{path}: checking')
  published.check(source, path)
  schedule = None
  if (path / 'unet').is_dir():
    schedule = stable_diffusion.read_schedule(path / 'scheduler' / 'scheduler_config.json')
  # Everything before the first write, so that a bad file changes nothing.
  found = [_placed(one, system) for one in _read(path, prompt, system, report)]
  for one in found:
    report(f'{one.part}: writing')
    format.save_part(
      directory,
      one.part,
      one.config,
      format.unflatten(one.tensors),
      {'imported_from': str(source), **one.notes},
      system=one.system,
    )
    if one.sections:
      format.update(directory, **one.sections)
  if schedule:
    format.update(directory, schedule=schedule)
  return [one.part for one in found]


def _copy(source: pathlib.Path, directory: pathlib.Path, system: str, report: Callable[[str], None]) -> list[str]:
  """Copies the parts of a model that a model of the system has, too; returns their names."""
  model = format.read_config(source)
  system = system or model['system']
  shared = [part for part in systems.shared(model['system'], system) if part in model['parts']]
  if not shared:
    raise SSRError(f'{source}: a model of the system {model["system"]!r}; no part of it belongs to {system!r}, too')
  for part in shared:
    report(f'{part}: copying')
    format.copy_part(source, part, directory, system=system)
  return shared


def _placed(one: _Imported, system: str) -> _Imported:
  """A part as one of the system that was asked for; SSRError if that has no such part."""
  if not system or one.system == system:
    return one
  if one.part not in systems.shared(one.system, system):
    raise SSRError(f'part {one.part!r}: it belongs to the system {one.system!r}; {system!r} has no such part')
  return dataclasses.replace(one, system=system)


def _read(path: pathlib.Path, prompt: str, system: str, report: Callable[[str], None]) -> Iterator[_Imported]:
  """The parts that a checkpoint provides."""
  if ncnn.holds(path):
    yield _esrgan(esrgan.state_of(ncnn.read(path), str(path)), path)
  elif path.is_file():
    tensors = torch_files.read(path)
    if mcformer.holds(tensors):
      yield _mcformer(tensors, path)
    elif esrgan.holds(tensors):
      yield _esrgan(tensors, path)
    else:
      yield from _manet(tensors, path)
  elif (path / 'unet').is_dir():
    report('vae: reading')
    yield _network('AutoencoderKL', path / 'vae')
    if system == 'cassr':
      if prompt:
        raise SSRError(f'prompt {prompt!r}: the prior of cassr has prompts of its own; leave it out')
      report('prior: reading, with its prompts')
      yield _prior(path)
    else:
      report('unet: reading, with its prompt')
      yield _amf_unet(path, prompt)
  else:
    config = read_json(path / 'config.json')
    kind = config.get('_class_name') or config.get('model_type')
    if kind == 'ControlNetModel':
      report('activation: reading')
      yield _controlnet(path)
      return
    if kind not in _NETWORKS:
      raise SSRError(
        f"{path / 'config.json'}: a {kind!r} cannot be imported; known: a Stable Diffusion's folder (with unet/ in "
        f'it), {", ".join(_NETWORKS)}, ControlNetModel, or a file of MANet, MCFormer or RRDBNet'
      )
    report(f'{_NETWORKS[kind][0]}: reading')
    yield _network(kind, path)


def _network(kind: str, folder: pathlib.Path) -> _Imported:
  """The part for a folder with one network of diffusers or transformers."""
  part, translate, table = _NETWORKS[kind]
  config = translate(read_json(folder / 'config.json'), str(folder / 'config.json'))
  return _Imported(part, config, table(config).to_ours(torch_files.read(folder), _expected(part, config), str(folder)))


def _mcformer(tensors: Mapping[str, np.ndarray], path: pathlib.Path) -> _Imported:
  """BlindDiff's network, with the enlargement and the guidance of its released code."""
  config = mcformer.config(tensors, str(path))
  expected = _expected('mcformer', config, 'blinddiff')
  found = mcformer.mcformer_table().to_ours(tensors, expected, str(path))
  sections = {'domain': {'up': 'torch'}, 'sampling': {'shrink': 0.1}}
  return _Imported('mcformer', config, found, system='blinddiff', sections=sections)


def _esrgan(tensors: Mapping[str, np.ndarray], path: pathlib.Path) -> _Imported:
  """ESRGAN's network, with its factor."""
  config = esrgan.config(tensors, str(path))
  found = esrgan.rrdbnet_table().to_ours(tensors, _expected('restorer', config, 'esrgan'), str(path))
  return _Imported('restorer', config, found, system='esrgan', sections={'scale': 4 // config['unshuffle']})


def _manet(tensors: Mapping[str, np.ndarray], path: pathlib.Path) -> Iterator[_Imported]:
  """The parts for a file of MANet: stage 1 has the kernel estimator, stage 2 the restorer, stage 3 both."""
  networks = manet.split(tensors, str(path))
  for part, network in zip(('dkenet', 'nbsr'), networks, strict=True):
    if network is None:
      continue
    expected = {name: shape for name, shape in _expected(part, network.config).items() if name not in network.constants}
    tensors = network.table.to_ours(network.tensors, expected, str(path))
    yield _Imported(part, network.config, tensors | network.constants)


def _amf_unet(path: pathlib.Path, prompt: str) -> _Imported:
  """The AMF-UNet around a Stable Diffusion's UNet. Until AMF is trained, its output is that of the base UNet."""
  folder = path / 'unet'
  theirs = read_json(folder / 'config.json')
  config = stable_diffusion.unet_config(theirs, str(folder / 'config.json'))
  config |= widths(len(config['channels']))
  context = stable_diffusion.prompt_embedding(path, prompt)
  if context.shape[1] != config['cross_attention_dim']:
    raise SSRError(
      f'{path}: the text encoder gives {context.shape[1]} channels, the UNet takes {config["cross_attention_dim"]}'
    )
  config['prompt_tokens'] = len(context)
  expected = _expected('unet', config)
  base = {name.replace('params/unet/', 'params/', 1): shape for name, shape in expected.items() if _in_base(name)}
  table = stable_diffusion.unet_table(theirs.get('use_linear_projection', False))
  found = table.to_ours(torch_files.read(folder), base, str(folder))
  tensors = untrained(expected, seed=0)
  tensors |= {name.replace('params/', 'params/unet/', 1): array for name, array in found.items()}
  tensors['constants/prompt'] = context
  return _Imported('unet', config, tensors, {'prompt': prompt, 'untrained': 'AMF and the three encoders'})


def _prior(path: pathlib.Path) -> _Imported:
  """A Stable Diffusion's UNet with the embeddings of `PROMPTS`, as CasSR's prior."""
  folder = path / 'unet'
  theirs = read_json(folder / 'config.json')
  texts = np.stack([stable_diffusion.prompt_embedding(path, text) for text in PROMPTS])
  config = stable_diffusion.unet_config(theirs, str(folder / 'config.json'))
  config |= {'tokens': texts.shape[1], 'learned': False}
  if texts.shape[2] != config['cross_attention_dim']:
    raise SSRError(
      f'{path}: the text encoder gives {texts.shape[2]} channels, the UNet takes {config["cross_attention_dim"]}'
    )
  table = stable_diffusion.unet_table(theirs.get('use_linear_projection', False))
  tensors = _inside('unet', table, folder, _expected('prior', config, 'cassr'))
  return _Imported('prior', config, tensors | {'constants/prompts': texts}, {'prompts': list(PROMPTS)}, 'cassr')


def _controlnet(folder: pathlib.Path) -> _Imported:
  """A plain ControlNet, whose samples can be CasSR's reference images."""
  theirs = read_json(folder / 'config.json')
  config = stable_diffusion.controlnet_config(theirs, str(folder / 'config.json'))
  config |= {'hint': 'pixels', 'controls': ['lr'], 'multiple_attention': False}
  table = stable_diffusion.controlnet_table(theirs.get('use_linear_projection', False))
  expected = _expected('activation', config, 'cassr')
  return _Imported('activation', config, _inside('controlnet', table, folder, expected), system='cassr')


def _inside(module: str, table: Table, folder: pathlib.Path, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The tensors of a folder's network, which is a module within a part."""
  within = f'params/{module}/'
  own = {name.replace(within, 'params/', 1): shape for name, shape in expected.items() if name.startswith(within)}
  found = table.to_ours(torch_files.read(folder), own, str(folder))
  return {name.replace('params/', within, 1): array for name, array in found.items()}


def _expected(part: str, config: Config, system: str = SYSTEM) -> dict[str, jax.ShapeDtypeStruct]:
  return format.abstract_variables(part, config, system=system)


def _in_base(name: str) -> bool:
  """Whether a variable of the AMF-UNet belongs to the base UNet."""
  return name.startswith('params/unet/') and '/amf/' not in name


def widths(levels: int) -> Config:
  """Channels of an imported AMF-UNet's encoders, as attributes of AMFUNet.

  Args:
    levels: of the UNet; those beyond the fourth have the channels of the fourth.
  """
  return {field: list((*found, *found[-1:] * levels)[:levels]) for field, found in _WIDTHS.items()}


def untrained(expected: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
  """Initial values of the AMF-UNet's variables outside the base UNet, by flat name.

  They follow the distributions of the module's initialisers, whose compilation takes minutes. Batch norms start as the
  identity: their variance is 1 - epsilon.

  Args:
    expected: flat names of all variables; the values need a `shape`.
    seed: of the random generator.
  """
  rng = np.random.default_rng(seed)
  found = {}
  for name, shape in expected.items():
    if _in_base(name):
      continue
    module, leaf = name.split('/')[-2:]
    # The output layers of alpha and beta start at zero, so that AMF starts as the identity.
    if leaf == 'kernel' and not (module.startswith(('alpha_', 'beta_')) and module.endswith('_out')):
      # lecun_normal: variance 1 / fan-in, truncated at two standard deviations
      draw = rng.standard_normal(shape.shape, np.float32)
      for _ in range(20):
        far = np.abs(draw) > 2
        draw[far] = rng.standard_normal(int(far.sum()), np.float32)
      found[name] = np.clip(draw, -2, 2) * np.float32((np.prod(shape.shape[:-1]) * 0.7737) ** -0.5)
    else:
      value = {'scale': 1.0, 'var': 1.0 - BN_EPS}.get(leaf, 0.0)
      found[name] = np.full(shape.shape, value, np.float32)
  return found
