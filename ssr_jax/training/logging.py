"""What a run writes for people: scalars as JSON lines, image grids, a progress line."""

import json
import os
import pathlib
import sys
import time
from typing import Mapping

import numpy as np
from PIL import Image, ImageDraw


class Scalars:
  """Appends one JSON object a line: {"step": ..., "name": value}."""

  def __init__(self, path: str | os.PathLike):
    """path: the file; its folder must exist."""
    self._path = pathlib.Path(path)

  def write(self, step: int, values: Mapping[str, float], prefix: str = '') -> None:
    """Writes values as floats, each name behind `prefix`."""
    row = {'step': int(step), 'time': round(time.time(), 1)}
    row |= {f'{prefix}{name}': float(value) for name, value in values.items()}
    with self._path.open('a') as file:
      file.write(json.dumps(row) + '\n')


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
  """A line per report with the rate and the time left."""

  def __init__(self, total: int, start: int = 0):
    """total: steps of the run; start: steps done before it."""
    self._total, self._last, self._clock = total, start, time.monotonic()

  def report(self, step: int, values: Mapping[str, float]) -> None:
    """Prints the step, the values, steps a second since the last report, and the time left at that rate."""
    now = time.monotonic()
    rate = (step - self._last) / max(now - self._clock, 1e-9)
    self._last, self._clock = step, now
    left = (self._total - step) / rate if rate else float('inf')
    shown = '  '.join(f'{name} {float(value):.4g}' for name, value in values.items())
    print(f'step {step}/{self._total}  {rate:.2f} step/s  {left / 60:.1f} min left  {shown}', file=sys.stderr, flush=True)
