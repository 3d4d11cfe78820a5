"""A stand-in for a loaded model."""

import dataclasses
import types

from ssr_jax import runtime
from ssr_jax.systems.base import Output, Variant


@dataclasses.dataclass(frozen=True)
class Options:
  """Of the stand-in's system; it ignores them."""

  steps: int | None = None


class Enlarger:
  """Enlarges by repetition."""

  config = types.MappingProxyType({'name': 'stub', 'scale': 4, 'parts': {}})
  outputs = (Output('image', 'image', 'result'),)
  dtype = 'float32'
  at_once = 1

  @property
  def system(self):
    return types.SimpleNamespace(outputs=self.outputs, Options=Options, variants={'result': Variant('image')})

  def check(self, **_):
    pass

  def required(self, **_):
    return ()

  def result_size(self, lr, scale, size):
    return 4 * lr[0], 4 * lr[1]

  def sample(self, rgb, **_):
    return runtime.Result(rgb.repeat(4, 0).repeat(4, 1), {})
