"""A contact sheet of one photo degraded by every recipe: a column for each field, a row for each mode."""

from collections.abc import Sequence
import functools

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssr_jax import degrade, xla
from ssr_jax.degrade import fields, realesrgan
from ssr_jax.evaluation.report import figures
from ssr_jax.image import kernels as kernel_maths

CROP = 256
"""Longest side of the part of the photo that is shown, in HR pixels."""

_PANEL, _GAP, _MARGIN, _LABEL, _TEXT = 128, 4, 108, 18, 13


def contact_sheet(hr: np.ndarray, depth: np.ndarray, name: str, seed: int = 0) -> Image.Image:
  """Draws the sheet.

  The first row has the kernels of each field on a map of their variance. The next rows have the LR images of each mode;
  all modes use the same kernels. The last rows have the photo, its depth and some draws of the second-order chains. LR
  images are enlarged without interpolation.

  Args:
    hr: [H, W, 3] uint8; the middle is shown, at most `CROP` pixels a side.
    depth: [H, W] relative inverse depth in [0, 1], for the fields that need depth.
    name: file name of the photo; with the seed it determines the draws, as in `ssr degrade`.
    seed: of the draws.

  Returns:
    The sheet, RGB.
  """
  H, W, _ = hr.shape
  scale = degrade.Recipe().scale
  height, width = (min(CROP, side) // scale * scale for side in (H, W))
  top, left = (H - height) // 2, (W - width) // 2
  hr, depth = (a[top : top + height, left : left + width] for a in (hr, depth))
  h, w = height // scale, width // scale
  key = lambda seed: jax.random.fold_in(degrade.image_key(seed, name), 0)[None]  # the key of a batch's first image
  keys = key(seed)
  image = hr[None].astype(np.float32) / 255
  low_depth = depth.reshape(h, scale, w, scale).mean((1, 3))[None]

  columns = len(fields.KINDS)
  size = _PANEL * height // max(height, width), _PANEL * width // max(height, width)
  # Cells are square even if the photo is not, so that the labels fit.
  bottom = 1 + len(degrade.MODES)
  sheet = _Sheet(columns, ('kernels', *degrade.MODES, *realesrgan.CHAINS), headed=(0, bottom, bottom + 1))
  for column, field_name in enumerate(fields.KINDS):
    recipe = degrade.Recipe(field_name)
    # `degrade` in two steps, so that the field is drawn and compiled once and not for each mode.
    field = _field(keys, recipe, h, w, low_depth)
    kernels = np.asarray(_kernels(*field))[0]
    sheet.put(0, column, figures.kernel_field(kernels, size, grid=5)[0], field_name)
    for row, mode in enumerate(degrade.MODES, 1):
      sheet.put(row, column, _enlarged(_from_field(keys, image, degrade.Recipe(mode=mode), field).lr[0], size))

  sheet.put(bottom, 0, _shrunk(hr, size), 'photo')
  sheet.put(bottom + 1, 0, _shrunk(figures.colour_map(depth), size), 'depth, bright near')
  for row, chain in enumerate(realesrgan.CHAINS, bottom):
    for n in range(columns - 1):
      found = _degrade(key(seed + n), image, degrade.Recipe(chain))
      sheet.put(row, 1 + n, _enlarged(found.lr[0], size), f'seed {seed + n}')
  return sheet.image


class _Sheet:
  """A grid of panels, with a label left of each row, and above each panel of the rows in `headed`."""

  def __init__(self, columns: int, rows: Sequence[str], headed: Sequence[int]):
    self._tops, y = [], _GAP
    for row in range(len(rows)):
      y += _LABEL * (row in headed)
      self._tops.append(y)
      y += _PANEL + _GAP
    self.image = Image.new('RGB', (_MARGIN + columns * (_PANEL + _GAP), y), (255, 255, 255))
    self._draw = ImageDraw.Draw(self.image)
    self._font = ImageFont.load_default(_TEXT)
    for top, text in zip(self._tops, rows, strict=True):
      self._text(_GAP, top + (_PANEL - _TEXT) // 2, text)

  def put(self, row: int, column: int, panel: np.ndarray, label: str = ''):
    """Draws a panel [h, w, 3] uint8 into a cell; `label` needs a row that is headed."""
    x, y = _MARGIN + column * (_PANEL + _GAP), self._tops[row]
    self._text(x, y - _LABEL, label)
    self.image.paste(Image.fromarray(panel), (x, y))

  def _text(self, x: int, y: int, text: str):
    self._draw.text((x, y), text, fill=(20, 20, 20), font=self._font)


def _enlarged(lr: jax.Array, size: tuple[int, int]) -> np.ndarray:
  image = Image.fromarray(figures.to_uint8(np.asarray(lr)))
  return np.asarray(image.resize((size[1], size[0]), Image.Resampling.NEAREST))


def _shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _field(keys, recipe, h, w, depth):
  """The field that `degrade` draws: it uses the first of an image's five keys."""
  return jax.vmap(lambda k, d: degrade.kernel_field(jax.random.split(k, 5)[0], recipe, h, w, d))(keys, depth)


_kernels = jax.jit(kernel_maths.gaussian_kernels)
_from_field = xla.jit(degrade.from_field, static_argnums=2)
_degrade = xla.jit(degrade.degrade, static_argnums=2)
