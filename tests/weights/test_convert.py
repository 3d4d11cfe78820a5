"""Public checkpoints: what is read, what is refused, and that every name has its place."""

import io
import json
import pickle
import re
import struct
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import skimage.data

from configs import sd15, sd21
import ssr_jax
from ssr_jax import cli, systems
from ssr_jax.nn.unet import UNet
from ssr_jax.types import SSRError
from ssr_jax.weights import convert, importing, public, registry, tokenizer, torch_files


def rng(seed=0):
  return np.random.default_rng(seed)


# ---- reading ---------------------------------------------------------------------------------------------------------


class _Storage:
  def __init__(self, key, array, kind='FloatStorage'):
    self.key, self.array, self.kind = key, array, kind


class _Tensor:
  def __init__(self, storage, offset, size, stride):
    self.arguments = (storage, offset, size, stride, False, None)

  def __reduce__(self):
    return sys.modules['torch._utils']._rebuild_tensor_v2, self.arguments


@pytest.fixture
def dump(monkeypatch):
  """Pickles as torch.save does, with stand-ins for torch's functions, so that torch need not be there."""
  fake, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in ('FloatStorage', 'HalfStorage'):
    setattr(fake, name, type(name, (), {'__module__': 'torch'}))

  def _rebuild_tensor_v2(*_):
    raise AssertionError('torch is not asked')

  _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  fake._utils = utils
  monkeypatch.setitem(sys.modules, 'torch', fake)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)

  class Pickler(pickle.Pickler):
    def persistent_id(self, value):
      if isinstance(value, _Storage):
        extra = (None,) if self.legacy else ()
        return ('storage', getattr(fake, value.kind), value.key, 'cpu', value.array.size, *extra)

  def to_bytes(value, legacy=False):
    buffer = io.BytesIO()
    pickler = Pickler(buffer, protocol=2)
    pickler.legacy = legacy
    pickler.dump(value)
    return buffer.getvalue()

  return to_bytes


def write_zip(path, table, storages):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', table)
    for key, array in storages.items():
      archive.writestr(f'archive/data/{key}', array.tobytes())


def test_torchs_files_are_read_without_torch(tmp_path, dump):
  """A view with strides and an offset, a shared storage, half precision; new format and old."""
  data, half = np.arange(24, dtype=np.float32), np.array([1, 2.5], np.float16)
  a, b = _Storage('0', data), _Storage('1', half, 'HalfStorage')
  tree = {'w': _Tensor(a, 4, (2, 3), (1, 2)), 'v': _Tensor(a, 0, (24,), (1,)), 'h': _Tensor(b, 0, (2,), (1,))}
  write_zip(tmp_path / 'new.pth', dump({'params': tree}), {'0': data, '1': half})
  old = b''.join(map(dump, (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}))) + dump(tree, legacy=True)
  old += dump(['0', '1']) + struct.pack('<q', 24) + data.tobytes() + struct.pack('<q', 2) + half.tobytes()
  (tmp_path / 'old.pth').write_bytes(old)
  for name in ('new.pth', 'old.pth'):
    tensors = torch_files.read(tmp_path / name)
    assert sorted(tensors) == ['h', 'v', 'w']
    np.testing.assert_array_equal(tensors['w'], [[4, 6, 8], [5, 7, 9]])
    np.testing.assert_array_equal(tensors['v'], data)
    assert tensors['h'].dtype == np.float16 and tensors['h'].tolist() == [1, 2.5]


class _Evil:
  def __init__(self, target):
    self.target = target

  def __reduce__(self):
    import pathlib

    return pathlib.Path.touch, (self.target,)


@pytest.mark.parametrize('legacy', [False, True])
def test_a_pickle_that_does_more_than_tensors_is_refused_and_not_run(tmp_path, dump, legacy):
  target = tmp_path / 'touched'
  table = dump({'w': _Evil(target)})
  if legacy:
    (tmp_path / 'evil.pth').write_bytes(table)
  else:
    write_zip(tmp_path / 'evil.pth', table, {})
  with pytest.raises(SSRError, match=r'evil.pth: asks for .*, which is no tensor; it was not run'):
    torch_files.read(tmp_path / 'evil.pth')
  assert not target.exists()


def test_attributes_cannot_be_planted(tmp_path):
  """BUILD sets attributes of whatever is on the pickle's stack: nothing that we hand out takes any."""
  for build in (
    b'ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00xK\x01sb.',
    b'ctorch\nFloatStorage\n}X\x01\x00\x00\x00xK\x01sb.',
  ):
    write_zip(tmp_path / 'a.pth', build, {})
    with pytest.raises(SSRError, match='not a PyTorch state dict'):
      torch_files.read(tmp_path / 'a.pth')


def test_a_tensor_stays_within_its_storage(tmp_path, dump):
  data = np.zeros(4, np.float32)
  for i, (offset, size, stride) in enumerate(
    [(0, (5,), (1,)), (2, (2, 2), (2, 1)), (-1, (1,), (1,)), (0, (2,), (-1,))]
  ):
    path = tmp_path / f'{i}.pth'
    write_zip(path, dump({'w': _Tensor(_Storage('0', data), offset, size, stride)}), {'0': data})
    with pytest.raises(SSRError, match='beyond its data|impossible shape'):
      torch_files.read(path)['w']


@pytest.mark.parametrize('content', [b'', b'hello', b'PK\x05\x06' + bytes(18), pickle.dumps([1, 2])])
def test_what_is_no_state_dict_is_named(tmp_path, content):
  (tmp_path / 'a.bin').write_bytes(content)
  with pytest.raises(SSRError, match=r'a\.bin: (not a PyTorch|holds no) state dict'):
    torch_files.read(tmp_path / 'a.bin')
  (tmp_path / 'a.safetensors').write_bytes(content)
  with pytest.raises(SSRError, match=r'a\.safetensors: not a safetensors file'):
    torch_files.read(tmp_path / 'a.safetensors')


def test_full_precision_and_safetensors_come_first(tmp_path):
  names = ['pytorch_model.bin', 'model.fp16.safetensors', 'model.safetensors.index.json', 'model.safetensors']
  for name in names:
    (tmp_path / name).touch()
    assert torch_files.find(tmp_path).name == name  # each is preferred to those before it
  with pytest.raises(SSRError, match='no weights here; put'):
    torch_files.find(tmp_path / 'absent')


def test_shards_and_those_that_are_missing(tmp_path):
  arrays = {'a': np.ones(2, np.float32), 'b': np.zeros(3, np.float16)}
  for name, array in arrays.items():
    safetensors.numpy.save_file({name: array}, tmp_path / f'{name}.safetensors')
  index = tmp_path / 'model.safetensors.index.fp16.json'
  index.write_text(json.dumps({'weight_map': {'a': 'a.safetensors', 'b': 'b.safetensors'}}))
  tensors = torch_files.read(tmp_path)
  assert {name: tensors[name].tolist() for name in tensors} == {'a': [1, 1], 'b': [0, 0, 0]}
  index.write_text(json.dumps({'weight_map': {'a': 'a.safetensors', 'c': 'b.safetensors'}}))
  with pytest.raises(SSRError, match='b.safetensors: lacks c'):
    torch_files.read(tmp_path)
  index.write_text(json.dumps({'weight_map': {'a': '../a.safetensors'}}))
  with pytest.raises(SSRError, match='must lie beside it'):
    torch_files.read(tmp_path)
  index.write_text(json.dumps({'weight_map': {'a': 'gone.safetensors'}}))
  with pytest.raises(SSRError, match='gone.safetensors: no such file'):
    torch_files.read(tmp_path)


# ---- names -----------------------------------------------------------------------------------------------------------

TEXT = dict(width=24, layers=1, heads=2, hidden=32, vocabulary=514, positions=16, activation='gelu')
VAE = dict(channels=[8, 16], encoder_blocks=1, decoder_blocks=2, groups=4)


def expected(part, config):
  return {k: v for k, v in registry.abstract_variables(part, config).items() if k.startswith('params/')}


def theirs(table, shapes, seed=0):
  """Their state dict with random values, made from our shapes."""
  generator = rng(seed)

  def draw(shape):
    mean, deviation = (0, np.prod(shape[:-1]) ** -0.5) if len(shape) > 1 else (0.5, 0.3)
    return generator.normal(mean, deviation, shape).astype(np.float32)

  return table.to_theirs({k: draw(v.shape) for k, v in shapes.items()})


def test_every_wrong_name_and_shape_is_listed():
  table, shapes = convert.vae(), expected('vae', VAE)
  state = theirs(table, shapes)
  state['encoder.conv_in.weight'] = state['encoder.conv_in.weight'][:, :2]
  state['encoder.extra.weight'] = state.pop('decoder.conv_out.bias')
  with pytest.raises(SSRError) as error:
    table.to_ours(state, shapes, 'FILE')
  message = str(error.value)
  assert message.startswith('FILE: not the weights of this network: no place for encoder.extra.weight; ')
  assert 'missing decoder.conv_out.bias; ' in message and 'shape of encoder.conv_in.weight (8, 2, 3, 3)' in message
  assert '\n' not in message
  with pytest.raises(SSRError, match='no name for params/gan/kernel'):
    table.to_theirs({'params/gan/kernel': np.zeros((2, 2))})


def test_two_tensors_for_one_place_are_an_error():
  table, shapes = convert.vae(), expected('vae', VAE)
  state = theirs(table, shapes)
  state['encoder.mid_block.attentions.0.query.weight'] = state['encoder.mid_block.attentions.0.to_q.weight']
  with pytest.raises(SSRError, match=r'no place for encoder\.mid_block\.attentions\.0\.query\.weight'):
    table.to_ours(state, shapes, 'FILE')


def test_old_names_of_the_autoencoders_attention_and_both_kinds_of_projection():
  table, shapes = convert.vae(), expected('vae', VAE)
  state = theirs(table, shapes)
  want = table.to_ours(state, shapes, 'FILE')
  renames = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
  old = {}
  for name, array in state.items():
    for new, before in renames.items():
      if f'attentions.0.{new}.' in name:
        name = name.replace(f'.{new}.', f'.{before}.')
        array = array[:, :, None, None] if array.ndim == 2 else array  # 1x1 convolutions in the oldest ones
    old[name] = array
  assert old.keys() != state.keys()
  got = table.to_ours(old, shapes, 'FILE')
  for name in want:
    np.testing.assert_array_equal(got[name], want[name])


def test_layouts_against_loops():
  """A 2x2 convolution of stride 2 and its transpose, applied by loops to both layouts."""
  from ssr_jax.nn.layers import Downsample2x2, Upsample2x2

  w, bias, x = rng().normal(size=(5, 3, 2, 2)), rng(1).normal(size=5), rng(2).normal(size=(1, 4, 6, 3))
  table = convert.Table([('a', 'b', 'cell')])
  ours = table.to_ours(
    {'b.weight': w, 'b.bias': bias}, {'params/a/conv/kernel': np.empty((12, 5)), 'params/a/conv/bias': np.empty(5)}, ''
  )
  got = Downsample2x2(5).apply({'params': registry.unflatten(ours)['params']['a']}, jnp.asarray(x, jnp.float32))
  want = np.array(
    [
      [
        [
          [(x[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].transpose(2, 0, 1) * w[o]).sum() + bias[o] for o in range(5)]
          for j in range(3)
        ]
        for i in range(2)
      ]
    ]
  )
  np.testing.assert_allclose(got, want, atol=1e-5)

  w = rng().normal(size=(3, 5, 2, 2))
  table = convert.Table([('a', 'b', 'transposed2')])
  ours = table.to_ours(
    {'b.weight': w, 'b.bias': bias}, {'params/a/conv/kernel': np.empty((3, 20)), 'params/a/bias': np.empty(5)}, ''
  )
  got = Upsample2x2(5).apply({'params': registry.unflatten(ours)['params']['a']}, jnp.asarray(x, jnp.float32))
  want = np.empty((1, 8, 12, 5))
  for i in range(8):
    for j in range(12):
      want[0, i, j] = x[0, i // 2, j // 2] @ w[:, :, i % 2, j % 2] + bias
  np.testing.assert_allclose(got, want, atol=1e-5)


# ---- configs ---------------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize('config, count', [(SD15, 859_520_964), (SD21, 865_910_724)], ids=['sd15', 'sd21'])
def test_published_unet_configs_give_the_published_parameters(config, count):
  module = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in importing.unet_config(config).items()})
  args = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 7, config['cross_attention_dim']))
  v = jax.eval_shape(module.init, jax.random.key(0), *args)
  assert sum(a.size for a in jax.tree.leaves(v)) == count


@pytest.mark.parametrize('config, ours', [(SD15, sd15), (SD21, sd21)], ids=['sd15', 'sd21'])
def test_training_on_imported_weights_is_not_refused(config, ours):
  """train.py compares every field of the networks with those of the weights that it starts from."""
  imported = importing.unet_config(config) | importing.widths(4) | {'prompt_tokens': 77}
  assert systems.build('unet', **imported) == systems.build('unet', **ours.get_config('diffusion').model.unet.to_dict())


@pytest.mark.parametrize(
  'change, match',
  [
    (dict(act_fn='gelu'), "act_fn is 'gelu'; our network has 'silu' only"),
    (dict(down_block_types=['AttnDownBlock2D'] * 4), "'AttnDownBlock2D' is not one"),
    (dict(up_block_types=['CrossAttnUpBlock2D'] * 4), 'is not the way down'),
    (dict(out_channels=8), 'in_channels 4 and out_channels 8 differ'),
    (dict(transformer_layers_per_block=[1, 2, 10]), 'transformer_layers_per_block'),
  ],
)
def test_a_config_that_our_unet_cannot_honour_is_named(change, match):
  with pytest.raises(SSRError, match=match):
    importing.unet_config(SD21 | change, 'FILE')
  with pytest.raises(SSRError, match="FILE: field 'block_out_channels' is missing"):
    importing.unet_config({k: v for k, v in SD21.items() if k != 'block_out_channels'}, 'FILE')


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
  assert systems.build('depth', **importing.dpt_config(large)) == dpt.DPT()
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
  got = systems.build('depth', **importing.dpt_config(beit))
  assert got == dpt.DPT(**dpt.SIZES['dpt-beit-large-512'])
  for field in ('use_shared_relative_position_bias', 'use_absolute_position_embeddings', 'add_fpn'):
    with pytest.raises(SSRError, match=f'{field} is True'):
      importing.dpt_config(beit | dict(backbone_config=beit['backbone_config'] | {field: True}))
  got = systems.build('depth', **importing.depth_anything_config(anything))
  assert got == dpt.DPT(**dpt.SIZES['depth-anything-v2-large'])
  with pytest.raises(SSRError, match="depth_estimation_type is 'metric'"):
    importing.depth_anything_config(anything | dict(depth_estimation_type='metric'))


# ---- whole checkpoints -----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'home'))
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  return tmp_path / 'home'


UNET = SD21 | dict(
  attention_head_dim=[1, 2],
  block_out_channels=[8, 16],
  cross_attention_dim=24,
  norm_num_groups=4,
  layers_per_block=1,
  down_block_types=['CrossAttnDownBlock2D', 'DownBlock2D'],
  up_block_types=['UpBlock2D', 'CrossAttnUpBlock2D'],
)


def _write(folder, config, state, name='diffusion_pytorch_model.safetensors'):
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, folder / name)


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
  """A Stable Diffusion of tiny size, as diffusers lays it out, and its UNet's state dict."""
  monkeypatch.setattr(
    importing, '_WIDTHS', {'kernel_channels': (4, 4), 'depth_channels': (4, 4), 'lr_channels': (32, 32)}
  )
  root = tmp_path / 'sd'
  unet = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in importing.unet_config(UNET).items()})
  args = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 7, 24))
  shapes = registry.flatten_shapes(jax.eval_shape(unet.init, jax.random.key(0), *args))
  state = {k: v.astype(np.float16) for k, v in theirs(convert.unet(), shapes).items()}
  _write(root / 'unet', UNET, state, 'diffusion_pytorch_model.fp16.safetensors')
  vae = dict(block_out_channels=[8, 16], layers_per_block=1, latent_channels=4, norm_num_groups=4, scaling_factor=0.5)
  _write(root / 'vae', vae, theirs(convert.vae(), expected('vae', importing.vae_config(vae))))
  text = dict(
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    vocab_size=514,
    max_position_embeddings=16,
    hidden_act='gelu',
  )
  from ssr_jax.nn.clip import CLIPText

  shapes = importing._abstract(CLIPText(**TEXT), jnp.zeros((1, 16), jnp.int32))
  _write(root / 'text_encoder', text, theirs(convert.clip_text(), shapes), 'model.safetensors')
  for name, content in {
    'scheduler/scheduler_config.json': dict(
      beta_schedule='scaled_linear', beta_start=0.001, beta_end=0.01, prediction_type='v_prediction'
    ),
    'tokenizer/vocab.json': {
      t: i
      for i, t in enumerate(
        [*tokenizer._LETTERS, *(letter + '</w>' for letter in tokenizer._LETTERS), tokenizer.START, tokenizer.END]
      )
    },
    'tokenizer/tokenizer_config.json': dict(model_max_length=16, pad_token='!'),
  }.items():
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(content))
  (root / 'tokenizer' / 'merges.txt').write_text('#version: 0.2\n')
  return root, unet, state


def test_a_stable_diffusion_becomes_a_model_that_keeps_its_prior(pipeline, home, capsys):
  """From the command to the output: AMF-UNet without a context equals the base UNet with the prompt's embedding."""
  root, unet, state = pipeline
  assert cli.main(['weights', 'import', str(root), '--as', 'big', '--prompt', 'a cat']) == 0
  assert f'vae, unet written to {home / "big"}' in capsys.readouterr().out
  assert cli.main(['weights', 'verify', 'big']) == 0 and cli.main(['weights', 'path', 'big']) == 0
  assert str(home / 'big') in capsys.readouterr().out
  model = registry.load_model('big')
  assert model.config['schedule'] == dict(steps=1000, beta_start=0.001, beta_end=0.01, prediction='v')
  entry = model.config['parts']['unet']
  assert entry['training']['prompt'] == 'a cat' and model.config['parts']['vae']['config']['scaling_factor'] == 0.5

  variables = model.variables['unet']
  prompt = variables['constants']['prompt']
  np.testing.assert_allclose(prompt, importing.prompt_embedding(root, 'a cat'), atol=1e-6)
  assert np.abs(prompt - importing.prompt_embedding(root, '')).max() > 1e-2
  module = systems.build('unet', **entry['config'])
  z, t, conditions, _ = systems.get('ssr').parts['unet'].example(module)
  z, t = jnp.asarray(rng().normal(size=z.shape), jnp.float32), t + 400
  conditions = jax.tree.map(lambda a: jnp.asarray(rng(1).normal(size=a.shape), jnp.float32), conditions)
  shapes = {
    k.replace('params/unet/', 'params/'): v
    for k, v in registry.abstract_variables('unet', entry['config']).items()
    if k.startswith('params/unet/') and '/amf/' not in k
  }
  base = registry.unflatten(convert.unet().to_ours(state, shapes, ''))
  run = jax.jit(unet.apply)
  want = run(base, z, t, jnp.asarray(prompt)[None])
  assert float(jnp.abs(run(base, z, t, 0 * jnp.asarray(prompt)[None]) - want).max()) > 1e-2  # the prompt matters
  got = jax.jit(module.apply)(variables, z, t, conditions)
  assert float(jnp.std(want)) > 0.05
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_what_is_not_there_or_not_known_is_one_line(tmp_path, pipeline, home, capsys):
  root, *_ = pipeline
  cases = {
    'nosuch': 'nosuch: no such folder or file',
    'sd15': f'cannot be fetched from .*put its files into {home / "downloads" / "sd15"} and run this again',
    str(tmp_path): 'config.json: cannot be read',
    str(root / 'text_encoder'): "a None is nothing we import; known: a Stable Diffusion's folder",
  }
  for source, match in cases.items():
    assert cli.main(['weights', 'import', source, '--as', 'x']) == 2
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and re.search(match, line), line
  assert cli.main(['weights', 'import', str(root), '--as', 'compact']) == 2
  assert 'comes with the package' in capsys.readouterr().err
  assert not (home / 'x').exists()


def test_a_filled_downloads_folder_is_found(home):
  folder = home / 'downloads' / 'sd15'
  folder.mkdir(parents=True)
  (folder / 'model_index.json').touch()
  assert public.locate('sd15') == folder


@pytest.mark.parametrize('network', ['vae', 'unet', 'text_encoder'])
def test_a_damaged_download_writes_nothing(pipeline, home, network):
  root, *_ = pipeline
  (path,) = (root / network).glob('*.safetensors')
  tensors = safetensors.numpy.load_file(path)
  name = sorted(tensors)[0]
  del tensors[name]
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(SSRError, match=rf'{network}: not the weights .* missing {re.escape(name)}'):
    importing.import_checkpoint(root, home / 'big')
  assert not (home / 'big').exists()


def test_an_imported_model_runs_end_to_end(pipeline, home, tiny_model_dir):
  """The prompt's embedding comes with the weights: the pipeline knows no text encoder."""
  root, *_ = pipeline
  importing.import_checkpoint(root, home / 'big')
  for part in ('depth', 'dkenet', 'nbsr'):
    registry.copy_part(tiny_model_dir, part, home / 'big')
  image = ssr_jax.sample(skimage.data.astronaut()[:20, :24] / 255, 'big', steps=2, start=1.0).image
  assert image.shape == (80, 96, 3) and np.isfinite(image).all() and image.std() > 1e-3


def test_the_list_names_licences_and_places(home, capsys):
  assert cli.main(['weights', 'list']) == 0
  out = capsys.readouterr().out
  assert out.startswith('compact (x4)') and 'CreativeML Open RAIL' in out
  for name, entry in public.PUBLIC.items():
    assert name in out and all(place in out for place in entry.places)


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_manets_three_kinds_of_file(tmp_path, stage):
  """Kernel estimation alone, restoration alone, and both in one file."""
  estimator = dict(features=8, depth_features=0)
  restorer = dict(blocks=2, features=8, growth=4, components=6, taps=441, scale=2)
  state, pca = {}, rng(5).normal(size=(1, 441, 6, 1, 1)).astype(np.float32)
  if stage != 2:
    kernel = theirs(convert.manet(), expected('dkenet', estimator))
    state |= {f'kernel_estimation.{k}': v for k, v in kernel.items()}
  if stage != 1:
    state |= theirs(convert.rrdb_sft(), expected('nbsr', restorer)) | {'pca_matrix': pca}
  safetensors.numpy.save_file(state, tmp_path / 'manet.safetensors')
  parts = importing.import_checkpoint(tmp_path / 'manet.safetensors', tmp_path / 'm')
  assert parts == {1: ['dkenet'], 2: ['nbsr'], 3: ['dkenet', 'nbsr']}[stage]
  model = registry.load_model(tmp_path / 'm')
  if stage != 1:
    assert model.config['parts']['nbsr']['config'] == restorer
    np.testing.assert_array_equal(model.variables['nbsr']['constants']['pca'], pca.squeeze())
  if stage != 2:
    assert model.config['parts']['dkenet']['config'] == estimator


def test_full_size_manet_and_rrdb_sft_have_the_published_parameters():
  count = lambda part, config: sum(v.size for v in expected(part, config).values())
  assert count('dkenet', dict(features=128, depth_features=0)) == 1_810_361
  assert count('nbsr', {}) == 8_086_256
  assert len(theirs(convert.rrdb_sft(), expected('nbsr', {}))) == len(expected('nbsr', {}))
