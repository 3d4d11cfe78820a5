"""Cases and rows for tests of the page: plain colours as images, so that a screenshot says which one is shown where."""

import math
import pathlib
import types

import numpy as np

from ssr_jax.evaluation.report import tables, views
from ssr_jax.systems.base import Output

NAMES = ['psnr', 'niqe']
MODELS = {'bicubic': (200, 0, 0), 'restored': (0, 160, 0), 'result': (0, 0, 220)}
LR, HR = (90, 90, 90), (240, 240, 0)
EVIL = '"><script>window.pwned=1</script><img src=x onerror=window.pwned=1>\'&amp;{{data}}</script>\n\u2028\udcff.png'
PROTOCOL = {'dataset': 'set:four', 'model': 'none'}


def kernels(h, w):
  """[h, w, 441] float32, Gaussians whose variance grows from 1 to 5 px^2 to the right."""
  variance = np.linspace(1, 5, w)[:, None, None]
  y, x = np.mgrid[-10:11, -10:11]
  taps = np.exp(-(y**2 + x**2) / (2 * variance)).reshape(w, -1)
  return np.repeat((taps / taps.sum(-1, keepdims=True)).astype(np.float32)[None], h, 0)


def rows_of(image, recipe, i):
  """Of three models; psnr falls with i, and bicubic has no NIQE."""
  values = {'bicubic': (30.0 - i, math.nan), 'restored': (31.0 - 2 * i, 5.0 + i), 'result': (29.5 + i / 4, 4.0)}
  return [
    {'image': image, 'recipe': recipe, 'model': model, 'psnr': psnr, 'niqe': niqe, 'seconds': 0.25}
    for model, (psnr, niqe) in values.items()
  ]


def write(folder: pathlib.Path, images=('a.png', EVIL, 'a.png', 'c.png'), height=48, width=64, with_pictures=3):
  """Rows of some images, and the views of the first of them."""
  rows, cases = [], []
  for i, image in enumerate(images):
    recipe = ('smooth/no_noise', 'smooth/<b>')[i % 2]
    mine = rows_of(image, recipe, i)
    rows += mine
    if i < with_pictures:
      plain = lambda colour, scale=1: np.full((height // scale, width // scale, 3), colour, np.uint8)
      case = types.SimpleNamespace(
        image=image, recipe=recipe, hr=plain(HR), lr=plain(LR, 4), kernels=kernels(height // 4, width // 4)
      )
      outputs = {model: plain(colour) for model, colour in MODELS.items()}
      depth = (Output('depth', 'depth', 'depth'), np.full((height, width, 1), 0.5, np.float32))
      estimate = (Output('kernels', 'kernels', 'kernels'), kernels(height // 4, width // 4)[:, ::-1])
      found = {'bicubic': [], 'restored': [depth, estimate], 'result': [depth, estimate]}
      *_, name = views.file_names((case.image, case.recipe) for case in (*cases, case))
      cases.append(views.write(folder / name, case, outputs, found, mine))
  return rows, cases


def means(rows):
  """Their means, recipe by recipe."""
  return sorted(
    tables.means(rows, ('recipe', 'model'), (*NAMES, 'seconds')), key=lambda row: row['recipe'], reverse=True
  )
