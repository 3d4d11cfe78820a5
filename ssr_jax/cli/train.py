"""`ssr train` trains one stage of a system. `python train.py`, in a clone of the repository, is the same.

  ssr train --config=configs/compact.py:STAGE --workdir=DIR [--config.path.to.field=value ...]

SSR's stages: depth, kernel, nbsr, svkr, vae, diffusion, distill. The same command continues a stopped run from its last
checkpoint, with the same result as without the stop. It writes to DIR: model/, the averaged weights of the trained
parts, as `ssr_jax.load` reads them; scalars.jsonl and tensorboard/; pictures/. On SIGTERM it saves a checkpoint and
exits with 75; run the command again to continue. A workdir has one run at a time, and a run is not continued with other
photos, another loss or another batch size.
"""

from typing import Any


def main(config: Any, workdir: str) -> int:
  """Runs one stage; returns the exit code."""
  from ssr_jax.training import trainer

  return trainer.train(config, workdir)
