"""The demo behind `make demo`: scikit-image's photos, blurred and shrunk, then super-resolved with the bundled model.

    python tools/demo.py [--output demo] [--model compact] [--steps N]

Writes, for each photo, the LR image, the result and a figure (LR | depth | kernels | restored | result), and one sheet
that shows them with bicubic and the original. Prints PSNR and SSIM on Y against bicubic. Nothing is downloaded.
"""

import argparse
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from skimage import data

import ssr_jax
from ssr_jax import degrade, metrics, xla
from ssr_jax.evaluation.report import figures
from ssr_jax.image import io

SIDE = 384  # the same for all photos, so that programs compile once


def main() -> int:
  """Makes the pictures and prints the scores."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', default='demo', help='folder for the pictures')
  parser.add_argument('--model', default='compact', help='name or model directory')
  parser.add_argument('--steps', type=int, help="diffusion steps (default: the model's; 0: restored image only)")
  arguments = parser.parse_args()
  try:
    run(pathlib.Path(arguments.output), arguments.model, arguments.steps)
  except ssr_jax.SSRError as error:
    print(f'demo: {error}', file=sys.stderr)
    return 1
  return 0


def photos() -> dict[str, tuple[np.ndarray, degrade.Recipe, np.ndarray | None]]:
  """Per name: HR photo [SIDE, SIDE, 3] uint8, how it is degraded, and its inverse depth [SIDE/4, SIDE/4] or None."""
  left, _, disparity = data.stereo_motorcycle()
  nearness = np.where(np.isfinite(disparity), disparity, 0.0).astype(np.float32)
  nearness = np.asarray(Image.fromarray(_centre(nearness)).resize((SIDE // 4,) * 2, Image.Resampling.BOX))
  return {
    'astronaut': (_centre(data.astronaut()[:400, 30:430]), degrade.Recipe(field='smooth', mode='no_noise'), None),
    'coffee': (_centre(data.coffee()), degrade.Recipe(field='motion', mode='no_noise'), None),
    'rocket': (_centre(data.rocket()), degrade.Recipe(field='smooth', mode='noise_jpeg'), None),
    'motorcycle': (_centre(left), degrade.Recipe(field='depth', mode='no_noise'), nearness / nearness.max()),
  }


def run(folder: pathlib.Path, model_name: str, steps: int | None) -> None:
  """Degrades, super-resolves, scores and draws."""
  xla.enable_compilation_cache()
  folder.mkdir(parents=True, exist_ok=True)
  model = ssr_jax.load(model_name)
  if steps is None and not set(model.required()) <= set(model.modules):
    print(f"model '{model_name}' has no diffusion part: showing the restored image")
    steps = 0

  print(
    f'{"photo":12}{"degradation":22}{"seconds":>8}   PSNR-Y (dB) bicubic restored   result   '
    f'SSIM-Y bicubic restored   result'
  )
  sheets, scores = [], []
  for index, (name, (hr, recipe, depth)) in enumerate(photos().items()):
    batched = None if depth is None else jnp.asarray(depth)[None]
    degraded = degrade.degrade(jax.random.key(index), jnp.asarray(hr, jnp.float32)[None] / 255, recipe, batched)
    lr = figures.to_uint8(np.asarray(degraded.lr[0]))
    start = time.monotonic()
    result = model.sample(lr, steps=steps)
    seconds = time.monotonic() - start
    bicubic = np.asarray(Image.fromarray(lr).resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    images = {'bicubic': bicubic, 'restored': result.restored, 'result': result.image}
    found = [metrics.score(['psnr', 'ssim'], image=image, reference=hr) for image in images.values()]
    scores.append([[one['psnr'] for one in found], [one['ssim'] for one in found]])
    _print_row(name, f'{recipe.field} {recipe.mode}', seconds, scores[-1])

    io.write(folder / f'{name}_lr.png', io.Picture(lr))
    io.write(folder / f'{name}_x4.png', io.Picture(result.image))
    figure = figures.figure(lr, model.system.outputs, result, side=SIDE)
    io.write(folder / f'{name}_figure.png', io.Picture(np.asarray(figure)))
    labels = [f'{name}: LR', *images, 'original']
    sheets.append(figures.side_by_side([np.repeat(np.repeat(lr, 4, 0), 4, 1), *images.values(), hr], labels))
  _print_row('mean', '', None, np.mean(scores, 0))
  io.write(folder / 'comparison.png', io.Picture(np.asarray(figures.stack(sheets))))
  print(f'The first photo includes compilation. Pictures: {folder.resolve()} (start with comparison.png)')


def _print_row(name, degradation, seconds, scores) -> None:
  took = '' if seconds is None else f'{seconds:.1f}'
  psnr, ssim = (' '.join(f'{value:8.{digits}f}' for value in row) for row, digits in zip(scores, (2, 4), strict=True))
  print(f'{name:12}{degradation:22}{took:>8}   {"":11} {psnr}   {"":6} {ssim}', flush=True)


def _centre(image: np.ndarray) -> np.ndarray:
  """The SIDE x SIDE square in the middle of [H, W, ...]."""
  top, left = ((size - SIDE) // 2 for size in image.shape[:2])
  return image[top : top + SIDE, left : left + SIDE]


if __name__ == '__main__':
  sys.exit(main())
