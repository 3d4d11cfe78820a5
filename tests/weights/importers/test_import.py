"""Whole checkpoints: from the folder or file to a model that runs."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import skimage.data

import ssr_jax
from ssr_jax import cli, systems
from ssr_jax.nn.unet import UNet
from ssr_jax.types import SSRError
from ssr_jax.weights import format, importers, published, store
from tests.weights.importers import helpers

TEXT = dict(width=24, layers=1, heads=2, hidden=32, vocabulary=514, positions=16, activation='gelu')


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'home'))
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  return tmp_path / 'home'


UNET = helpers.SD21 | dict(
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
    importers.ssr, '_WIDTHS', {'kernel_channels': (4, 4), 'depth_channels': (4, 4), 'lr_channels': (32, 32)}
  )
  root = tmp_path / 'sd'
  unet = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in importers.unet_config(UNET).items()})
  args = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), jnp.zeros((1, 7, 24))
  shapes = format.flatten_shapes(jax.eval_shape(unet.init, jax.random.key(0), *args))
  state = {k: v.astype(np.float16) for k, v in helpers.theirs(importers.unet_table(), shapes).items()}
  _write(root / 'unet', UNET, state, 'diffusion_pytorch_model.fp16.safetensors')
  vae = dict(block_out_channels=[8, 16], layers_per_block=1, latent_channels=4, norm_num_groups=4, scaling_factor=0.5)
  _write(root / 'vae', vae, helpers.theirs(importers.vae_table(), helpers.expected('vae', importers.vae_config(vae))))
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

  shapes = format.flatten_shapes(
    jax.eval_shape(CLIPText(**TEXT).init, jax.random.key(0), jnp.zeros((1, 16), jnp.int32))
  )
  _write(root / 'text_encoder', text, helpers.theirs(importers.text_table(), shapes), 'model.safetensors')
  for name, content in {
    'scheduler/scheduler_config.json': dict(
      beta_schedule='scaled_linear', beta_start=0.001, beta_end=0.01, prediction_type='v_prediction'
    ),
    'tokenizer/vocab.json': {
      t: i
      for i, t in enumerate(
        [
          *importers.tokenizer._LETTERS,
          *(letter + '</w>' for letter in importers.tokenizer._LETTERS),
          importers.tokenizer.START,
          importers.tokenizer.END,
        ]
      )
    },
    'tokenizer/tokenizer_config.json': dict(model_max_length=16, pad_token='!'),
  }.items():
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(content))
  (root / 'tokenizer' / 'merges.txt').write_text('#version: 0.2\n')
  return root, unet, state


@pytest.mark.slow
def test_a_stable_diffusion_becomes_a_model_that_keeps_its_prior(pipeline, home, capsys):
  """From the command to the output: AMF-UNet without a context equals the base UNet with the prompt's embedding."""
  root, unet, state = pipeline
  assert cli.main(['weights', 'import', str(root), '--as', 'big', '--prompt', 'a cat']) == 0
  assert f'vae, unet written to {home / "big"}' in capsys.readouterr().out
  assert cli.main(['weights', 'verify', 'big']) == 0 and cli.main(['weights', 'path', 'big']) == 0
  assert str(home / 'big') in capsys.readouterr().out
  model = store.load_model('big')
  assert model.config['schedule'] == dict(steps=1000, beta_start=0.001, beta_end=0.01, prediction='v')
  entry = model.config['parts']['unet']
  assert entry['training']['prompt'] == 'a cat' and model.config['parts']['vae']['config']['scaling_factor'] == 0.5

  variables = model.variables['unet']
  prompt = variables['constants']['prompt']
  np.testing.assert_allclose(prompt, importers.prompt_embedding(root, 'a cat'), atol=1e-6)
  assert np.abs(prompt - importers.prompt_embedding(root, '')).max() > 1e-2
  module = systems.build('unet', **entry['config'])
  z, t, conditions, _ = systems.get('ssr').parts['unet'].example(module)
  z, t = jnp.asarray(helpers.rng().normal(size=z.shape), jnp.float32), t + 400
  conditions = jax.tree.map(lambda a: jnp.asarray(helpers.rng(1).normal(size=a.shape), jnp.float32), conditions)
  shapes = {
    k.replace('params/unet/', 'params/'): v
    for k, v in format.abstract_variables('unet', entry['config']).items()
    if k.startswith('params/unet/') and '/amf/' not in k
  }
  base = format.unflatten(importers.unet_table().to_ours(state, shapes, ''))
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
    str(root / 'text_encoder'): "a None cannot be imported; known: a Stable Diffusion's folder",
  }
  for source, match in cases.items():
    assert cli.main(['weights', 'import', source, '--as', 'x']) == 2
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and re.search(match, line), line
  assert cli.main(['weights', 'import', str(root), '--as', 'compact']) == 2
  assert 'is the bundled model' in capsys.readouterr().err
  assert not (home / 'x').exists()


def test_a_filled_downloads_folder_is_found(home):
  folder = home / 'downloads' / 'sd15'
  folder.mkdir(parents=True)
  (folder / 'model_index.json').touch()
  assert published.fetch('sd15') == folder


@pytest.mark.parametrize('network', ['vae', 'unet', 'text_encoder'])
def test_a_damaged_download_writes_nothing(pipeline, home, network):
  root, *_ = pipeline
  (path,) = (root / network).glob('*.safetensors')
  tensors = safetensors.numpy.load_file(path)
  name = sorted(tensors)[0]
  del tensors[name]
  safetensors.numpy.save_file(tensors, path)
  with pytest.raises(SSRError, match=rf'{network}: not the weights .* missing {re.escape(name)}'):
    importers.import_checkpoint(root, home / 'big')
  assert not (home / 'big').exists()


@pytest.mark.slow
def test_an_imported_model_runs_end_to_end(pipeline, home, tiny_model_dir):
  """The prompt's embedding comes with the weights: the pipeline knows no text encoder."""
  root, *_ = pipeline
  importers.import_checkpoint(root, home / 'big')
  for part in ('depth', 'dkenet', 'nbsr'):
    format.copy_part(tiny_model_dir, part, home / 'big')
  image = ssr_jax.sample(skimage.data.astronaut()[:20, :24] / 255, 'big', steps=2, start=1.0).image
  assert image.shape == (80, 96, 3) and np.isfinite(image).all() and image.std() > 1e-3


@pytest.mark.slow
def test_a_stable_diffusion_becomes_cassrs_prior_with_its_prompts(pipeline, home, capsys):
  """The UNet's tensors as they are; three embeddings, the empty one that of an imported UNet without a prompt."""
  root, _, state = pipeline
  assert cli.main(['weights', 'import', str(root), '--as', 'c', '--system', 'cassr']) == 0
  model = store.load_model('c')
  assert list(model.config['parts']) == ['vae', 'prior'] and model.config['schedule']['prediction'] == 'v'
  found = format.flatten(model.variables['prior']['params']['unet'])
  np.testing.assert_array_equal(
    found['up_1_attn_0/block_0_self/to_q/kernel'],
    state['up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight'].T,
  )
  assert len(found) == len(state)
  importers.import_checkpoint(root, home / 'ssr')
  empty = store.load_model('ssr').variables['unet']['constants']['prompt']
  prompts = model.variables['prior']['constants']['prompts']
  np.testing.assert_array_equal(prompts[0], empty)
  assert prompts.shape == (3, *empty.shape) and np.abs(prompts[1] - prompts[2]).max() > 1e-3
  with pytest.raises(SSRError, match='the prior of cassr has prompts of its own'):
    importers.import_checkpoint(root, home / 'd', prompt='a photo', system='cassr')


def test_the_list_names_licences_and_places(home, capsys):
  assert cli.main(['weights', 'list']) == 0
  out = capsys.readouterr().out
  assert out.startswith('compact (x4)') and 'CreativeML Open RAIL' in out
  for name, entry in published.PUBLISHED.items():
    assert name in out and all(place in out for place in entry.places)


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_manets_three_kinds_of_file(tmp_path, stage):
  """Kernel estimation alone, restoration alone, and both in one file."""
  estimator = dict(features=8, depth_features=0)
  restorer = dict(blocks=2, features=8, growth=4, components=6, taps=441, scale=2)
  state, pca = {}, helpers.rng(5).normal(size=(1, 441, 6, 1, 1)).astype(np.float32)
  if stage != 2:
    kernel = helpers.theirs(importers.manet_table(), helpers.expected('dkenet', estimator))
    state |= {f'kernel_estimation.{k}': v for k, v in kernel.items()}
  if stage != 1:
    state |= helpers.theirs(importers.rrdb_sft_table(), helpers.expected('nbsr', restorer)) | {'pca_matrix': pca}
  safetensors.numpy.save_file(state, tmp_path / 'manet.safetensors')
  parts = importers.import_checkpoint(tmp_path / 'manet.safetensors', tmp_path / 'm')
  assert parts == {1: ['dkenet'], 2: ['nbsr'], 3: ['dkenet', 'nbsr']}[stage]
  model = store.load_model(tmp_path / 'm')
  if stage != 1:
    assert model.config['parts']['nbsr']['config'] == restorer
    np.testing.assert_array_equal(model.variables['nbsr']['constants']['pca'], pca.squeeze())
  if stage != 2:
    assert model.config['parts']['dkenet']['config'] == estimator


def test_full_size_manet_and_rrdb_sft_have_the_published_parameters():
  count = lambda part, config: sum(v.size for v in helpers.expected(part, config).values())
  assert count('dkenet', dict(features=128, depth_features=0)) == 1_810_361
  assert count('nbsr', {}) == 8_086_256
  assert len(helpers.theirs(importers.rrdb_sft_table(), helpers.expected('nbsr', {}))) == len(
    helpers.expected('nbsr', {})
  )
