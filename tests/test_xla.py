"""Which device programs are made for; what the process is told for speed on a CPU, and whether it heeds it."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ssr_jax import xla

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
