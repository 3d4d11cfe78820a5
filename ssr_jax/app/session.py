"""What the page does with a photo: a visitor's run, its pictures, and what a click on one tells."""

from collections.abc import Callable, Mapping
import dataclasses
import os
import pathlib
import threading
from typing import Any

import numpy as np
from PIL import Image

from ssr_jax import systems
from ssr_jax.cli import upscaling
from ssr_jax.evaluation.report import figures
from ssr_jax.image import io
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.runtime import Restorer, Result, inspection, trust
from ssr_jax.types import SSRError

_PANEL = 768
"""Longest side of the pictures beside the result, in pixels."""
_KERNELS = 192
"""Rows and columns of kernels that are kept for clicks, at most: those of a megapixel take 1.8 GB."""


class Cancelled(Exception):
  """The visitor pressed Cancel."""


@dataclasses.dataclass(frozen=True)
class Control:
  """An option of a system, as a control of the page.

  Attributes:
    name: of the option.
    kind: bool, int, float or str.
    choices: what it may be; empty where that is not a list.
    help: one sentence.
    default: the model's value, which the control has until it is changed; None where the model has none.
  """

  name: str
  kind: type
  choices: tuple[str, ...]
  help: str
  default: Any

  @property
  def label(self) -> str:
    """The name, readable."""
    return self.name.replace('_', ' ')


def controls(model: Restorer) -> list[Control]:
  """The controls of a model's page, from its system's `Options`; the values are those that the model takes."""
  options = model.system.Options
  plan, kinds = model.check(), systems.kinds_of(options)
  return [
    Control(
      field.name,
      kinds[field.name],
      tuple(field.metadata.get('choices') or ()),
      field.metadata['help'],
      getattr(plan, field.name, None),
    )
    for field in dataclasses.fields(options)
  ]


def options_of(model: Restorer, values: Mapping[str, Any]) -> dict[str, Any]:
  """Options of `Restorer.sample` from the values of a page's controls; a control that was not changed says nothing.

  An option at the model's value can mean another thing than the same value given: SSR's student is used only where
  steps, sampler and start are left to the model.

  Raises:
    SSRError: a value of the wrong kind.
  """
  found = {}
  for control in controls(model):
    value = values.get(control.name)
    if value is None or value == '' or value == control.default:
      continue
    if control.kind is int and float(value) != int(value):
      raise SSRError(f'{control.label}: must be a whole number, not {value}')
    found[control.name] = control.kind(value)
  return found


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
  """A finished run.

  Attributes:
    photo: [h, w, 3], that was read.
    result: of `Restorer.sample`; of its kernels every n-th, at most 192 x 192.
    size: (height, width) of the photo.
    scale: pixels of the model's own result, and so kernel taps, per pixel of the photo.
    file: the result, in the photo's format where that can be written, with what the photo's file said.
    figure: the sheet of all that was found, as a file.
    share: the share of the result that was invented, in [0, 1]; None where the model cannot tell.
    notes: what could not be kept of the photo's file.
  """

  photo: np.ndarray
  result: Result
  size: tuple[int, int]
  scale: int
  file: pathlib.Path
  figure: pathlib.Path
  share: float | None
  notes: tuple[str, ...]


class Visitor:
  """One visitor, whose run can be cancelled from another thread between two tiles."""

  def __init__(self):
    """No run yet."""
    self._stop = threading.Event()

  def cancel(self) -> None:
    """Ends the run, if there is one, before its next tile."""
    self._stop.set()

  def run(
    self,
    model: Restorer,
    path: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    max_pixels: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
  ) -> Found:
    """Super-resolves a photo, as `ssr upscale --figures --trust` does.

    Args:
      model: of `load`.
      path: of the photo.
      folder: that the files are written to.
      max_pixels: of the photo, at most.
      progress: called with (tiles done, tiles in total).
      **options: of `Restorer.sample`.

    Raises:
      Cancelled: `cancel` was called.
      SSRError: as of `image.io.read` and `Restorer.sample`.
    """
    self._stop.clear()

    def ticked(done, total):
      if self._stop.is_set():
        raise Cancelled
      progress(done, total)

    source, folder = pathlib.Path(path), pathlib.Path(folder)
    suffix = source.suffix.lower() if source.suffix.lower() in io.WRITABLE else '.png'
    target = folder / f'{source.stem}_x{options.get("scale") or model.config["scale"]:g}{suffix}'
    job = upscaling.Job(source, target, folder / f'{source.stem}_figure.png')
    if any(output.kind == 'kernels' for output in model.system.outputs):
      options['trust'] = True
    settings = upscaling.Settings(max_pixels=max_pixels, overwrite=True)
    upscaler = upscaling.Upscaler(model, settings, options, upscaling.made_by(model, options))
    work = upscaler.read(job)
    if work.banded:
      raise SSRError(f'{source.name}: too large for this page; `ssr upscale` takes images of any size')
    upscaler.restore(work, ticked)
    result = work.result
    upscaler.write(work)
    assert job.figure is not None
    photo = np.asarray(work.picture.rgb)
    if result.outputs.get('kernels') is not None:
      step = -(-max(photo.shape[:2]) // _KERNELS)
      result = Result(result.image, {**result.outputs, 'kernels': result.outputs['kernels'][::step, ::step].copy()})
    notes = tuple(dict.fromkeys(work.notes))
    return Found(photo, result, photo.shape[:2], model.config['scale'], target, job.figure, work.invented, notes)


def before(found: Found) -> Image.Image:
  """The photo enlarged bicubically to the result's size, to compare with."""
  h, w, _ = found.result.image.shape
  return Image.fromarray(_eight_bits(found.photo)).resize((w, h), Image.Resampling.BICUBIC)


def after(found: Found) -> Image.Image:
  """The result."""
  return Image.fromarray(_eight_bits(found.result.image))


def panel_size(found: Found) -> tuple[int, int]:
  """(height, width) of the pictures of `panels`."""
  h, w, _ = found.result.image.shape
  shrink = min(1.0, _PANEL / max(h, w))
  return max(1, round(h * shrink)), max(1, round(w * shrink))


def panels(found: Found, model: Restorer) -> dict[str, tuple[np.ndarray, str]]:
  """{output: (picture [H, W, 3] uint8, label)} of all that was found beside the result."""
  size = panel_size(found)
  shown = {}
  for output in model.system.outputs[:-1]:
    if (array := found.result.outputs.get(output.name)) is not None:
      shown[output.name] = figures.panel(output, array, size)
  if (measured := found.result.outputs.get(trust.OUTPUT)) is not None and found.share is not None:
    invented = measured[..., trust.CHANNELS.index('invented')]
    picture = Image.fromarray(figures.colour_map(invented)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    shown[trust.OUTPUT] = np.asarray(picture), f'invented (bright), {100 * found.share:.0f} % on average'
  return shown


def kernel_at(found: Found, x: float, y: float) -> tuple[np.ndarray, str] | None:
  """The blur kernel at a place of the picture, enlarged, and what it is in words; None where there are no kernels.

  Args:
    found: a finished run.
    x: from 0, the left border, to 1.
    y: from 0, the top, to 1.
  """
  kernels = found.result.outputs.get('kernels')
  if kernels is None:
    return None
  h, w, _ = kernels.shape
  column, row = min(int(x * w), w - 1), min(int(y * h), h - 1)
  kernel = kernels[row, column]
  side = kernel_lib.side(kernel)
  along, across, angle = inspection.blur_of(kernel, found.scale)
  ink = (255 * kernel.reshape(side, side) / max(float(kernel.max()), 1e-12)).astype(np.uint8)
  at = min(int(x * found.size[1]), found.size[1] - 1), min(int(y * found.size[0]), found.size[0] - 1)
  words = f'Pixel {at[0]}, {at[1]} of the photo: blur {along:.2f} by {across:.2f} pixels'
  words += f', longest at {angle:.0f} degrees' if along > 1.05 * across else ', the same in all directions'
  depth = found.result.outputs.get('depth')
  if depth is not None:
    H, W = depth.shape[:2]
    words += f'; depth {float(depth[min(int(y * H), H - 1), min(int(x * W), W - 1), 0]):.2f}, 1 is nearest'
  enlarged = Image.fromarray(ink).resize((12 * side, 12 * side), Image.Resampling.NEAREST)
  return np.asarray(enlarged), words


def _eight_bits(image: np.ndarray) -> np.ndarray:
  return image if image.dtype == np.uint8 else np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
