"""The platform that programs are compiled for, and the compiler options for CPUs.

By default XLA's CPU backend runs a convolution on one thread, and its weight gradient at a third of that speed. A
compiler option gives convolutions to the multi-threaded runtime. Another one spares LLVM's last optimisations, which
take a seventh of the time to compile the compact model and make its images no faster. Options are passed per jit, so
that no environment variable is needed. One that XLA rejects (another version) is not used.
"""

import collections
from collections.abc import Callable, Iterator
import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import sys
import tempfile
import threading
from typing import Any

import jax
import numpy as np
import platformdirs

_CPU_OPTIONS = {
  'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT',
  'xla_backend_optimization_level': 1,
}


CUDNN = (9, 10, 0)
"""cuDNN's version for ahead-of-time compilation: the oldest that this JAX's CUDA plugin comes with."""

_compiled_for: str | None = None
_compiled_capability: float | None = None


def platform() -> str:
  """Kind of device that programs are compiled for: 'cpu', 'gpu' or 'tpu'.

  Within `compiling_for` it is that kind, else JAX's default backend. Code that chooses by device during tracing calls
  this instead of `jax.default_backend()`, so that ahead-of-time compilation chooses for the target device.
  """
  return _compiled_for or jax.default_backend()


def cuda_capability() -> float | None:
  """CUDA compute capability of the GPU that programs are compiled for, such as 9.0; None for other devices."""
  if _compiled_for is not None:
    return _compiled_capability
  device = jax.local_devices()[0]
  nvidia = device.platform == 'gpu' and 'cuda' in device.client.platform_version
  return float(device.compute_capability) if nvidia else None


@contextlib.contextmanager
def compiling_for(kind: str, capability: float | None = None) -> Iterator[None]:
  """A context in which programs are compiled for another kind of device than the machine's, ahead of time.

  If the kinds differ, JAX's caches are cleared on entry and exit, because they hold programs for the other kind. Meant
  for scripts, not for library code: it affects all threads.

  Args:
    kind: 'cpu', 'gpu' or 'tpu'.
    capability: compute capability of an NVIDIA GPU, for `cuda_capability` and for the checks that JAX makes before it
      uses cuDNN.

  Raises:
    ValueError: an unknown kind.
    AttributeError: JAX's checks have other names in this version.
  """
  global _compiled_for, _compiled_capability
  if kind not in ('cpu', 'gpu', 'tpu'):
    raise ValueError(f"platform {kind!r} is not one of 'cpu', 'gpu', 'tpu'")
  before, differs = (_compiled_for, _compiled_capability), kind != platform() or capability != cuda_capability()
  if differs:
    jax.clear_caches()
  with contextlib.ExitStack() as stack:
    if capability is not None:
      _answer_for_gpu(stack, capability)
    _compiled_for, _compiled_capability = kind, capability
    try:
      yield
    finally:
      _compiled_for, _compiled_capability = before
      if differs:
        jax.clear_caches()


def _answer_for_gpu(stack: contextlib.ExitStack, capability: float) -> None:
  from jax._src.cudnn import fused_attention_stablehlo as checks  # there is no public interface

  major, minor, patch = CUDNN
  answers = {
    'check_cudnn_version': lambda: 10_000 * major + 100 * minor + patch,
    'check_compute_capability': lambda least: capability >= float(least),
    'is_cuda_compute_capability_equal': lambda other: capability == float(other),
  }
  for name, answer in answers.items():
    stack.callback(setattr, checks, name, getattr(checks, name))
    setattr(checks, name, answer)


def compiler_options() -> dict[str, Any]:
  """Compiler options for `jax.jit` on `platform()`: fast convolutions on a CPU, none on other devices."""
  return dict(_cpu_options()) if platform() == 'cpu' else {}


@functools.cache
def _cpu_options() -> dict[str, Any]:
  return {name: value for name, value in _CPU_OPTIONS.items() if _accepts({name: value})}


def _accepts(options: dict[str, Any]) -> bool:
  try:
    jax.jit(lambda x: x + 1, compiler_options=options).lower(0.0).compile()
  except Exception as error:  # the type of jaxlib's error differs between releases
    if 'option' not in str(error).lower():
      raise
    return False
  return True


class Jitted:
  """A function that is compiled for `platform()` at the time of the call."""

  def __init__(
    self,
    fun: Callable[..., Any],
    options: dict[str, Any],
    keep: int | None = None,
    identity: Callable[[], str] | None = None,
  ):
    """Wraps a function; `options` are keyword arguments of `jax.jit`, `keep` and `identity` are as of `jit`."""
    functools.update_wrapper(self, fun)
    self._fun, self._options, self._keep, self._identity = fun, options, keep, identity
    self._programs: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
    self._lock = threading.Lock()

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the function, compiled for the platform."""
    return self._compiled(args, kwargs, stored=_lowered is not None)(*args, **kwargs)

  def trace(self, *args: Any, **kwargs: Any) -> Any:
    """The traced program, to be lowered and compiled, as `jax.jit(f).trace` gives it."""
    return self._compiled(args, kwargs).trace(*args, **kwargs)

  def _compiled(self, args: tuple, kwargs: dict[str, Any], stored: bool = False) -> Any:
    stored = stored and self._identity is not None and platform() == 'cpu'
    key = (platform(), stored, *(self._shapes(args, kwargs) if self._keep or stored else ()))
    with self._lock:
      if key not in self._programs:
        self._programs[key] = self._stored(args, kwargs) if stored else self._new()
      self._programs.move_to_end(key)
      while self._keep and len(self._programs) > self._keep:
        self._programs.popitem(last=False)
      return self._programs[key]

  def _new(self) -> Any:
    # A function object of its own: JAX keeps programs by function, and frees those of one that is gone.
    fun = functools.wraps(self._fun)(lambda *args, **kwargs: self._fun(*args, **kwargs))
    return jax.jit(fun, compiler_options=compiler_options() or None, **self._options)

  def _stored(self, args: tuple, kwargs: dict[str, Any]) -> Callable[..., Any]:
    """The program for these shapes and static arguments, from disk, or traced and written there."""
    from jax import export

    assert self._identity is not None and _lowered is not None
    leaves, tree = jax.tree.flatten(args)
    shapes = [(np.shape(x), str(jax.dtypes.result_type(x))) for x in leaves]
    call = f'{tree} {shapes} {sorted(kwargs.items())!r}'
    text = '\n'.join((jax.__version__, importlib.metadata.version('jaxlib'), _sources(), self._identity(), call))
    file = _lowered / hashlib.sha256(text.encode()).hexdigest()
    content = _read_checked(file)
    if content is None:
      flat = lambda *leaves: self._fun(*jax.tree.unflatten(tree, leaves), **kwargs)
      content = bytes(export.export(jax.jit(flat))(*leaves).serialize())
      _write_checked(file, content)
    # A new program is read back too: only then has XLA's cache the same key in this process and in later ones.
    program = jax.jit(export.deserialize(bytearray(content)).call, compiler_options=compiler_options() or None)
    return lambda *args, **kwargs: program(*jax.tree.leaves(args))

  def _shapes(self, args: tuple, kwargs: dict[str, Any]) -> tuple:
    """What JAX compiles a program of its own for."""
    static = {name: kwargs[name] for name in self._options.get('static_argnames', ()) if name in kwargs}
    leaves, tree = jax.tree.flatten((args, {name: value for name, value in kwargs.items() if name not in static}))
    return tree, tuple((np.shape(x), getattr(x, 'dtype', type(x))) for x in leaves), tuple(static.items())


def jit(
  fun: Callable[..., Any], keep: int | None = None, identity: Callable[[], str] | None = None, **kwargs: Any
) -> Jitted:
  """`jax.jit` with `compiler_options()`, which are looked up at the first call, not at import.

  Args:
    fun: the function.
    keep: how many programs, for different shapes and static arguments, stay in memory; the one used longest ago is
      freed. None keeps all. Static arguments are then passed by name.
    identity: returns a text that identifies whatever else the traced program depends on, besides the shapes of the
      arguments, the reprs of static arguments and this package's source. If it is given and
      `enable_compilation_cache` was called, traced programs are kept on disk; tracing takes a third of the time to a
      process's first image. On CPUs only, for functions whose keyword arguments are all static and that return
      dictionaries of arrays.
    **kwargs: of `jax.jit`; `static_argnames` as a tuple.
  """
  return Jitted(fun, kwargs, keep, identity)


_KEPT_FILES = 64  # half a megabyte each for the compact model

_lowered: pathlib.Path | None = None


@functools.cache
def _sources() -> str:
  """Digest of this package's source; part of the key, so that programs of another version are not used."""
  digest = hashlib.sha256()
  for path in sorted(pathlib.Path(__file__).parent.rglob('*.py')):
    digest.update(path.name.encode() + b'\0' + path.read_bytes())
  return digest.hexdigest()


def _read_checked(file: pathlib.Path) -> bytes | None:
  """What `_write_checked` wrote; None if it is missing or damaged."""
  try:
    content = file.read_bytes()
    os.utime(file)
  except OSError:
    return None
  return content[32:] if hashlib.sha256(content[32:]).digest() == content[:32] else None


def _write_checked(file: pathlib.Path, content: bytes) -> None:
  """Writes a file with its digest and deletes the least recently used ones; does nothing if it cannot write."""
  with contextlib.suppress(OSError):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix='.', delete=False) as part:
      part.write(hashlib.sha256(content).digest() + content)
    os.replace(part.name, file)
    files = sorted(file.parent.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in files[:-_KEPT_FILES]:
      path.unlink(missing_ok=True)


def once(text: str, check: Callable[[], None]) -> None:
  """Calls `check`, which raises or returns, unless it has returned before for the same text.

  What has passed is kept where `enable_compilation_cache` keeps programs, for this version of the package; without that
  the check is made each time.
  """
  if _lowered is None:
    return check()
  key = '\n'.join((jax.__version__, _sources(), text))
  file = _lowered.with_name('checked') / hashlib.sha256(key.encode()).hexdigest()
  if _read_checked(file) is None:
    check()
    _write_checked(file, b'')


def enable_compilation_cache(directory: str | os.PathLike | None = None) -> None:
  """Keeps traced and compiled programs on disk, so that later processes start fast.

  Args:
    directory: of the cache; default `$JAX_COMPILATION_CACHE_DIR`, else `ssr_jax/xla` under the user's cache directory.
  """
  if directory is None:
    directory = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if directory is None:
    directory = platformdirs.user_cache_path('ssr_jax', appauthor=False) / 'xla'
  global _lowered
  _lowered = pathlib.Path(directory) / 'lowered'
  jax.config.update('jax_compilation_cache_dir', str(directory))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def keep_freed_memory() -> bool:
  """Lets this process keep freed memory, which makes training on a CPU at least a fifth faster.

  Every execution allocates its temporaries anew, some gigabytes for a training step. glibc returns blocks of that size
  to the kernel at once, and mapping and clearing their pages takes up to half of a step's time. Meant for training
  programs, not for a library in another program's process, since the process never shrinks. Call it before the first
  array is made: it does not affect threads that have run already.

  Returns:
    whether it was done; False without glibc.
  """
  if not sys.platform.startswith('linux'):
    return False
  libc = ctypes.CDLL(None)
  if not hasattr(libc, 'gnu_get_libc_version'):
    return False
  # malloc.h: no mapped blocks (M_MMAP_MAX), no trimming (M_TRIM_THRESHOLD), and one heap for all threads (M_ARENA_MAX),
  # because the heaps of other threads are limited to 64 MB.
  settings = {-4: 0, -1: -1, -8: 1}
  return all([libc.mallopt(option, value) == 1 for option, value in settings.items()])
