"""Figures: LR and what a system found, side by side, labelled.

Of SSR these are LR | depth | kernel field | restored | result.

Everything is drawn with Pillow on the host.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssr_jax.runtime import Result, trust
from ssr_jax.runtime.inspection import Inspection
from ssr_jax.systems.base import Output

_GAP, _TEXT = 8, 16
_BACKGROUND, _INK = (255, 255, 255), (20, 20, 20)


def colour_map(values: np.ndarray) -> np.ndarray:
  """Colours of values in [0, 1], from dark blue over teal to yellow.

  The colours are a path through OKLCh, converted to sRGB as OKLab defines it: lightness 0.25 to 0.93, hue 285 to 105
  degrees, chroma 0.11 in the middle and 0.06 at the ends. Lightness increases linearly, so the map is readable in gray
  and for people who are colour-blind.

  Args:
    values: [...] float; clipped to [0, 1], NaN counts as 0.

  Returns:
    [..., 3] uint8.
  """
  t = np.clip(np.nan_to_num(np.asarray(values, np.float64)), 0, 1)
  lightness = 0.25 + 0.68 * t
  chroma = 0.06 + 0.2 * t * (1 - t)
  hue = np.deg2rad(285 - 180 * t)
  a, b = chroma * np.cos(hue), chroma * np.sin(hue)
  cones = (
    np.stack(
      [
        lightness + 0.3963377774 * a + 0.2158037573 * b,
        lightness - 0.1055613458 * a - 0.0638541728 * b,
        lightness - 0.0894841775 * a - 1.2914855480 * b,
      ],
      -1,
    )
    ** 3
  )
  linear = cones @ np.array(
    [
      [4.0767416621, -1.2684380046, -0.0041960863],
      [-3.3077115913, 2.6097574011, -0.7034186147],
      [0.2309699292, -0.3413193965, 1.7076147010],
    ]
  )
  linear = np.clip(linear, 0, 1)
  srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
  return np.rint(255 * srgb).astype(np.uint8)


def kernel_variance(kernels: np.ndarray) -> np.ndarray:
  """Variance of kernels in HR pixels squared, the mean over the two axes: half the trace of the covariance.

  Args:
    kernels: [..., k*k], each summing to one.

  Returns:
    [...].
  """
  k = round(kernels.shape[-1] ** 0.5)
  taps = np.arange(k, dtype=np.float32)
  y, x = (grid.reshape(-1) for grid in np.meshgrid(taps, taps, indexing='ij'))
  mean_y, mean_x = kernels @ y, kernels @ x
  return (kernels @ (y**2 + x**2) - mean_y**2 - mean_x**2) / 2


def kernel_field(
  kernels: np.ndarray, size: tuple[int, int], grid: int = 6, limits: tuple[float, float] | None = None
) -> tuple[np.ndarray, tuple[float, float]]:
  """Heat map of the kernels' variance with some of the kernels drawn on it.

  Args:
    kernels: [h, w, k*k], each summing to one.
    size: (height, width) of the picture.
    grid: number of kernels drawn along the longer side.
    limits: variances that the ends of the colour map show; None takes the lowest and the highest of the kernels.

  Returns:
    [height, width, 3] uint8, and the (lowest, highest) variance, which the ends of the colour map show.
  """
  h, w, taps = kernels.shape
  k = round(taps**0.5)
  height, width = size
  variance = kernel_variance(kernels)
  low, high = limits or (float(variance.min()), float(variance.max()))
  heat = colour_map((variance - low) / max(high - low, 1e-6))
  picture = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.NEAREST)).astype(np.float32)
  cell = max(height, width) / grid
  side = max(5, int(1.25 * cell))  # larger than a cell: only the kernels' faint borders overlap
  rows, columns = max(1, round(height / cell)), max(1, round(width / cell))
  for row in range(rows):
    for column in range(columns):
      centre_y, centre_x = (row + 0.5) * height / rows, (column + 0.5) * width / columns
      kernel = kernels[int(centre_y * h / height), int(centre_x * w / width)].reshape(k, k)
      ink = Image.fromarray((kernel / max(kernel.max(), 1e-12)).astype(np.float32))
      ink = np.clip(np.asarray(ink.resize((side, side), Image.Resampling.BILINEAR)), 0, 1)
      top, left = int(centre_y - side / 2), int(centre_x - side / 2)
      y = slice(max(top, 0), min(top + side, height))
      x = slice(max(left, 0), min(left + side, width))
      ink = ink[y.start - top : y.stop - top, x.start - left : x.stop - left, None]
      picture[y, x] = picture[y, x] * (1 - ink) + 255 * ink
  return np.rint(picture).astype(np.uint8), (low, high)


def figure(lr: np.ndarray, outputs: Sequence[Output], result: Result, side: int = 512) -> Image.Image:
  """LR and all that a system found as one labelled picture.

  Args:
    lr: [h, w, 3], uint8 or float in [0, 1], as all images here.
    outputs: of the system.
    result: of the image; an output that is None in it is left out.
    side: longest side of a panel in pixels; larger images are scaled down to it.
  """
  h, w, _ = lr.shape
  H, W, _ = result.image.shape
  shrink = min(1, side / max(H, W))
  size = max(1, round(H * shrink)), max(1, round(W * shrink))
  panels, labels = [_resized(lr, size, Image.Resampling.NEAREST)], [f'LR {w}x{h}']
  for output in outputs[:-1]:
    if (found := result.outputs.get(output.name)) is not None:
      picture, label = panel(output, found, size)
      panels.append(picture)
      labels.append(label)
  return side_by_side([*panels, _resized(result.image, size)], [*labels, f'{outputs[-1].label} {W}x{H}'])


def inspected(photo: np.ndarray, found: Inspection, side: int = 512) -> Image.Image:
  """A photo, its depth where there is one, and its kernels as one labelled picture.

  Args:
    photo: [h, w, 3], uint8 or float in [0, 1].
    found: in it.
    side: longest side of a panel in pixels.
  """
  h, w, _ = photo.shape
  size = max(1, round(h * side / max(h, w))), max(1, round(w * side / max(h, w)))
  panels = [_resized(photo, size, Image.Resampling.BOX if max(h, w) > side else Image.Resampling.NEAREST)]
  labels = [f'{w}x{h}, noise {255 * float(np.mean(found.noise)):.1f} of 255']
  if found.depth is not None:
    panels.append(_resized(colour_map(found.depth), size))
    labels.append('depth (bright is near)')
  field, limits = kernel_field(found.field, size)
  low, high = (limit**0.5 / found.scale for limit in limits)
  return side_by_side([*panels, field], [*labels, f'blur {low:.2f} (dark) to {high:.2f} pixels'])


def trusted(image: np.ndarray, found: np.ndarray, side: int = 512) -> Image.Image:
  """A result, how it departs from the restored image and from the photo, and the share that was invented.

  The colours mean the same in every picture, so that pictures can be compared.

  Args:
    image: [H, W, 3], uint8 or float in [0, 1].
    found: [h, w, 3], of `runtime.trust.trust_map`.
    side: longest side of a panel in pixels.
  """
  H, W, _ = image.shape
  size = max(1, round(H * side / max(H, W))), max(1, round(W * side / max(H, W)))
  panels, labels = [_resized(image, size)], [f'result, {100 * trust.share(found):.0f} % invented']
  for channel, (label, most) in enumerate(zip(trust.CHANNELS, (1, 1, 0.5), strict=True)):  # a change of 1 is half
    panels.append(_resized(colour_map(found[..., channel] / most), size, Image.Resampling.BILINEAR))
    labels.append(f'{label}, mean {found[..., channel].mean():.2f}; bright is {most:g} or more')
  return side_by_side(panels, labels)


def panel(
  output: Output, found: np.ndarray, size: tuple[int, int], limits: tuple[float, float] | None = None
) -> tuple[np.ndarray, str]:
  """A picture of an output, and its label.

  Args:
    output: what it is.
    found: its array, of the shape that `systems.base.KINDS` gives its kind.
    size: (height, width) of the picture.
    limits: of kernels, as of `kernel_field`.

  Returns:
    [*size, 3] uint8, and the label.
  """
  match output.kind:
    case 'depth':
      return _resized(colour_map(found[..., 0]), size), f'{output.label} (bright is near)'
    case 'kernels':
      field, limits = kernel_field(found, size, limits=limits)
      return field, kernel_label(limits)
    case 'map':
      shown = np.asarray(found, np.float32).mean(-1)
      low, high = float(shown.min()), float(shown.max())
      return _resized(colour_map((shown - low) / max(high - low, 1e-6)), size), f'{output.label} {low:.2g}-{high:.2g}'
    case _:
      return _resized(found, size), output.label


def kernel_label(limits: tuple[float, float]) -> str:
  """What a `kernel_field` of these limits is called."""
  return f'kernel variance {limits[0]:.1f}-{limits[1]:.1f} px^2'


def side_by_side(panels: Sequence[np.ndarray], labels: Sequence[str]) -> Image.Image:
  """Images in a row, each with its label above.

  Args:
    panels: [H, W, 3] each, uint8 or float in [0, 1]; sizes may differ.
    labels: one for each panel; a label that is wider than its panel is cut.

  Raises:
    ValueError: no panels, or different numbers of panels and labels.
  """
  if len(panels) != len(labels) or not panels:
    raise ValueError(f'{len(panels)} panels need as many labels; got {len(labels)}')
  panels = [to_uint8(panel) for panel in panels]
  font = ImageFont.load_default(_TEXT)
  top = _TEXT + 2 * _GAP
  height = top + max(panel.shape[0] for panel in panels) + _GAP
  widths = [max(panel.shape[1], 96) for panel in panels]
  sheet = Image.new('RGB', (sum(widths) + _GAP * (len(panels) + 1), height), _BACKGROUND)
  draw = ImageDraw.Draw(sheet)
  x = _GAP
  for panel, label, width in zip(panels, labels, widths, strict=True):
    while len(label) > 1 and draw.textlength(label, font=font) > width:
      label = label[:-1]
    draw.text((x, _GAP - 2), label, fill=_INK, font=font)
    sheet.paste(Image.fromarray(panel), (x, top))
    x += width + _GAP
  return sheet


def stack(rows: Sequence[Image.Image]) -> Image.Image:
  """Stacks pictures vertically, aligned at the left."""
  sheet = Image.new('RGB', (max(row.width for row in rows), sum(row.height for row in rows)), _BACKGROUND)
  y = 0
  for row in rows:
    sheet.paste(row, (0, y))
    y += row.height
  return sheet


def to_uint8(image: np.ndarray) -> np.ndarray:
  """Converts [..., c], uint8 or float in [0, 1], to uint8; floats are clipped and rounded."""
  image = np.asarray(image)
  return image if image.dtype == np.uint8 else np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _resized(image: np.ndarray, size: tuple[int, int], method=Image.Resampling.BOX) -> np.ndarray:
  return np.asarray(Image.fromarray(to_uint8(image)).resize((size[1], size[0]), method))
