"""Which device programs are made for, and what XLA must be told on a CPU, in one place.

Left alone, XLA's CPU backend runs a convolution on one thread and its weight gradient at a third of that. One compiler
option hands convolutions back to the multi-threaded runtime; it is passed per jit, so that nobody has to set an
environment variable. An XLA that does not know the option (older or newer) is asked once and then left alone.
"""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import functools
import os
import pathlib
import sys
from typing import Any

import jax

_CPU_OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'}


CUDNN = (9, 10, 0)
"""Version of cuDNN that programs are made for ahead of time: the oldest that the CUDA plugin of this JAX comes with."""

_compiled_for: str | None = None
_compiled_capability: float | None = None


def platform() -> str:
  """Kind of device that programs are made for: 'cpu', 'gpu' or 'tpu'.

  That of `compiling_for` within it, else JAX's default backend. Whatever chooses by device while a program is traced
  asks here and not `jax.default_backend()`, so that a program compiled ahead of time is that of its own device.
  """
  return _compiled_for or jax.default_backend()


def cuda_capability() -> float | None:
  """CUDA's compute capability of the GPU that programs are made for, such as 9.0; None for anything else."""
  if _compiled_for is not None:
    return _compiled_capability
  device = jax.local_devices()[0]
  nvidia = device.platform == 'gpu' and 'cuda' in device.client.platform_version
  return float(device.compute_capability) if nvidia else None


@contextlib.contextmanager
def compiling_for(kind: str, capability: float | None = None) -> Iterator[None]:
  """Within it, programs are made for another kind of device than the one at hand: compilation ahead of time.

  What JAX has traced for one kind must not be used for the other: its caches are cleared on the way in and out where
  they differ. For whole programs, not for library code; other threads are not spared.

  Args:
    kind: 'cpu', 'gpu' or 'tpu'.
    capability: of an NVIDIA GPU, as `cuda_capability` then says. What JAX asks the GPU of this machine before it uses
      cuDNN is answered in its place.

  Raises:
    ValueError: another kind.
    AttributeError: a JAX that asks otherwise.
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
  from jax._src.cudnn import fused_attention_stablehlo as asking  # there is no public way

  major, minor, patch = CUDNN
  answers = {
    'check_cudnn_version': lambda: 10_000 * major + 100 * minor + patch,
    'check_compute_capability': lambda least: capability >= float(least),
    'is_cuda_compute_capability_equal': lambda other: capability == float(other),
  }
  for name, answer in answers.items():
    stack.callback(setattr, asking, name, getattr(asking, name))
    setattr(asking, name, answer)


def compiler_options() -> dict[str, str]:
  """Compiler options for `jax.jit` on `platform()`: fast convolutions on a CPU, empty elsewhere."""
  return dict(_cpu_options()) if platform() == 'cpu' else {}


@functools.cache
def _cpu_options() -> dict[str, str]:
  try:
    jax.jit(lambda x: x + 1, compiler_options=_CPU_OPTIONS).lower(0.0).compile()
  except Exception as error:  # jaxlib raises its own type, which moved between releases
    if 'option' not in str(error).lower():
      raise
    return {}
  return _CPU_OPTIONS


class Jitted:
  """What `jit` returns: the function, compiled for `platform()` at the time of the call."""

  def __init__(self, fun: Callable[..., Any], options: dict[str, Any]):
    """Wraps a function; `options` are keyword arguments of `jax.jit`."""
    functools.update_wrapper(self, fun)
    self._compiled = functools.cache(lambda kind: jax.jit(fun, compiler_options=compiler_options() or None, **options))

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the function, compiled for the platform."""
    return self._compiled(platform())(*args, **kwargs)

  def trace(self, *args: Any, **kwargs: Any) -> Any:
    """The traced program, to be lowered and compiled, as `jax.jit(f).trace` gives it."""
    return self._compiled(platform()).trace(*args, **kwargs)


def jit(fun: Callable[..., Any], **kwargs: Any) -> Jitted:
  """`jax.jit` with `compiler_options()`, which are looked up at the first call, not at import."""
  return Jitted(fun, kwargs)


def enable_compilation_cache(directory: str | os.PathLike | None = None) -> None:
  """Keeps compiled programs on disk, so that the second process starts fast.

  Args:
    directory: where; default `$JAX_COMPILATION_CACHE_DIR`, else `ssr_jax/xla` under the user's cache directory.
  """
  if directory is None:
    directory = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  if directory is None:
    cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME', pathlib.Path.home() / '.cache'))
    directory = cache / 'ssr_jax' / 'xla'
  jax.config.update('jax_compilation_cache_dir', str(directory))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def keep_freed_memory() -> bool:
  """Lets this process keep the memory it frees, which makes training on a CPU a fifth faster or more.

  Every execution allocates its temporaries anew, some gigabytes for a training step. glibc takes blocks of that size
  from the kernel and gives them back at once, and then each page is cleared and mapped again in every step: up to half
  of a step's time. For programs that train, not for a library in somebody else's process: the process stays as large
  as it ever was.

  Returns:
    whether it was done; there is nothing to do without glibc. Call it before the first array is made: memory of
    threads that have run already is not affected.
  """
  if not sys.platform.startswith('linux'):
    return False
  libc = ctypes.CDLL(None)
  if not hasattr(libc, 'gnu_get_libc_version'):
    return False
  # malloc.h: no block of its own mapping (M_MMAP_MAX), no giving back (M_TRIM_THRESHOLD), and one heap for all threads
  # (M_ARENA_MAX): the others' heaps end at 64 MB.
  settings = {-4: 0, -1: -1, -8: 1}
  return all([libc.mallopt(option, value) == 1 for option, value in settings.items()])
