"""The interface of a metric."""

import abc
from collections.abc import Mapping, Sequence
import os
from typing import Any, ClassVar, Self

import numpy as np

from ssr_jax.types import SSRError

Inputs = Mapping[str, Any]
"""What a metric can be computed from, by name. An input that is absent or None is not known.

  image          [H, W, 3] uint8 or float in [0, 1], the image to score
  reference      [H, W, 3] uint8 or float in [0, 1], the original (HR)
  crop           pixels left out on every side of `image` and `reference`, by metrics that compare the two; default 0
  space          what PSNR and SSIM are measured on, 'y' (default) or 'rgb'
  borders        (rows, columns) at which tiles of `image` meet: of each tile but the first, its first row or column
  lr_clean       [h, w, 3] float in [0, 1], the LR image before noise, JPEG and rounding
  reduction      what follows the kernels, one for the whole image, in the recipe: 'bicubic' or 'stride'; None where
                 they are those of Eq. 1, which `lr_psnr` tells apart
  kernels        [h, w, k*k], estimated blur kernels
  true_kernels   [h, w, k*k], the kernels that made the LR image
"""


class Missing(SSRError):
  """A metric has no weights, or a package that it needs is not installed: the others can go on without it.

  Attributes:
    cell: what tables show in place of its values.
  """

  def __init__(self, line: str, cell: str = 'no weights'):
    super().__init__(line)
    self.cell = cell


class Metric(abc.ABC):
  """Scores one image. An instance owns what the metric has to load, such as NIQE's pristine model.

  Attributes:
    name: its name in the registry, on the command line and in tables.
    label: column heading, with the unit.
    higher_is_better: whether larger values are better.
    needs: names of the `Inputs` without which there is no value.
    weights: what `load` reads from a file, in words; empty for a metric that reads no file.
    bundled: whether the package has such a file, which `load` reads where none is given.
    digits: decimals to print.
    batched: how many images of one size `batch` computes together.
    of_sets: whether it is a `SetMetric`.
  """

  name: ClassVar[str]
  label: ClassVar[str]
  higher_is_better: ClassVar[bool]
  needs: ClassVar[tuple[str, ...]]
  weights: ClassVar[str] = ''
  bundled: ClassVar[bool] = False
  digits: ClassVar[int] = 2
  batched: ClassVar[int] = 1
  of_sets: ClassVar[bool] = False

  @classmethod
  def load(cls, weights: str | os.PathLike | None = None) -> Self:
    """Makes the metric ready to use.

    Args:
      weights: file of the metric's weights; only for a metric that has `weights`.

    Raises:
      Missing: there are no weights.
      SSRError: a file for a metric that needs none.
    """
    if weights:
      raise SSRError(f"metric '{cls.name}' reads no weights; leave out {os.fspath(weights)}")
    return cls()

  @abc.abstractmethod
  def __call__(self, inputs: Inputs) -> float:
    """The value for one image.

    Args:
      inputs: at least those of `needs`.

    Raises:
      ValueError: shapes that do not fit together, or an image that is too small.
    """

  def batch(self, inputs: Sequence[Inputs]) -> list[float]:
    """The values of several images, each as of a call of its own."""
    return [self(one) for one in inputs]

  def heading(self, space: str = 'y') -> str:
    """Column heading of values measured in this space; it names the weights where other weights give other values."""
    del space
    return self.label

  @classmethod
  def lacks(cls, inputs: Inputs) -> tuple[str, ...]:
    """Names of the inputs that the metric needs and that are absent."""
    return tuple(name for name in cls.needs if inputs.get(name) is None)


class SetMetric(Metric):
  """A metric of a set of images: one image has no value, only features; calls return NaN."""

  of_sets = True

  @abc.abstractmethod
  def features(self, inputs: Inputs) -> dict[str, np.ndarray]:
    """What `distance` needs of one image."""

  @abc.abstractmethod
  def distance(self, features: Sequence[Mapping[str, np.ndarray]]) -> float:
    """The value of a set of images; NaN where they are too few."""
