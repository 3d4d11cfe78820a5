"""One photo under every recipe, on one sheet: fields side by side, modes one below the other."""

from collections.abc import Sequence
import functools

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssr_jax import degrade, xla
from ssr_jax.degrade import fields, realesrgan
from ssr_jax.evaluation.report import figures
from ssr_jax.image import kernels as kernel_maths

CROP = 256  # HR pixels shown, at most
_PANEL, _GAP, _MARGIN, _LABEL, _TEXT = 128, 4, 108, 18, 13


def contact_sheet(hr: np.ndarray, depth: np.ndarray, name: str, seed: int = 0) -> Image.Image:
  """Draws the sheet.

  The first row shows the kernels of each field, over a map of their variance: they are the same in each mode, which the
  next rows show. The last rows hold the photo, its depth and some draws of the second-order chains. LR images are
  enlarged without interpolation, from the same part of the photo.

  Args:
    hr: [H, W, 3] uint8; the middle is shown, up to `CROP` pixels a side.
    depth: [H, W] relative inverse depth, for the fields that need one.
    name: file name of the photo, from which draws follow as in a set.
    seed: of the draws.
  """
  H, W, _ = hr.shape
  scale = degrade.Recipe().scale
  height, width = (min(CROP, side) // scale * scale for side in (H, W))
  top, left = (H - height) // 2, (W - width) // 2
  hr, depth = (a[top : top + height, left : left + width] for a in (hr, depth))
  h, w = height // scale, width // scale
  key = lambda seed: jax.random.fold_in(degrade.image_key(seed, name), 0)[None]  # that of a batch's first image
  keys = key(seed)
  image = hr[None].astype(np.float32) / 255
  low_depth = depth.reshape(h, scale, w, scale).mean((1, 3))[None]

  columns = len(fields.KINDS)
  size = _PANEL * height // max(height, width), _PANEL * width // max(height, width)
  # Cells are square, whatever the photo's shape, so that labels have room.
  bottom = 1 + len(degrade.MODES)
  sheet = _Sheet(columns, ('kernels', *degrade.MODES, *realesrgan.CHAINS), headed=(0, bottom, bottom + 1))
  for column, field_name in enumerate(fields.KINDS):
    recipe = degrade.Recipe(field_name)
    # What `degrade` does, in two steps: the field is drawn once and compiled once, not for each mode.
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
  """A grid of panels: a label at the left of each row, and one over each panel in the rows that are headed."""

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
    x, y = _MARGIN + column * (_PANEL + _GAP), self._tops[row]
    self._text(x, y - _LABEL, label)
    self.image.paste(Image.fromarray(panel), (x, y))

  def _text(self, x: int, y: int, text: str):
    self._draw.text((x, y), text, fill=(20, 20, 20), font=self._font)


def _enlarged(lr: jax.Array, size: tuple[int, int]) -> np.ndarray:
  image = Image.fromarray(figures.to_uint8(np.asarray(lr)))
  return np.asarray(image.resize(size[::-1], Image.Resampling.NEAREST))


def _shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _field(keys, recipe, h, w, depth):
  """As `degrade` draws it, from the first of an image's five keys."""
  return jax.vmap(lambda k, d: degrade.kernel_field(jax.random.split(k, 5)[0], recipe, h, w, d))(keys, depth)


_kernels = jax.jit(kernel_maths.gaussian_kernels)
_from_field = xla.jit(degrade.from_field, static_argnums=2)
_degrade = xla.jit(degrade.degrade, static_argnums=2)
