"""Which device programs are made for; what the process is told for speed on a CPU, and whether it heeds it."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax import runtime, xla
from ssr_jax.degrade import NAMES, Recipe, degrade
from ssr_jax.diffusion.noise import NoiseField
from ssr_jax.image import kernels
from ssr_jax.systems.base import Window

_FAULTS = """
import resource, sys
import numpy as np
from ssr_jax import xla
if sys.argv[1] == 'keep':
  assert xla.keep_freed_memory()
def touch():
  np.ones(1 << 24, np.uint8)  # 16 MB: 4096 pages of 4 kB
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
  touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
  done = subprocess.run([sys.executable, '-c', _FAULTS, how], capture_output=True, text=True, check=True)
  return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='only glibc has these settings')
def test_freed_memory_is_kept():
  """Ten times the same large array: without the setting each time from the kernel, with it never again."""
  kept, given_back = _faults('keep'), _faults('leave')
  assert kept < 100
  if given_back < 100:
    pytest.skip('this system keeps freed memory by itself')


def test_programs_are_traced_anew_for_another_device():
  """What a function chose for one kind of device is not used for the other, nor the CPU's compiler options."""
  choose = jax.jit(lambda x: x + {'cpu': 1, 'gpu': 2, 'tpu': 3}[xla.platform()])
  own = xla.platform()
  here = float(choose(jnp.float32(0)))
  with xla.compiling_for('tpu'):
    assert xla.platform() == 'tpu' and xla.compiler_options() == {}
    assert float(choose(jnp.float32(0))) == 3
    with xla.compiling_for('gpu'):
      assert float(choose(jnp.float32(0))) == 2
    assert float(choose(jnp.float32(0))) == 3
  assert xla.platform() == own and float(choose(jnp.float32(0))) == here
  with pytest.raises(ValueError, match="'metal'"), xla.compiling_for('metal'):
    pass


def test_an_option_that_xla_rejects_is_left_out_and_the_others_stay(monkeypatch):
  monkeypatch.setattr(xla, '_CPU_OPTIONS', {'xla_cpu_no_such_thing': True, 'xla_backend_optimization_level': 1})
  monkeypatch.setattr(xla, '_cpu_options', functools.cache(xla._cpu_options.__wrapped__))
  with xla.compiling_for('cpu'):
    assert xla.compiler_options() == {'xla_backend_optimization_level': 1}
    assert float(xla.jit(lambda x: 2 * x)(3.0)) == 6


def test_a_gpu_that_is_not_here_is_answered_for():
  """Within it only, and no GPU's capability is another's: programs are traced anew."""
  from jax._src.cudnn import fused_attention_stablehlo as asking

  asked, own = asking.check_compute_capability, xla.cuda_capability()
  traced = []
  function = jax.jit(lambda x: traced.append(xla.cuda_capability()) or x)
  for capability in (9.0, 8.0):
    with xla.compiling_for('gpu', capability):
      assert xla.cuda_capability() == capability
      assert asking.check_compute_capability('8.9') == (capability == 9.0)
      assert asking.is_cuda_compute_capability_equal('9.0') == (capability == 9.0)
      assert asking.check_cudnn_version() == 91000  # as cuDNN itself numbers its 9.10.0
      function(jnp.float32(0))
      with xla.compiling_for('cpu'):
        assert xla.cuda_capability() is None
  assert traced == [9.0, 8.0] and asking.check_compute_capability is asked and xla.cuda_capability() == own


# ---- What is not a network -------------------------------------------------------------------------------------------


@pytest.fixture
def coarse(products_of):
  """(function, *arguments) -> where its program multiplies with less than float32 outside networks, as by default."""

  def find(function, *arguments):
    found = []
    for equation in products_of(function, *arguments):
      precision = equation.params['precision']
      precise = precision is not None and all(p == jax.lax.Precision.HIGHEST for p in precision)
      if not precise and not re.search(r'[A-Z]', str(equation.source_info.name_stack)):  # modules' names have capitals
        found.append(f'{equation.primitive.name} {[v.aval.str_short() for v in equation.invars]}')
    return found

  return find


@pytest.mark.parametrize('recipe', NAMES)
def test_degradations_keep_float32_on_every_device(recipe, coarse):
  image, depth = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 8, 8))
  assert not coarse(lambda *a: degrade(*a[:2], Recipe.parse(recipe), a[2]), jax.random.key(0), image, depth)


@pytest.mark.slow
def test_sampling_keeps_float32_between_the_networks_on_every_device(tiny_model_dir, coarse):
  ssr = runtime.load(tiny_model_dir)
  lr = jnp.zeros((1, 32, 32, 3))
  window, noise = Window(jnp.array([32, 32]), jnp.zeros(2, int)), NoiseField(jnp.uint32(0), jnp.zeros(2, int))
  plan = ssr.check()

  def run(variables, lr, window, noise, context):
    return ssr.system.restore(ssr.modules, variables, lr, window, context, noise, plan)

  depth = jnp.zeros((3, 1, *ssr.modules['depth'].resolution, 1))
  for context in (None, depth):
    assert not coarse(run, ssr.variables, lr, window, noise, context)


def test_statistics_of_kernels_keep_float32_on_every_device(coarse):
  field, basis = jnp.zeros((4, 4, 441)), jnp.zeros((441, 15))
  assert not coarse(kernels.moments, field) and not coarse(kernels.pca_code, field, basis)


@pytest.fixture
def programs(tmp_path):
  """A cache of programs of its own; gives the folder of the traced ones."""
  before = {name: getattr(jax.config, name) for name in _CACHE_OPTIONS}
  xla.enable_compilation_cache(tmp_path)
  try:
    yield tmp_path / 'lowered'
  finally:
    xla._lowered = None
    for name, value in before.items():
      jax.config.update(name, value)


_CACHE_OPTIONS = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')


def _counted(identity='a', factor=2.0):
  """A function as in a new process, and how often it was traced."""
  traces = []

  def double(tree, *, kept):
    traces.append(1)
    return {name: factor * tree[name] for name in kept}

  return xla.jit(double, identity=lambda: identity, static_argnames=('kept',)), traces


def test_a_program_is_traced_once_for_all_processes(programs):
  tree = {'x': np.arange(6.0, dtype=np.float32), 'y': np.ones(2, np.float32)}
  for expected in (1, 0):
    double, traces = _counted()
    for _ in range(2):
      np.testing.assert_array_equal(double(tree, kept=('x',))['x'], 2 * tree['x'])
    assert len(traces) == expected
  assert len(list(programs.iterdir())) == 1


@pytest.mark.parametrize('change', ['identity', 'kept', 'shape', 'dtype', 'source'])
def test_a_program_of_something_else_is_not_used(change, programs, monkeypatch):
  tree = {'x': np.arange(6.0, dtype=np.float32), 'y': np.ones(2, np.float32)}
  _counted()[0](tree, kept=('x',))
  if change == 'source':
    monkeypatch.setattr(xla, '_sources', lambda: 'another version')
  if change in ('shape', 'dtype'):
    tree['x'] = tree['x'][:3] if change == 'shape' else tree['x'].astype(np.int32)
  kept = ('y',) if change == 'kept' else ('x',)
  triple, traces = _counted('b' if change == 'identity' else 'a', 3.0)
  np.testing.assert_array_equal(triple(tree, kept=kept)[kept[0]], 3 * tree[kept[0]])
  assert traces


def test_a_damaged_program_is_traced_anew_and_replaced(programs):
  tree = {'x': np.arange(6.0, dtype=np.float32)}
  _counted()[0](tree, kept=('x',))
  (file,) = programs.iterdir()
  whole = file.read_bytes()
  for damaged in (whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b''):
    file.write_bytes(damaged)
    double, traces = _counted()
    np.testing.assert_array_equal(double(tree, kept=('x',))['x'], 2 * tree['x'])
    assert traces
    double, traces = _counted()
    double(tree, kept=('x',))
    assert not traces  # the file is whole again


def test_old_programs_are_deleted_and_a_folder_that_cannot_be_written_is_no_error(programs, monkeypatch):
  monkeypatch.setattr(xla, '_KEPT_FILES', 3)
  for n in range(1, 6):
    _counted()[0]({'x': np.ones(n, np.float32)}, kept=('x',))
  assert len(list(programs.iterdir())) == 3
  monkeypatch.setattr(xla, '_lowered', programs.parent / 'file' / 'lowered')
  (programs.parent / 'file').write_text('')
  assert _counted()[0]({'x': np.ones(9, np.float32)}, kept=('x',))['x'].sum() == 18


@pytest.mark.slow
def test_another_process_restores_without_tracing(programs, tiny_model_dir):
  """The same image, bit for bit, and another model's program is not taken for it."""
  lr = np.random.default_rng(0).random((32, 32, 3), np.float32)
  first = runtime.load(tiny_model_dir)
  image = first.sample(lr).image
  again = runtime.load(tiny_model_dir)
  np.testing.assert_array_equal(again.sample(lr).image, image)
  assert first.traces['restore'] == 1 and again.traces['restore'] == 0
  again.sample(lr, strength=0.5)
  assert again.traces['restore'] == 1
