"""Scores a model against bicubic: `ssr evaluate`, for a clone of the repository that is not installed.

python evaluate.py --config=configs/compact.py --config.eval.dataset=folder:HR_DIR[,LR_DIR] --workdir=DIR
"""

from configs import common
from ssr_jax.cli import evaluate

main = evaluate.main

if __name__ == '__main__':
  common.run(main, evaluate.__doc__)
