"""Trains one stage of a system: `ssr train`, for a clone of the repository that is not installed.

python train.py --config=configs/compact.py:STAGE --workdir=DIR [--config.path.to.field=value ...]
"""

from configs import common
from ssr_jax.cli import train

main = train.main

if __name__ == '__main__':
  common.run(main, train.__doc__)
