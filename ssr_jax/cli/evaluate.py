"""`ssr evaluate` scores a model against bicubic on a folder of photos; `python evaluate.py` in a clone is the same.

  ssr evaluate --config=configs/compact.py --config.eval.dataset=folder:HR_DIR[,LR_DIR] --workdir=DIR

The dataset is any source of ssr_jax/data/sources, such as set:bsd100 or rgbd:DIR. If it has HR images only, each is
degraded by the recipes of `config.eval.recipes`; the degradation depends only on the file's name and
`config.eval.seed`, so it is the same in every run. If it has LR images (`folder:HR_DIR,LR_DIR` is
`paired:HR_DIR,LR_DIR`), they are used unchanged.

Writes to DIR: index.html, a page with the means, a slider between LR, the models' images and HR, depth and kernels, and
a sortable table; metrics.csv (one row per image, recipe and model), metrics.json (means and protocol), table.md,
table.tex; pictures/ with LR | bicubic | restored | result | HR, and each of them as a file; and rows.jsonl, by which
the same command goes on where it was stopped. Exit codes: 0 success; 1 some images failed, each is reported and the
others are done; 2 usage error.

Protocol: HR is cropped at the bottom and right to a multiple of the scale; LR and every output are rounded to 8 bit;
PSNR and SSIM are computed on MATLAB's Y, with the crop of `config.eval.crop`, 0 by default, LR-PSNR and kernel PSNR if
the true kernels are known. Seconds per image exclude compilation.

Fields of config.eval: dataset; metrics; models, the columns: bicubic, variants of the model's system (of SSR restored,
the image before diffusion, and result), other models, each with switches such as result+steps=4+kernels=true
(ssr_jax/evaluation/columns.py); outputs, NAME:DIR of images that other tools have made; model, a name or a directory;
dtype of its networks; recipes such as 'smooth/no_noise'; seed; seeds of sampling, whose mean and deviation are told;
compare, A,B[;C,D], columns for paired tests; niqe_params, the pristine model of NIQE, if not the imported or our own;
crop, pixels left out on every side by metrics that compare with HR; limit, how many photos, 0 for all; part, I/N for
process I of N on as many hosts, which share the workdir and of which the last one writes the tables; pictures, how
many images of each recipe get pictures; page, whether to write index.html, by default if there are pictures; sampling,
options of the model's sampler.
"""

import sys
from typing import Any


def main(config: Any, workdir: str) -> int:
  """Evaluates, prints the table and the names of the files, and returns the exit code."""
  from ssr_jax import xla
  from ssr_jax.evaluation import protocol, runner

  xla.enable_compilation_cache()
  report = runner.evaluate(protocol.Settings.from_config(config.eval), workdir)
  if report.lacking:
    print(
      f'eval.part={config.eval.part}: done; {report.lacking} images are left to other parts, the last of which writes '
      'the tables, as does the same command without eval.part'
    )
  else:
    print(report.table())
    page = 'index.html, ' if report.page else ''
    print(f'written: {workdir}/{page}table.md, table.tex, metrics.csv, metrics.json, pictures/')
  for failure in report.failures:
    print(f'error: {failure}', file=sys.stderr)
  return 1 if report.failures else 0
