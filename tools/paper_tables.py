"""A table or figure of the SSR, BlindDiff or CasSR paper, ours beside the paper's rows, or the benchmark of kernels.

    python tools/paper_tables.py table1 [--output paper] [--data ROOT] [--model compact] [--limit N] [--seeds 0,1,2]

`make table1` (table2, table3, table4, fig8, fig9, kernels; blinddiff-table1 to blinddiff-table5, blinddiff-fig6;
cassr-table1 to cassr-table3) does the same; DATA=ROOT, MODEL=..., LIMIT=N and SEEDS=... are the options. Runs on those
of the sets that lie below the root (`ssr data list` shows them; $SSR_DATA or ./data), names the others with what to do,
and goes on where a run was stopped. Writes OUTPUT/NAME.md, and to OUTPUT/NAME/SET what evaluate.py writes: numbers of
each image, paired tests, pictures.
"""

import argparse
import pathlib
import sys

import ssr_jax
from ssr_jax import xla
from ssr_jax.evaluation import blinddiff_paper, cassr_paper, kernel_benchmark, paper
from ssr_jax.image import io

EXPERIMENTS = {
  **paper.EXPERIMENTS,
  **kernel_benchmark.EXPERIMENTS,
  **blinddiff_paper.EXPERIMENTS,
  **cassr_paper.EXPERIMENTS,
}


def main(argv: list[str] | None = None) -> int:
  """Makes the table; the exit code is 1 where images failed or nothing could be done."""
  parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
  parser.add_argument('name', choices=list(EXPERIMENTS))
  parser.add_argument('--output', type=pathlib.Path, default='paper', help='folder (default: paper)')
  parser.add_argument('--data', help='root of the sets (default: $SSR_DATA or ./data)')
  parser.add_argument('--model', default='', help='name or model directory (default: compact, blinddiff or cassr)')
  parser.add_argument('--limit', type=int, default=0, metavar='N', help='images of each set (default: all)')
  parser.add_argument('--seeds', default='0', metavar='LIST', help='of sampling, with commas (default: 0)')
  arguments = parser.parse_args(argv)
  xla.enable_compilation_cache()
  try:
    seeds = [int(seed) for seed in arguments.seeds.split(',')]
  except ValueError:
    print(f'--seeds {arguments.seeds}: must be whole numbers, such as 0,1,2', file=sys.stderr)
    return 2
  try:
    text, failures = paper.run(
      arguments.name,
      arguments.output,
      root=arguments.data,
      model=arguments.model,
      limit=arguments.limit,
      seeds=seeds,
      experiments=EXPERIMENTS,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    io.write_bytes(arguments.output / f'{arguments.name}.md', text.encode())
  except ssr_jax.SSRError as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('interrupted; the same command goes on', file=sys.stderr)
    return 130
  print(text)
  for failure in failures:
    print(f'error: {failure}', file=sys.stderr)
  return 1 if failures else 0


if __name__ == '__main__':
  sys.exit(main())
