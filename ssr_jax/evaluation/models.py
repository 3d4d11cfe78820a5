"""What the runner scores: bicubic enlargement, images of models, images of other tools. Only this file samples."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
import pathlib
import time
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ssr_jax import runtime, systems
from ssr_jax.data.sources import files
from ssr_jax.evaluation.cases import Case
from ssr_jax.evaluation.columns import BICUBIC, OF_EVERY_SYSTEM, Column, Given
from ssr_jax.evaluation.protocol import check_choice
from ssr_jax.image import io, kernels
from ssr_jax.runtime import Restorer
from ssr_jax.systems.base import System
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store

FAILURES = (ValueError, RuntimeError, MemoryError)
"""What a case may fail by: SSRError, which is a ValueError; an error of a metric or of JAX; too little memory."""


@dataclasses.dataclass(frozen=True)
class Output:
  """What a model made of an LR image.

  Attributes:
    image: [H, W, 3] uint8.
    kernels: [h, w, k*k] float32, the estimated kernels; None where the model estimates none.
    seconds: how long the call took, without compilation; NaN where that is not known.
    found: {output: array} of the model's other outputs, given ones among them.
  """

  image: np.ndarray
  kernels: np.ndarray | None
  seconds: float
  found: Mapping[str, np.ndarray | None] = dataclasses.field(default_factory=dict)


class Model(Protocol):
  """Super-resolves the LR image of a case."""

  @property
  def seeded(self) -> bool:
    """Whether the image may depend on a seed."""
    ...

  def __call__(self, case: Case, seed: int) -> Output:
    """The image; SSRError where it cannot be made."""
    ...


@dataclasses.dataclass(frozen=True)
class Bicubic:
  """Pillow's bicubic enlargement by `scale`."""

  scale: int
  seeded: bool = False

  def __call__(self, case: Case, seed: int) -> Output:
    """As of `Model`."""
    del seed
    begin = time.perf_counter()
    h, w, _ = case.lr.shape
    image = np.asarray(Image.fromarray(case.lr).resize((self.scale * w, self.scale * h), Image.Resampling.BICUBIC))
    return Output(image, None, time.perf_counter() - begin)


@dataclasses.dataclass(frozen=True)
class Folder:
  """Images that another tool has made.

  Attributes:
    name: of the column, for messages.
    images: {index of the photo: its image}.
  """

  name: str
  images: Mapping[int, pathlib.Path]
  seeded: bool = False

  @classmethod
  def open(cls, name: str, folder: str, originals: Sequence[str]) -> 'Folder':
    """Pairs images with photos by name, as `data.sources.files.partners` does.

    Raises:
      SSRError: no folder, no image of any photo, or two of the same.
    """
    path = pathlib.Path(folder).expanduser()
    if not path.is_dir():
      raise SSRError(f'eval.outputs: {name}: {path} is not a folder; give one that holds images')
    found = enumerate(files.partners(originals, path))
    images = {i: image for i, image in found if image is not None}
    if not images:
      raise SSRError(f'eval.outputs: {name}: no image below {path} has the name of a photo, such as {originals[0]}')
    return cls(name, images)

  def __call__(self, case: Case, seed: int) -> Output:
    """As of `Model`; an image of the size before cropping is cropped like the photo."""
    del seed
    path, (H, W) = self.images[case.index], case.size
    image = io.read(path).rgb
    if image.shape[:2] == case.uncropped:
      image = image[:H, :W]
    if image.shape[:2] != (H, W):
      raise SSRError(f'{path}: {image.shape[1]}x{image.shape[0]} pixels, but its photo has {W}x{H}')
    return Output(to_8_bit(image), None, math.nan)


@dataclasses.dataclass(frozen=True)
class Sampled:
  """One of the images that a restorer makes.

  Attributes:
    restorer: the model.
    column: which of its images, and how it is made.
    scale: HR size divided by LR size.
    sampling: options of its `sample`.
    keep_kernels: whether to return the kernels, which take 1.8 kB per LR pixel.
    estimates: a model's estimates of the last images, as many as run at once; columns that deviate from them share it.
  """

  restorer: Restorer
  column: Column
  scale: int
  sampling: Mapping[str, Any]
  keep_kernels: bool
  estimates: dict[Any, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  seeded: bool = True

  def __call__(self, case: Case, seed: int) -> Output:
    """As of `Model`.

    A call that compiled something is repeated, so that `seconds` is the time that every later image takes. It leaves
    out what it takes to make the estimates from which a column deviates.
    """
    options = self._options(seed)
    lr, arguments = self._call(case, options)
    while True:
      compiled = self.restorer.traces.total()
      begin = time.perf_counter()
      result = self.restorer.sample(lr, **arguments)
      seconds = time.perf_counter() - begin
      if self.restorer.traces.total() == compiled:
        return self._output(result, seconds)

  def together(self, cases: Sequence[Case], seed: int) -> list[Output | Exception]:
    """What calls give, or why they failed, on several devices at once; each has its share of the seconds."""
    options, calls, found = self._options(seed), {}, {}
    if any(how.source not in ('true', 'none') for how in self.column.given.values()):
      lacking = [case for case in cases if self._key(case, options) not in self.estimates]
      estimates = self._sampled([(case.lr, {'scale': self.scale, **options}) for case in lacking])
      for case, result in zip(lacking, estimates, strict=True):
        if isinstance(result, runtime.Result):  # what failed is tried again where it is needed, and fails there
          self._keep(self._key(case, options), result.outputs)
    for i, case in enumerate(cases):
      try:
        calls[i] = self._call(case, options)
      except FAILURES as error:
        found[i] = error
    while True:
      compiled = self.restorer.traces.total()
      begin = time.perf_counter()
      results = self._sampled(list(calls.values()))
      seconds = time.perf_counter() - begin
      if self.restorer.traces.total() == compiled:
        break
    for i, result in zip(calls, results, strict=True):
      found[i] = self._output(result, seconds / len(calls)) if isinstance(result, runtime.Result) else result
    return [found[i] for i in range(len(cases))]

  def _sampled(self, calls: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[runtime.Result | Exception]:
    found: list[runtime.Result | Exception] = []
    for result in self.restorer.together(calls):
      try:
        found.append(result())
      except FAILURES as error:
        found.append(error)
    return found

  def _options(self, seed: int) -> dict[str, Any]:
    return {**self.sampling, **self.column.options, 'seed': seed}

  def _call(self, case: Case, options: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The arguments of `Restorer.sample`."""
    given = {name: self._value(name, how, case, options) for name, how in self.column.given.items()}
    more: dict[str, Any] = {'given': given} if given else {}
    return case.lr, {'scale': self.scale, 'keep_kernels': self.keep_kernels, **options, **more}

  def _output(self, result: runtime.Result, seconds: float) -> Output:
    outputs, given = self.restorer.system.outputs, self.column.given
    image = result.image if self.column.output == outputs[-1].name else result.outputs[self.column.output]
    assert image is not None, f'{self.restorer.system.name} returned no {self.column.output}'
    estimated = (result.outputs.get(o.name) for o in outputs if o.kind == 'kernels' and o.name not in given)
    return Output(image, next(estimated, None), seconds, result.outputs)

  def _value(self, name: str, how: Given, case: Case, options: Mapping[str, Any]) -> np.ndarray:
    """What is given for an output."""
    output = next(output for output in self.restorer.system.outputs if output.name == name)
    size = case.lr.shape[:2] if output.at_lr else case.size
    match how.source:
      case 'true':
        truth = {'kernels': case.kernels, 'depth': case.depth}.get(output.kind)
        if truth is None:
          raise SSRError(f'{case.image} ({case.recipe}): has no true {name}, which {self.column.name!r} needs')
        return truth
      case 'none':
        value = np.asarray(self.restorer.system.neutral(self.restorer.modules, name), np.float32)
        return np.broadcast_to(value, (*size, len(value)))
      case 'mean':
        estimate = self._estimate(name, case, options)
        return np.broadcast_to(estimate.mean((0, 1)), estimate.shape)
      case _:
        return deviated(self._estimate(name, case, options), output.kind, how.factor, self.scale)

  def _estimate(self, name: str, case: Case, options: Mapping[str, Any]) -> np.ndarray:
    key = self._key(case, options)
    if key not in self.estimates:
      self._keep(key, self.restorer.sample(case.lr, scale=self.scale, **options).outputs)
    return self.estimates[key][name]

  def _key(self, case: Case, options: Mapping[str, Any]) -> Any:
    return id(self.restorer), case.index, case.recipe, tuple(sorted(options.items()))

  def _keep(self, key: Any, estimate: Mapping[str, Any]) -> None:
    while len(self.estimates) >= self.restorer.at_once:
      self.estimates.pop(next(iter(self.estimates)))
    self.estimates[key] = estimate


def deviated(estimate: np.ndarray, kind: str, factor: float, scale: int) -> np.ndarray:
  """An estimate that is wrong by a factor: kernels of that times the variance, depth times the factor, in [0, 1].

  Figs. 8 and 9 of the SSR paper deviate estimates "in negative and positive directions" and do not say how.
  """
  if kind == 'kernels':
    return kernels.scale_variance(estimate, factor, scale)
  return np.clip(estimate * np.float32(factor), 0, 1)


def to_8_bit(image: np.ndarray) -> np.ndarray:
  """[..., c] uint8 of uint8, uint16, or float in [0, 1]."""
  if image.dtype == np.uint8:
    return image
  full = np.iinfo(image.dtype).max if image.dtype.kind == 'u' else 1
  return np.rint(np.clip(image / full, 0, 1) * 255).astype(np.uint8)


def system_of(model: str) -> System:
  """The system of a model, by name or directory; its weights are not read.

  Raises:
    SSRError: an unknown model, or a model.json that cannot be read.
  """
  return systems.get(format.read_config(store.resolve(model))['system'])


def check_sampling(sampling: Mapping[str, Any], of: Sequence[System]) -> None:
  """SSRError for a name of `eval.sampling` that is no option of these systems; the message lists the known ones."""
  if sampling:
    known = dict.fromkeys(name for system in of for name in systems.accepted(system.Options))
    check_choice('eval.sampling', list(sampling), (*known, *OF_EVERY_SYSTEM))


def check_truth(columns: Sequence[Column], system_of: Callable[[str], System], known: Mapping[str, bool]) -> None:
  """Checks that a dataset has the truth that columns need.

  Args:
    columns: of `eval.models`.
    system_of: the system of a model.
    known: {kind of output: whether the dataset's cases have its truth}; kernels of a recipe are known when it is drawn.

  Raises:
    SSRError: it lacks one.
  """
  for column in columns:
    for name, how in column.given.items():
      kind = next(output.kind for output in system_of(column.model).outputs if output.name == name)
      if how.source == 'true' and not known.get(kind, False):
        raise SSRError(
          f"eval.models: '{column.name}' needs true {name}, which eval.dataset lacks; kernels are known where recipes "
          "degrade HR photos, depth where photos have it ('rgbd:DIR')"
        )


def load(model: str, dtype: str, devices: int | None) -> Restorer:
  """Loads a model by name or directory; see `runtime.load`."""
  return runtime.load(model, dtype=dtype, devices=devices)


def select(
  columns: Sequence[Column], restorers: Mapping[str, Restorer], scale: int, sampling: Mapping[str, Any], keep: bool
) -> dict[str, Model]:
  """The models of the columns, by name, in their order.

  Args:
    columns: of `eval.models`.
    restorers: {model: it, loaded}.
    scale: HR size divided by LR size.
    sampling: options of sampling, for those models whose system has them.
    keep: whether outputs should have kernels.

  Raises:
    SSRError: a model lacks a part that one of the columns needs, or an option cannot be used.
  """
  models: dict[str, Model] = {}
  estimates: dict[Any, Mapping[str, Any]] = {}
  for column in columns:
    if not column.model:
      models[column.name] = Bicubic(scale)
      continue
    restorer = restorers[column.model]
    own = _options(restorer, sampling)
    _check(column, restorer, own)
    models[column.name] = Sampled(restorer, column, scale, own, keep, estimates)
  return models


def describe(restorer: Restorer, sampling: Mapping[str, Any], seeds: Sequence[int]) -> str:
  """The model and how it samples, in words, with the model's own values for options that `sampling` leaves open."""
  words = 'none'
  asked = {key: value for key, value in _options(restorer, sampling).items() if key not in OF_EVERY_SYSTEM}
  if set(restorer.required(**asked)) <= restorer.modules.keys():
    plan = restorer.check(scale=restorer.config['scale'], **asked)
    chosen = systems.chosen(restorer.system.Options, plan)
    words = ', '.join(f'{key} {value}' for key, value in chosen.items())
    words += f', seed{"s"[: len(seeds) > 1]} {", ".join(map(str, seeds))}'
  spread = f', on {restorer.at_once} devices' if restorer.at_once > 1 else ''
  return f'{restorer.config["name"]}, {restorer.dtype}, sampling {words}{spread}'


def _options(restorer: Restorer, sampling: Mapping[str, Any]) -> dict[str, Any]:
  """Those that are of its system; the columns of one evaluation may be of several."""
  known = {*systems.accepted(restorer.system.Options), *OF_EVERY_SYSTEM}
  return {key: value for key, value in sampling.items() if key in known}


def _check(column: Column, restorer: Restorer, sampling: Mapping[str, Any]) -> None:
  """SSRError where the model lacks a part that the column needs; the message says which columns it can do."""
  lacking = lambda options: [part for part in restorer.required(**_own(options)) if part not in restorer.modules]
  if parts := lacking({**sampling, **column.options}):
    able = tuple(
      name for name, variant in restorer.system.variants.items() if not lacking({**sampling, **variant.options})
    )
    raise SSRError(
      f"eval.models: '{column.name}' needs the part {', '.join(parts)}, which model '{restorer.config['name']}' "
      f'lacks; give eval.models={(BICUBIC, *able)}'
    )
  try:
    restorer.check(scale=restorer.config['scale'], **{**sampling, **column.options})
  except SSRError as error:
    raise SSRError(f"eval.models: '{column.name}': {error}") from error


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in options.items() if key not in OF_EVERY_SYSTEM}
