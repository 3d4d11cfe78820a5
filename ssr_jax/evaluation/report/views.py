"""What the page shows of one case: LR, each model's image, HR, and what the models found, as files in a folder.

The files are lossless WebP, so that the page shows the pixels that were scored. `views.json` beside them says what each
is; `read` reads it, for an evaluation that goes on where another one stopped.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import io as bytes_io
import json
import pathlib
import re
from typing import Any

import numpy as np
from PIL import Image

from ssr_jax.evaluation.report import figures
from ssr_jax.image import io
from ssr_jax.systems.base import Output
from ssr_jax.types import SSRError

SIDE = 1024
"""Longest side that is shown, in HR pixels; of larger images it is the middle."""

LR, HR = 'LR', 'HR'
INDEX = 'views.json'
_KINDS = ('lr', 'image', 'figure')
_NAME = 60  # characters of a file's name that are kept: of at most four bytes each, they leave room for the rest


@dataclasses.dataclass(frozen=True)
class View:
  """One picture of a case.

  Attributes:
    label: 'LR', the name of a model, 'HR', or of an output, such as 'depth'.
    kind: 'lr', which is shown enlarged without interpolation; 'image'; or 'figure', which was not scored.
    file: name of the file in the case's folder.
    caption: of a figure: what its colours mean.
  """

  label: str
  kind: str
  file: str
  caption: str = ''


@dataclasses.dataclass(frozen=True)
class Views:
  """The pictures of a case and its rows.

  Attributes:
    image: file name of the HR photo, printable.
    recipe: name of the recipe.
    size: (height, width) of the HR image.
    shown: (height, width) of the part that is shown, in HR pixels.
    folder: where the files are.
    views: in the order in which the page offers them.
    rows: those of the report that belong to the case, the same objects.
  """

  image: str
  recipe: str
  size: tuple[int, int]
  shown: tuple[int, int]
  folder: pathlib.Path
  views: tuple[View, ...]
  rows: Sequence[Mapping[str, Any]] = ()


def file_names(cases: Iterable[tuple[str, str]]) -> list[str]:
  """Names for the files of cases: letters, digits, '_', '-' and '.' only, and all different.

  Args:
    cases: (file name of the photo, name of the recipe) of each; photos in different folders may have the same name.
  """
  names: dict[str, None] = {}
  last: dict[str, int] = {}
  for image, recipe in cases:
    name = base = f'{_plain(pathlib.PurePath(image).stem)[:_NAME]}_{_plain(recipe)[:_NAME]}'
    while name in names:
      last[base] = last.get(base, 1) + 1
      name = f'{base}_{last[base]}'
    names[name] = None
  return list(names)


def write(
  folder: pathlib.Path,
  case: Any,
  images: Mapping[str, np.ndarray],
  found: Mapping[str, Sequence[tuple[Output, np.ndarray]]],
  rows: Sequence[Mapping[str, Any]] = (),
) -> Views:
  """Writes the pictures of a case.

  Kernels of all models and the true ones share one scale of colours, so that they can be compared. A figure that
  several models have in common is written once.

  Args:
    folder: for the files; it is made if it is absent.
    case: a `cases.Case`: 'image', 'recipe', 'hr' [H, W, 3] and 'lr' [h, w, 3] uint8, and 'kernels', the true ones; 'hr'
      and 'kernels' may be None.
    images: {model: [H, W, 3] uint8}, at least one.
    found: {model: what it found besides}; see `found`.
    rows: as of `Views`.

  Raises:
    SSRError: a file that cannot be written.
  """
  try:
    folder.mkdir(exist_ok=True)
  except OSError as error:
    raise SSRError(f'{folder}: cannot be made ({error.strerror}); choose another --workdir') from error
  H, W, _ = next(iter(images.values())).shape
  scale = H // case.lr.shape[0]
  low, high = _middle(H, W, scale)
  pictures = [(LR, 'lr', '', case.lr[low]), *((name, 'image', '', image[high]) for name, image in images.items())]
  if case.hr is not None:
    pictures.append((HR, 'image', '', case.hr[high]))
  pictures += [(label, 'figure', *figure) for label, *figure in _figures(case.kernels, found, low, high)]
  views = []
  for i, (label, kind, caption, picture) in enumerate(pictures):
    views.append(View(label, kind, f'{i:02d}_{_plain(label)[:_NAME]}.webp', caption))
    io.write_bytes(folder / views[-1].file, lossless(picture))
  shown = high[0].stop - high[0].start, high[1].stop - high[1].start
  written = Views(case.image, case.recipe, (H, W), shown, folder, tuple(views), rows)
  index = {key: value for key, value in dataclasses.asdict(written).items() if key not in ('folder', 'rows')}
  io.write_bytes(folder / INDEX, json.dumps(index, indent=2).encode())
  return written


def read(folder: pathlib.Path, rows: Sequence[Mapping[str, Any]] = ()) -> Views:
  """Reads what `write` has written.

  Raises:
    SSRError: no such files, or damaged ones.
  """
  try:
    index = json.loads((folder / INDEX).read_bytes())
    views = tuple(View(**view) for view in index['views'])
    size, shown = (tuple(map(int, index[key])) for key in ('size', 'shown'))
    if any(view.kind not in _KINDS or pathlib.PurePath(view.file).name != view.file for view in views):
      raise ValueError('a view of an unknown kind, or outside the folder')
    return Views(str(index['image']), str(index['recipe']), size, shown, folder, views, rows)  # pyright: ignore[reportArgumentType]  (two sides each)
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise SSRError(f'{folder / INDEX}: cannot be read ({error}); delete {folder} and evaluate again') from error


def lossless(picture: np.ndarray) -> bytes:
  """[H, W, 3] uint8 as a WebP file without loss."""
  buffer = bytes_io.BytesIO()
  # The fastest method: its files are a tenth larger than the slowest one's, which takes ten times as long.
  Image.fromarray(np.ascontiguousarray(picture)).save(buffer, 'WEBP', lossless=True, method=0, quality=20)
  return buffer.getvalue()


def found(outputs: Iterable[Output], arrays: Mapping[str, np.ndarray | None]) -> list[tuple[Output, np.ndarray]]:
  """What a model found besides images, for `write`.

  Args:
    outputs: of the model's system.
    arrays: {name: array}, None where it was not kept.
  """
  pairs = [(output, arrays.get(output.name)) for output in outputs if output.kind != 'image']
  return [(output, array) for output, array in pairs if array is not None]


def _middle(H: int, W: int, scale: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
  """The part that is shown, as slices of the LR image and of the HR image."""
  low = []
  for side in (H // scale, W // scale):
    length = min(side, SIDE // scale)
    low.append(slice((side - length) // 2, (side - length) // 2 + length))
  y, x = low
  return (y, x), (slice(scale * y.start, scale * y.stop), slice(scale * x.start, scale * x.stop))


def _figures(
  true_kernels: np.ndarray | None,
  found: Mapping[str, Sequence[tuple[Output, np.ndarray]]],
  low: tuple[slice, slice],
  high: tuple[slice, slice],
) -> list[tuple[str, str, np.ndarray]]:
  """(label, caption, picture) of what models found, and of the true kernels."""
  size = high[0].stop - high[0].start, high[1].stop - high[1].start
  shown = [
    (model, output, array[low if output.at_lr else high]) for model, pairs in found.items() for output, array in pairs
  ]
  kernels = [array for _, output, array in shown if output.kind == 'kernels']
  if true_kernels is not None and kernels:
    kernels.append(true_kernels[low])
  spread = [figures.kernel_variance(array) for array in kernels]
  limits = (float(min(v.min() for v in spread)), float(max(v.max() for v in spread))) if spread else None

  # Models that share a network find the same, which makes one figure.
  different: dict[tuple[str, bytes], tuple[Output, str, np.ndarray, list[str]]] = {}
  for model, output, array in shown:
    picture, caption = figures.panel(output, array, size, limits)
    different.setdefault((output.name, picture.tobytes()), (output, caption, picture, []))[-1].append(model)
  able = [model for model, pairs in found.items() if pairs]
  out = []
  for output, caption, picture, models in different.values():
    label = output.label if models == able else f'{output.label}, {", ".join(models)}'
    out.append((label, _caption(caption.removeprefix(output.label)), picture))
  if true_kernels is not None and limits is not None:
    field, _ = figures.kernel_field(true_kernels[low], size, limits=limits)
    out.append(('true kernels', _caption(figures.kernel_label(limits)), field))
  return out


def _caption(text: str) -> str:
  """The label of a figure without the name of what it shows, which stands before it on the page."""
  return text.removeprefix('kernel').replace('^2', '²').strip(' ()')


def _plain(text: str) -> str:
  return re.sub(r'[^\w.-]', '_', text)
