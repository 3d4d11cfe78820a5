"""The arguments of `Restorer.sample` and `load`: what a caller may give, and one line about anything else."""

from collections.abc import Callable, Mapping, Sequence
import numbers
import operator
import os
import typing
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssr_jax import systems
from ssr_jax.image import io
from ssr_jax.systems.base import System
from ssr_jax.types import SSRError

_LEVELS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
_WORDS = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'a text'}


class Rows:
  """An image's rows as floats, and the way back to what was given.

  Attributes:
    shape: [h, w, 3].
    dtype: of what was given, and of results.
  """

  def __init__(self, given: Any):
    """Wraps what has `shape` [h, w, 3], `dtype` uint8, uint16 or float, and gives arrays for slices of its rows."""
    self._given, self.shape, self.dtype = given, given.shape, np.dtype(given.dtype)

  def __getitem__(self, rows: slice) -> np.ndarray:
    """float32 [n, w, 3] in [0, 1]; SSRError where floats are in another range."""
    image = np.asarray(self._given[rows], np.float32)
    if self.dtype in _LEVELS:
      return image / _LEVELS[self.dtype]
    _check_range(image, self.dtype)
    return np.clip(image, 0, 1)

  def finish(self, image: np.ndarray) -> np.ndarray:
    """A result, float in about [0, 1], clipped and in the dtype of what was given."""
    image = np.clip(image, 0, 1)
    if self.dtype in _LEVELS:
      return np.rint(image * _LEVELS[self.dtype]).astype(self.dtype)
    return image.astype(self.dtype)


class Images:
  """LR images as a caller gave them.

  Attributes:
    rows: the `Rows` of each.
    shape: (b, h, w).
    single: whether one image was given, not a batch.
    dtype: of what was given, and of results.
  """

  def __init__(self, lr: Any, max_pixels: int | None):
    """Checks what the caller gave.

    Args:
      lr: [h, w, 3] or [b, h, w, 3], uint8, uint16 or float in [0, 1]; or the path of an image file; or a PIL image.
      max_pixels: of an image file; larger ones are not decoded.

    Raises:
      SSRError: none of these, or a file that cannot be read.
    """
    if isinstance(lr, str | os.PathLike):
      lr = io.read(lr, max_pixels).rgb
    elif isinstance(lr, Image.Image):
      lr = io.convert(lr, 'lr', max_pixels).rgb
    try:
      given = np.asarray(lr)
    except Exception as error:  # of many types: rows of different lengths, another library's array on its device
      raise SSRError(
        f'lr is no array ({_first_words(error)}); give one, the path of an image or a PIL image'
      ) from error
    if given.dtype.kind in 'OSUVMm' and not jnp.issubdtype(given.dtype, jnp.floating):
      raise SSRError(f'lr is {type(lr).__name__}; give an array, the path of an image or a PIL image')
    if given.ndim not in (3, 4) or given.shape[-1] != 3 or 0 in given.shape:
      raise SSRError(f'lr must be [h, w, 3] or [b, h, w, 3] with RGB last; got shape {list(given.shape)}')
    self.dtype, self.single = given.dtype, given.ndim == 3
    if self.dtype not in _LEVELS and not jnp.issubdtype(self.dtype, jnp.floating):
      raise SSRError(f'lr must be uint8, uint16, or float in [0, 1]; got {self.dtype}')
    if self.dtype not in _LEVELS:
      _check_range(given.astype(np.float32), self.dtype)
    self.rows = [Rows(image) for image in (given[None] if self.single else given)]
    self.shape = (len(self.rows), *given.shape[-3:-1])


def _check_range(image: np.ndarray, dtype: Any) -> None:
  low, high = image.min(), image.max()
  if not (low >= -1e-3 and high <= 1 + 1e-3):  # written so that NaN fails too
    raise SSRError(f'lr of dtype {dtype} must lie in [0, 1]; got [{low:.4g}, {high:.4g}]')


def seeds(seed: Any, count: int) -> list[int]:
  """A seed for each of `count` images, from one number or a sequence of as many."""
  try:
    several = list(seed) if np.ndim(seed) else [seed] * count
    found = [operator.index(number) for number in several]
  except (TypeError, ValueError) as error:
    raise SSRError(f'seed {_shown(seed)}: must be a whole number, or one for each image') from error
  if len(found) != count:
    raise SSRError(f'seed: {len(found)} numbers for {count} images; give one, or one for each image')
  return found


def typed(name: str, value: Any, kind: type) -> Any:
  """An argument as a Python value of its kind: bool, int, float or str.

  Raises:
    SSRError: it is of another kind; the message names the argument.
  """
  accepted = {bool: bool | np.bool_, int: numbers.Integral, float: numbers.Real, str: str}[kind]
  if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool | np.bool_)):
    return kind(value)
  raise SSRError(f'{name} {_shown(value)}: must be {_WORDS[kind]}')


SCALES = (1, 8)
"""The least and the largest scale of a result."""


def target(scale: Any, size: Any, lr: tuple[int, int] | None, native: int) -> tuple[int, int]:
  """(height, width) of a result.

  Args:
    scale: of the result; None takes the model's.
    size: (height, width) instead; None takes the scale's.
    lr: (height, width) of the image; None checks only what needs no image.
    native: the model's scale.

  Raises:
    SSRError: both are given, one is of another kind, or the result is out of `SCALES`.
  """
  if scale is not None and size is not None:
    raise SSRError('scale and size exclude each other; give one')
  low, high = SCALES
  if size is None:
    scale = native if scale is None else typed('scale', scale, float)
    if not low <= scale <= high:
      raise SSRError(f'scale {scale:g}: must be from {low} to {high}')
    h, w = lr or (1, 1)
    return round(scale * h), round(scale * w)
  if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
    raise SSRError(f'size {_shown(size)}: must be (height, width) of the result')
  height, width = (typed('size', side, int) for side in size)
  h, w = lr or (height, width)
  if height < 1 or width < 1 or not (low * h <= height <= high * h and low * w <= width <= high * w):
    words = f'size {width}x{height}: must be {low} to {high} times the size of the image'
    raise SSRError(words if lr is None else f'{words}, {w}x{h}')
  return height, width


def options(cls: type, given: Mapping[str, Any]) -> Any:
  """A system's options.

  Args:
    cls: its dataclass of options.
    given: their values by name; None takes the model's.

  Raises:
    SSRError: a value is of another kind than its option.
  """
  kinds = systems.kinds_of(cls)
  return cls(**{name: None if value is None else typed(name, value, kinds[name]) for name, value in given.items()})


def given(system: System, values: Any, shape: tuple[int, ...], scale: int, single: bool) -> dict[str, np.ndarray]:
  """Outputs that a caller gives instead of having them estimated.

  Args:
    system: the model's.
    values: {output: array} of the system's `accepts`, without a b axis for a single image; None for nothing.
    shape: (b, h, w) of the LR images.
    scale: of the model.
    single: whether one image was given, not a batch.

  Returns:
    {output: float32 [b, h, w, k*k] for kernels, else [b, H, W, c]}.

  Raises:
    SSRError: a name that the system does not accept, another shape, or values that this output cannot have.
  """
  if values is not None and not isinstance(values, Mapping):
    raise SSRError(f'given {_shown(values)}: must be a mapping from names of outputs to arrays')
  found = {}
  for name, value in (values or {}).items():
    if name not in system.accepts:
      raise SSRError(f'given: {name!r} cannot be given; system {system.name!r} accepts {_list(system.accepts)}')
    output = next(output for output in system.outputs if output.name == name)
    try:
      array = np.asarray(value, np.float32)
    except Exception as error:  # of many types, as in `Images`
      raise SSRError(f"given['{name}'] is no array of numbers ({_first_words(error)})") from error
    array = array[None] if single else array
    b, *size = shape
    sides = [side if output.at_lr else scale * side for side in size]
    channels = {'depth': 1, 'image': 3}.get(output.kind, array.shape[-1] if array.ndim == 4 else 0)
    if array.shape != (b, *sides, channels):
      wanted = [*sides, 'k*k' if output.kind == 'kernels' else channels]
      raise SSRError(f"given['{name}'] has shape {list(array.shape)[single:]}; it must be {[b, *wanted][single:]}")
    if not np.isfinite(np.sum(array)):
      raise SSRError(f"given['{name}'] is not finite")
    if output.kind == 'kernels' and not (np.min(array) >= 0 and np.allclose(np.sum(array, -1), 1, atol=1e-3)):
      raise SSRError(f"given['{name}']: every kernel must be non-negative and sum to one")
    if output.kind in ('depth', 'image') and not (np.min(array) >= 0 and np.max(array) <= 1):
      raise SSRError(f"given['{name}'] must lie in [0, 1]; got [{np.min(array):.4g}, {np.max(array):.4g}]")
    found[name] = array
  return found


def first(system: System, kind: str) -> str | None:
  """Name of a system's first output of a kind; None where it has none."""
  return next((output.name for output in system.outputs if output.kind == kind), None)


def kernels(system: System, config: Mapping[str, Any], what: str) -> str:
  """Name of the output that holds the blur kernels.

  Args:
    system: the model's.
    config: the content of model.json.
    what: what they are needed for, for the message.

  Raises:
    SSRError: the system estimates none.
  """
  name = first(system, 'kernels')
  if name is None:
    raise SSRError(
      f"{what} needs blur kernels, which system '{system.name}' of model '{config['name']}' does not estimate; use a "
      "model that does, such as 'compact'"
    )
  return name


def progress(function: Any) -> Callable[[int, int], None] | None:
  """A progress callback, or None; SSRError for anything else."""
  if function is not None and not callable(function):
    raise SSRError(f'progress {_shown(function)}: must be a function of (done, total), or None')
  return typing.cast('Callable[[int, int], None] | None', function)


def model(given: Any) -> str | os.PathLike[str]:
  """A model's name or path; SSRError for anything else."""
  if not isinstance(given, str | os.PathLike) or not isinstance(os.fspath(given), str):
    raise SSRError(
      f'model {_shown(given)}: must be a name, the path of a model directory, or what `ssr_jax.load` returned'
    )
  try:
    os.stat(given)
  except FileNotFoundError:
    pass
  except (OSError, ValueError) as error:  # such as a name that is too long
    raise SSRError(f'model {_shown(given)}: no name or path ({_first_words(error)})') from error
  return given


def _list(names: Sequence[str]) -> str:
  return ', '.join(names) or 'nothing'


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f'{text[:60]}...'


def _first_words(error: BaseException) -> str:
  return (getattr(error, 'strerror', None) or str(error) or type(error).__name__).splitlines()[0]
