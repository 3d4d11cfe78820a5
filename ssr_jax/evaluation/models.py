"""What the runner scores: bicubic enlargement and the images of a model. Only this file calls the restorer."""

from collections.abc import Mapping, Sequence
import dataclasses
import time
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ssr_jax import runtime, systems
from ssr_jax.evaluation.protocol import check_choice
from ssr_jax.runtime import Restorer
from ssr_jax.systems.base import System
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store

BICUBIC = 'bicubic'
"""What every system is compared with; the other names are those of `System.variants`."""

_OF_EVERY_SYSTEM = ('seed', 'tile')  # options of sampling


@dataclasses.dataclass(frozen=True)
class Output:
  """What a model made of an LR image.

  Attributes:
    image: [H, W, 3] uint8.
    kernels: [h, w, k*k] float32, the estimated kernels; None where the model estimates none.
    seconds: how long the call took, without compilation.
  """

  image: np.ndarray
  kernels: np.ndarray | None
  seconds: float


class Model(Protocol):
  """Super-resolves one LR image."""

  def __call__(self, lr: np.ndarray) -> Output:
    """Super-resolves [h, w, 3] uint8."""
    ...


@dataclasses.dataclass(frozen=True)
class Bicubic:
  """Pillow's bicubic enlargement by `scale`."""

  scale: int

  def __call__(self, lr: np.ndarray) -> Output:
    """Enlarges [h, w, 3] uint8."""
    begin = time.perf_counter()
    h, w, _ = lr.shape
    image = np.asarray(Image.fromarray(lr).resize((self.scale * w, self.scale * h), Image.Resampling.BICUBIC))
    return Output(image, None, time.perf_counter() - begin)


@dataclasses.dataclass(frozen=True)
class Sampled:
  """One of the images that a restorer makes.

  Attributes:
    restorer: the model.
    output: which of its system's outputs.
    scale: HR size divided by LR size.
    sampling: options of its `sample`.
    keep_kernels: whether to return the kernels, which take 1.8 kB per LR pixel.
  """

  restorer: Restorer
  output: str
  scale: int
  sampling: Mapping[str, Any]
  keep_kernels: bool

  def __call__(self, lr: np.ndarray) -> Output:
    """Super-resolves [h, w, 3] uint8.

    A call that compiled something is repeated, so that `seconds` is the time that every later image takes.
    """
    while True:
      compiled = self.restorer.traces.total()
      begin = time.perf_counter()
      result = self.restorer.sample(lr, scale=self.scale, keep_kernels=self.keep_kernels, **self.sampling)
      seconds = time.perf_counter() - begin
      if self.restorer.traces.total() == compiled:
        outputs = self.restorer.system.outputs
        image = result.image if self.output == outputs[-1].name else result.outputs[self.output]
        assert image is not None, f'{self.restorer.system.name} returned no {self.output}'
        kernels = next((result.outputs.get(output.name) for output in outputs if output.kind == 'kernels'), None)
        return Output(image, kernels, seconds)


def system_of(model: str) -> System:
  """The system of a model, by name or directory; its weights are not read.

  Raises:
    SSRError: an unknown model, or a model.json that cannot be read.
  """
  return systems.get(format.read_config(store.resolve(model))['system'])


def check(names: Sequence[str], sampling: Mapping[str, Any], system: System | None) -> None:
  """Checks the names of models and of sampling options before anything is loaded.

  Args:
    names: 'bicubic' and variants of the system.
    sampling: options of sampling.
    system: the model's; None where bicubic alone is scored.

  Raises:
    SSRError: an unknown name; the message lists the known ones.
  """
  check_choice('eval.models', names, (BICUBIC, *(system.variants if system else ())))
  if system:
    known = (*(field.name for field in dataclasses.fields(system.Options)), *_OF_EVERY_SYSTEM)
    check_choice('eval.sampling', list(sampling), known)


def load(model: str, dtype: str) -> Restorer:
  """Loads a model by name or directory; see `runtime.load`."""
  return runtime.load(model, dtype=dtype)


def select(
  names: Sequence[str], restorer: Restorer | None, scale: int, sampling: Mapping[str, Any], keep_kernels: bool
) -> dict[str, Model]:
  """The named models, in the order of the names.

  Args:
    names: 'bicubic' and variants of the model's system.
    restorer: the loaded model; may be None where 'bicubic' is the only name.
    scale: HR size divided by LR size.
    sampling: options of sampling.
    keep_kernels: whether outputs should have kernels.

  Raises:
    SSRError: the model lacks a part that one of the names needs.
  """
  models: dict[str, Model] = {BICUBIC: Bicubic(scale)}
  if restorer is not None:
    _check_parts(names, restorer, sampling)
    for name, variant in restorer.system.variants.items():
      models[name] = Sampled(restorer, variant.output, scale, {**sampling, **variant.options}, keep_kernels)
  return {name: models[name] for name in names}


def describe(restorer: Restorer | None, sampling: Mapping[str, Any]) -> str:
  """The model and how it samples, in words, with the model's own values for options that `sampling` leaves open."""
  if restorer is None:
    return 'none'
  words = 'none'
  asked = _options(sampling)
  if set(restorer.required(**asked)) <= restorer.modules.keys():
    plan = restorer.check(scale=restorer.config['scale'], **asked)
    chosen = {field.name: getattr(plan, field.name) for field in dataclasses.fields(restorer.system.Options)}
    words = ', '.join(f'{key} {value}' for key, value in {**chosen, 'seed': sampling['seed']}.items())
  return f'{restorer.config["name"]}, {restorer.dtype}, sampling {words}'


def _options(sampling: Mapping[str, Any]) -> dict[str, Any]:
  """Those that are the system's own."""
  return {key: value for key, value in sampling.items() if key not in _OF_EVERY_SYSTEM}


def _check_parts(names: Sequence[str], restorer: Restorer, sampling: Mapping[str, Any]) -> None:
  needs: dict[str, tuple[str, ...]] = {BICUBIC: ()}
  for name, variant in restorer.system.variants.items():
    needs[name] = restorer.required(**{**_options(sampling), **variant.options})
  lacking = {name: [part for part in parts if part not in restorer.modules] for name, parts in needs.items()}
  for name in names:
    if lacking[name]:
      able = tuple(other for other in needs if not lacking[other])
      raise SSRError(
        f"eval.models: '{name}' needs the part {', '.join(lacking[name])}, which model "
        f"'{restorer.config['name']}' lacks; give eval.models={able}"
      )
