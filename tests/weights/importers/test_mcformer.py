"""Released checkpoints of BlindDiff: their names, both ways and strictly, from a file to a model that runs."""

import jax
import numpy as np
import pytest
import safetensors.numpy

import ssr_jax
from ssr_jax import cli
from ssr_jax.types import SSRError
from ssr_jax.weights import format, importers, store
from ssr_jax.weights.importers import mcformer

CONFIG = dict(
  features=6, blocks=[2, 1, 1, 2], heads=[1, 2, 2, 4], refinement=2, expansion=2.66, taps=441, variance='learned'
)


def _state(config):
  """A generated state dict, by their names."""
  rng = np.random.default_rng(0)
  shapes = format.abstract_variables('mcformer', config, system='blinddiff')
  ours = {name: rng.standard_normal(shape.shape).astype(np.float32) * 0.2 for name, shape in shapes.items()}
  return ours, importers.mcformer_table().to_theirs(ours)


def _write(path, state):
  safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)
  return path


def test_names_are_those_of_the_released_code():
  """Names and shapes at the published size, of which each kind of tensor is listed here by hand."""
  shapes = format.abstract_variables('mcformer', {'variance': 'learned'}, system='blinddiff')
  ours = {name: np.broadcast_to(np.float32(0), shape.shape) for name, shape in shapes.items()}
  theirs = {name: array.shape for name, array in importers.mcformer_table().to_theirs(ours).items()}
  expected = {
    't_embedder.1.weight': (192, 48),
    't_embedder.3.bias': (48,),
    'k_mlp.0.weight': (48, 441),
    'k_mlp.2.weight': (48, 48),
    'predictor.0.weight': (48, 6, 5, 5),
    'predictor.10.bias': (48,),
    'predictor.13.weight': (441, 48, 1, 1),
    'patch_embed.proj.weight': (48, 6, 3, 3),
    'encoder_level1.1.norm1.body.weight': (48,),
    'encoder_level2.2.attn.temperature': (2, 1, 1),
    'encoder_level3.5.attn.qkv.weight': (576, 192, 1, 1),
    'latent.7.attn.qkv_dwconv.weight': (1152, 1, 3, 3),
    'latent.0.modulation.1.weight': (1536, 48),
    'decoder_level3.0.ffn.project_in.weight': (1020, 192, 1, 1),
    'decoder_level2.0.ffn.dwconv.weight': (510, 1, 3, 3),
    'decoder_level1.1.attn.project_out.weight': (96, 96, 1, 1),
    'refinement.1.ffn.project_out.weight': (96, 255, 1, 1),
    'down1_2.body.0.weight': (24, 48, 3, 3),
    'up4_3.body.0.weight': (768, 384, 3, 3),
    'up2_1.body.0.weight': (192, 96, 3, 3),
    'reduce_chan_level3.weight': (192, 384, 1, 1),
    'reduce_chan_level2.weight': (96, 192, 1, 1),
    'output.weight': (6, 96, 3, 3),
  }
  assert {name: theirs[name] for name in expected} == expected
  assert sum(np.prod(shape) for shape in theirs.values()) == 26_509_267
  assert not [name for name in theirs if name.startswith('reduce_chan_level1')]


def test_a_file_becomes_a_model_and_goes_back(tmp_path, capsys):
  ours, state = _state(CONFIG)
  assert mcformer.config(state, 'x') == CONFIG
  path = _write(tmp_path / 'net_g.safetensors', state)
  assert cli.main(['weights', 'import', str(path), '--as', str(tmp_path / 'model')]) == 0, capsys.readouterr().err
  model = store.load_model(tmp_path / 'model')
  assert model.config['system'] == 'blinddiff' and model.config['parts']['mcformer']['config'] == CONFIG
  # The enlargement that the weights saw, and the guidance of their code.
  assert model.config['domain']['up'] == 'torch' and model.config['sampling']['shrink'] == 0.1
  assert model.config['sampling']['steps'] == 500 and model.config['schedule']['shape'] == 'linear'
  loaded = format.flatten(model.variables['mcformer'])
  assert loaded.keys() == ours.keys()
  for name, array in importers.mcformer_table().to_theirs(loaded).items():
    np.testing.assert_array_equal(array, state[name].astype(np.float16), err_msg=name)  # as it is stored
  restorer = ssr_jax.load(tmp_path / 'model')
  plan = restorer.check()
  assert plan.domain.up == 'torch' and plan.shrink == 0.1 and plan.steps == 500
  lr = jax.ShapeDtypeStruct((1, 4, 4, 3), np.float32)
  module, variables = restorer.modules['mcformer'], restorer.variables['mcformer']
  large = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
  shapes = jax.eval_shape(module.apply, variables, large, jax.ShapeDtypeStruct((1,), np.float32), large)
  assert [s.shape for s in shapes] == [(1, 16, 16, 6), (1, 441)] and lr.shape[1] * 4 == 16


@pytest.mark.parametrize(
  'change,match',
  [
    (lambda s: s.pop('k_mlp.0.bias'), 'missing k_mlp.0.bias'),
    (lambda s: s.update({'skip_conv.weight': np.zeros((12, 6, 1, 1), np.float32)}), 'no place for skip_conv.weight'),
    (lambda s: s.update({'output.weight': np.zeros((9, 12, 3, 3), np.float32)}), 'makes 3 images'),
    (lambda s: s.update({'conv.weight': s.pop('encoder_level1.0.ffn.dwconv.weight')}), 'ffn.dwconv.weight is missing'),
    (lambda s: s.update({'k_mlp.2.weight': np.zeros((6, 7), np.float32)}), 'shape of k_mlp.2.weight'),
    (lambda s: s.pop('latent.1.norm1.body.bias'), 'missing latent.1.norm1.body.bias'),
  ],
)
def test_another_network_is_refused(change, match, tmp_path):
  _, state = _state(CONFIG)
  change(state)
  path = _write(tmp_path / 'net_g.safetensors', state)
  with pytest.raises(SSRError, match=match):
    importers.import_checkpoint(path, tmp_path / 'model')
  assert not (tmp_path / 'model').exists()
