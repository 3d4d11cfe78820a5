"""BlindDiff's kernel along the steps of sampling: at the first, at the last, and where the network sees the true image.

    python tools/kernel_steps.py set:set5 --model DIR [--recipes isotropic-1.8,isotropic-3.2] [--csv steps.csv]

The network estimates the kernel anew in each step. At the first step x is noise, so that the kernel comes from the
photo alone; the last one's is the answer. The third row is the kernel of the last step's t with the original in place
of x: what a perfect image would bring. Without a gap between them sampling does not refine the kernel, whatever the
paper's Fig. 7a shows. Means over photos and recipes of the kernel PSNR, of the L1 (the sum over the taps), and of the
LR-PSNR. Photos are done whole, in no tiles; LR images are those of evaluate.py, noise that of `ssr upscale --seed 0`.
"""

import argparse
from collections.abc import Callable, Sequence
import pathlib
import sys

import jax.numpy as jnp
import numpy as np

import ssr_jax
from ssr_jax import xla
from ssr_jax.degrade import uniform
from ssr_jax.diffusion.noise import NoiseField
from ssr_jax.evaluation.cases import Case, Dataset
from ssr_jax.evaluation.report import tables
from ssr_jax.image import io
from ssr_jax.metrics.kernel_psnr import kernel_psnr
from ssr_jax.metrics.lr_psnr import lr_psnr
from ssr_jax.runtime import Restorer
from ssr_jax.runtime.bands import pad
from ssr_jax.systems.blinddiff import core
from ssr_jax.systems.blinddiff.system import Plan
from ssr_jax.types import Array

SCORES = ('kernel_psnr', 'kernel_l1', 'lr_psnr')


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table and, with --csv, writes the kernel's scores of each step."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('photos', metavar='SPEC', help='such as set:set5 or folder:DIR')
  parser.add_argument('--model', required=True, help='name or directory of a model of BlindDiff')
  parser.add_argument('--recipes', default=','.join(uniform.GAUSSIAN8), metavar='LIST', help='default: Gaussian8')
  parser.add_argument('--steps', type=int, metavar='N', help="of sampling (default: the model's)")
  parser.add_argument('--guidance', type=float, metavar='LAMBDA', help="default: the model's")
  parser.add_argument('--limit', type=int, default=0, metavar='N', help='photos (default: all)')
  parser.add_argument('--csv', type=pathlib.Path, metavar='FILE', help='mean scores of each step')
  arguments = parser.parse_args(argv)
  xla.enable_compilation_cache()
  try:
    rows, failures = run(arguments)
  except ssr_jax.SSRError as error:
    print(f'kernel_steps: {error}', file=sys.stderr)
    return 1
  if arguments.csv:
    io.write_bytes(arguments.csv, tables.to_csv(rows, ('step', 't', *SCORES)).encode())
  print('|  | kernel PSNR (dB) | kernel L1 | LR-PSNR (dB) |\n|---|---:|---:|---:|')
  for name, row in (('first step', rows[0]), ('last step', rows[-2]), ('true image', rows[-1])):
    print(f'| {name} | {row["kernel_psnr"]:.2f} | {row["kernel_l1"]:.3f} | {row["lr_psnr"]:.2f} |')
  for failure in failures:
    print(f'kernel_steps: {failure}', file=sys.stderr)
  return 1 if failures else 0


def run(arguments: argparse.Namespace) -> tuple[list[dict[str, float | int | str]], list[str]]:
  """A row of mean scores for each step, and one for the true image; and a line for each photo that failed.

  Raises:
    SSRError: another system, recipes without one kernel, or photos or a model that cannot be read.
  """
  restorer, failures, scores = ssr_jax.load(arguments.model), [], []
  if restorer.system.name != 'blinddiff':
    raise ssr_jax.SSRError(f'--model {arguments.model}: a model of {restorer.system.name}; give one of blinddiff')
  asked = {name: value for name in ('steps', 'guidance') if (value := getattr(arguments, name)) is not None}
  plan = restorer.check(**asked)
  recipes = [name.strip() for name in arguments.recipes.split(',') if name.strip()]
  dataset = Dataset.parse(arguments.photos, recipes, 0, arguments.limit)
  if not dataset.recipes or any(recipe.blur is None for recipe in dataset.recipes):
    raise ssr_jax.SSRError(f'--recipes {arguments.recipes}: needs HR photos and recipes with one kernel for an image')
  of_case = kernels_of(restorer, plan)
  for case in dataset.cases(failures):
    found, true = of_case(case), case.kernels
    assert true is not None and case.lr_clean is not None and case.hr is not None
    scores.append(
      [
        (
          kernel_psnr(kernel, true[0, 0]),
          float(np.abs(kernel - true[0, 0]).sum()),
          lr_psnr(case.hr, np.broadcast_to(kernel, true.shape), case.lr_clean, case.reduction),
        )
        for kernel in found
      ]
    )
  if not scores:
    raise ssr_jax.SSRError(f'{arguments.photos}: not one photo could be used; the first: {failures[0]}')
  steps = [*map(int, plan.schedule.timesteps(plan.steps, spacing=plan.spacing))]
  heads = [*({'step': i + 1, 't': t} for i, t in enumerate(steps)), {'step': 'true image', 't': steps[-1]}]
  return [
    head | dict(zip(SCORES, map(float, mean), strict=True))
    for head, mean in zip(heads, np.mean(scores, 0), strict=True)
  ], failures


def kernels_of(restorer: Restorer, plan: Plan, seed: int = 0) -> Callable[[Case], np.ndarray]:
  """A function from a case to the kernels of all steps and that of the true image, [steps + 1, k*k].

  It pads the photo and draws the noise as the runtime does.

  Args:
    restorer: a model of BlindDiff.
    plan: how it samples.
    seed: of sampling.

  Raises:
    SSRError: it samples with operator 'true', whose kernel is the caller's.
  """
  if plan.operator == 'true':
    raise ssr_jax.SSRError("the model samples with operator 'true', which needs no estimate; use another model")
  guidance = core.Guidance(plan.guidance, plan.operator, plan.stop_kernel, plan.shrink)
  multiple = restorer.system.padding(restorer.modules, plan)

  def program(variables: core.Variables, lr: Array, hr: Array, eps: Array, keys: Array) -> Array:
    options = {'steps': plan.steps, 'spacing': plan.spacing}
    networks = restorer.modules, variables
    _, found = core.restore(*networks, lr, eps, keys, plan.schedule, plan.domain, guidance, **options)
    u = plan.domain.enlarge(lr)
    t = jnp.asarray(plan.schedule.timesteps(plan.steps, spacing=plan.spacing)[-1:])
    _, ideal = core.predict(*networks, plan.domain.from_image(hr, u), t, u)
    return jnp.concatenate([found, ideal[None]])[:, 0]

  compiled = xla.jit(program)

  def of_case(case: Case) -> np.ndarray:
    assert case.hr is not None
    h, w = (-(-side // multiple) * multiple for side in case.lr.shape[:2])
    size = plan.scale * h, plan.scale * w
    lr, hr = (pad(x.astype(np.float32) / 255, to)[None] for x, to in ((case.lr, (h, w)), (case.hr, size)))
    eps, key = NoiseField(np.uint32(seed), np.zeros(2, np.int32)).window((*size, 3), h)
    return np.asarray(compiled(restorer.variables, lr, hr, eps[None], key[None]))

  return of_case


if __name__ == '__main__':
  sys.exit(main())
