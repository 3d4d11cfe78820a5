"""A run's logs: scalars as JSON lines and TensorBoard events, image grids, a progress line."""

from collections.abc import Mapping
import json
import pathlib
import sys
import time

import numpy as np
from PIL import Image, ImageDraw

from ssr_jax.image import files


class Scalars:
  """Scalars and pictures of a run: JSON lines {"step": ..., "name": value}, PNG files, and TensorBoard's events."""

  def __init__(self, workdir: pathlib.Path, start: int = 0):
    """Opens the files of a run that continues after step `start`; lines of later steps are dropped."""
    from tensorboardX import SummaryWriter

    self._path = workdir / 'scalars.jsonl'
    self._pictures = workdir / 'pictures'
    self._pictures.mkdir(parents=True, exist_ok=True)
    if self._path.exists():
      lines = self._path.read_bytes().split(b'\n')
      kept = [line + b'\n' for line in lines if (figures(line) or {}).get('step', start + 1) <= start]
      files.write_bytes(self._path, b''.join(kept))
    self._events = SummaryWriter(str(workdir / 'tensorboard'), purge_step=start + 1 if start else None)

  def write(self, step: int, values: Mapping[str, float], prefix: str = '') -> None:
    """Writes values as floats; names get the prefix."""
    row = {'step': int(step), 'time': round(time.time(), 1)}
    row |= {f'{prefix}{name}': float(value) for name, value in values.items()}
    with self._path.open('a') as file:
      file.write(json.dumps(row) + '\n')
    for name, value in values.items():
      self._events.add_scalar(prefix + name, float(value), int(step))

  def picture(self, step: int, image: Image.Image) -> None:
    """Writes pictures/STEP.png."""
    image.save(self._pictures / f'{step:07d}.png')
    self._events.add_image('held out', np.asarray(image), int(step), dataformats='HWC')

  def close(self) -> None:
    """Flushes and closes the files."""
    self._events.close()


class Nothing:
  """Replaces `Scalars` on processes that do not write."""

  def write(self, *unused, **also_unused) -> None:
    """Does nothing."""

  picture = close = write


def figures(line: bytes) -> dict[str, float] | None:
  """{name: number} of a line of JSON; None where it is damaged, such as one that a killed process did not finish."""
  try:
    found = json.loads(line)
  except (ValueError, RecursionError):
    return None
  whole = isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values())
  return found if whole else None


def image_grid(columns: Mapping[str, np.ndarray], rows: int = 4) -> Image.Image:
  """One row per image, one titled column per name: {name: [b, H, W, 3] in [0, 1]} -> picture."""
  columns = {name: np.asarray(images)[:rows] for name, images in columns.items()}
  count, H, W, _ = next(iter(columns.values())).shape
  title = 14
  canvas = Image.new('RGB', (len(columns) * (W + 2), title + count * (H + 2)), 'white')
  draw = ImageDraw.Draw(canvas)
  for x, (name, images) in enumerate(columns.items()):
    draw.text((x * (W + 2) + 2, 1), name, fill='black')
    for y, image in enumerate(images):
      pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
      canvas.paste(Image.fromarray(pixels), (x * (W + 2), title + y * (H + 2)))
  return canvas


class Progress:
  """Progress lines: steps and images per second, utilisation if the chip's peak is known, and the time left."""

  def __init__(self, total: int, start: int = 0, batch_size: int = 0, peak_share: float = 0.0):
    """Starts the clock.

    Args:
      total: number of steps of the run.
      start: number of steps done before.
      batch_size: images per step.
      peak_share: seconds of a step at the peak of all chips together; 0 if unknown.
    """
    self._total, self._last, self._clock = total, start, time.monotonic()
    self._batch_size, self._peak_share = batch_size, peak_share

  def report(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
    """Prints the step, its values and the speed since the last report; returns the speed."""
    now = time.monotonic()
    rate = (step - self._last) / max(now - self._clock, 1e-9)
    self._last, self._clock = step, now
    left = (self._total - step) / rate if rate else float('inf')
    speed = {'steps_per_second': rate, 'images_per_second': rate * self._batch_size}
    line = f'step {step}/{self._total}  {rate:.2f} step/s  {speed["images_per_second"]:.1f} images/s'
    if self._peak_share:
      speed['utilisation'] = rate * self._peak_share
      line += f'  {speed["utilisation"]:.1%} of peak'
    shown = '  '.join(f'{name} {float(value):.4g}' for name, value in values.items())
    print(f'{line}  {left / 60:.1f} min left  {shown}', file=sys.stderr, flush=True)
    return speed
