"""What the tests share: a tiny random model on disk, the photos in $SSR_DATA, and caches that end with the run."""

import ctypes
import gc
import importlib.metadata
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

# Tests compile hundreds of programs that run once or twice, so compiling is what costs. Without LLVM's optimisations
# the suite takes a third less time. Code that is not split for several threads takes less in all, and the workers use
# every core already. XLA's older emitter of fused operations compiles a UNet in two thirds of the time; JAX 0.12 has
# only the new one, and an unknown flag ends the process. What stands in XLA_FLAGS already comes last and so wins.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_parallel_codegen_split_count=1',
    '--xla_cpu_use_fusion_emitters=false' if importlib.metadata.version('jaxlib').startswith('0.10.') else '',
    os.environ.get('XLA_FLAGS', ''),
  ]
)

# Compiled programs and the caches of other libraries go to a folder of this run, so that the home folder stays as it
# is; imported models there are not seen. Workers and subprocesses inherit the variables. Set JAX_COMPILATION_CACHE_DIR
# to keep compiled programs for the next run.
if 'SSR_TEST_CACHES' not in os.environ:
  CACHES = tempfile.TemporaryDirectory(
    prefix='ssr-tests-', ignore_cleanup_errors=True
  )  # removed when this process ends
  os.environ['SSR_TEST_CACHES'] = CACHES.name
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(CACHES.name, 'xla'))
  for _kind in ('CACHE', 'CONFIG', 'DATA'):
    os.environ[f'XDG_{_kind}_HOME'] = os.path.join(CACHES.name, _kind.lower())
  os.environ.pop('SSR_WEIGHTS', None)

# Before the first import of what is checked. SSR_TYPECHECK=0 checks no annotations.
if os.environ.get('SSR_TYPECHECK') != '0':
  import jaxtyping

  from tests import typechecker

  jaxtyping.install_import_hook(list(typechecker.CHECKED), 'tests.typechecker.check')

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from ssr_jax import xla
from ssr_jax.image import kernels as kernel_maths
from ssr_jax.weights import format

# No test uses the network; the hub's client reads this when it is imported.
os.environ['HF_HUB_OFFLINE'] = '1'

# A training program tells its process to keep freed memory. A test worker goes on after that, and would only grow.
xla.keep_freed_memory = lambda: False

# Compiling is most of what the tests do; what one test compiles serves the others, in the other worker too.
xla.enable_compilation_cache()

ROOT = pathlib.Path(__file__).resolve().parent.parent
_BEFORE = pytest.StashKey[set[str] | None]()

TINY = {
  'depth': {'resolution': [32, 32], 'widths': [8, 8, 8], 'blocks': [1, 1], 'group': 4, 'heads': 1},
  'dkenet': {'features': 8, 'depth_features': 4},
  'nbsr': {'blocks': 1, 'features': 8, 'growth': 4},
  # As in configs/tiny.py, whose student starts as this UNet and trains this decoder.
  'vae': tiny.get_config().model.vae.to_dict() | {'scaling_factor': 1.0},
  'unet': tiny.get_config().model.unet.to_dict(),
}


def _untracked() -> set[str] | None:
  """Files in the tree that git does not track, without those that Python and its tools make; None without git."""
  made = (
    ':!.venv',
    ':(exclude,glob)**/__pycache__/**',
    ':!.pytest_cache',
    ':!.ruff_cache',
    ':(exclude,glob)*.egg-info/**',
  )
  try:
    command = ['git', 'ls-files', '-z', '--others', '--', '.', *made]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split('\0'))
  except (OSError, subprocess.CalledProcessError):
    return None


def pytest_sessionstart(session):
  session.config.stash[_BEFORE] = None if hasattr(session.config, 'workerinput') else _untracked()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
  """Fails a run that left files in the tree."""
  before = session.config.stash[_BEFORE]
  after = _untracked() if before is not None else None
  if after is not None and after - before:
    names = ', '.join(sorted(after - before)[:10])
    session.config.get_terminal_writer().line(f'\nFAILED: these files were left in the tree: {names}', red=True)
    session.exitstatus = max(session.exitstatus, pytest.ExitCode.TESTS_FAILED)


@pytest.fixture(autouse=True)
def _ctrl_c_stays():
  """A script ends with SIGINT's default, and a test may run a script in this process."""
  before = signal.getsignal(signal.SIGINT)
  yield
  signal.signal(signal.SIGINT, before)


LARGE = 1.5e9
"""Bytes in memory from which on a worker gives compiled programs up."""


def _resident() -> float:
  """Bytes of this process that are in memory; more than all where the system does not say it."""
  try:
    return int(pathlib.Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
  except OSError:
    return float('inf')


@pytest.fixture(autouse=True, scope='module')
def _programs_are_freed():
  """Compiled programs of a large process go with their file; what another file needs again is in the cache on disk.

  Freeing takes half a second, and small operations are compiled again after it: a tenth of the suite, if each file did.
  """
  # Small programs too: reading one takes half the time of compiling it.
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  yield
  if _resident() < LARGE:
    return
  jax.clear_caches()
  gc.collect()
  if sys.platform.startswith('linux'):
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)  # glibc's
    if trim is not None:
      trim(0)


@pytest.fixture(autouse=True)
def _every_test_traces(monkeypatch):
  """Traced programs from disk are for the tests that ask for them: others count traces, or put spies into a model."""
  monkeypatch.setattr(xla, '_lowered', None)


@pytest.fixture(scope='session')
def tiny_model_dir(tmp_path_factory) -> pathlib.Path:
  """A model directory with the five parts of the method, tiny and random (seeded); read it, do not change it."""
  return write_tiny_model(tmp_path_factory.mktemp('models') / 'tiny')


def write_tiny_model(directory: pathlib.Path) -> pathlib.Path:
  """Makes the model of `tiny_model_dir`."""
  for index, (part, config) in enumerate(TINY.items()):
    rng = np.random.default_rng(index)
    shapes = format.abstract_variables(part, config)
    variables = {name: _draw(rng, name, shape.shape) for name, shape in shapes.items()}
    format.save_part(directory, part, config, format.unflatten(variables), {'steps': 0})
  format.update(directory, sampling={'steps': 2})
  return directory


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The folder of test images, or a skip."""
  directory = pathlib.Path(os.environ.get('SSR_DATA', ROOT.parent / 'shared' / 'data'))
  if not directory.is_dir():
    pytest.skip(f'no test images: {directory} is absent; set SSR_DATA')
  return directory


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A variable's start value by its name; running the modules' own initialisers would take minutes to compile."""
  kind = name.rsplit('/', 1)[-1]
  if kind == 'pca':
    return _pca()
  if kind in ('scale', 'var'):
    return np.ones(shape, np.float32)
  if kind in ('bias', 'mean'):
    return np.zeros(shape, np.float32)
  return (rng.standard_normal(shape) * np.prod(shape[:-1]) ** -0.5).astype(np.float32)


def _pca() -> np.ndarray:
  rng = np.random.default_rng(0)
  drawn = [rng.uniform(low, high, 200) for low, high in ((0.7, 10), (0.7, 10), (0, np.pi))]
  return kernel_maths.pca_basis(np.asarray(kernel_maths.gaussian_kernels(*(jnp.asarray(d) for d in drawn))))


@pytest.fixture(scope='session')
def products_of():
  """(function, *arguments) -> the matrix products and convolutions of its program, also those in loops and calls."""

  def find(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
        yield equation
      for value in equation.params.values():
        for inner in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')):
          inner = getattr(inner, 'jaxpr', inner)
          if hasattr(inner, 'eqns'):
            yield from find(inner)

  return lambda function, *arguments: list(find(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.fixture(scope='module')
def browser():
  """A headless Chromium, driven by Playwright, or a skip."""
  from tools.app_screenshot import CHROMIUM_NAMES  # here: a tree that has this file alone must run

  sync_api = pytest.importorskip('playwright.sync_api', reason="needs Playwright: pip install -e '.[browser]'")
  with sync_api.sync_playwright() as playwright:
    installed = os.path.exists(playwright.chromium.executable_path)
    path = os.environ.get('SSR_CHROMIUM') or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if not path and not installed:
      pytest.skip(f"no Chromium: neither $SSR_CHROMIUM, nor Playwright's, nor one of {', '.join(CHROMIUM_NAMES)}")
    chromium = playwright.chromium.launch(executable_path=path)
    yield chromium
    chromium.close()
