"""A model as one program: what other software runs is what `sample` gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssr_jax
from ssr_jax import cli
from ssr_jax.runtime import exporting
from ssr_jax.types import SSRError

SIZE = (32, 64)


@pytest.fixture(scope='module')
def model(tiny_model_dir):
  return ssr_jax.load(tiny_model_dir)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{'steps': 0}, {'steps': 2, 'colour_fix': 'adain', 'start': 0.5}])
def test_stablehlo_gives_what_sample_gives(model, options):
  made = exporting.program(model, SIZE, seed=3, **options)
  run = exporting.stablehlo_runner(exporting.stablehlo(made))
  expected = model.sample(made.example[0], seed=3, **options)
  found = dict(zip(made.outputs, run(made.example), strict=True))
  for name, value in {'image': expected.image, **expected.outputs}.items():
    assert found[name].shape == (1, *value.shape)
    np.testing.assert_allclose(found[name][0], value, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_the_seed_and_the_options_are_in_the_program(model):
  made = [exporting.program(model, SIZE, seed=s, steps=2, start=0.5) for s in (0, 1, 1)]
  noises = [[c for c in jax.make_jaxpr(m.run)(m.example).consts if np.shape(c) == (32, 64, 4)] for m in made]
  assert [len(found) for found in noises] == [1, 1, 1]
  assert np.array_equal(noises[1], noises[2]) and np.abs(np.subtract(noises[0], noises[1])).max() > 1
  assert made[1].notes['seed'] == '1' and 'steps=2' in made[1].notes['options']
  assert made[1].notes['sha256.nbsr'] == model.config['parts']['nbsr']['sha256']


def test_sizes_that_would_be_padded_are_refused_with_one_that_is_not(model):
  with pytest.raises(SSRError, match='size 40x64: the model would pad it; the next size that it takes is 64x64'):
    exporting.program(model, (40, 64))
  with pytest.raises(SSRError, match="unknown option 'nosuch'"):
    exporting.program(model, SIZE, nosuch=1)


def _all_kinds(x):
  """Calls, loops of one and of several steps, constants that depend on nothing, and empty arrays."""
  table = jnp.cumsum(jnp.arange(5.0)) @ jnp.eye(5)
  x = jnp.pad(x, ((0, 0), (2, 2), (0, 0)), mode='edge')  # joins empty arrays on the axes that are not padded
  x = jax.nn.relu(x) + jax.jit(lambda y: jax.nn.gelu(y) * table)(x)
  once, _ = jax.lax.scan(lambda c, y: (c * y, c), x, jnp.array([2.0]))

  def scaled(c, y):  # also with a constant, and with trees
    (one, two), three = c
    return ((jnp.sin(one) + y['a'] * table, two + 1), (one, two)), three[0].sum() * y['b']

  (carry, _), ys = jax.lax.scan(scaled, ((once,) * 2, (once,) * 2), {'a': table[:3], 'b': table[1:4]}, reverse=True)
  return carry[0], ys, jax.lax.fori_loop(0, 3, lambda i, c: c + i, carry[1])


def test_simplified_programs_compute_the_same():
  x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
  traced = jax.make_jaxpr(_all_kinds)(x)
  again = jax.make_jaxpr(lambda x: exporting._evaluate(traced.jaxpr, traced.consts, [x]))(x)
  for a, b in zip(jax.jit(_all_kinds)(x), jax.jit(jax.extend.core.jaxpr_as_fun(again))(x), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  names = [equation.primitive.name for equation in again.jaxpr.eqns]
  assert not {'jit', 'custom_jvp_call', 'cumsum', 'iota'} & set(names)
  assert names.count('scan') == 2  # that of one step has gone
  joins = [e for e in again.jaxpr.eqns if e.primitive.name == 'concatenate']
  assert joins and all(v.aval.size for e in joins for v in e.invars)


def test_large_constants_are_not_stored_when_an_operator_makes_them():
  traced = jax.make_jaxpr(lambda x: x + jnp.zeros((512, 512)))(np.float32(0))
  again = jax.make_jaxpr(lambda x: exporting._evaluate(traced.jaxpr, traced.consts, [x]))(np.float32(0))
  assert not again.consts and 'broadcast_in_dim' in [e.primitive.name for e in again.jaxpr.eqns]


@pytest.mark.slow
def test_comparison_notices_another_program(model):
  made = exporting.program(model, SIZE, steps=0)
  own = jax.jit(made.run)
  found = exporting.compare(made, lambda lr: [x + 0.01 for x in own(lr)], repeats=1)
  assert all(abs(d - 0.01) < 1e-4 for d in found['difference'].values()) and len(found['difference']) == 4
  found = exporting.compare(made, lambda lr: [x * np.nan for x in own(lr)], repeats=1)
  assert set(found['difference'].values()) == {float('inf')}


@pytest.mark.slow
def test_the_command_writes_only_what_it_has_checked(model, tiny_model_dir, tmp_path, capsys, monkeypatch):
  target = tmp_path / 'net.stablehlo'
  words = ['export-onnx', str(tiny_model_dir), str(target), '--size', '64x32', '--steps', '0']
  monkeypatch.setattr(exporting, 'TOLERANCE', -1.0)
  assert cli.main(words) == 1 and 'not written' in capsys.readouterr().err and not list(tmp_path.iterdir())
  monkeypatch.undo()
  assert cli.main(words) == 0
  out = capsys.readouterr().out
  assert 'lr [1, 32, 64, 3] -> depth, kernels, restored, image' in out and 'largest difference' in out
  made = exporting.program(model, SIZE, steps=0)
  found = exporting.stablehlo_runner(target.read_bytes())(made.example)
  for a, b in zip(found, jax.jit(made.run)(made.example), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert cli.main(words) == 2 and 'exists; use --overwrite' in capsys.readouterr().err
  assert cli.main([*words[:2], 'net.xml', *words[3:]]) == 2 and "unknown format '.xml'" in capsys.readouterr().err
  assert cli.main([*words, '--restored-only', '--steps', '3']) == 2


@pytest.mark.slow
def test_an_operator_that_resists_is_named_and_goes_out_as_stablehlo(monkeypatch):
  """jax2onnx has no singular values of matrices above 2 x 2."""
  pytest.importorskip('jax2onnx', reason='the extra onnx is not installed')
  run = lambda lr: (jnp.linalg.svd(lr[0, :, :, 0], compute_uv=False)[None],)
  made = exporting.Program(run, (4, 4), ('values',), {'model': 'm'})
  with pytest.raises(SSRError, match=r'jax2onnx cannot convert the program \(.*svd.*write a \.stablehlo file'):
    exporting.onnx(made)
  monkeypatch.setattr(exporting, 'PLATFORMS', ('cpu',))
  lr = np.random.default_rng(0).random((1, 4, 4, 3), np.float32)
  (found,) = exporting.stablehlo_runner(exporting.stablehlo(made))(lr)
  np.testing.assert_allclose(found[0], np.linalg.svd(lr[0, :, :, 0], compute_uv=False), rtol=1e-5)


@pytest.mark.slow
def test_onnxruntime_gives_what_sample_gives(model, tiny_model_dir, tmp_path, capsys):
  pytest.importorskip('jax2onnx', reason='the extra onnx is not installed')
  onnx = pytest.importorskip('onnx')
  target = tmp_path / 'net.onnx'
  options = ['--steps', '2', '--start', '0.5', '--seed', '3']
  assert cli.main(['export-onnx', str(tiny_model_dir), str(target), '--size', '32', *options]) == 0
  run = exporting.onnx_runner(target.read_bytes())
  lr = np.random.default_rng(1).random((32, 32, 3), np.float32)
  expected = model.sample(lr, seed=3, steps=2, start=0.5)
  found = dict(zip(('depth', 'kernels', 'restored', 'image'), run(lr[None]), strict=True))
  for name, value in {'image': expected.image, **expected.outputs}.items():
    np.testing.assert_allclose(found[name][0], value, atol=1e-4, err_msg=name)
  notes = {p.key: p.value for p in onnx.load(target).metadata_props}
  assert notes['seed'] == '3' and notes['sha256.nbsr'] == model.config['parts']['nbsr']['sha256']
